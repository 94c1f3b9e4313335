//! Every name and address under which clients may reach the API.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names that every cluster's API answers to.
const FIXED_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Subject alternative names of the API's certificate; equal sets make equal certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS names, lower case.
    pub names: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl ServerNames {
    /// The fixed names and loopback, plus this board's name, its addresses, and the first address
    /// of the service range (the `kubernetes` Service).
    pub fn new(board: &str, service: IpAddr, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut names: BTreeSet<String> = FIXED_NAMES.into_iter().map(str::to_owned).collect();
        names.insert(board.to_ascii_lowercase());
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let addresses = loopback.into_iter().chain([service]).chain(addresses).collect();
        Self { names, addresses }
    }

    /// Whether all of `others` are among these.
    pub(super) fn covers(&self, others: &Self) -> bool {
        self.names.is_superset(&others.names) && self.addresses.is_superset(&others.addresses)
    }

    /// Adds `others` while there are fewer than `count_max` in all.
    pub(super) fn add(&mut self, others: Self, count_max: usize) {
        for name in others.names {
            if self.names.len() + self.addresses.len() < count_max {
                self.names.insert(name);
            }
        }
        for address in others.addresses {
            if self.names.len() + self.addresses.len() < count_max {
                self.addresses.insert(address);
            }
        }
    }
}
