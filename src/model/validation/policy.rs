//! Faults of network policies and disruption budgets.

use serde_json::Value;

use super::container::{PROTOCOLS, push};
use super::error::{FaultKind, Faults, FieldError};
use super::meta::{self, not_negative};
use super::names;
use super::read::{given, list, number, text};
use crate::network::Ipv4Block;

/// Faults of a NetworkPolicy's spec.
pub(super) fn network_policy(spec: &Value, errors: &mut Faults) {
    meta::label_selector(&spec["podSelector"], "spec.podSelector", errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in list(spec, direction).iter().enumerate() {
            let field = format!("spec.{direction}[{index}]");
            for (index, port) in list(rule, "ports").iter().enumerate() {
                policy_port(port, &format!("{field}.ports[{index}]"), errors);
            }
            for (index, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(peer, &format!("{field}.{peers}[{index}]"), errors);
            }
        }
    }
    let kinds = list(spec, "policyTypes");
    if kinds.len() > 2 {
        let sentence = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", spec["policyTypes"].clone(), sentence));
        return;
    }
    for (index, kind) in kinds.iter().enumerate() {
        let kind = kind.as_str().unwrap_or("");
        if !["Egress", "Ingress"].contains(&kind) {
            let field = format!("spec.policyTypes[{index}]");
            errors.push(FieldError::not_supported(field, kind, &["Egress", "Ingress"]));
        }
    }
}

fn policy_port(port: &Value, field: &str, errors: &mut Faults) {
    let protocol = text(port, "protocol");
    if !protocol.is_empty() && !PROTOCOLS.contains(&protocol) {
        errors.push(FieldError::not_supported(format!("{field}.protocol"), protocol, &PROTOCOLS));
    }
    let here = format!("{field}.port");
    let end_field = format!("{field}.endPort");
    let end = number(port, "endPort");
    let refuse_end = |why: &str, errors: &mut Faults| {
        errors.extend(end.map(|end| FieldError::invalid(&end_field, end, why)));
    };
    match given(port, "port") {
        Some(Value::String(name)) => {
            refuse_end("may not be specified when `port` is non-numeric", errors);
            push(errors, &here, name.as_str(), names::port_name(name));
        }
        Some(first) => {
            let first = first.as_i64().unwrap_or(0);
            push(errors, &here, first, names::port_number(first));
            if let Some(end) = end {
                if end < first {
                    let sentence = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end_field, end, sentence));
                }
                push(errors, &end_field, end, names::port_number(end));
            }
        }
        None => refuse_end("may not be specified when `port` is not specified", errors),
    }
}

fn policy_peer(peer: &Value, field: &str, errors: &mut Faults) {
    let mut selects = false;
    for name in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = given(peer, name) {
            selects = true;
            meta::label_selector(selector, &format!("{field}.{name}"), errors);
        }
    }
    match given(peer, "ipBlock") {
        Some(block) => {
            ip_block(block, &format!("{field}.ipBlock"), errors);
            if selects {
                let sentence = "may not specify both ipBlock and another peer";
                errors.push(FieldError::forbidden(field, sentence));
            }
        }
        None if !selects => errors.push(FieldError::required(field, "must specify a peer")),
        None => {}
    }
}

fn ip_block(block: &Value, field: &str, errors: &mut Faults) {
    let (whole, here) = (text(block, "cidr"), format!("{field}.cidr"));
    if whole.is_empty() {
        errors.push(FieldError::required(here, ""));
        return;
    }
    let faults = names::cidr(whole);
    if !faults.is_empty() {
        push(errors, &here, whole, faults);
        return;
    }
    for (index, except) in list(block, "except").iter().enumerate() {
        let (except, field) = (except.as_str().unwrap_or(""), format!("{field}.except[{index}]"));
        let faults = names::cidr(except);
        if faults.is_empty() && !is_part(except, whole) {
            let sentence = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(&field, except, sentence));
        }
        push(errors, &field, except, faults);
    }
}

/// Whether a block of addresses is a true part of another one. Both are blocks.
fn is_part(part: &str, whole: &str) -> bool {
    let four = |text: &str| text.parse::<Ipv4Block>().ok();
    match (four(part), four(whole)) {
        (Some(part), Some(whole)) => whole.covers(&part) && whole.prefix < part.prefix,
        (None, None) => {
            let (part, whole) = (six(part), six(whole));
            let shift = 128_u32.saturating_sub(whole.1);
            let head = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
            whole.1 < part.1 && head(part.0) == head(whole.0)
        }
        _ => false,
    }
}

/// Bits and prefix of a block of IPv6 addresses.
fn six(text: &str) -> (u128, u32) {
    let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
    let bits = address.parse::<std::net::Ipv6Addr>().map(u128::from).unwrap_or(0);
    (bits, prefix.parse().unwrap_or(128))
}

/// Faults of a PodDisruptionBudget's spec.
pub(super) fn disruption_budget(spec: &Value, errors: &mut Faults) {
    let limits = [given(spec, "minAvailable"), given(spec, "maxUnavailable")];
    if let [Some(floor), Some(part)] = limits {
        // The real server prints its internal struct, in the order of its fields.
        let (selector, policy) = (&spec["selector"], &spec["unhealthyPodEvictionPolicy"]);
        let detail = format!(
            "{{\"MinAvailable\":{floor},\"Selector\":{selector},\"MaxUnavailable\":{part},\
             \"UnhealthyPodEvictionPolicy\":{policy}}}: \
             minAvailable and maxUnavailable cannot be both set"
        );
        let (field, kind) = ("spec".into(), FaultKind::Invalid);
        errors.push(FieldError { field, kind, value: None, detail });
    }
    for (name, limit) in ["minAvailable", "maxUnavailable"].into_iter().zip(limits) {
        int_or_percent(limit, &format!("spec.{name}"), errors);
    }
    if let Some(selector) = given(spec, "selector") {
        meta::label_selector(selector, "spec.selector", errors);
    }
    if let Some(policy) = given(spec, "unhealthyPodEvictionPolicy").and_then(Value::as_str) {
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        if !policies.contains(&policy) {
            let field = "spec.unhealthyPodEvictionPolicy";
            errors.push(FieldError::not_supported(field, policy, &policies));
        }
    }
}

fn int_or_percent(value: Option<&Value>, field: &str, errors: &mut Faults) {
    match value {
        Some(Value::String(word)) => {
            push(errors, field, word.as_str(), names::percent(word));
            let hundredths = word.strip_suffix('%').and_then(|digits| digits.parse::<u32>().ok());
            if hundredths.is_some_and(|hundredths| hundredths > 100) {
                let sentence = "must not be greater than 100%";
                errors.push(FieldError::invalid(field, word.as_str(), sentence));
            }
        }
        Some(number) if number.as_i64().is_some_and(|number| number < 0) => {
            errors.push(not_negative(field, number.clone()));
        }
        _ => {}
    }
}

/// Faults of a PodDisruptionBudget's status: no count is below zero.
pub(super) fn budget_status(status: &Value, errors: &mut Faults) {
    for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        let count = number(status, name).unwrap_or(0);
        if count < 0 {
            errors.push(not_negative(format!("status.{name}"), count.into()));
        }
    }
}
