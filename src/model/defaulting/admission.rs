//! What the admission plugins of a default API server add to a new object, as far as the object
//! alone decides it. The volume with a pod's token is the registry's, which knows its account.

use serde_json::{Map, Value, json};

use super::{Fields, child, default_pointer, default_text, items, pod, quantity_text, text};
use crate::limits::POD_TOLERATION_SECONDS;
use crate::quantity::Quantity;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// A new pod: service account, priority, tolerations, and the initial status.
pub(super) fn pod(fields: &mut Fields) {
    let spec = child(fields, "spec");
    default_text(spec, "serviceAccountName", "default");
    pod::service_account_alias(spec);
    let priority = system_priority(text(spec, "priorityClassName")).unwrap_or(0);
    default_pointer(spec, "priority", priority);
    default_pointer(spec, "preemptionPolicy", "PreemptLowerPriority");
    for key in [NOT_READY, UNREACHABLE] {
        tolerate(spec, key);
    }
    let class = qos_class(spec);
    fields.insert("status".into(), json!({"phase": "Pending", "qosClass": class}));
}

/// A new node takes no pods until it is seen ready (plugin `TaintNodesByCondition`).
///
/// A node that already says whether it is ready gets no taint: the scheduler reads the condition,
/// and there is no controller that would take the taint away again.
pub(super) fn node(fields: &mut Fields) {
    if items(child(fields, "status"), "conditions").any(|c| text(c, "type") == "Ready") {
        return;
    }
    let spec = child(fields, "spec");
    let present = items(spec, "taints").any(|t| text(t, "key") == NOT_READY);
    if present {
        return;
    }
    let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
    match spec.get_mut("taints").and_then(Value::as_array_mut) {
        Some(taints) => taints.push(taint),
        None => {
            spec.insert("taints".into(), json!([taint]));
        }
    }
}

/// The priority of the two classes that every cluster has.
pub fn system_priority(class: &str) -> Option<i64> {
    match class {
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}

fn tolerate(spec: &mut Fields, key: &str) {
    let covered = items(spec, "tolerations").any(|t| {
        matches!(text(t, "effect"), "" | "NoExecute") && [key, ""].contains(&text(t, "key"))
    });
    if covered {
        return;
    }
    let toleration = json!({
        "key": key, "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": POD_TOLERATION_SECONDS,
    });
    match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
        Some(list) => list.push(toleration),
        None => {
            spec.insert("tolerations".into(), json!([toleration]));
        }
    }
}

/// The quality-of-service class of a pod's spec: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Map<String, Value>) -> &'static str {
    let list = |name| spec.get(name).and_then(Value::as_array).into_iter().flatten();
    let pod_level =
        spec.get("resources").filter(|r| r.get("limits").or(r.get("requests")).is_some());
    let all: Vec<&Value> = match pod_level {
        Some(resources) => vec![resources],
        None => list("containers")
            .chain(list("initContainers"))
            .map(|container| container.get("resources").unwrap_or(&Value::Null))
            .collect(),
    };
    let amount = |resources: &Value, what: &str, name: &str| {
        let text = quantity_text(resources.get(what)?.get(name)?)?;
        Quantity::parse(&text).ok().filter(|q| !q.is_zero())
    };
    let (mut any, mut guaranteed) = (false, true);
    let mut sums = [[Quantity::ZERO; 2]; 2];
    for resources in &all {
        for (index, name) in ["cpu", "memory"].into_iter().enumerate() {
            let request = amount(resources, "requests", name);
            let limit = amount(resources, "limits", name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some();
            sums[index][0] = sums[index][0].plus(request.unwrap_or(Quantity::ZERO));
            sums[index][1] = sums[index][1].plus(limit.unwrap_or(Quantity::ZERO));
        }
    }
    let equal = sums.iter().all(|[request, limit]| request == limit);
    match (any, guaranteed && equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
