//! Rows of services and of what they lead to.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NONE, age, first_few, labels, list, name, number, or, text};
use crate::timestamp::Timestamp;

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(object, "/spec/ports").iter().map(port).collect();
    let address = or(text(object, "/spec/clusterIPs/0"), text(object, "/spec/clusterIP"));
    vec![
        name(object),
        text(object, "/spec/type").into(),
        or(address, NONE).into(),
        external(object).into(),
        or(&ports.join(","), NONE).into(),
        age(object, now),
        labels(object.pointer("/spec/selector")).into(),
    ]
}

fn port(port: &Value) -> String {
    let (number_inside, protocol) = (number(port, "/port"), text(port, "/protocol"));
    match number(port, "/nodePort") {
        outside if outside > 0 => format!("{number_inside}:{outside}/{protocol}"),
        _ => format!("{number_inside}/{protocol}"),
    }
}

fn external(object: &Value) -> String {
    let given: Vec<&str> =
        list(object, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(object, "/spec/type") {
        "ClusterIP" | "NodePort" => or(&given.join(","), NONE).to_owned(),
        "LoadBalancer" => {
            let balancers: BTreeSet<&str> = list(object, "/status/loadBalancer/ingress")
                .iter()
                .map(|ingress| or(text(ingress, "/ip"), text(ingress, "/hostname")))
                .filter(|address| !address.is_empty())
                .collect();
            let all: Vec<&str> = balancers.into_iter().chain(given).collect();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let subsets = list(object, "/subsets");
    let all = subsets.iter().flat_map(|subset| {
        let ports = list(subset, "/ports");
        let addresses = list(subset, "/addresses");
        let bare = ports.is_empty().then(|| addresses.iter().map(|a| text(a, "/ip").to_owned()));
        let with_ports = ports.iter().flat_map(move |port| {
            let number = number(port, "/port");
            addresses.iter().map(move |a| host_port(text(a, "/ip"), number))
        });
        bare.into_iter().flatten().chain(with_ports)
    });
    let shown = if subsets.is_empty() { NONE.to_owned() } else { first_few(all) };
    vec![name(object), shown.into(), age(object, now)]
}

fn host_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    const UNSET: &str = "<unset>";
    let ports = list(object, "/ports").iter().map(|port| match port.get("port") {
        Some(Value::Number(number)) => number.to_string(),
        _ => port.get("name").and_then(Value::as_str).unwrap_or("*").to_owned(),
    });
    let addresses = list(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .map(|address| address.as_str().unwrap_or("").to_owned());
    vec![
        name(object),
        text(object, "/addressType").into(),
        or(&first_few(ports), UNSET).into(),
        or(&first_few(addresses), UNSET).into(),
        age(object, now),
    ]
}
