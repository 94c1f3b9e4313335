//! Every controller reaches its goal from random starts, though one commit in three fails.

mod deployment;
mod garbage;
pub(crate) mod harness;
mod lifecycle;
mod namespace;
mod node_taints;
mod replicas;
