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
    Controller, DeploymentController, GarbageCollector, NamespaceController,
    NodeLifecycleController, NodeTaintController, PodGarbageCollector, ReplicasController,
    RootCaController, ServiceAccountController, TaintEvictionController,
};
use logic::schedule::Scheduler;

pub use driver::{DriverError, run};
pub use views::{Hook, Views};

/// Every controller of the cluster; `root_ca` is the authority of the API's certificate as PEM.
pub fn all(root_ca: &str) -> Vec<Box<dyn Controller>> {
    vec![
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
        Box::new(RootCaController::new(root_ca)),
        Box::new(GarbageCollector),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
