//! Every namespace has a ServiceAccount named `default`.

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::kind;
use serde_json::json;

use super::ownership::open_for_new;
use super::{Controller, Op, Plan};
use crate::world::{Changed, World};

const NAME: &str = "default";

/// The ServiceAccount controller.
#[derive(Debug)]
pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn keys_for(&self, _: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind == kind::NAMESPACES {
            keys.push(changed.key.clone());
        } else if changed.gone
            && changed.key.kind == kind::SERVICE_ACCOUNTS
            && changed.key.name == NAME
        {
            keys.push(namespace_key(&changed.key.namespace));
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let exists = world.plain(&kind::SERVICE_ACCOUNTS, &key.name, NAME).is_some();
        if !exists && open_for_new(world, &key.name) {
            plan.ops.push(Op::Create {
                kind: kind::SERVICE_ACCOUNTS,
                object: json!({
                    "apiVersion": "v1", "kind": "ServiceAccount",
                    "metadata": { "name": NAME, "namespace": key.name },
                }),
            });
        }
        plan
    }
}

/// The key of a namespace.
pub(super) fn namespace_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::NAMESPACES, namespace: String::new(), name: name.to_owned() }
}
