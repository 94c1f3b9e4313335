//! Defaults of services and of what they lead to.

use serde_json::{Value, json};

use super::{Fields, child, default_number, default_pointer, default_text, existing, is_blank};
use super::{items, text};

/// How long a client keeps its endpoint (`ClientIP` affinity): three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn service(fields: &mut Fields) {
    let spec = child(fields, "spec");
    affinity(spec);
    default_text(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let target = port.get("targetPort");
        let unset = target.is_none_or(|t| t.is_null() || *t == json!(0) || *t == json!(""));
        if unset && let Some(number) = port.get("port").cloned() {
            port.insert("targetPort".into(), number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let outside = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if external || kind == "ClusterIP" && outside {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if external || kind == "ClusterIP" {
        default_pointer(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_pointer(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind != "ExternalName" {
        families(spec);
    }
    let status = child(fields, "status");
    let balancer = child(status, "loadBalancer");
    if kind == "LoadBalancer" {
        for ingress in items(balancer, "ingress").filter(|ingress| !is_blank(ingress, "ip")) {
            default_pointer(ingress, "ipMode", "VIP");
        }
    }
}

/// At creation the status is empty, and a given address stands in both its fields.
pub(super) fn initial(fields: &mut Fields) {
    fields.insert("status".into(), json!({"loadBalancer": {}}));
    let spec = child(fields, "spec");
    let address = text(spec, "clusterIP").to_owned();
    if !address.is_empty() {
        default_pointer(spec, "clusterIPs", json!([address]));
    }
}

fn affinity(spec: &mut Fields) {
    default_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => {
            spec.remove("sessionAffinityConfig");
        }
        "ClientIP" => {
            let config = child(spec, "sessionAffinityConfig");
            default_pointer(child(config, "clientIP"), "timeoutSeconds", AFFINITY_SECONDS);
        }
        _ => {}
    }
}

/// The address families: what the addresses say, else IPv4 alone; a headless service without a
/// selector leaves the choice to whoever writes its endpoints.
fn families(spec: &mut Fields) {
    let headless = text(spec, "clusterIP") == "None";
    let selects = spec.get("selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let given = spec.get("ipFamilies").and_then(Value::as_array).map_or(0, Vec::len);
    let free = headless && !selects && given == 0 && is_blank(spec, "ipFamilyPolicy");
    default_text(spec, "ipFamilyPolicy", if free { "RequireDualStack" } else { "SingleStack" });
    if given == 0 {
        let six = text(spec, "clusterIP").contains(':');
        let list = match (free, six) {
            (true, _) => json!(["IPv4", "IPv6"]),
            (_, true) => json!(["IPv6"]),
            (_, false) => json!(["IPv4"]),
        };
        spec.insert("ipFamilies".into(), list);
    }
}

pub(super) fn endpoints(fields: &mut Fields) {
    for port in items(fields, "subsets").flat_map(|subset| items(subset, "ports")) {
        default_number(port, "port", 0);
        default_text(port, "protocol", "TCP");
    }
}

pub(super) fn endpoint_slice(fields: &mut Fields) {
    for port in items(fields, "ports") {
        default_pointer(port, "name", "");
        default_pointer(port, "protocol", "TCP");
    }
    for endpoint in items(fields, "endpoints") {
        if existing(endpoint, "conditions").is_none() {
            child(endpoint, "conditions");
        }
    }
}
