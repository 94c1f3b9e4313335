//! Faults of services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::container::{PROTOCOLS, one_of, port_or_name, push};
use super::error::{Faults, FieldError};
use super::meta;
use super::names;
use super::read::{given, list, number, text};

/// Longest `ClientIP` affinity: a day.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
/// Faults of a Service beyond its metadata.
pub(super) fn service(service: &Value, errors: &mut Faults) {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    by_kind(spec, kind, headless, errors);
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        service_port(port, ports.len() > 1, &mut seen, &format!("spec.ports[{index}]"), errors);
    }
    meta::labels(spec.get("selector"), "spec.selector", errors);
    affinity(spec, errors);
    if kind != "ExternalName" {
        addresses(spec, errors);
    }
    for (index, address) in list(spec, "externalIPs").iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        let field = format!("spec.externalIPs[{index}]");
        match address.parse::<IpAddr>() {
            Err(_) => push(errors, &field, address, names::ip(address)),
            Ok(parsed) => special_address(address, parsed, &field, errors),
        }
    }
    one_of(
        spec,
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        "spec",
        errors,
    );
    port_conflicts(ports, kind, errors);
    traffic(spec, kind, errors);
}

fn by_kind(spec: &Value, kind: &str, headless: bool, errors: &mut Faults) {
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let sentence = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", sentence));
        }
        "ExternalName" => {
            for name in ["clusterIPs", "ipFamilies"] {
                if !list(spec, name).is_empty() {
                    let sentence = "may not be set for ExternalName services";
                    errors.push(FieldError::forbidden(format!("spec.{name}"), sentence));
                }
            }
            if given(spec, "ipFamilyPolicy").is_some() {
                let sentence = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden("spec.ipFamilyPolicy", sentence));
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                push(errors, "spec.externalName", name, names::subdomain(name));
            }
        }
        _ => {}
    }
}

fn service_port<'a>(
    port: &'a Value,
    needs_name: bool,
    seen: &mut BTreeSet<&'a str>,
    field: &str,
    errors: &mut Faults,
) {
    let name = text(port, "name");
    let name_field = format!("{field}.name");
    if name.is_empty() {
        if needs_name {
            errors.push(FieldError::required(name_field, ""));
        }
    } else {
        push(errors, &name_field, name, names::label(name));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(name_field, name));
        }
    }
    let n = number(port, "port").unwrap_or(0);
    push(errors, &format!("{field}.port"), n, names::port_number(n));
    one_of(port, "protocol", &PROTOCOLS, field, errors);
    port_or_name(port, "targetPort", field, errors);
    let protocol = text(port, "appProtocol");
    if !protocol.is_empty() {
        push(errors, &format!("{field}.appProtocol"), protocol, names::qualified(protocol));
    }
}

