//! Taints of nodes that follow from their conditions (upstream's `TaintNodesByCondition`): a node
//! that is not ready, short of something or cordoned takes no new pods.
//!
//! A node that is not ready or unreachable also drives pods away (`NoExecute`, upstream's
//! `processTaintBaseEviction`), but an unreachable one only while this leader judged it lost and most
//! boards are heard: when a judgement is made anew, the time that pods bear it begins anew.
//!
//! The API gives every new node the taint `not-ready`; this takes it away when the board is ready.

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::{NodeView, Taint, TaintEffect, kind};
use serde_json::{Value, json};

use super::{Controller, Op, Plan};
use crate::contact::Contact;
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
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
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
        let judged = world.contact(&key.name) == Contact::Lost && !world.mass_silence();
        let taints = wanted(node, judged, now);
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

fn wanted(node: &NodeView, judged: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, TaintEffect)> = Vec::new();
    for (condition, status, key) in RULES {
        if node.conditions.get(condition) == Some(status) {
            wanted.push((key, TaintEffect::NoSchedule));
            if key == NOT_READY || (key == UNREACHABLE && judged) {
                wanted.push((key, TaintEffect::NoExecute));
            }
        }
    }
    if node.conditions.get("Ready").is_none() {
        wanted.push((NOT_READY, TaintEffect::NoSchedule));
    }
    if node.unschedulable {
        wanted.push((UNSCHEDULABLE, TaintEffect::NoSchedule));
    }
    let is = |taint: &Taint, (key, effect): (&str, TaintEffect)| {
        &*taint.key == key && taint.effect == effect
    };
    let stays = |taint: &&Taint| !ours(taint) || wanted.iter().any(|it| is(taint, *it));
    let mut taints: Vec<Taint> = node.taints.iter().filter(stays).cloned().collect();
    for taint in &mut taints {
        // People give their taints no time, but pods may bear one for so many seconds.
        if taint.effect == TaintEffect::NoExecute && taint.time_added.is_none() {
            taint.time_added = Some(now.to_string().into());
        }
    }
    for it in wanted {
        if !taints.iter().any(|taint| is(taint, it)) {
            let (key, effect) = (it.0.into(), it.1);
            let time_added = Some(now.to_string().into());
            taints.push(Taint { key, value: "".into(), effect, time_added });
        }
    }
    taints
}

/// Whether a taint is this controller's to put on and take off.
fn ours(taint: &Taint) -> bool {
    let key = &*taint.key;
    match taint.effect {
        TaintEffect::NoSchedule => {
            key == UNSCHEDULABLE || RULES.iter().any(|(_, _, known)| *known == key)
        }
        TaintEffect::NoExecute => key == NOT_READY || key == UNREACHABLE,
        TaintEffect::PreferNoSchedule => false,
    }
}
