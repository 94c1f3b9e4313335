//! Faults of `metadata`, of labels, and of label selectors.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::{Faults, FieldError, go_quote};
use super::names;
use super::read::{list, number, object, text};
use crate::limits::ANNOTATIONS_BYTES_MAX;

/// Finalizers without a domain that are allowed.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// What a kind allows as a name.
pub(super) type NameRule = fn(&str) -> Vec<String>;

/// The rule of a kind's names, and whether its objects live in namespaces.
pub(super) fn name_rule(kind: &str) -> (NameRule, bool) {
    match kind {
        "/namespaces" => (names::label, false),
        "/nodes" => (names::subdomain, false),
        // Clients of the core API may name events as they like, and roles have colons.
        "/events"
        | "rbac.authorization.k8s.io/roles"
        | "rbac.authorization.k8s.io/rolebindings" => (names::path_segment, true),
        "rbac.authorization.k8s.io/clusterroles"
        | "rbac.authorization.k8s.io/clusterrolebindings" => (names::path_segment, false),
        // Services may begin with a digit since 1.34 (relaxed service names).
        "/services" => (names::label, true),
        _ => (names::subdomain, true),
    }
}

/// Faults of `metadata` of a new or changed object.
pub(super) fn metadata(kind: &str, object_value: &Value, errors: &mut Faults) {
    let (rule, namespaced) = name_rule(kind);
    let meta = &object_value["metadata"];
    let generate = text(meta, "generateName");
    if !generate.is_empty() {
        let masked = masked_prefix(generate);
        for fault in rule(&masked) {
            errors.push(FieldError::invalid("metadata.generateName", generate, fault));
        }
    }
    let name = text(meta, "name");
    if name.is_empty() {
        let sentence = "name or generateName is required";
        errors.push(FieldError::required("metadata.name", sentence));
    } else {
        for fault in rule(name) {
            errors.push(FieldError::invalid("metadata.name", name, fault));
        }
    }
    namespace(text(meta, "namespace"), namespaced, errors);
    if number(meta, "generation").is_some_and(|n| n < 0) {
        let value = meta["generation"].clone();
        errors.push(not_negative("metadata.generation", value));
    }
    labels(meta.get("labels"), "metadata.labels", errors);
    annotations(meta.get("annotations"), "metadata.annotations", errors);
    owners(meta, errors);
    finalizers(meta, errors);
}

/// `must be greater than or equal to 0`.
pub(super) fn not_negative(field: impl Into<String>, value: Value) -> FieldError {
    FieldError::invalid(field, value, "must be greater than or equal to 0")
}

/// A prefix that ends in a hyphen or dot is fine: a suffix will follow.
fn masked_prefix(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if prefix.len() > 1 => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

fn namespace(name: &str, namespaced: bool, errors: &mut Faults) {
    let field = "metadata.namespace";
    match (namespaced, name.is_empty()) {
        (true, true) => errors.push(FieldError::required(field, "")),
        (true, false) => {
            let faults = names::label(name);
            errors.extend(faults.into_iter().map(|f| FieldError::invalid(field, name, f)));
        }
        (false, false) => errors.push(FieldError::forbidden(field, "not allowed on this type")),
        (false, true) => {}
    }
}

/// Faults of a map of labels.
pub(super) fn labels(map: Option<&Value>, field: &str, errors: &mut Faults) {
    for (key, value) in entries(map) {
        for fault in names::qualified(key) {
            errors.push(FieldError::invalid(field, key.as_str(), fault));
        }
        let value = value.as_str().unwrap_or("");
        for fault in names::label_value(value) {
            errors.push(FieldError::invalid(field, value, fault));
        }
    }
}

/// Faults of a map of annotations.
pub(super) fn annotations(map: Option<&Value>, field: &str, errors: &mut Faults) {
    let mut bytes = 0;
    for (key, value) in entries(map) {
        for fault in names::qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid(field, key.as_str(), fault));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(field, ANNOTATIONS_BYTES_MAX));
    }
}

