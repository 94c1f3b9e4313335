//! What an update of a Service may leave out, and what goes with a change of its type.
//!
//! `patchAllocatedValues` and `dropTypeDependentFields` of `k8s.io/kubernetes/pkg/registry/core/service`.

use model::validation::FieldError;
use serde_json::{Value, json};

use super::object::child_mut;

/// Fields that belong to types with an address of the cluster.
const ADDRESS_FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
/// Fields that belong to balanced services.
const BALANCER_FIELDS: [&str; 2] = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];

/// Takes over from the stored Service what the update leaves out, and drops what the old type needed
/// and the new one does not, unless the update changed it (then validation refuses it).
pub(super) fn prepare_update(old: &Value, new: &mut Value) {
    join_addresses(old, new);
    let (from, to) = (Needs::of(old), Needs::of(new));
    if from.address && to.address && text(&new["spec"]["clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(field) {
                child_mut(new, "spec").insert(field.into(), value.clone());
            }
        }
    }
    if from.node_ports && to.node_ports {
        keep_node_ports(old, new);
    }
    if from.node_ports && !to.node_ports {
        drop_node_ports(old, new);
        drop_same(old, new, &["externalTrafficPolicy"]);
    }
    if from.address && !to.address {
        drop_same(old, new, &ADDRESS_FIELDS);
        drop_same(old, new, &["internalTrafficPolicy"]);
    }
    if from.external_name && !to.external_name {
        drop_same(old, new, &["externalName"]);
    }
    if from.balancer && !to.balancer {
        drop_same(old, new, &BALANCER_FIELDS);
    }
    if from.health_port && !to.health_port {
        drop_same(old, new, &["healthCheckNodePort"]);
    }
}

/// Who changes or clears `clusterIP` alone means `clusterIPs`, too (`normalizeClusterIPs`).
fn join_addresses(old: &Value, new: &mut Value) {
    let one = text(&new["spec"]["clusterIP"]).to_owned();
    let is_changed = one != text(&old["spec"]["clusterIP"]);
    if !is_changed || new["spec"]["clusterIPs"] != old["spec"]["clusterIPs"] {
        return;
    }
    let spec = child_mut(new, "spec");
    match one.is_empty() {
        true => drop(spec.remove("clusterIPs")),
        false => drop(spec.insert("clusterIPs".into(), json!([one]))),
    }
}

/// What a cluster of one family of addresses cannot give (`initIPFamilyFields`): a Service of two, or
/// of the other one. Endpoints that somebody else writes may be of any.
pub(super) fn unserved_families(service: &Value) -> Vec<FieldError> {
    let spec = &service["spec"];
    let selects = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    let is_free = text(&spec["clusterIP"]) == "None" && !selects;
    if is_free || text(&spec["type"]) == "ExternalName" {
        return Vec::new();
    }
    if text(&spec["ipFamilyPolicy"]) == "RequireDualStack" {
        let sentence = "this cluster is not configured for dual-stack services";
        return vec![FieldError::invalid("spec.ipFamilyPolicy", "RequireDualStack", sentence)];
    }
    let families = spec["ipFamilies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = families.iter().enumerate().filter(|(_, family)| text(family) == "IPv6");
    others
        .map(|(index, family)| {
            let field = format!("spec.ipFamilies[{index}]");
            FieldError::invalid(field, text(family), "not configured on this cluster")
        })
        .collect()
}

/// What a Service's type needs.
#[derive(Clone, Copy)]
struct Needs {
    address: bool,
    node_ports: bool,
    external_name: bool,
    balancer: bool,
    health_port: bool,
}

impl Needs {
    fn of(service: &Value) -> Self {
        let kind = text(&service["spec"]["type"]);
        let balancer = kind == "LoadBalancer";
        Self {
            address: kind != "ExternalName",
            node_ports: balancer || kind == "NodePort",
            external_name: kind == "ExternalName",
            balancer,
            health_port: balancer && text(&service["spec"]["externalTrafficPolicy"]) == "Local",
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn drop_same(old: &Value, new: &mut Value, fields: &[&str]) {
    let spec = child_mut(new, "spec");
    for field in fields {
        if spec.get(*field) == old["spec"].get(field) {
            spec.remove(*field);
        }
    }
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A port without a number gets that of the stored port with the same protocol and port.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let used: Vec<Value> = ports(new).iter().map(|port| port["nodePort"].clone()).collect();
    let new_ports = child_mut(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in new_ports.into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let before = ports(old).iter().find(|old| identity(old) == identity(port));
        let number = before.map(|before| &before["nodePort"]).filter(|number| number.is_u64());
        if let Some(number) = number.filter(|number| !used.contains(number)) {
            port["nodePort"] = number.clone();
        }
    }
}

/// Protocol (TCP when it says none) and port.
fn identity(port: &Value) -> (&str, &Value) {
    (port["protocol"].as_str().unwrap_or("TCP"), &port["port"])
}

fn drop_node_ports(old: &Value, new: &mut Value) {
    let before: Vec<Value> = ports(old).iter().map(|port| port["nodePort"].clone()).collect();
    let new_ports = child_mut(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
    for port in new_ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if port.get("nodePort").is_some_and(|number| before.contains(number)) {
            port.remove("nodePort");
        }
    }
}