fn affinity(spec: &Value, errors: &mut Faults) {
    one_of(spec, "sessionAffinity", &["ClientIP", "None"], "spec", errors);
    let config = given(spec, "sessionAffinityConfig");
    match (text(spec, "sessionAffinity"), config) {
        ("ClientIP", Some(config)) => {
            let seconds = number(&config["clientIP"], "timeoutSeconds").unwrap_or(0);
            if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
                let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
                let sentence =
                    format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                errors.push(FieldError::invalid(field, seconds, sentence));
            }
        }
        ("ClientIP", None) => {
            let sentence = "when session affinity type is ClientIP";
            errors.push(FieldError::required("spec.sessionAffinityConfig", sentence));
        }
        ("None", Some(_)) => {
            let sentence = "must not be set when session affinity is None";
            errors.push(FieldError::forbidden("spec.sessionAffinityConfig", sentence));
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` say the same thing.
fn addresses(spec: &Value, errors: &mut Faults) {
    let all: Vec<&str> = texts(spec, "clusterIPs");
    let families: Vec<&str> = texts(spec, "ipFamilies");
    let one = text(spec, "clusterIP");
    let shown = || spec["clusterIPs"].clone();
    let field = "spec.clusterIPs";
    match (one, all.first()) {
        ("", Some(_)) => {
            let sentence = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(field, shown(), sentence));
        }
        ("", None) => {}
        (_, None) => errors.push(FieldError::required(field, "")),
        (one, Some(first)) if one != *first => {
            let sentence = "first value must match `clusterIP`";
            errors.push(FieldError::invalid(field, shown(), sentence));
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        if !["IPv4", "IPv6"].contains(family) {
            errors.push(FieldError::not_supported(&field, *family, &["IPv4", "IPv6"]));
        }
        if !seen.insert(*family) {
            errors.push(FieldError::duplicate(field, *family));
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    let policy = text(spec, "ipFamilyPolicy");
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy, &policies));
    }
    if !valid_addresses(&all, shown(), errors) {
        return;
    }
    let six = |address: &&str| address.contains(':');
    if all.len() > 1 && all.iter().all(six) | !all.iter().any(six) {
        let sentence = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(field, shown(), sentence));
    }
    if all == ["None"] {
        return;
    }
    for (index, (address, family)) in all.iter().zip(&families).enumerate() {
        if ["IPv4", "IPv6"].contains(family) && (*family == "IPv6") != six(address) {
            let sentence =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(format!("{field}[{index}]"), *address, sentence));
        }
    }
}

/// Whether each of `clusterIPs` is an address (or the only one is `None`), and not too many are.
fn valid_addresses(all: &[&str], shown: Value, errors: &mut Faults) -> bool {
    let before = errors.len();
    for (index, address) in all.iter().enumerate() {
        if index == 0 && *address == "None" {
            if all.len() > 1 {
                let sentence = "'None' must be the first and only value";
                errors.push(FieldError::invalid("spec.clusterIPs", shown.clone(), sentence));
            }
            continue;
        }
        push(errors, &format!("spec.clusterIPs[{index}]"), *address, names::ip(address));
    }
    let valid = errors.len() == before;
    if all.len() > 2 {
        let sentence = "may only hold up to 2 values";
        errors.push(FieldError::invalid("spec.clusterIPs", shown, sentence));
    }
    valid
}

fn texts<'a>(spec: &'a Value, name: &str) -> Vec<&'a str> {
    list(spec, name).iter().map(|item| item.as_str().unwrap_or("")).collect()
}

fn port_conflicts(ports: &[Value], kind: &str, errors: &mut Faults) {
    let node_port = |port: &Value| number(port, "nodePort").unwrap_or(0);
    if kind == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, p)| node_port(p) != 0) {
            let field = format!("spec.ports[{index}].nodePort");
            let sentence = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(field, sentence));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate().filter(|(_, p)| node_port(p) != 0) {
        if !seen.insert((text(port, "protocol"), node_port(port))) {
            let field = format!("spec.ports[{index}].nodePort");
            errors.push(FieldError::duplicate(field, node_port(port)));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let key = (text(port, "protocol"), number(port, "port").unwrap_or(0));
        if !seen.insert(key) {
            let shown = json!({
                "Name": "", "Protocol": key.0, "AppProtocol": null, "Port": key.1,
                "TargetPort": 0, "NodePort": 0,
            });
            errors.push(FieldError::duplicate(format!("spec.ports[{index}]"), shown));
        }
    }
}

fn traffic(spec: &Value, kind: &str, errors: &mut Faults) {
    let only_balancer = "may only be used when `type` is 'LoadBalancer'";
    for (name, path) in [
        ("loadBalancerSourceRanges", "LoadBalancerSourceRanges"),
        ("allocateLoadBalancerNodePorts", "allocateLoadBalancerNodePorts"),
        ("loadBalancerClass", "loadBalancerClass"),
    ] {
        if given(spec, name).is_some() && kind != "LoadBalancer" {
            errors.push(FieldError::forbidden(format!("spec.{path}"), only_balancer));
        }
    }
    let policies = ["Cluster", "Local"];
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    let external = text(spec, "externalTrafficPolicy");
    if outside {
        one_of(spec, "externalTrafficPolicy", &policies, "spec", errors);
    } else if !external.is_empty() {
        let sentence = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", external, sentence));
    }
    let checked = kind == "LoadBalancer" && external == "Local";
    let check_port = number(spec, "healthCheckNodePort").unwrap_or(0);
    if !checked && check_port != 0 {
        let sentence = "may only be set when `type` is 'LoadBalancer' and \
                        `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid("spec.healthCheckNodePort", check_port, sentence));
    }
    if given(spec, "internalTrafficPolicy").is_some()
        || matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
    {
        one_of(spec, "internalTrafficPolicy", &policies, "spec", errors);
    }
    if let Some(wish) = given(spec, "trafficDistribution").and_then(Value::as_str) {
        let wishes = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        if !wishes.contains(&wish) {
            let field = "spec.trafficDistribution";
            errors.push(FieldError::not_supported(field, wish, &wishes));
        }
    }
}

/// A service keeps its addresses and their families, unless its type changes to or from one without.
pub(super) fn service_update(new: &Value, old: &Value, errors: &mut Faults) {
    let (new, old) = (&new["spec"], &old["spec"]);
    if text(new, "type") == "ExternalName" || text(old, "type") == "ExternalName" {
        return;
    }
    let headless = |spec| texts(spec, "clusterIPs") == ["None"];
    if !(headless(new) && headless(old)) {
        kept(new, old, "clusterIPs", "clusterIP", errors);
    }
    if !headless(new) && !headless(old) {
        kept(new, old, "ipFamilies", "ipFamily", errors);
    }
}

/// The first value of a list stays; the second may come, and go with a policy of a single stack.
fn kept(new: &Value, old: &Value, name: &str, one: &str, errors: &mut Faults) {
    let (after, before) = (texts(new, name), texts(old, name));
    let shown = new.get(name).cloned().unwrap_or(Value::Null);
    if after.len() == before.len() {
        for (index, _) in after.iter().zip(&before).enumerate().filter(|(_, (a, b))| a != b) {
            let field = format!("spec.{name}[{index}]");
            errors.push(FieldError::invalid(field, shown.clone(), "may not change once set"));
        }
        return;
    }
    if after.is_empty() {
        let sentence = format!("primary {one} can not be unset");
        errors.push(FieldError::invalid(format!("spec.{name}[0]"), shown, sentence));
        return;
    }
    if before.first().is_some_and(|first| *first != after[0]) {
        let field = format!("spec.{name}[0]");
        errors.push(FieldError::invalid(field, shown, "may not change once set"));
    }
    let policy = new.get("ipFamilyPolicy").cloned().unwrap_or(Value::Null);
    if after.len() == 1 && before.len() > 1 && policy != "SingleStack" {
        let sentence = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, sentence));
    }
}

/// An address that no service or endpoint can have.
pub(super) fn special_address(text: &str, address: IpAddr, field: &str, errors: &mut Faults) {
    let link_local = match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match address {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    };
    let sentence = match () {
        () if address.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        () if address.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        () if link_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        () => return,
    };
    errors.push(FieldError::invalid(field, text, sentence));
}
