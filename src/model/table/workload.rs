//! Rows of the controllers that own pods.

use serde_json::Value;

use super::{NONE, age, containers, labels, name, number, or};
use crate::selector::LabelSelector;
use crate::timestamp::Timestamp;

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object);
    let selector = object.pointer("/spec/selector").unwrap_or(&Value::Null);
    let selector = LabelSelector::from_object(selector).unwrap_or_default().to_string();
    let ready = number(object, "/status/readyReplicas");
    vec![
        name(object),
        format!("{ready}/{}", number(object, "/spec/replicas")).into(),
        number(object, "/status/updatedReplicas").into(),
        number(object, "/status/availableReplicas").into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let selector = object.pointer("/spec/selector").unwrap_or(&Value::Null);
    let selector = match LabelSelector::from_object(selector) {
        Ok(selector) => or(&selector.to_string(), NONE).to_owned(),
        Err(_) => "<error>".to_owned(),
    };
    replicas(object, selector, now)
}

pub(super) fn replication_controller(object: &Value, now: Timestamp) -> Vec<Value> {
    replicas(object, labels(object.pointer("/spec/selector")), now)
}

fn replicas(object: &Value, selector: String, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object);
    vec![
        name(object),
        number(object, "/spec/replicas").into(),
        number(object, "/status/replicas").into(),
        number(object, "/status/readyReplicas").into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}
