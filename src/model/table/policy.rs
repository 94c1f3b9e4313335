//! Rows of network policies and disruption budgets.

use serde_json::Value;

use super::{NONE, age, name, number, or};
use crate::selector::LabelSelector;
use crate::timestamp::Timestamp;

pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    let selector = object.pointer("/spec/podSelector").unwrap_or(&Value::Null);
    let selector = match LabelSelector::from_object(selector) {
        Ok(selector) => or(&selector.to_string(), NONE).to_owned(),
        Err(_) => "<error>".to_owned(),
    };
    vec![name(object), selector.into(), age(object, now)]
}

pub(super) fn disruption_budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let limit = |pointer: &str| match object.pointer(pointer) {
        Some(Value::String(percent)) => percent.clone(),
        Some(Value::Number(count)) => count.to_string(),
        _ => "N/A".to_owned(),
    };
    vec![
        name(object),
        limit("/spec/minAvailable").into(),
        limit("/spec/maxUnavailable").into(),
        number(object, "/status/disruptionsAllowed").into(),
        age(object, now),
    ]
}
