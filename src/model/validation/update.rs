//! What may change in a pod that exists.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::error::{Faults, FieldError};
use super::meta;
use super::names;
use super::placement;
use super::pod::{self, DEADLINE_SECONDS_MAX};
use super::read::{given, list, number, object, text};

const ONLY: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
/// Changed fields that the message lists.
const SHOWN_CHANGES_MAX: usize = 8;

/// Faults of a pod that replaces `old`.
pub(super) fn pod(new: &Value, old: &Value, errors: &mut Faults) {
    meta::metadata_update(new, old, errors);
    pod::whole(new, errors);
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    for (name, what) in [("containers", "containers"), ("initContainers", "initContainers")] {
        let (after, before) = (list(new_spec, name), list(old_spec, name));
        if after.len() != before.len() {
            let sentence = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{what}"), sentence));
            return;
        }
        for (index, container) in after.iter().enumerate() {
            let (image, field) = (text(container, "image"), format!("spec.{name}[{index}].image"));
            if image.is_empty() {
                errors.push(FieldError::required(&field, ""));
            }
            if image.trim() != image {
                let sentence = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(field, image, sentence));
            }
        }
    }
    if !deadline(new_spec, old_spec, errors) {
        return;
    }
    only_added_tolerations(new_spec, old_spec, errors);
    only_deleted_gates(new_spec, old_spec, errors);
    only_added_selectors(new_spec, old_spec, errors);
    let changes = changes(&munged(new_spec, old_spec), old_spec);
    if !changes.is_empty() {
        let shown: Vec<&str> = changes.iter().take(SHOWN_CHANGES_MAX).map(String::as_str).collect();
        let sentence = format!("{ONLY}\n{}", shown.join("\n"));
        errors.push(FieldError::forbidden("spec", sentence));
    }
}

/// Faults of a change of a pod's status.
pub(super) fn pod_status(new: &Value, old: &Value, errors: &mut Faults) {
    for (index, condition) in list(&new["status"], "conditions").iter().enumerate() {
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            for fault in names::qualified(kind) {
                let field = format!("metadata.conditions[{index}].Type");
                errors.push(FieldError::invalid(field, kind, fault));
            }
        }
    }
    if text(&new["spec"], "nodeName") != text(&old["spec"], "nodeName") {
        errors.push(FieldError::forbidden("status.nodeName", "may not be changed directly"));
    }
    let class = |pod: &Value| pod["status"].get("qosClass").cloned();
    meta::immutable("status.qosClass", class(new).as_ref(), class(old).as_ref(), errors);
    let policy = text(&old["spec"], "restartPolicy");
    stays_terminated(new, old, "containerStatuses", policy, errors);
    stays_terminated(new, old, "initContainerStatuses", policy, errors);
}

/// A container that may not restart does not leave the terminated state.
fn stays_terminated(new: &Value, old: &Value, name: &str, policy: &str, errors: &mut Faults) {
    if policy == "Always" {
        return;
    }
    let ended = |status: &Value| given(&status["state"], "terminated").cloned();
    let sidecars: BTreeSet<&str> = list(&old["spec"], "initContainers")
        .iter()
        .filter(|container| text(container, "restartPolicy") == "Always")
        .map(|container| text(container, "name"))
        .collect();
    let restarted: BTreeSet<&str> = list(&new["status"], name)
        .iter()
        .filter(|status| ended(status).is_none())
        .map(|status| text(status, "name"))
        .collect();
    for (index, before) in list(&old["status"], name).iter().enumerate() {
        let Some(end) = ended(before) else { continue };
        let failed = number(&end, "exitCode").unwrap_or(0) != 0;
        let container = text(before, "name");
        if failed && policy == "OnFailure" || sidecars.contains(container) {
            continue;
        }
        if restarted.contains(container) {
            let field = format!("status.{name}[{index}].state");
            let sentence = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(field, sentence));
        }
    }
}

