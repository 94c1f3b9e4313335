//! Pods leave nodes whose `NoExecute` taints they do not bear (upstream's `tainteviction`): at once
//! without a toleration, after `tolerationSeconds` from the taint's `timeAdded` with one; of several
//! taints the earliest counts; without `tolerationSeconds` a pod stays.
//!
//! The taint of a silent board counts only while that board is judged lost by this leader and most
//! boards are heard: a stored taint of an earlier leader, or a fault of our own network, moves nobody.

use model::ids::ObjectKey;
use model::limits::PLAN_PODS_MAX;
use model::timestamp::Timestamp;
use model::view::{PodView, Taint, TaintEffect, kind};
use serde_json::json;

use super::node_taints::UNREACHABLE;
use super::{Controller, Event, ObjectReference, Op, Plan, Propagation, node_key};
use crate::contact::Contact;
use crate::world::{Changed, World};

const COMPONENT: &str = "taint-eviction-controller";

/// The controller of these evictions.
#[derive(Debug)]
pub struct TaintEvictionController;

impl Controller for TaintEvictionController {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let node = if changed.key.kind == kind::NODES {
            changed.key.name.as_str()
        } else if changed.key.kind == kind::PODS {
            match world.pod(&changed.key.namespace, &changed.key.name) {
                Some(pod) if pod.meta.deleting.is_none() => &pod.node,
                _ => return,
            }
        } else {
            return;
        };
        let taints = world.node(node).map(|node| &node.taints[..]).unwrap_or_default();
        if taints.iter().any(|taint| taint.effect == TaintEffect::NoExecute) {
            keys.push(node_key(node));
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let Some(node) = world.node(&key.name) else { return plan };
        let judged = world.contact(&key.name) == Contact::Lost && !world.mass_silence();
        let counts = |taint: &&Taint| {
            taint.effect == TaintEffect::NoExecute && (&*taint.key != UNREACHABLE || judged)
        };
        let taints: Vec<&Taint> = node.taints.iter().filter(counts).collect();
        if taints.is_empty() {
            return plan;
        }
        let mut leaving = 0;
        for pod in world.pods_on(&key.name).filter(|pod| pod.meta.deleting.is_none()) {
            match stay(pod, &taints) {
                Stay::Forever => (),
                Stay::Until(deadline) if deadline > now => plan.again(deadline),
                Stay::Until(_) if leaving < PLAN_PODS_MAX / 2 => {
                    leaving += 1;
                    plan.ops.extend(evict(pod, now));
                }
                // The changes of the others bring the key back.
                Stay::Until(_) => break,
            }
        }
        plan
    }
}

/// How long a pod bears the taints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stay {
    Until(Timestamp),
    Forever,
}

fn stay(pod: &PodView, taints: &[&Taint]) -> Stay {
    let of = |taint: &&Taint| {
        let Some(toleration) = pod.tolerations.iter().find(|it| it.bears(taint)) else {
            return Stay::Until(Timestamp::default());
        };
        let Some(seconds) = toleration.seconds() else { return Stay::Forever };
        let added = taint.time_added.as_deref().and_then(Timestamp::parse);
        match added {
            Some(added) => Stay::Until(added.plus_millis(seconds.max(0).saturating_mul(1_000))),
            // Such a taint is given its time by the controller of taints.
            None => Stay::Forever,
        }
    };
    taints.iter().map(of).min().unwrap_or(Stay::Forever)
}

/// Upstream's `addConditionAndDeletePod`: one write for both.
fn evict(pod: &PodView, now: Timestamp) -> [Op; 3] {
    let meta = &pod.meta;
    let (key, base) = (meta.key(kind::PODS), meta.version);
    let set = vec![json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": now.to_string(),
    })];
    [
        Op::Conditions { key: key.clone(), base, set },
        Op::Delete {
            key,
            base,
            uid: meta.uid,
            grace_seconds: None,
            propagation: Propagation::Background,
        },
        Op::Event(Event {
            about: ObjectReference::of("v1", "Pod", meta),
            warning: false,
            reason: "TaintManagerEviction",
            message: format!("Marking for deletion Pod {}/{}", meta.namespace, meta.name),
            component: COMPONENT,
        }),
    ]
}
