//! Rows of nodes, namespaces, configuration, events and leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NONE, age, list, name, number, or, since, text};
use crate::timestamp::Timestamp;

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";
const UNKNOWN: &str = "<unknown>";

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| text(node, &format!("/status/nodeInfo/{field}"));
    let address = |kind: &str| {
        let all = list(node, "/status/addresses");
        all.iter().find(|a| text(a, "/type") == kind).map_or(NONE, |a| text(a, "/address"))
    };
    vec![
        name(node),
        node_status(node).into(),
        roles(node).into(),
        age(node, now),
        info("kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or(info("osImage"), UNKNOWN).into(),
        or(info("kernelVersion"), UNKNOWN).into(),
        or(info("containerRuntimeVersion"), UNKNOWN).into(),
    ]
}

fn node_status(node: &Value) -> String {
    let conditions = list(node, "/status/conditions");
    let ready = conditions.iter().rev().find(|c| text(c, "/type") == "Ready");
    let word = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = node.pointer("/spec/unschedulable") == Some(&Value::Bool(true));
    if closed { format!("{word},SchedulingDisabled") } else { word.to_owned() }
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles = BTreeSet::new();
    for (key, value) in labels.into_iter().flatten() {
        if let Some(role) = key.strip_prefix(ROLE_PREFIX).filter(|role| !role.is_empty()) {
            roles.insert(role);
        } else if key == ROLE_LABEL {
            roles.extend(value.as_str().filter(|role| !role.is_empty()));
        }
    }
    let roles: Vec<&str> = roles.into_iter().collect();
    or(&roles.join(","), NONE).to_owned()
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/status/phase").into(), age(object, now)]
}

fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, |map| map.len())
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = entries(object, "data") + entries(object, "binaryData");
    vec![name(object), count.into(), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = text(object, "/type");
    vec![name(object), kind.into(), entries(object, "data").into(), age(object, now)]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now)]
}

pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let given = |pointer: &str| !text(event, pointer).is_empty();
    let first = if given("/firstTimestamp") { "/firstTimestamp" } else { "/eventTime" };
    let first = since(event, first, now);
    let series = event.get("series").filter(|series| !series.is_null());
    let last = match series {
        Some(_) => since(event, "/series/lastObservedTime", now),
        None if given("/lastTimestamp") => since(event, "/lastTimestamp", now),
        None => first.clone(),
    };
    let count = match series {
        Some(series) => number(series, "/count"),
        None => number(event, "/count").max(1),
    };
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let about = match text(event, "/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        about.into(),
        text(event, "/involvedObject/fieldPath").into(),
        source(event).into(),
        text(event, "/message").trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

fn source(event: &Value) -> String {
    let component = or(text(event, "/source/component"), text(event, "/reportingComponent"));
    match or(text(event, "/source/host"), text(event, "/reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
