//! The controllers: one file each, one shape.
//!
//! `plan(world, key, now)` looks at the world and says as data what to change. It does no IO, reads
//! no clock and keeps nothing between calls: a plan that was lost, refused or overtaken is simply
//! made again. The driver (`master::controllers`) commits the operations of a plan all or nothing.
//! Because the world is updated before a commit is answered, a plan always sees the effect of the
//! plans before it, and no "expectations" as upstream has them are needed.
//!
//! Rules for plans: at most one operation per object (conditions before a deletion apart); nothing when nothing is to be done; at most
//! `PLAN_OPS_MAX` operations, the rest follows because every change brings its key back.

mod deployment;
mod disruption;
mod endpoints;
mod event;
mod garbage;
mod load_balancer;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_taints;
mod op;
mod ownership;
mod pod_garbage;
mod queue;
mod replicas;
mod role_aggregation;
mod root_ca;
mod service_account;
mod serving;
mod slices;
mod taint_eviction;

use model::ids::ObjectKey;
use model::status::ApiError;
use model::timestamp::Timestamp;

use crate::world::{Changed, World};

pub use deployment::DeploymentController;
pub use disruption::DisruptionController;
pub use endpoints::EndpointsController;
pub use event::{Event, ObjectReference};
pub use garbage::GarbageCollector;
pub use load_balancer::LoadBalancerController;
pub use namespace::NamespaceController;
pub use node_ipam::NodeIpamController;
pub use node_lifecycle::NodeLifecycleController;
pub use node_taints::NodeTaintController;
pub use op::{Op, Plan, Propagation, set_conditions};
pub use pod_garbage::PodGarbageCollector;
pub use queue::KeyQueue;
pub use replicas::ReplicasController;
pub use role_aggregation::RoleAggregationController;
pub use root_ca::RootCaController;
pub use service_account::ServiceAccountController;
pub use slices::{EndpointSliceController, SliceMirroringController};
pub use taint_eviction::TaintEvictionController;

/// One controller.
pub trait Controller: Send + Sync {
    /// Its name, as in logs and events.
    fn name(&self) -> &'static str;

    /// Adds the keys to plan after a change; the world already shows the new state. At open every
    /// object comes by here once, as new.
    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>);

    /// What to do for a key. The key need not exist any more.
    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan;

    /// What to record when the API refused a plan of this key for another reason than a conflict.
    fn refused(&self, _: &World, _: &ObjectKey, _: &ApiError, _: Timestamp) -> Vec<Op> {
        Vec::new()
    }
}

/// The key of a Node.
fn node_key(name: &str) -> ObjectKey {
    ObjectKey { kind: model::view::kind::NODES, namespace: String::new(), name: name.to_owned() }
}

#[cfg(test)]
pub(crate) mod tests;
