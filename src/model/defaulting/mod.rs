//! Defaults that the API server fills in.
//!
//! Input: an object that the schema check has passed. Output: the same object as a real
//! kube-apiserver 1.36 would store it. [`apply`] holds for every write; [`create`] adds what only
//! happens at creation: the initial status, and the defaults of the admission plugins that need
//! nothing but the object (priority, service account name, tolerations, the taint of a new node). Nothing here allocates (addresses, ports), stamps metadata, or refuses; a value of
//! the wrong shape is left alone or gives way to an empty object.

mod access;
mod admission;
mod pod;
mod policy;
mod service;
mod volume;
mod workload;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::resource::Resource;

pub use admission::{qos_class, system_priority};

/// An object's fields.
type Fields = Map<String, Value>;

/// Fills in the defaults of an object of `resource` that the schema check has brought into Go's form.
pub fn apply(resource: &Resource, object: &mut Value) {
    let kind = resource.key;
    let Some(fields) = object.as_object_mut() else { return };
    match kind {
        "/pods" => pod::pod(fields),
        "/services" => service::service(fields),
        "/namespaces" => namespace(fields),
        "/nodes" => node(fields),
        "/secrets" => secret(fields),
        "/endpoints" => service::endpoints(fields),
        "discovery.k8s.io/endpointslices" => service::endpoint_slice(fields),
        "networking.k8s.io/networkpolicies" => policy::network_policy(fields),
        "policy/poddisruptionbudgets" => policy::disruption_budget(fields),
        "rbac.authorization.k8s.io/rolebindings"
        | "rbac.authorization.k8s.io/clusterrolebindings" => access::binding(fields),
        "/events" => event(fields),
        "coordination.k8s.io/leases" => {
            child(fields, "spec");
        }
        "/replicationcontrollers" => workload::replication_controller(fields),
        "apps/replicasets" => workload::replica_set(fields),
        "apps/deployments" => workload::deployment(fields),
        _ => {}
    }
}

/// [`apply`], then what happens once in an object's life.
pub fn create(resource: &Resource, object: &mut Value) {
    apply(resource, object);
    let Some(fields) = object.as_object_mut() else { return };
    match resource.key {
        "/pods" => admission::pod(fields),
        "/services" => service::initial(fields),
        "/namespaces" => {
            child(fields, "spec").insert("finalizers".into(), json!(["kubernetes"]));
            fields.insert("status".into(), json!({"phase": "Active"}));
        }
        "/nodes" => admission::node(fields),
        "/replicationcontrollers" | "apps/replicasets" => {
            fields.insert("status".into(), json!({"replicas": 0}));
        }
        "apps/deployments" => {
            fields.insert("status".into(), json!({}));
        }
        _ => {}
    }
}

fn namespace(fields: &mut Fields) {
    let metadata = child(fields, "metadata");
    if let Some(name) = metadata.get("name").and_then(Value::as_str).filter(|n| !n.is_empty()) {
        let name = name.to_owned();
        child(metadata, "labels").insert("kubernetes.io/metadata.name".into(), name.into());
    }
    child(fields, "spec");
    default_text(child(fields, "status"), "phase", "Active");
}

/// The strings of `NodeSystemInfo`, which Go prints even when empty.
const NODE_INFO: [&str; 10] = [
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

fn node(fields: &mut Fields) {
    let spec = child(fields, "spec");
    let first = spec.get("podCIDRs").and_then(|c| c.get(0)).and_then(Value::as_str);
    match (spec.get("podCIDR").and_then(Value::as_str), first.map(str::to_owned)) {
        (None, Some(first)) => {
            spec.insert("podCIDR".into(), first.into());
        }
        (Some(one), None) => {
            let list = json!([one]);
            spec.insert("podCIDRs".into(), list);
        }
        _ => {}
    }
    let status = child(fields, "status");
    let endpoints = child(status, "daemonEndpoints");
    default_number(child(endpoints, "kubeletEndpoint"), "Port", 0);
    let info = child(status, "nodeInfo");
    for name in NODE_INFO {
        default_text(info, name, "");
    }
    resource_list(status, "capacity");
    resource_list(status, "allocatable");
    if let (None, Some(capacity)) = (status.get("allocatable"), status.get("capacity").cloned()) {
        status.insert("allocatable".into(), capacity);
    }
}

fn secret(fields: &mut Fields) {
    default_text(fields, "type", "Opaque");
    let Some(plain) = fields.remove("stringData") else { return };
    let Some(plain) = plain.as_object().filter(|plain| !plain.is_empty()) else { return };
    let data = child(fields, "data");
    for (key, value) in plain {
        let encoded = BASE64_STANDARD.encode(value.as_str().unwrap_or(""));
        data.insert(key.clone(), encoded.into());
    }
}

fn event(fields: &mut Fields) {
    child(fields, "involvedObject");
    child(fields, "source");
    for name in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        default_pointer(fields, name, Value::Null);
    }
    for name in ["reportingComponent", "reportingInstance"] {
        default_text(fields, name, "");
    }
}

/// The object under `name`, made when absent. After the schema check nothing else stands there.
fn child<'a>(fields: &'a mut Fields, name: &str) -> &'a mut Fields {
    let value = fields.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("was just made an object")
}

/// The objects in the list under `name`.
fn items<'a>(fields: &'a mut Fields, name: &str) -> impl Iterator<Item = &'a mut Fields> {
    let list = fields.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The object under `name`, if there is one.
fn existing<'a>(fields: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

/// Whether a string field is absent or empty: the same in Go.
fn is_blank(fields: &Fields, name: &str) -> bool {
    match fields.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// The text of a field; empty when absent.
fn text<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or("")
}

fn default_text(fields: &mut Fields, name: &str, value: &str) {
    if is_blank(fields, name) {
        fields.insert(name.into(), value.into());
    }
}

/// For a number whose zero means absent.
fn default_number(fields: &mut Fields, name: &str, value: i64) {
    if matches!(fields.get(name), None | Some(Value::Null))
        || fields.get(name).and_then(Value::as_i64) == Some(0)
    {
        fields.insert(name.into(), value.into());
    }
}

/// For a field whose absence differs from its zero.
fn default_pointer(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    if matches!(fields.get(name), None | Some(Value::Null)) {
        fields.insert(name.into(), value.into());
    }
}

/// Rounds every quantity of a resource list to thousandths and writes it canonically.
fn resource_list(fields: &mut Fields, name: &str) {
    for value in existing(fields, name).into_iter().flat_map(|list| list.values_mut()) {
        if let Some(served) = quantity_text(value).and_then(|text| Quantity::served(&text).ok()) {
            *value = served.into();
        }
    }
}

/// Writes a quantity outside resource lists canonically.
fn quantity(fields: &mut Fields, name: &str) {
    let Some(value) = fields.get_mut(name) else { return };
    if let Some(parsed) = quantity_text(value).and_then(|text| Quantity::parse(text.trim()).ok()) {
        *value = parsed.to_string().into();
    }
}

/// A quantity as JSON has it: text or number.
fn quantity_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
