//! Faults of the volumes of a pod or pod template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{Volumes, descending_path, no_backsteps, push};
use super::env;
use super::error::{Faults, FieldError};
use super::names;
use super::read::{given, list, number, text};
use super::resources::quantity;

/// The kinds of volumes, in the order in which they are checked.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Largest mode of a file.
const MODE_MAX: i64 = 0o777;
/// Shortest life of a service account token: ten minutes.
const TOKEN_SECONDS_MIN: i64 = 600;

/// Faults of `spec.volumes`; returns the names of those without a fault.
pub(super) fn volumes<'a>(spec: &'a Value, field: &str, errors: &mut Faults) -> Volumes<'a> {
    let mut valid = BTreeSet::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let field = format!("{field}[{index}]");
        let before = errors.len();
        source(volume, &field, errors);
        let name = text(volume, "name");
        let name_field = format!("{field}.name");
        if name.is_empty() {
            errors.push(FieldError::required(&name_field, ""));
        } else {
            push(errors, &name_field, name, names::label(name));
        }
        if valid.contains(name) {
            errors.push(FieldError::duplicate(&name_field, name));
        }
        if errors.len() == before {
            valid.insert(name);
        }
    }
    valid
}

fn source(volume: &Value, field: &str, errors: &mut Faults) {
    let mut count = 0;
    for name in SOURCES {
        let Some(source) = given(volume, name) else { continue };
        let field = format!("{field}.{name}");
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 volume type"));
            continue;
        }
        match name {
            "emptyDir" => {
                let limit = source.get("sizeLimit").and_then(quantity);
                if limit.is_some_and(|q| q.is_negative()) {
                    let sentence = "SizeLimit field must be a valid resource quantity";
                    errors.push(FieldError::forbidden(format!("{field}.sizeLimit"), sentence));
                }
            }
            "hostPath" => host_path(source, &field, errors),
            "secret" => files(source, "secretName", &field, errors),
            "configMap" => files(source, "name", &field, errors),
            "downwardAPI" => {
                file_mode(source, "defaultMode", &field, errors);
                env::downward_files(source, &field, errors);
            }
            "projected" => projected(source, &field, errors),
            "persistentVolumeClaim" => required(source, &["claimName"], &field, errors),
            "nfs" => nfs(source, &field, errors),
            "csi" => required(source, &["driver"], &field, errors),
            "image" => required(source, &["reference"], &field, errors),
            "ephemeral" => required_object(source, "volumeClaimTemplate", &field, errors),
            _ => {}
        }
    }
    if count == 0 {
        errors.push(FieldError::required(field, "must specify a volume type"));
    }
}

fn required(source: &Value, names: &[&str], field: &str, errors: &mut Faults) {
    for name in names {
        if text(source, name).is_empty() {
            errors.push(FieldError::required(format!("{field}.{name}"), ""));
        }
    }
}

fn required_object(source: &Value, name: &str, field: &str, errors: &mut Faults) {
    if given(source, name).is_none() {
        errors.push(FieldError::required(format!("{field}.{name}"), ""));
    }
}

fn nfs(source: &Value, field: &str, errors: &mut Faults) {
    required(source, &["server", "path"], field, errors);
    let path = text(source, "path");
    if !path.starts_with('/') {
        let sentence = "must be an absolute path";
        errors.push(FieldError::invalid(format!("{field}.path"), path, sentence));
    }
}

fn host_path(source: &Value, field: &str, errors: &mut Faults) {
    let path = text(source, "path");
    if path.is_empty() {
        errors.push(FieldError::required(format!("{field}.path"), ""));
        return;
    }
    no_backsteps(path, &format!("{field}.path"), errors);
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        let field = format!("{field}.type");
        errors.push(FieldError::not_supported(field, kind, &HOST_PATH_TYPES));
    }
}

/// A ConfigMap or Secret as files.
fn files(source: &Value, name: &str, field: &str, errors: &mut Faults) {
    required(source, &[name], field, errors);
    file_mode(source, "defaultMode", field, errors);
    keys_to_paths(source, field, errors);
}

fn keys_to_paths(source: &Value, field: &str, errors: &mut Faults) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let field = format!("{field}.items[{index}]");
        required(item, &["key"], &field, errors);
        local_path(text(item, "path"), &format!("{field}.path"), errors);
        file_mode(item, "mode", &field, errors);
    }
}

/// A file's path inside a volume.
pub(super) fn local_path(path: &str, field: &str, errors: &mut Faults) {
    if path.is_empty() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    descending_path(path, field, errors);
    if path.starts_with("..") && !path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(field, path, "must not start with '..'"));
    }
}

/// A file's permission bits.
pub(super) fn file_mode(value: &Value, name: &str, field: &str, errors: &mut Faults) {
    if let Some(mode) = number(value, name).filter(|mode| !(0..=MODE_MAX).contains(mode)) {
        let sentence = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(format!("{field}.{name}"), mode, sentence));
    }
}

fn projected(source: &Value, field: &str, errors: &mut Faults) {
    for (index, projection) in list(source, "sources").iter().enumerate() {
        let field = format!("{field}.sources[{index}]");
        let mut count = 0;
        for name in ["secret", "configMap", "downwardAPI", "serviceAccountToken"] {
            let Some(part) = given(projection, name) else { continue };
            let field = format!("{field}.{name}");
            count += 1;
            if count > 1 {
                let sentence = "may not specify more than 1 volume type";
                errors.push(FieldError::forbidden(field, sentence));
                continue;
            }
            match name {
                "downwardAPI" => env::downward_files(part, &field, errors),
                "serviceAccountToken" => token(part, &field, errors),
                _ => {
                    required(part, &["name"], &field, errors);
                    keys_to_paths(part, &field, errors);
                }
            }
        }
    }
    file_mode(source, "defaultMode", field, errors);
}

fn token(source: &Value, field: &str, errors: &mut Faults) {
    if let Some(seconds) = number(source, "expirationSeconds") {
        let field = format!("{field}.expirationSeconds");
        if seconds < TOKEN_SECONDS_MIN {
            let sentence = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(&field, seconds, sentence));
        }
        if seconds > 1 << 32 {
            let sentence = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(field, seconds, sentence));
        }
    }
    local_path(text(source, "path"), &format!("{field}.path"), errors);
}
