//! Rows of roles and bindings.

use serde_json::Value;

use super::{age, list, name, text};
use crate::timestamp::Timestamp;

pub(super) fn role(object: &Value) -> Vec<Value> {
    vec![name(object), text(object, "/metadata/creationTimestamp").into()]
}

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let of = |kind: &str| {
        let subjects = list(object, "/subjects").iter().filter(|it| text(it, "/kind") == kind);
        let names = subjects.map(|subject| match kind {
            "ServiceAccount" => {
                format!("{}/{}", text(subject, "/namespace"), text(subject, "/name"))
            }
            _ => text(subject, "/name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    let [users, groups, accounts] = ["User", "Group", "ServiceAccount"].map(of);
    vec![name(object), role.into(), age(object, now), users, groups, accounts]
}
