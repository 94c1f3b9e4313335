//! Every namespace has a ConfigMap `kube-root-ca.crt` with the certificate that the API server's
//! own is signed by.

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::{data_hash, kind};
use serde_json::{Value, json};

use super::ownership::open_for_new;
use super::service_account::namespace_key;
use super::{Controller, Op, Plan};
use crate::world::{Changed, World};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
     using internal endpoints such as the internal service IP or kubernetes.default.svc. No other \
     usage is guaranteed across distributions of Kubernetes clusters.";

/// The publisher of the root certificate.
#[derive(Debug)]
pub struct RootCaController {
    data: Value,
    hash: u64,
}

impl RootCaController {
    /// With the certificate authority as PEM text.
    pub fn new(pem: &str) -> Self {
        let data = json!({ "ca.crt": pem });
        let hash = data_hash(data.to_string().as_bytes());
        Self { data, hash }
    }
}

impl Controller for RootCaController {
    fn name(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn keys_for(&self, _: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind == kind::NAMESPACES {
            keys.push(changed.key.clone());
        } else if changed.key.kind == kind::CONFIG_MAPS && changed.key.name == NAME {
            keys.push(namespace_key(&changed.key.namespace));
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if !open_for_new(world, &key.name) {
            return plan;
        }
        match world.plain(&kind::CONFIG_MAPS, &key.name, NAME) {
            None => plan.ops.push(Op::Create {
                kind: kind::CONFIG_MAPS,
                object: json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {
                        "name": NAME, "namespace": key.name,
                        "annotations": { "kubernetes.io/description": DESCRIPTION },
                    },
                    "data": self.data,
                }),
            }),
            Some(map) if map.data_hash != self.hash && map.meta.deleting.is_none() => {
                // A merge patch leaves foreign keys of `data`; a null first would remove them, but
                // one patch cannot do both, so the map is removed and made again.
                plan.ops.push(Op::Delete {
                    key: map.meta.key(kind::CONFIG_MAPS),
                    base: map.meta.version,
                    uid: map.meta.uid,
                    grace_seconds: None,
                    propagation: super::Propagation::Background,
                });
            }
            Some(_) => (),
        }
        plan
    }
}
