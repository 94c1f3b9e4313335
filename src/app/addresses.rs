//! This board's own addresses, and what has to learn of a change.
//!
//! A board may start before its network does. The kernel announces changes; after each the API
//! gets a certificate for the new names, the `kubernetes` Service new endpoints, and the agent
//! registers the board again. An address that goes away (a cable, a lease) stays until there is
//! another one: nothing is reached better by forgetting it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::io::host;
use crate::io::net::AddressChanges;
use crate::io::tls::{ApiTls, Pki, ServerNames};
use crate::master::bootstrap::{self, ApiAddress};
use crate::master::registry::Registry;

/// DHCP sets an address, its routes and more in quick succession: the last of them counts.
const SETTLE: Duration = Duration::from_millis(300);
/// Pause before what a full disk refused is tried again.
const RETRY: Duration = Duration::from_secs(10);

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

/// What a change has to reach, besides those who watch the addresses.
pub(super) struct Follower {
    /// Interface that the user named.
    pub(super) interface: Option<String>,
    /// This board's name.
    pub(super) board: String,
    /// The objects.
    pub(super) registry: Registry,
    /// Signs the API's certificate.
    pub(super) pki: Arc<Pki>,
    /// Shows it.
    pub(super) tls: Arc<ApiTls>,
    /// Port of the API.
    pub(super) api_port: u16,
    /// The addresses, for everybody else.
    pub(super) addresses: watch::Sender<Addresses>,
}

impl Follower {
    /// Names for the API's certificate.
    pub(super) fn names(&self) -> ServerNames {
        let service = self.registry.options().service_range.api_address();
        server_names(&self.board, service, &self.addresses.borrow())
    }

    /// Makes the first objects, or those that depend on the address; whether they are there. A full
    /// disk is no reason to end: what is refused is tried again.
    ///
    /// # Errors
    /// The store or the API refuses for another reason.
    pub(super) async fn bootstrap(&self) -> Result<bool> {
        let address = self.addresses.borrow().own;
        let api = ApiAddress { address, port: self.api_port };
        match bootstrap::run(&self.registry, api).await {
            Ok(()) => Ok(true),
            Err(error) if error.passes() => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "free space on the data-dir; trying again");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Follows changes until `stop`; `complete` says whether the first objects are there.
    ///
    /// # Errors
    /// The kernel's announcements end, or a change cannot be taken over.
    pub(super) async fn run(
        self,
        mut changes: AddressChanges,
        mut complete: bool,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            // Cancel safety: all three lose nothing when dropped.
            tokio::select! {
                changed = changes.changed() => changed.context("address changes are not told")?,
                () = tokio::time::sleep(RETRY), if !complete => (),
                // An error means that nobody can ask any more.
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            tokio::select! {
                () = tokio::time::sleep(SETTLE) => (),
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            if self.take_over(Addresses::read(self.interface.as_deref())).await? || !complete {
                complete = self.bootstrap().await?;
            }
        }
    }

    /// Makes new addresses known; whether there are any.
    async fn take_over(&self, fresh: Addresses) -> Result<bool> {
        if fresh.all.is_empty() || fresh == *self.addresses.borrow() {
            return Ok(false);
        }
        tracing::info!(address = %fresh.own, "this board's addresses have changed");
        self.addresses.send_replace(fresh);
        let (tls, pki, names) = (Arc::clone(&self.tls), Arc::clone(&self.pki), self.names());
        let issued = tokio::task::spawn_blocking(move || tls.set_names(&pki, &names)).await?;
        if let Err(error) = issued {
            // The old certificate still serves the old names; clients of the new ones are refused.
            tracing::error!(%error, "no certificate for the new addresses");
        }
        Ok(true)
    }
}

/// Names for the API's certificate.
pub(super) fn server_names(board: &str, service: Ipv4Addr, addresses: &Addresses) -> ServerNames {
    ServerNames::new(board, IpAddr::V4(service), addresses.all.clone())
}
