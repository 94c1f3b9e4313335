//! Namespaces that are being deleted: empty them, then let them go.

use model::ids::ObjectKey;
use model::limits::PLAN_PODS_MAX;
use model::timestamp::Timestamp;
use model::view::kind;
use serde_json::{Value, json};

use super::{Controller, Op, Plan, Propagation};
use crate::world::{Changed, World};

/// The finalizer in `spec.finalizers` that stands for the contents.
const FINALIZER: &str = "kubernetes";

/// The Namespace controller.
#[derive(Debug)]
pub struct NamespaceController;

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let name = match changed.key.kind == kind::NAMESPACES {
            true => &changed.key.name,
            false => &changed.key.namespace,
        };
        let leaving = world.namespace(name).filter(|it| it.meta.deleting.is_some());
        keys.extend(leaving.map(|it| it.meta.key(kind::NAMESPACES)));
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let Some(namespace) = world.namespace(&key.name) else { return plan };
        if namespace.meta.deleting.is_none() {
            return plan;
        }
        let mut empty = true;
        for (key, meta) in world.contents(&key.name) {
            empty = false;
            if meta.deleting.is_none() && plan.ops.len() < PLAN_PODS_MAX {
                plan.ops.push(Op::Delete {
                    key,
                    base: meta.version,
                    uid: meta.uid,
                    grace_seconds: None,
                    propagation: Propagation::Background,
                });
            }
        }
        if empty && namespace.spec_finalizers.iter().any(|it| &**it == FINALIZER) {
            let left: Vec<&str> = namespace.spec_finalizers.iter().map(AsRef::as_ref).collect();
            let left: Vec<&str> = left.into_iter().filter(|it| *it != FINALIZER).collect();
            let left = if left.is_empty() { Value::Null } else { json!(left) };
            plan.ops.push(Op::Patch {
                key: key.clone(),
                base: namespace.meta.version,
                subresource: Some("finalize"),
                merge: json!({ "spec": { "finalizers": left } }),
            });
        }
        plan
    }
}