pub(super) fn entries(map: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn owners(meta: &Value, errors: &mut Faults) {
    let mut controller: Option<&str> = None;
    for (index, owner) in list(meta, "ownerReferences").iter().enumerate() {
        let field = format!("metadata.ownerReferences[{index}]");
        let version = text(owner, "apiVersion");
        if version.rsplit('/').next().unwrap_or("").is_empty() {
            let fault = FieldError::invalid(
                format!("{field}.apiVersion"),
                version,
                "version must not be empty",
            );
            errors.push(fault);
        }
        for name in ["kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                let field = format!("{field}.{name}");
                errors.push(FieldError::invalid(field, "", "must not be empty"));
            }
        }
        if version == "v1" && text(owner, "kind") == "Event" {
            let sentence = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(field, owner.clone(), sentence));
        }
        if owner.get("controller").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        match controller {
            None => controller = Some(text(owner, "name")),
            Some(first) => {
                let sentence = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {}",
                    text(owner, "name")
                );
                let all = meta["ownerReferences"].clone();
                errors.push(FieldError::invalid("metadata.ownerReferences", all, sentence));
            }
        }
    }
}

fn finalizers(meta: &Value, errors: &mut Faults) {
    let field = "metadata.finalizers";
    let all: Vec<&str> = list(meta, "finalizers").iter().filter_map(Value::as_str).collect();
    for name in &all {
        for fault in names::qualified(name) {
            errors.push(FieldError::invalid(field, *name, fault));
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let value = meta["finalizers"].clone();
        let sentence = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(field, value, sentence));
    }
    for (index, name) in all.iter().enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(name) {
            let field = format!("{field}[{index}]");
            let sentence = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(field, *name, sentence));
        }
    }
}

/// Faults of the change from `old` to `new` metadata.
pub(super) fn metadata_update(new: &Value, old: &Value, errors: &mut Faults) {
    let (new_meta, old_meta) = (&new["metadata"], &old["metadata"]);
    if old_meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let texts = |meta| list(meta, "finalizers").iter().filter_map(Value::as_str);
        let before: BTreeSet<&str> = texts(old_meta).collect();
        let added: Vec<&str> = texts(new_meta).filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| go_quote(f)).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }
    let generation = |meta| number(meta, "generation").unwrap_or(0);
    if generation(new_meta) < generation(old_meta) {
        let value = generation(new_meta);
        let sentence = "must not be decremented";
        errors.push(FieldError::invalid("metadata.generation", value, sentence));
    }
    for name in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        // An absent value is taken from the stored object before the two are compared.
        let given = new_meta.get(name).filter(|v| !v.is_null());
        if given.is_some_and(|given| Some(given) != old_meta.get(name)) {
            immutable(&format!("metadata.{name}"), given, old_meta.get(name), errors);
        }
    }
    labels(new_meta.get("labels"), "metadata.labels", errors);
    annotations(new_meta.get("annotations"), "metadata.annotations", errors);
    owners(new_meta, errors);
}

/// `field is immutable`, if it changed.
pub(super) fn immutable(
    field: &str,
    new: Option<&Value>,
    old: Option<&Value>,
    errors: &mut Faults,
) {
    let given = |value: Option<&Value>| value.filter(|v| !v.is_null()).cloned();
    if given(new) != given(old) {
        let shown = given(new).unwrap_or(Value::Null);
        errors.push(FieldError::invalid(field, shown, "field is immutable"));
    }
}

/// Faults of a `LabelSelector` object at `field`.
pub(super) fn label_selector(selector: &Value, field: &str, errors: &mut Faults) {
    labels(selector.get("matchLabels"), &format!("{field}.matchLabels"), errors);
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let sentence = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{field}.values"), sentence));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let sentence = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{field}.values"), sentence));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let sentence = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{field}.operator"), other, sentence));
            }
        }
        let key = text(expression, "key");
        for fault in names::qualified(key) {
            errors.push(FieldError::invalid(format!("{field}.key"), key, fault));
        }
        for (at, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or("");
            for fault in names::label_value(value) {
                errors.push(FieldError::invalid(format!("{field}.values[{at}]"), value, fault));
            }
        }
    }
}

/// Whether a map field is there and not empty.
pub(super) fn has_entries(value: &Value, name: &str) -> bool {
    object(value, name).is_some_and(|map| !map.is_empty())
}
