//! What follows from silence (upstream's `node_lifecycle_controller.go`): the conditions of a lost
//! board become `Unknown`, and pods on it are no longer ready, so that nothing is sent to them.
//!
//! The way back is the board's own: its next Hello and statuses say how it is.

use model::ids::ObjectKey;
use model::limits::PLAN_PODS_MAX;
use model::timestamp::Timestamp;
use model::view::{NodeView, PodView, View, kind};
use serde_json::{Value, json};

use super::{Controller, Event, ObjectReference, Op, Plan, node_key};
use crate::contact::Contact;
use crate::world::{Changed, World};

/// Conditions that only the board can know.
const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const COMPONENT: &str = "node-controller";

/// The controller of silent boards.
#[derive(Debug)]
pub struct NodeLifecycleController;

impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind == kind::NODES && !changed.gone {
            keys.push(changed.key.clone());
        } else if changed.key.kind == kind::PODS {
            // Too many for one plan, or a status that came late.
            let new = world.pod(&changed.key.namespace, &changed.key.name);
            let lost = |pod: &PodView| world.contact(&pod.node) == Contact::Lost;
            let was_ready =
                matches!(&changed.old, Some(View::Pod(old)) if old.ready_since.is_some());
            if let Some(pod) =
                new.filter(|pod| (was_ready || pod.ready_since.is_some()) && lost(pod))
            {
                keys.push(node_key(&pod.node));
            }
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let Some(node) = world.node(&key.name) else { return plan };
        if world.contact(&key.name) != Contact::Lost {
            return plan;
        }
        plan.ops.extend(silence(node, key, now));
        let ready = world.pods_on(&key.name).filter(|pod| pod.ready_since.is_some());
        plan.ops.extend(ready.take(PLAN_PODS_MAX).flat_map(|pod| not_ready(pod, now)));
        plan
    }
}

/// The node's conditions as nobody knows them.
fn silence(node: &NodeView, key: &ObjectKey, now: Timestamp) -> Vec<Op> {
    let unknown = |name: &&&str| node.conditions.get(name) != Some("Unknown");
    let set: Vec<Value> = CONDITIONS
        .iter()
        .filter(unknown)
        .map(|name| match node.conditions.get(name) {
            Some(_) => json!({
                "type": name, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now.to_string(),
            }),
            None => json!({
                "type": name, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.meta.created.to_string(),
                "lastTransitionTime": now.to_string(),
            }),
        })
        .collect();
    if set.is_empty() {
        return Vec::new();
    }
    let was_ready = node.ready;
    let mut ops = vec![Op::Conditions { key: key.clone(), base: node.meta.version, set }];
    if was_ready {
        let about = ObjectReference::of("v1", "Node", &node.meta);
        let message = format!("Node {} status is now: NodeNotReady", node.meta.name);
        let reason = "NodeNotReady";
        ops.push(Op::Event(Event { about, warning: false, reason, message, component: COMPONENT }));
    }
    ops
}

/// Upstream's `MarkPodsNotReady`, for one pod.
fn not_ready(pod: &PodView, now: Timestamp) -> [Op; 2] {
    let set = vec![json!({
        "type": "Ready", "status": "False", "reason": "NodeNotReady",
        "message": format!("board {} is silent", pod.node),
        "lastTransitionTime": now.to_string(),
    })];
    [
        Op::Conditions { key: pod.meta.key(kind::PODS), base: pod.meta.version, set },
        Op::Event(Event {
            about: ObjectReference::of("v1", "Pod", &pod.meta),
            warning: true,
            reason: "NodeNotReady",
            message: "Node is not ready".into(),
            component: COMPONENT,
        }),
    ]
}
