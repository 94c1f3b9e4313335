//! Rows of `kubectl get`: the server-side Table.
//!
//! Input: an object as the API serves it, and the time. Output: the cells of its row, in the order
//! of the kind's columns in the resource table, equal to those of kube-apiserver 1.36. Whatever an
//! object lacks prints as the real printers print it (`<none>`, `<unknown>`, `<unset>`).

pub mod duration;

use serde_json::Value;

use crate::resource::Resource;
use crate::timestamp::Timestamp;

/// The cells of one object of `resource` at `now`, one for each column of it.
pub fn row(_resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    generic(object, now)
}

/// Name and creation time: the two columns of a kind that has no printer.
fn generic(object: &Value, _now: Timestamp) -> Vec<Value> {
    let meta = |name: &str| object.pointer(&format!("/metadata/{name}")).cloned();
    ["name", "creationTimestamp"].iter().map(|name| meta(name).unwrap_or("".into())).collect()
}
