//! What every board knows of the network: boards, services with their endpoints, and policies.
//!
//! The master makes one [`NetState`] from its objects and sends it to all boards; rules, routes and
//! DNS are made from it alone. Its parts are also the wire form (`wire::NetV1`): their shape is frozen.
//! Values hang on `Arc`s: a new state shares what did not change with the one before, and whoever
//! compares two states may skip values that are the same `Arc`.

mod change;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::Uid;

pub use change::{NetMismatch, differences};

/// A transport protocol.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Reads the name that Kubernetes uses; TCP when there is none.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A block of addresses, `10.42.0.0/25`. Bits behind the prefix are zero when it was parsed or made
/// by [`Ipv4Block::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ipv4Block {
    /// Its first address.
    pub network: Ipv4Addr,
    /// How many leading bits all its addresses share, at most 32.
    pub prefix: u8,
}

/// Text that is no block of IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a block of IPv4 addresses")]
pub struct BadBlock(Box<str>);

impl Ipv4Block {
    /// The block with this prefix that an address lies in.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.network.to_bits()) & mask(self.prefix) == 0
    }

    /// Whether all of another block lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.network)
    }

    /// Its last address.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }

    /// The address at a place in it, from 0; `None` behind its end.
    pub fn nth(&self, place: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.network.to_bits().checked_add(place)?);
        self.contains(address).then_some(address)
    }
}

/// The bits that all addresses of a block share.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or_default()
}

impl FromStr for Ipv4Block {
    type Err = BadBlock;

    /// Bits behind the prefix are dropped, as kube-proxy does.
    fn from_str(text: &str) -> Result<Self, BadBlock> {
        let parsed = text.split_once('/').and_then(|(network, prefix)| {
            let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self::new(network.parse().ok()?, prefix))
        });
        parsed.ok_or_else(|| BadBlock(text.into()))
    }
}

impl fmt::Display for Ipv4Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A board as the others reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetBoard {
    /// Node name.
    pub name: String,
    /// `InternalIP`.
    pub address: Option<Ipv4Addr>,
    /// The block of its pods: `spec.podCIDR`.
    pub pods: Option<Ipv4Block>,
    /// Prefix of the link that `address` is on; 0 when it is not known.
    pub prefix: u8,
    /// The Node is `Ready`.
    pub ready: bool,
}

/// A Service with its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `None` for a headless service and for `ExternalName`.
    pub cluster_ip: Option<Ipv4Addr>,
    /// The name that DNS answers with, for `ExternalName`.
    pub external_name: Option<String>,
    /// `status.loadBalancer.ingress`.
    pub load_balancer: Vec<Ipv4Addr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Who may use the addresses in `load_balancer`; empty for everybody.
    pub source_ranges: Vec<Ipv4Block>,
    /// Its ports, in the order of the object.
    pub ports: Vec<NetPort>,
    /// How long a client stays with its endpoint; 0 for no affinity.
    pub affinity_seconds: u32,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`; 0 for none.
    pub health_check_node_port: u16,
    /// Endpoints that are not ready count as ready, in DNS too.
    pub publish_not_ready: bool,
    /// Sorted.
    pub endpoints: Vec<NetEndpoint>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPort {
    /// May be empty when it is the only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// On the service's addresses.
    pub port: u16,
    /// On every board; 0 for none.
    pub node_port: u16,
}

/// Where connections to a Service end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetEndpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Node that it is on; may be empty.
    pub board: String,
    /// Its name below the service's in DNS; may be empty.
    pub hostname: String,
    /// The pod in the service's namespace; empty when it is none.
    pub pod: String,
    /// Takes new connections.
    pub ready: bool,
    /// Would take connections, were it not for its end.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Port for each of [`NetService::ports`]; 0 where it does not have that one.
    pub ports: Vec<u16>,
}

/// A NetworkPolicy, its selectors resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods that it applies to, sorted.
    pub pods: Vec<Ipv4Addr>,
    /// What may come in to them; `None` when it does not say anything about that.
    pub ingress: Option<Vec<NetRule>>,
    /// What may go out from them; `None` when it does not say anything about that.
    pub egress: Option<Vec<NetRule>>,
    /// Pods that it applies to and whose address only their board knows yet, sorted; at most
    /// `NET_POLICY_STARTING_MAX`.
    pub starting: Vec<Uid>,
}

/// Traffic that a policy allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetRule {
    /// The other side; `None` for everybody.
    pub peers: Option<NetPeers>,
    /// Destination ports; empty for all.
    pub ports: Vec<NetPolicyPort>,
}

/// The other side of a rule: any of these. When both are empty, nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetPeers {
    /// Pods, sorted.
    pub addresses: Vec<Ipv4Addr>,
    /// Blocks, each without the blocks that are excepted from it.
    pub blocks: Vec<(Ipv4Block, Vec<Ipv4Block>)>,
}

/// Destination ports of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetPolicyPort {
    /// Their protocol.
    pub protocol: Protocol,
    /// The first; 0 for all.
    pub port: u16,
    /// The last.
    pub end: u16,
    /// The destinations that it is true for, sorted; empty for all. A named port is another number
    /// in another pod.
    pub only: Vec<Ipv4Addr>,
}

/// All that boards know of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// Version of the newest change in it; 0 before anything was heard.
    pub revision: u64,
    /// By name.
    pub boards: BTreeMap<Arc<str>, Arc<NetBoard>>,
    /// By `namespace/name`.
    pub services: BTreeMap<Arc<str>, Arc<NetService>>,
    /// By `namespace/name`.
    pub policies: BTreeMap<Arc<str>, Arc<NetPolicy>>,
}

impl NetService {
    /// Key in [`NetState::services`].
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl NetPolicy {
    /// Key in [`NetState::policies`].
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Default for NetEndpoint {
    /// At no address, for nobody.
    fn default() -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED,
            board: String::new(),
            hostname: String::new(),
            pod: String::new(),
            ready: false,
            serving: false,
            terminating: false,
            ports: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Ipv4Block {
        text.parse().expect("a block")
    }

    #[test]
    fn blocks_are_read_and_written() {
        for (text, expected) in [
            ("10.42.0.0/25", "10.42.0.0/25"),
            ("10.42.0.77/25", "10.42.0.0/25"),
            ("1.2.3.4/32", "1.2.3.4/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
        ] {
            assert_eq!(block(text).to_string(), expected);
        }
        for bad in ["", "10.42.0.0", "10.42.0.0/33", "10.42.0/8", "::/0", "10.42.0.0/-1", "/8"] {
            assert!(bad.parse::<Ipv4Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn blocks_contain_what_is_theirs() {
        let pods = block("10.42.0.128/25");
        assert!(pods.contains(Ipv4Addr::new(10, 42, 0, 128)));
        assert!(pods.contains(pods.last()));
        assert_eq!(pods.last(), Ipv4Addr::new(10, 42, 0, 255));
        assert!(!pods.contains(Ipv4Addr::new(10, 42, 0, 127)));
        assert!(block("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
        assert!(block("10.42.0.0/16").covers(&pods) && !pods.covers(&block("10.42.0.0/16")));
        assert_eq!(pods.nth(1), Some(Ipv4Addr::new(10, 42, 0, 129)));
        assert_eq!(pods.nth(128), None);
        assert_eq!(block("255.255.255.255/32").nth(1), None);
    }
}
