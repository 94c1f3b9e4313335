//! How clients reach the API: the `kubernetes` Service's endpoints follow the addresses of all masters.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use crate::app::addresses::Addresses;
use crate::io::tls::ServerNames;
use crate::master::bootstrap::{self, ApiAddress};
use crate::master::elector::Book;
use crate::master::registry::Registry;

/// Pause before what a full disk refused is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// What a change of address has to reach.
pub(super) struct Reach {
    /// The objects.
    pub(super) registry: Registry,
    /// Port of the API.
    pub(super) api_port: u16,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// This board.
    pub(super) own: String,
    /// Where the masters are.
    pub(super) book: watch::Receiver<Book>,
}

impl Reach {
    /// Makes the first objects, or those that depend on the address; whether they are there. A full
    /// disk is no reason to end: what is refused is tried again.
    ///
    /// # Errors
    /// The store or the API refuses for another reason.
    pub(super) async fn bootstrap(&mut self) -> Result<bool> {
        let address = self.addresses.borrow_and_update().own;
        let book = self.book.borrow_and_update().clone();
        let others = book.iter().filter(|at| at.board != self.own && at.api_port == self.api_port);
        let others = others.filter_map(|at| at.addresses.first().copied()).collect();
        let api = ApiAddress { address, port: self.api_port, others };
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
    /// A change cannot be taken over.
    pub(super) async fn run(
        mut self,
        mut complete: bool,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            // Cancel safety: all of them lose nothing when dropped. An error of the last means that
            // nobody can ask any more; one of the first two, that the board ends.
            let changed = tokio::select! {
                changed = self.addresses.changed() => changed.is_ok(),
                Ok(()) = self.book.changed() => true,
                () = tokio::time::sleep(RETRY), if !complete => false,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            if changed || !complete {
                complete = self.bootstrap().await?;
            }
        }
    }
}

/// Names for the API's certificate.
pub(in crate::app) fn server_names(
    board: &str,
    service: Ipv4Addr,
    addresses: &Addresses,
) -> ServerNames {
    ServerNames::new(board, IpAddr::V4(service), addresses.all.clone())
}
