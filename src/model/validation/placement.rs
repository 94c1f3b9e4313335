//! Faults of what says where a pod may run.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::meta::label_selector;
use super::names;
use super::read::{given, list, number, text};

/// Effects of a taint.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Faults of `tolerations`.
pub(super) fn tolerations(tolerations: &[Value], field: &str, errors: &mut Faults) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            push(errors, &at("key"), key, names::qualified(key));
        } else if operator != "Exists" {
            let sentence = "operator must be Exists when `key` is empty, which means \"match all \
                            values and all keys\"";
            errors.push(FieldError::invalid(at("operator"), operator, sentence));
        }
        if given(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let sentence = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(at("effect"), effect, sentence));
        }
        match operator {
            "Equal" | "" => {
                let faults = names::label_value(value);
                if !faults.is_empty() {
                    errors.push(FieldError::invalid(at("operator"), value, faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let sentence = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(at("operator"), value, sentence));
            }
            "Exists" => {}
            other => {
                let operators = ["Equal", "Exists"];
                errors.push(FieldError::not_supported(at("operator"), other, &operators));
            }
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(at("effect"), effect, &EFFECTS));
        }
    }
}

/// Faults of `affinity`.
pub(super) fn affinity(affinity: &Value, field: &str, errors: &mut Faults) {
    if let Some(node) = given(affinity, "nodeAffinity") {
        node_affinity(node, &format!("{field}.nodeAffinity"), errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = given(affinity, name) else { continue };
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in list(pods, required).iter().enumerate() {
            pod_term(term, &format!("{field}.{name}.{required}[{index}]"), errors);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, item) in list(pods, preferred).iter().enumerate() {
            let field = format!("{field}.{name}.{preferred}[{index}]");
            weight(item, &field, errors);
            pod_term(&item["podAffinityTerm"], &format!("{field}.podAffinityTerm"), errors);
        }
    }
}

fn weight(item: &Value, field: &str, errors: &mut Faults) {
    let weight = number(item, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        let sentence = "must be in the range 1-100";
        errors.push(FieldError::invalid(format!("{field}.weight"), weight, sentence));
    }
}

fn node_affinity(affinity: &Value, field: &str, errors: &mut Faults) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    if let Some(selector) = given(affinity, required) {
        let field = format!("{field}.{required}.nodeSelectorTerms");
        let terms = list(selector, "nodeSelectorTerms");
        if terms.is_empty() {
            let sentence = "must have at least one node selector term";
            errors.push(FieldError::required(&field, sentence));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{field}[{index}]"), errors);
        }
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, item) in list(affinity, preferred).iter().enumerate() {
        let field = format!("{field}.{preferred}[{index}]");
        weight(item, &field, errors);
        node_term(&item["preference"], &format!("{field}.preference"), errors);
    }
}

fn node_term(term: &Value, field: &str, errors: &mut Faults) {
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
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
            "Gt" | "Lt" if values.len() != 1 => {
                let sentence = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(FieldError::required(format!("{field}.values"), sentence));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                let sentence = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{field}.operator"), other, sentence));
            }
        }
        let key = text(expression, "key");
        push(errors, &format!("{field}.key"), key, names::qualified(key));
    }
}

fn pod_term(term: &Value, field: &str, errors: &mut Faults) {
    for name in ["labelSelector", "namespaceSelector"] {
        if let Some(selector) = given(term, name) {
            label_selector(selector, &format!("{field}.{name}"), errors);
        }
    }
    for name in list(term, "namespaces") {
        let name = name.as_str().unwrap_or("");
        push(errors, &format!("{field}.namespace"), name, names::label(name));
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(format!("{field}.topologyKey"), "can not be empty"));
    } else {
        push(errors, &format!("{field}.topologyKey"), key, names::qualified(key));
    }
}

/// Faults of `topologySpreadConstraints` of the spec at `field`.
pub(super) fn spread(constraints: &[Value], field: &str, errors: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let at = |name: &str| format!("{field}.topologySpreadConstraints[{index}].{name}");
        let skew = number(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.push(FieldError::invalid(at("maxSkew"), skew, "must be greater than zero"));
        }
        let key = text(constraint, "topologyKey");
        if key.is_empty() {
            errors.push(FieldError::required(at("topologyKey"), "can not be empty"));
        } else {
            push(errors, &at("topologyKey"), key, names::qualified(key));
        }
        let action = text(constraint, "whenUnsatisfiable");
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            let field = at("whenUnsatisfiable");
            errors.push(FieldError::not_supported(field, action, &actions));
        }
        if !seen.insert((key, action)) {
            let field = at("{topologyKey, whenUnsatisfiable}");
            errors.push(FieldError::duplicate(field, format!("{{{key}, {action}}}")));
        }
        if let Some(selector) = given(constraint, "labelSelector") {
            label_selector(selector, &at("labelSelector"), errors);
        }
    }
}
