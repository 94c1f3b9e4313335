//! Pods that nobody will ever end (upstream's `podgc`): those of a node that no longer exists, after
//! a while in which its board may register again, and those that are being deleted on a node that
//! people marked `out-of-service`.

use model::ids::ObjectKey;
use model::limits::PLAN_PODS_MAX;
use model::timestamp::Timestamp;
use model::view::{NodeView, PodView, kind};

use super::{Controller, Op, Plan, Propagation, node_key};
use crate::world::{Changed, World};

/// Upstream's quarantine.
const QUARANTINE_MILLIS: i64 = 40_000;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The collector of these pods; its keys are nodes.
#[derive(Debug)]
pub struct PodGarbageCollector;

impl Controller for PodGarbageCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let node = if changed.key.kind == kind::NODES {
            changed.key.name.as_str()
        } else if changed.key.kind == kind::PODS {
            match world.pod(&changed.key.namespace, &changed.key.name) {
                Some(pod) => &pod.node,
                None => return,
            }
        } else {
            return;
        };
        if world.absent_since(node).is_some() || world.node(node).is_some_and(out_of_service) {
            keys.push(node_key(node));
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let given_up = world.node(&key.name).is_some_and(out_of_service);
        if let Some(since) = world.absent_since(&key.name) {
            let due = since.plus_millis(QUARANTINE_MILLIS);
            if due > now {
                plan.again(due);
                return plan;
            }
        } else if !given_up {
            return plan;
        }
        let lost = |pod: &&PodView| !given_up || pod.meta.deleting.is_some();
        let pods = world.pods_on(&key.name).filter(lost).take(PLAN_PODS_MAX);
        plan.ops.extend(pods.map(|pod| Op::Delete {
            key: pod.meta.key(kind::PODS),
            base: pod.meta.version,
            uid: pod.meta.uid,
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        }));
        plan
    }
}

fn out_of_service(node: &NodeView) -> bool {
    !node.ready && node.taints.iter().any(|taint| &*taint.key == OUT_OF_SERVICE)
}
