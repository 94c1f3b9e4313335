//! Taints of nodes that follow from their conditions (upstream's `TaintNodesByCondition`): a node
//! that is not ready, short of something or cordoned takes no new pods.
//!
//! The API gives every new node the taint `not-ready`; this takes it away when the board is ready.

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::{NodeView, Taint, TaintEffect, kind};
use serde_json::{Value, json};

use super::{Controller, Op, Plan};
use crate::world::{Changed, World};

/// Condition, its status, and the taint that follows.
const RULES: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The controller of these taints.
#[derive(Debug)]
pub struct NodeTaintController;

impl Controller for NodeTaintController {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn keys_for(&self, _: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind == kind::NODES && !changed.gone {
            keys.push(changed.key.clone());
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(node) = world.node(&key.name) else { return plan };
        let taints = wanted(node, now);
        if taints[..] != node.taints[..] {
            let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
            plan.ops.push(Op::Patch {
                key: key.clone(),
                base: node.meta.version,
                subresource: None,
                merge: json!({ "spec": { "taints": taints } }),
            });
        }
        plan
    }
}

fn wanted(node: &NodeView, now: Timestamp) -> Vec<Taint> {
    let mut keys: Vec<&str> = RULES
        .iter()
        .filter(|(condition, status, _)| node.conditions.get(condition) == Some(status))
        .map(|(_, _, key)| *key)
        .collect();
    if node.conditions.get("Ready").is_none() {
        keys.push(NOT_READY);
    }
    if node.unschedulable {
        keys.push(UNSCHEDULABLE);
    }
    let ours = |taint: &Taint| {
        taint.effect == TaintEffect::NoSchedule
            && (&*taint.key == UNSCHEDULABLE || RULES.iter().any(|(_, _, key)| *key == &*taint.key))
    };
    let mut taints: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| !ours(taint) || keys.contains(&&*taint.key))
        .cloned()
        .collect();
    for key in keys {
        if !taints.iter().any(|taint| ours(taint) && &*taint.key == key) {
            taints.push(Taint {
                key: key.into(),
                value: "".into(),
                effect: TaintEffect::NoSchedule,
                time_added: Some(now.to_string().into()),
            });
        }
    }
    taints
}
