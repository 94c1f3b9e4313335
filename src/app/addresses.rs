//! This board's own addresses.
//!
//! A board may start before its network does. The kernel announces changes; whoever watches
//! [`Addresses`] learns of them: the master role (`master::reach`), the agent, which registers the
//! board again. An address that goes away (a cable, a lease) stays until there is another one:
//! nothing is reached better by forgetting it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::io::host;
use crate::io::net::AddressChanges;

/// DHCP sets an address, its routes and more in quick succession: the last of them counts.
const SETTLE: Duration = Duration::from_millis(300);

/// Where this board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The address by which others reach it; loopback for none.
    pub(super) own: Ipv4Addr,
    /// Every address that others may use.
    pub(super) all: Vec<IpAddr>,
}

impl Addresses {
    /// Asks the kernel; those of `interface`, when it is given, come first.
    pub(super) fn read(interface: Option<&str>) -> Self {
        let found = host::addresses(interface).unwrap_or_default();
        let of_interface =
            found.iter().filter(|entry| interface.is_none_or(|name| entry.interface == name));
        let own = of_interface.map(|entry| entry.address).find_map(|address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        });
        let all = found.into_iter().map(|entry| entry.address).collect();
        Self { own: own.unwrap_or(Ipv4Addr::LOCALHOST), all }
    }
}

/// Follows the kernel's announcements until `stop`. `changes` was opened before `addresses` were read.
///
/// # Errors
/// The kernel's announcements end.
pub(super) async fn follow(
    interface: Option<String>,
    mut changes: AddressChanges,
    addresses: watch::Sender<Addresses>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        // Cancel safety: both lose nothing when dropped.
        tokio::select! {
            changed = changes.changed() => changed.context("address changes are not told")?,
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        tokio::select! {
            () = tokio::time::sleep(SETTLE) => (),
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let fresh = Addresses::read(interface.as_deref());
        if !fresh.all.is_empty() && fresh != *addresses.borrow() {
            tracing::info!(address = %fresh.own, "this board's addresses have changed");
            addresses.send_replace(fresh);
        }
    }
}
