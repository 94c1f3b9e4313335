//! Defaults of network policies and disruption budgets.

use serde_json::{Value, json};

use super::{Fields, child, default_pointer, items};

/// Who says nothing about directions means what comes in, and what goes out when there are rules for
/// it.
pub(super) fn network_policy(fields: &mut Fields) {
    let spec = child(fields, "spec");
    child(spec, "podSelector");
    let has = |spec: &Fields, name: &str| {
        spec.get(name).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    };
    if !has(spec, "policyTypes") {
        let outgoing = has(spec, "egress");
        let types = if outgoing { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".into(), types);
    }
    for direction in ["ingress", "egress"] {
        for port in items(spec, direction).flat_map(|rule| items(rule, "ports")) {
            default_pointer(port, "protocol", "TCP");
        }
    }
}

/// What Go prints of a status in which nothing is set.
pub(super) fn disruption_budget(fields: &mut Fields) {
    child(fields, "spec");
    let status = child(fields, "status");
    for name in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        default_pointer(status, name, 0);
    }
}