/// `activeDeadlineSeconds` may appear or shrink; false when the check ends here.
fn deadline(new: &Value, old: &Value, errors: &mut Faults) -> bool {
    let field = "spec.activeDeadlineSeconds";
    let name = "activeDeadlineSeconds";
    match (number(new, name), number(old, name)) {
        (Some(after), before) => {
            if let Some(fault) = names::in_range(after, 0, DEADLINE_SECONDS_MAX).pop() {
                errors.push(FieldError::invalid(field, after, fault));
                return false;
            }
            if before.is_some_and(|before| before < after) {
                let sentence = "must be less than or equal to previous value";
                errors.push(FieldError::invalid(field, after, sentence));
                return false;
            }
        }
        (None, Some(_)) => {
            let sentence = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(field, Value::Null, sentence));
        }
        (None, None) => {}
    }
    true
}

fn only_added_tolerations(new: &Value, old: &Value, errors: &mut Faults) {
    let without_seconds = |toleration: &Value| {
        let mut copy = toleration.clone();
        if let Some(fields) = copy.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        copy.to_string()
    };
    let after: BTreeSet<String> = list(new, "tolerations").iter().map(without_seconds).collect();
    let kept = list(old, "tolerations").iter().all(|t| after.contains(&without_seconds(t)));
    if !kept {
        let sentence = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", sentence));
        return;
    }
    placement::tolerations(list(new, "tolerations"), "spec.tolerations", errors);
}

fn is_gated(spec: &Value) -> bool {
    !list(spec, "schedulingGates").is_empty()
}

/// While gates hold a pod back, its node selector may get narrower.
fn only_added_selectors(new: &Value, old: &Value, errors: &mut Faults) {
    if !is_gated(old) {
        return;
    }
    let label =
        |spec: &Value, key: &str| object(spec, "nodeSelector").and_then(|s| s.get(key)).cloned();
    let before = object(old, "nodeSelector");
    if !before.into_iter().flatten().all(|(key, value)| label(new, key).as_ref() == Some(value)) {
        let shown = new.get("nodeSelector").cloned().unwrap_or(Value::Null);
        let sentence = "only additions are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", shown, sentence));
    }
}

fn only_deleted_gates(new: &Value, old: &Value, errors: &mut Faults) {
    let before: BTreeSet<&str> =
        list(old, "schedulingGates").iter().map(|gate| text(gate, "name")).collect();
    for (index, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !before.contains(text(gate, "name")) {
            let field = format!("spec.schedulingGates[{index}].name");
            let sentence = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                text(gate, "name")
            );
            errors.push(FieldError::forbidden(field, sentence));
        }
    }
}

/// The new spec with everything that may change put back to what it was.
fn munged(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    let Some(fields) = spec.as_object_mut() else { return spec };
    let mut restore = |name: &str| match old.get(name) {
        Some(value) => {
            fields.insert(name.to_owned(), value.clone());
        }
        None => {
            fields.remove(name);
        }
    };
    for name in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore(name);
    }
    if is_gated(old) {
        restore("nodeSelector");
    }
    let grace = |spec: &Value| number(spec, "terminationGracePeriodSeconds");
    if grace(new) == Some(1) && grace(old).is_some_and(|seconds| seconds < 0) {
        restore("terminationGracePeriodSeconds");
    }
    for name in ["containers", "initContainers"] {
        let containers = fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(list(old, name)) {
            if let (Some(fields), Some(image)) = (container.as_object_mut(), before.get("image")) {
                fields.insert("image".into(), image.clone());
            }
        }
    }
    spec
}

/// The fields that differ, one line each: `-` what is stored, `+` what was asked for, as the real
/// server's difference does (which prints Go structs).
fn changes(new: &Value, old: &Value) -> Vec<String> {
    let empty = Map::new();
    let (new, old) = (new.as_object().unwrap_or(&empty), old.as_object().unwrap_or(&empty));
    let mut lines = Vec::new();
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    for name in names {
        let (after, before) = (new.get(name), old.get(name));
        if after != before {
            for (sign, value) in [('-', before), ('+', after)] {
                let value = value.map_or("null".to_owned(), Value::to_string);
                lines.push(format!("{sign} \"{name}\": {value}"));
            }
        }
    }
    lines
}
