//! What one board is told of the network.
//!
//! A board on the bus hears what all are told, and gets from here only what its beats show to be
//! missing. A board on a link gets everything from here.

use std::time::{Duration, Instant};

use model::limits::BUS_FETCH_BYTES_PER_SECOND_MIN;
use tokio::sync::watch;

use super::DispatchError;
use super::session::Session;
use crate::master::net::Net;

/// What was published less than this ago may still be on its way. Boards that hear the word of the
/// newest revision, which comes later than that, have missed it.
const ON_ITS_WAY: Duration = Duration::from_millis(80);
/// Least time between two repairs.
const AGAIN: Duration = Duration::from_secs(1);

/// What a board was told.
pub(super) struct NetTold {
    hears_all: bool,
    published: watch::Receiver<u64>,
    /// The revision that it should hold; `None` before its first beat.
    revision: Option<u64>,
    /// When it may be sent again what it lacks.
    again_at: Instant,
}

impl NetTold {
    pub(super) fn new(net: &Net, hears_all: bool) -> Self {
        Self { hears_all, published: net.published(), revision: None, again_at: Instant::now() }
    }
}

impl Session {
    /// Waits until the board has to be told something; forever when it hears what all are told, and
    /// before its first beat.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn net_changed(&self) {
        let NetTold { hears_all: false, revision: Some(told), published, .. } = &self.net else {
            return std::future::pending().await;
        };
        let mut published = published.clone();
        if published.wait_for(|revision| revision > told).await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells the board what changed since it was told last.
    pub(super) async fn tell_net(&mut self) -> Result<(), DispatchError> {
        let Some(told) = self.net.revision else { return Ok(()) };
        self.send_owed(told, Duration::ZERO).await
    }

    /// A beat shows which revision the board holds.
    pub(super) async fn repair_net(&mut self, held: u64) -> Result<(), DispatchError> {
        // What was published before it came can have reached nobody.
        let patience = if self.net.revision.is_none() { Duration::ZERO } else { ON_ITS_WAY };
        if self.net.revision.is_some() && Instant::now() < self.net.again_at {
            return Ok(());
        }
        self.net.revision.get_or_insert(held);
        self.send_owed(held, patience).await
    }

    async fn send_owed(&mut self, held: u64, patience: Duration) -> Result<(), DispatchError> {
        let owed = self.views.net().owed(held, patience);
        if owed.bodies.is_empty() {
            return Ok(());
        }
        let mut bytes = 0;
        for body in owed.bodies {
            bytes += self.send_net(&body).await?;
        }
        self.net.revision = Some(owed.revision);
        // What is large takes its time to arrive.
        let seconds = bytes as u64 / BUS_FETCH_BYTES_PER_SECOND_MIN;
        self.net.again_at = Instant::now() + AGAIN + Duration::from_secs(seconds);
        Ok(())
    }
}
