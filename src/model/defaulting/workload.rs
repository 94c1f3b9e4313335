//! Defaults of the controllers that own pods.

use serde_json::{Value, json};

use super::{Fields, child, default_pointer, default_text, existing, pod};

pub(super) fn replication_controller(fields: &mut Fields) {
    let spec = child(fields, "spec");
    default_pointer(spec, "replicas", 1);
    if spec.contains_key("template") {
        pod::template(spec);
    }
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    if let Some(labels) = labels {
        fill_empty_map(spec, "selector", &labels);
        fill_empty_map(child(fields, "metadata"), "labels", &labels);
    }
    default_pointer(child(fields, "status"), "replicas", 0);
}

pub(super) fn replica_set(fields: &mut Fields) {
    let spec = child(fields, "spec");
    default_pointer(spec, "replicas", 1);
    pod::template(spec);
    default_pointer(child(fields, "status"), "replicas", 0);
}

pub(super) fn deployment(fields: &mut Fields) {
    let spec = child(fields, "spec");
    default_pointer(spec, "replicas", 1);
    pod::template(spec);
    let strategy = child(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if super::text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        default_pointer(rolling, "maxUnavailable", "25%");
        default_pointer(rolling, "maxSurge", "25%");
    } else if existing(strategy, "rollingUpdate").is_none() {
        strategy.remove("rollingUpdate");
    }
    default_pointer(spec, "revisionHistoryLimit", 10);
    default_pointer(spec, "progressDeadlineSeconds", 600);
    child(fields, "status");
}

fn fill_empty_map(fields: &mut Fields, name: &str, labels: &Value) {
    let empty = fields.get(name).is_none_or(|map| map.is_null() || *map == json!({}));
    if empty {
        fields.insert(name.into(), labels.clone());
    }
}
