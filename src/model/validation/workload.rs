//! Faults of the controllers that own pods.

use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::meta::{self, not_negative};
use super::names;
use super::pod;
use super::read::{given, number, object, text};
use crate::selector::LabelSelector;

/// Faults of a Deployment's spec.
pub(super) fn deployment(spec: &Value, errors: &mut Faults) {
    at_least_zero(spec, "replicas", errors);
    selector_and_template(spec, "deployment", errors);
    strategy(&spec["strategy"], errors);
    for name in ["minReadySeconds", "revisionHistoryLimit"] {
        at_least_zero(spec, name, errors);
    }
    let Some(deadline) = number(spec, "progressDeadlineSeconds") else { return };
    at_least_zero(spec, "progressDeadlineSeconds", errors);
    if deadline <= number(spec, "minReadySeconds").unwrap_or(0) {
        let field = "spec.progressDeadlineSeconds";
        errors.push(FieldError::invalid(field, deadline, "must be greater than minReadySeconds"));
    }
}

/// Faults of a ReplicaSet's spec.
pub(super) fn replica_set(spec: &Value, errors: &mut Faults) {
    at_least_zero(spec, "replicas", errors);
    at_least_zero(spec, "minReadySeconds", errors);
    // The real server says "deployment" here, too.
    selector_and_template(spec, "deployment", errors);
}

/// Faults of a ReplicationController's spec.
pub(super) fn replication_controller(spec: &Value, errors: &mut Faults) {
    at_least_zero(spec, "minReadySeconds", errors);
    if !meta::has_entries(spec, "selector") {
        errors.push(FieldError::required("spec.selector", ""));
    }
    at_least_zero(spec, "replicas", errors);
    let Some(template) = given(spec, "template") else {
        errors.push(FieldError::required("spec.template", ""));
        return;
    };
    let selector = LabelSelector::from_map(&spec["selector"]);
    let labels = &template["metadata"]["labels"];
    if !selector.requirements().is_empty() && !selector.matches_labels(labels) {
        mismatch(labels, errors);
    }
    owned_template(template, "ReplicationController", errors);
}

/// Faults of the counts in a status: at least 0, and not more than what they are part of.
pub(super) fn status(status: &Value, errors: &mut Faults) {
    const PARTS: [&str; 4] =
        ["updatedReplicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let count = |name: &str| number(status, name).unwrap_or(0);
    for name in std::iter::once("replicas").chain(PARTS).chain(["observedGeneration"]) {
        if count(name) < 0 {
            errors.push(not_negative(format!("status.{name}"), count(name).into()));
        }
    }
    for name in PARTS {
        if count(name) > count("replicas") {
            let sentence = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(format!("status.{name}"), count(name), sentence));
        }
    }
    let available = count("availableReplicas");
    if available > count("readyReplicas") {
        let sentence = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid("status.availableReplicas", available, sentence));
    }
}

fn at_least_zero(spec: &Value, name: &str, errors: &mut Faults) {
    if let Some(n) = number(spec, name).filter(|n| *n < 0) {
        errors.push(not_negative(format!("spec.{name}"), n.into()));
    }
}

fn mismatch(labels: &Value, errors: &mut Faults) {
    let sentence = "`selector` does not match template `labels`";
    errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), sentence));
}

fn selector_and_template(spec: &Value, kind: &str, errors: &mut Faults) {
    let field = "spec.selector";
    let selector = spec.get("selector").unwrap_or(&Value::Null);
    if selector.is_null() {
        errors.push(FieldError::required(field, ""));
    } else {
        meta::label_selector(selector, field, errors);
        let empty = object(selector, "matchLabels").is_none_or(|m| m.is_empty())
            && super::read::list(selector, "matchExpressions").is_empty();
        if empty {
            let sentence = format!("empty selector is invalid for {kind}");
            errors.push(FieldError::invalid(field, selector.clone(), sentence));
        }
    }
    let template = &spec["template"];
    match LabelSelector::from_object(selector) {
        Err(_) => {
            let sentence = "invalid label selector";
            errors.push(FieldError::invalid(field, selector.clone(), sentence));
            return;
        }
        Ok(parsed) => {
            let labels = &template["metadata"]["labels"];
            if !parsed.is_everything() && !parsed.matches_labels(labels) {
                mismatch(labels, errors);
            }
        }
    }
    owned_template(template, "ReplicaSet", errors);
}

fn owned_template(template: &Value, owner: &str, errors: &mut Faults) {
    pod::template(template, "spec.template", errors);
    let spec = &template["spec"];
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        let field = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(field, policy, &["Always"]));
    }
    if given(spec, "activeDeadlineSeconds").is_some() {
        let sentence = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(FieldError::forbidden("spec.template.spec.activeDeadlineSeconds", sentence));
    }
}

fn strategy(strategy: &Value, errors: &mut Faults) {
    let rolling = given(strategy, "rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            let sentence = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", sentence));
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            let sentence = "this should be defaulted and never be nil";
            errors.push(FieldError::required("spec.strategy.rollingUpdate", sentence));
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, errors),
        (other, _) => {
            let kinds = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported("spec.strategy.type", other, &kinds));
        }
    }
}

fn rolling_update(rolling: &Value, errors: &mut Faults) {
    let field = |name: &str| format!("spec.strategy.rollingUpdate.{name}");
    for name in ["maxUnavailable", "maxSurge"] {
        match rolling.get(name) {
            Some(Value::String(word)) => {
                push(errors, &field(name), word.as_str(), names::percent(word));
            }
            other => {
                let n = other.and_then(Value::as_i64).unwrap_or(0);
                if n < 0 {
                    errors.push(not_negative(field(name), n.into()));
                }
            }
        }
    }
    let unavailable = &rolling["maxUnavailable"];
    if amount(unavailable) == 0 && amount(&rolling["maxSurge"]) == 0 {
        let sentence = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(field("maxUnavailable"), unavailable.clone(), sentence));
    }
    if unavailable.is_string() && amount(unavailable) > 100 {
        let sentence = "must not be greater than 100%";
        errors.push(FieldError::invalid(field("maxUnavailable"), unavailable.clone(), sentence));
    }
}

/// A number, or the number before a percent sign.
fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => {
            text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0)
        }
        other => other.as_i64().unwrap_or(0),
    }
}
