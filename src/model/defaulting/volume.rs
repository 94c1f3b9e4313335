//! Defaults of the volumes of a pod.

use serde_json::json;

use super::pod::{field_source, pull_policy};
use super::{Fields, default_pointer, default_text, existing, is_blank, items, quantity, text};

/// `0644`: the mode of files in projected volumes.
const FILE_MODE: i64 = 0o644;

pub(super) fn volume(volume: &mut Fields) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for name in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = existing(volume, name) {
            default_pointer(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(source) = existing(volume, "downwardAPI") {
        items(source, "items").for_each(field_source);
    }
    if let Some(source) = existing(volume, "projected") {
        items(source, "sources").for_each(projection);
    }
    if let Some(source) = existing(volume, "emptyDir") {
        quantity(source, "sizeLimit");
    }
    if let Some(source) = existing(volume, "hostPath") {
        default_pointer(source, "type", "");
    }
    if let Some(source) = existing(volume, "image")
        && is_blank(source, "pullPolicy")
    {
        let policy = pull_policy(text(source, "reference"));
        source.insert("pullPolicy".into(), policy.into());
    }
    network(volume);
}

fn projection(source: &mut Fields) {
    if let Some(token) = existing(source, "serviceAccountToken") {
        default_pointer(token, "expirationSeconds", 3600);
    }
    if let Some(files) = existing(source, "downwardAPI") {
        items(files, "items").for_each(field_source);
    }
}

/// Volumes of foreign storage: kept as the real server writes them, though no board mounts them.
fn network(volume: &mut Fields) {
    if let Some(source) = existing(volume, "iscsi") {
        default_text(source, "iscsiInterface", "default");
    }
    if let Some(source) = existing(volume, "rbd") {
        default_text(source, "pool", "rbd");
        default_text(source, "user", "admin");
        default_text(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = existing(volume, "azureDisk") {
        default_pointer(source, "cachingMode", "ReadWrite");
        default_pointer(source, "fsType", "ext4");
        default_pointer(source, "readOnly", false);
        default_pointer(source, "kind", "Shared");
    }
    if let Some(source) = existing(volume, "scaleIO") {
        default_text(source, "storageMode", "ThinProvisioned");
        default_text(source, "fsType", "xfs");
    }
    if let Some(source) = existing(volume, "ephemeral")
        && let Some(claim) = existing(source, "volumeClaimTemplate")
    {
        super::default_pointer(super::child(claim, "spec"), "volumeMode", "Filesystem");
    }
}
