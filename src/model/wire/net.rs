//! Master to all boards: the network.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::Uid;
use crate::network::{NetBoard, NetEndpoint, NetPolicy, NetService};

/// What boards know of the network, whole or as the difference to an earlier revision.
///
/// The same message goes to everybody, once. A board applies a difference only to exactly its base;
/// the revision in its beats shows what it has, and the master sends what is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetV1 {
    /// Revision after this message: the store's version that it shows.
    pub revision: u64,
    /// Revision that this is a difference to; 0 for all there is. The revision itself: nothing but the
    /// word that it is the newest, for boards that missed the last difference.
    pub base: u64,
    /// Boards to add or replace.
    pub boards: Vec<Arc<NetBoard>>,
    /// Names of boards that are gone.
    pub boards_gone: Vec<Arc<str>>,
    /// Services to add or replace, with all their endpoints.
    pub services: Vec<Arc<NetService>>,
    /// `namespace/name` of services that are gone.
    pub services_gone: Vec<Arc<str>>,
    /// Changes of endpoints of services that stay as they are.
    pub endpoints: Vec<NetEndpointsV1>,
    /// Policies to add or replace.
    pub policies: Vec<Arc<NetPolicy>>,
    /// `namespace/name` of policies that are gone.
    pub policies_gone: Vec<Arc<str>>,
    /// Changes of addresses in policies that stay as they are.
    pub addresses: Vec<NetAddressesV1>,
    /// Pods without an address of policies that stay as they are.
    pub starting: Vec<NetStartingV1>,
}

impl NetV1 {
    /// Says which revision is the newest.
    pub fn newest(revision: u64) -> Self {
        Self { revision, base: revision, ..Self::default() }
    }

    /// Whether it only says which revision is the newest.
    pub fn is_word_of_newest(&self) -> bool {
        self.base == self.revision && self.base != 0
    }

    /// Whether it changes nothing but the revision.
    pub fn is_empty(&self) -> bool {
        self.boards.is_empty()
            && self.boards_gone.is_empty()
            && self.services.is_empty()
            && self.services_gone.is_empty()
            && self.endpoints.is_empty()
            && self.policies.is_empty()
            && self.policies_gone.is_empty()
            && self.addresses.is_empty()
            && self.starting.is_empty()
    }
}

/// Some endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetEndpointsV1 {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// Addresses that have no endpoint any more.
    pub gone: Vec<Ipv4Addr>,
    /// In place of whatever there is at their addresses.
    pub set: Vec<NetEndpoint>,
}

/// Some addresses in a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetAddressesV1 {
    /// `namespace/name`.
    pub policy: Arc<str>,
    /// Where in it.
    pub place: NetPlace,
    /// Addresses that are not there any more.
    pub gone: Vec<Ipv4Addr>,
    /// Addresses that were not there.
    pub come: Vec<Ipv4Addr>,
}

/// The pods of a policy that have no address yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStartingV1 {
    /// `namespace/name`.
    pub policy: Arc<str>,
    /// All of them.
    pub pods: Vec<Uid>,
}

/// A list of addresses in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetPlace {
    /// The pods that it applies to.
    Pods,
    /// The peers of an ingress rule, by its number from 0.
    Ingress(u32),
    /// The peers of an egress rule, by its number from 0.
    Egress(u32),
}
