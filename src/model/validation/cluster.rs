//! Faults of namespaces, nodes, events and leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::names;
use super::placement::EFFECTS;
use super::read::{list, number, object, text};
use super::resources::not_negative;

/// Faults of a Namespace beyond its metadata.
pub(super) fn namespace(namespace: &Value, errors: &mut Faults) {
    for name in list(&namespace["spec"], "finalizers") {
        let name = name.as_str().unwrap_or("");
        let field = "spec.finalizers";
        let faults = names::qualified(name);
        if faults.is_empty() && !name.contains('/') && name != "kubernetes" {
            let sentence = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(field, name, sentence));
        }
        push(errors, field, name, faults);
    }
}

/// Faults of a Node beyond its metadata.
pub(super) fn node(node: &Value, errors: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, taint) in list(&node["spec"], "taints").iter().enumerate() {
        // The real server reports taints under metadata.
        let field = format!("metadata.taints[{index}]");
        let (key, value, effect) =
            (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        push(errors, &format!("{field}.key"), key, names::qualified(key));
        let faults = names::label_value(value);
        if !faults.is_empty() {
            errors.push(FieldError::invalid(format!("{field}.value"), value, faults.join(";")));
        }
        if !EFFECTS.contains(&effect) {
            let field = format!("{field}.effect");
            errors.push(if effect.is_empty() {
                FieldError::required(field, "")
            } else {
                FieldError::not_supported(field, effect, &EFFECTS)
            });
        }
        if !seen.insert((key, effect)) {
            let mut fault = FieldError::duplicate(&field, taint.clone());
            fault.detail = "taints must be unique by key and effect pair".into();
            errors.push(fault);
        }
    }
    for what in ["capacity", "allocatable"] {
        for (name, value) in object(&node["status"], what).into_iter().flatten() {
            not_negative(value, &format!("status.{what}.{name}"), errors);
        }
    }
    for (index, range) in list(&node["spec"], "podCIDRs").iter().enumerate() {
        let range = range.as_str().unwrap_or("");
        push(errors, &format!("spec.podCIDRs[{index}]"), range, names::cidr(range));
    }
}

/// What a node may not change once it is set.
pub(super) fn node_update(new: &Value, old: &Value, errors: &mut Faults) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let before = list(old, "podCIDRs");
    if !before.is_empty() && list(new, "podCIDRs") != before {
        let sentence = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", sentence));
    }
    let before = text(old, "providerID");
    if !before.is_empty() && text(new, "providerID") != before {
        let sentence = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", sentence));
    }
}

/// Longest of an event's short texts, and of its message, once it has an `eventTime`.
const EVENT_WORD_BYTES_MAX: usize = 128;
const EVENT_MESSAGE_BYTES_MAX: usize = 1_024;

/// Faults of an Event beyond its metadata. One with an `eventTime` is of the new form, which wants
/// more.
pub(super) fn event(event: &Value, errors: &mut Faults) {
    let namespace = text(&event["metadata"], "namespace");
    let about = text(&event["involvedObject"], "namespace");
    let mismatch = |errors: &mut Faults| {
        let sentence = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", about, sentence));
    };
    if text(event, "eventTime").is_empty() {
        let default = about.is_empty() && matches!(namespace, "" | "default");
        if !default && about != namespace {
            mismatch(errors);
        }
        return;
    }
    if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
        mismatch(errors);
    }
    let reporter = text(event, "reportingComponent");
    if reporter.is_empty() {
        errors.push(FieldError::required("reportingController", ""));
    }
    push(errors, "reportingController", reporter, names::qualified(reporter));
    for name in ["reportingInstance", "action", "reason"] {
        if text(event, name).is_empty() {
            errors.push(FieldError::required(name, ""));
        }
        limited(event, name, EVENT_WORD_BYTES_MAX, errors);
    }
    limited(event, "message", EVENT_MESSAGE_BYTES_MAX, errors);
}

fn limited(event: &Value, name: &str, bytes_max: usize, errors: &mut Faults) {
    if text(event, name).len() > bytes_max {
        let sentence = format!("can have at most {bytes_max} characters");
        errors.push(FieldError::invalid(name, "", sentence));
    }
}

/// Faults of a Lease beyond its metadata.
pub(super) fn lease(lease: &Value, errors: &mut Faults) {
    let spec = &lease["spec"];
    if let Some(seconds) = number(spec, "leaseDurationSeconds").filter(|n| *n <= 0) {
        let sentence = "must be greater than 0";
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", seconds, sentence));
    }
    if let Some(count) = number(spec, "leaseTransitions").filter(|n| *n < 0) {
        let sentence = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.leaseTransitions", count, sentence));
    }
}
