//! Service traffic and policies of one board as values: from what it knows of the network to what a
//! packet filter has to hold.
//!
//! ```text
//!  NetState, LocalPods, Site ──▶ Planner ──▶ Rules    (everything)
//!                                      └───▶ Changes  (only what differs from before)
//! ```
//! [`Rules`] has two parts. `services` is large and changes often: a [`Frontend`] with its endpoints
//! each, which become elements of three maps, so that a packet costs the same whatever their number.
//! [`Program`] is small: chains of [`Rule`]s and the sets that these name.
//!
//! Services are led by verdict maps, which costs the kernel a look at all of their elements when one is
//! added (0.1 ms per 1,000 services); numbers that stand for chains would not, but nft 1.0.6 aborts on
//! values that are looked up twice. A changed endpoint is an element without a verdict.
//!
//! Invariant: updates one after another end at the same value as a fresh [`plan`] of the last state.
//! Deliberately absent: registers, messages and handles, which the adapter knows (`io::net::nft`).

mod choice;
mod flow;
mod frontend;
mod planner;
mod policy;
mod program;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::network::{Ipv4Block, NetState, Protocol};

pub use choice::Choice;
pub use flow::Flow;
pub use planner::{Change, Changes, Planner};
pub use program::{Action, Chain, Hook, Key, Match, Program, Rule, Set, SetKind, Verdict, names};

use super::address_pool::own_address;
use super::local::LocalPods;

/// Where endpoints of this board alone begin to be counted.
pub const LOCAL_SLOT: u32 = 1 << 16;

/// What the rules of a board depend on besides services, policies and pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Node name.
    pub board: String,
    /// The block of its pods; `None` until it is known.
    pub block: Option<Ipv4Block>,
    /// Where all pods have their addresses.
    pub pod_range: Ipv4Block,
    /// Where all services have theirs.
    pub service_range: Ipv4Block,
    /// The address at which pods ask for names, and the port of the board's own address
    /// ([`own_address`]) that answers.
    pub dns: Option<(Ipv4Addr, u16)>,
    /// Ports of kumquat itself: no service and no pod takes them away at a board's address.
    pub own_ports: Vec<(Protocol, u16)>,
}

impl Site {
    /// A board of which no more is known than these; the rest is empty.
    pub fn new(board: &str, pod_range: Ipv4Block, service_range: Ipv4Block) -> Self {
        Self {
            board: board.to_owned(),
            block: None,
            pod_range,
            service_range,
            dns: None,
            own_ports: Vec::new(),
        }
    }
}

/// Where a service is found: address, protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// [`Ipv4Addr::UNSPECIFIED`] for all addresses of the board (a node port).
    pub address: Ipv4Addr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

/// An address and a port where a connection ends.
pub type Target = (Ipv4Addr, u16);

/// What becomes of connections to a [`Frontend`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// How a target is chosen; `None` when there is none.
    pub inside: Option<Choice>,
    /// The same for sources outside of the pod network, where that differs.
    pub outside: Option<Choice>,
    /// Those that [`Self::inside`] chooses from, sorted.
    pub endpoints: Vec<Target>,
    /// Those that [`Self::outside`] chooses from, sorted; they stand behind [`LOCAL_SLOT`].
    pub local: Vec<Target>,
    /// Connections are refused by an own rule (the range of services needs none).
    pub refused: bool,
    /// The chain that only lets certain sources from outside pass.
    pub guard: Option<Arc<str>>,
}

/// Everything that the packet filter holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// By where they are found.
    pub services: BTreeMap<Frontend, Arc<Backends>>,
    /// Chains and sets.
    pub program: Program,
}

/// The rules of a board, made from nothing.
pub fn plan(state: &Arc<NetState>, local: &Arc<LocalPods>, site: &Site) -> Rules {
    let mut planner = Planner::new(site.clone());
    planner.update(Arc::clone(state), Arc::clone(local));
    planner.rules()
}
