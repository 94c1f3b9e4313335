//! Faults of environment variables and of references to fields.

use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::names;
use super::read::{given, list, text};
use super::resources;

/// Fields of a pod that an environment variable can take its value from.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that a downward API file can hold.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that exist, whether or not they are allowed where they stand.
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

/// Faults of the list `env`.
pub(super) fn variables(variables: &[Value], field: &str, errors: &mut Faults) {
    for (index, variable) in variables.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match text(variable, "name") {
            "" => errors.push(FieldError::required(format!("{field}.name"), "")),
            name => push(errors, &format!("{field}.name"), name, names::env_name(name)),
        }
        if let Some(source) = given(variable, "valueFrom") {
            value_from(variable, source, &format!("{field}.valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, source: &Value, field: &str, errors: &mut Faults) {
    let mut sources = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let Some(reference) = given(source, name) else { continue };
        sources += 1;
        let field = format!("{field}.{name}");
        match name {
            "fieldRef" => field_ref(reference, &ENV_FIELDS, &field, errors),
            "resourceFieldRef" => resources::field_ref(reference, false, &field, errors),
            "fileKeyRef" => {
                for name in ["volumeName", "path", "key"] {
                    if text(reference, name).is_empty() {
                        errors.push(FieldError::required(format!("{field}.{name}"), ""));
                    }
                }
            }
            _ => {
                let name = text(reference, "name");
                push(errors, &format!("{field}.name"), name, names::subdomain(name));
                match text(reference, "key") {
                    "" => errors.push(FieldError::required(format!("{field}.key"), "")),
                    key => push(errors, &format!("{field}.key"), key, names::config_key(key)),
                }
            }
        }
    }
    let sentence = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
             `secretKeyRef` or `fileKeyRef`"
        }
        _ if !text(variable, "value").is_empty() => {
            "may not be specified when `value` is not empty"
        }
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(field, "", sentence));
}

/// Faults of a reference to a field of the pod.
pub(super) fn field_ref(reference: &Value, allowed: &[&str], field: &str, errors: &mut Faults) {
    for name in ["apiVersion", "fieldPath"] {
        if text(reference, name).is_empty() {
            errors.push(FieldError::required(format!("{field}.{name}"), ""));
            return;
        }
    }
    let path = text(reference, "fieldPath");
    let version = text(reference, "apiVersion");
    let (base, subscript) = split_subscript(path);
    if version != "v1" || !(KNOWN_FIELDS.contains(&base) || path == "spec.host") {
        let why = if version == "v1" {
            format!("field label not supported: {path}")
        } else {
            format!("unsupported pod version: {version}")
        };
        let sentence = format!("error converting fieldPath: {why}");
        errors.push(FieldError::invalid(format!("{field}.fieldPath"), path, sentence));
        return;
    }
    match (base, subscript) {
        ("metadata.annotations", Some(key)) => {
            push(errors, field, key, names::qualified(&key.to_lowercase()));
        }
        ("metadata.labels", Some(key)) => push(errors, field, key, names::qualified(key)),
        (_, Some(_)) => {
            errors.push(FieldError::invalid(field, base, "does not support subscript"));
        }
        (_, None) if allowed.contains(&base) || path == "spec.host" => {}
        (_, None) => {
            let field = format!("{field}.fieldPath");
            errors.push(FieldError::not_supported(field, path, allowed));
        }
    }
}

/// `metadata.labels['app']` is a path and a key.
fn split_subscript(path: &str) -> (&str, Option<&str>) {
    let inner = path.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    match inner {
        Some((base, key)) if !base.is_empty() => (base, Some(key)),
        _ => (path, None),
    }
}

/// Faults of the list `envFrom`.
pub(super) fn sources(sources: &[Value], field: &str, errors: &mut Faults) {
    for (index, source) in sources.iter().enumerate() {
        let here = format!("{field}[{index}]");
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            push(errors, &format!("{here}.prefix"), prefix, names::env_name(prefix));
        }
        let mut count = 0;
        for name in ["configMapRef", "secretRef"] {
            let Some(reference) = given(source, name) else { continue };
            count += 1;
            let field = format!("{here}.{name}.name");
            match text(reference, "name") {
                "" => errors.push(FieldError::required(field, "")),
                name => push(errors, &field, name, names::subdomain(name)),
            }
        }
        let sentence = match count {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(field, "", sentence));
    }
}

/// Faults of the files of a downward API volume.
pub(super) fn downward_files(source: &Value, field: &str, errors: &mut Faults) {
    for file in list(source, "items") {
        super::volume::local_path(text(file, "path"), &format!("{field}.path"), errors);
        let resource = given(file, "resourceFieldRef");
        match (given(file, "fieldRef"), resource) {
            (Some(reference), other) => {
                field_ref(reference, &FILE_FIELDS, &format!("{field}.fieldRef"), errors);
                if other.is_some() {
                    let sentence =
                        "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.push(FieldError::invalid(field, "resource", sentence));
                }
            }
            (None, Some(reference)) => {
                let field = format!("{field}.resourceFieldRef");
                resources::field_ref(reference, true, &field, errors);
            }
            (None, None) => {
                let sentence = "one of fieldRef and resourceFieldRef is required";
                errors.push(FieldError::required(field, sentence));
            }
        }
        super::volume::file_mode(file, "mode", field, errors);
    }
}
