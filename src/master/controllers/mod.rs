//! The driver of all controllers, and the views they read.
//!
//! ```text
//! store's thread: change -> World -> keys_for(change) -> queue, boards that are concerned
//! driver:         queue -> plan(world, key) -> registry.commit -> (conflict: back-off) ...
//! ```
//! One driver runs every controller and the scheduler, a batch of keys at a time; the plans of a
//! batch share one commit, so one append and one fsync. Nothing happens while nothing changes: the
//! driver sleeps until a change, a back-off or a plan's own deadline.

mod driver;
mod views;

use logic::controller::{
    Controller, DeploymentController, DisruptionController, EndpointSliceController,
    EndpointsController, GarbageCollector, LoadBalancerController, NamespaceController,
    NodeIpamController, NodeLifecycleController, NodeTaintController, PodGarbageCollector,
    ReplicasController, RoleAggregationController, RootCaController, ServiceAccountController,
    SliceMirroringController, TaintEvictionController,
};
use logic::schedule::Scheduler;
use model::network::{Ipv4Block, Protocol};

pub use driver::{DriverError, run};
pub use views::{Hook, Views};

/// What the controllers of a cluster have to know that no object says.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    /// The authority of the API's certificate, as PEM.
    pub root_ca: &'a str,
    /// Where the addresses of pods come from.
    pub pods: Ipv4Block,
    /// Ports of the boards that no Service may take.
    pub reserved_ports: Vec<(Protocol, u16)>,
}

/// Every controller of the cluster. Those that take a pod out of service come before those that
/// replace it.
pub fn all(cluster: Cluster<'_>) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(EndpointSliceController),
        Box::new(EndpointsController),
        Box::new(SliceMirroringController),
        Box::new(LoadBalancerController::new(cluster.reserved_ports)),
        Box::new(NodeIpamController::new(cluster.pods)),
        Box::new(DisruptionController),
        Box::new(DeploymentController),
        Box::new(ReplicasController::REPLICA_SETS),
        Box::new(ReplicasController::REPLICATION_CONTROLLERS),
        Box::new(Scheduler),
        Box::new(NodeLifecycleController),
        Box::new(NodeTaintController),
        Box::new(TaintEvictionController),
        Box::new(PodGarbageCollector),
        Box::new(NamespaceController),
        Box::new(ServiceAccountController),
        Box::new(RoleAggregationController),
        Box::new(RootCaController::new(cluster.root_ca)),
        Box::new(GarbageCollector),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
