//! The pods of a board that have an address of their own.
//!
//! Made by the board from what runs on it, read by the rules: host ports lead to these pods, and
//! policies are enforced at these links. Pods of the host network are not in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::ids::Uid;
use model::network::Protocol;

/// A port of the board that leads to a pod: protocol, the board's port, the pod's port, and the only
/// address of the board on which it is open (`None`: all of them).
pub type HostPort = (Protocol, u16, u16, Option<Ipv4Addr>);

/// One of this board's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The pod.
    pub uid: Uid,
    /// Sorted.
    pub host_ports: Vec<HostPort>,
    /// Name of the board's end of its link.
    pub veth: String,
}

/// All of them, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPods {
    /// By address.
    pub pods: BTreeMap<Ipv4Addr, LocalPod>,
}
