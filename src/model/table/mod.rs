//! Rows of `kubectl get`: the server-side Table.
//!
//! Input: an object as the API serves it, and the time. Output: the cells of its row, in the order
//! of the kind's columns in the resource table, equal to those of kube-apiserver 1.36 (which always
//! fills the wide columns, too). Whatever an object lacks prints as the real printers print it
//! (`<none>`, `<unknown>`, `<unset>`).

mod access;
mod cluster;
pub mod duration;
mod pod;
mod policy;
mod service;
mod workload;

use serde_json::{Value, json};

use crate::resource::{Column, Resource};
use crate::selector::LabelSelector;
use crate::timestamp::Timestamp;

/// What a field prints as that is empty.
const NONE: &str = "<none>";

/// The columns of a kind's Table.
pub fn columns(resource: &Resource) -> &'static [Column] {
    resource.columns
}

/// The cells of one object of `resource` at `now`, one for each column of it.
pub fn row(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = match resource.key {
        "/pods" => pod::cells(object, now),
        "/services" => service::service(object, now),
        "/endpoints" => service::endpoints(object, now),
        "discovery.k8s.io/endpointslices" => service::endpoint_slice(object, now),
        "networking.k8s.io/networkpolicies" => policy::network_policy(object, now),
        "policy/poddisruptionbudgets" => policy::disruption_budget(object, now),
        "apps/deployments" => workload::deployment(object, now),
        "apps/replicasets" => workload::replica_set(object, now),
        "/replicationcontrollers" => workload::replication_controller(object, now),
        "/nodes" => cluster::node(object, now),
        "/namespaces" => cluster::namespace(object, now),
        "/configmaps" => cluster::config_map(object, now),
        "/secrets" => cluster::secret(object, now),
        "/events" => cluster::event(object, now),
        "coordination.k8s.io/leases" => cluster::lease(object, now),
        "rbac.authorization.k8s.io/roles" | "rbac.authorization.k8s.io/clusterroles" => {
            access::role(object)
        }
        "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings" => access::binding(object, now),
        _ => vec![name(object), age(object, now)],
    };
    cells.resize(resource.columns.len(), Value::Null);
    cells
}

/// The `conditions` of a row: set for pods that are done, absent for everything else.
pub fn conditions(resource: &Resource, object: &Value) -> Option<Value> {
    if resource.key != "/pods" {
        return None;
    }
    let phase = text(object, "/status/phase");
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    let condition =
        json!({"type": "Completed", "status": "True", "reason": phase, "message": message});
    Some(json!([condition]))
}

/// The text at a pointer; empty when absent.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number at a pointer; 0 when absent.
fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The list at a pointer; empty when absent.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).into()
}

fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    duration::since(object.pointer(pointer).and_then(Value::as_str), now)
}

/// `text`, or what stands for an empty field.
fn or<'a>(text: &'a str, empty: &'a str) -> &'a str {
    if text.is_empty() { empty } else { text }
}

/// Names and images of a pod template's containers.
fn containers(object: &Value) -> [Value; 2] {
    ["/name", "/image"].map(|field| {
        let all = list(object, "/spec/template/spec/containers");
        all.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",").into()
    })
}

/// `a=b,c=d`, or `<none>`.
fn labels(map: Option<&Value>) -> String {
    let selector = map.map(LabelSelector::from_map).unwrap_or_default().to_string();
    or(&selector, NONE).to_owned()
}

/// At most `MORE_AFTER` of the items, and how many there are beyond.
fn first_few(items: impl Iterator<Item = String>) -> String {
    const MORE_AFTER: usize = 3;
    let (mut shown, mut count) = (Vec::new(), 0);
    for item in items {
        count += 1;
        if count <= MORE_AFTER {
            shown.push(item);
        }
    }
    let shown = shown.join(",");
    if count > MORE_AFTER {
        return format!("{shown} + {} more...", count - MORE_AFTER);
    }
    shown
}

#[cfg(test)]
mod tests;
