//! Every controller reaches its goal from random starts, though one commit in three fails.

mod addresses;
mod deployment;
mod disruption;
mod garbage;
pub(crate) mod harness;
mod lifecycle;
mod namespace;
mod node_taints;
mod replicas;
mod role_aggregation;
mod services;
