//! From what the engine says of itself to the [`Mandate`] of this board.
//!
//! ```text
//! none --leads, its first entry applied, majority heard--> reigns --another term, or no lead--> none
//!   ^                                                        | majority silent for two leases
//!   \--an entry written in the same term is applied-- ended <-/
//! ```
//! A reign that ended for silence goes on in its term only above a new entry: versions of memory-only
//! objects start there, so that none is given twice. In: metrics of the engine and the time. Out:
//! requests to the store's thread, and whether an entry is to be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::masters::Reign;
use openraft::RaftMetrics;
use openraft::async_runtime::Instant as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::seam::GroupRequest;
use super::types::Types;
use crate::io::store::{EngineEnd, Mandate, NotLeading};

/// Where reads ask whether this board still leads.
pub(super) type Confirms = mpsc::Sender<oneshot::Sender<Result<(), NotLeading>>>;

/// The acknowledgement of a leader that is a majority by itself.
pub(super) const FOR_EVER_MS: u64 = u64::MAX / 4;

/// Keeps the mandate of this board.
pub(super) struct Throne {
    thread: EngineEnd,
    epoch: u64,
    lease_ms: u64,
    confirms: Confirms,
    current: Option<Current>,
    /// A term whose reign ended although this board leads it, and whether an entry was written since.
    interrupted: Option<(u64, Resume)>,
    /// The term whose lead was offered to another member.
    given_away: u64,
}

struct Current {
    term: u64,
    acked_ms: Arc<AtomicU64>,
    over: watch::Sender<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Resume {
    Silent,
    Writing,
    Written,
}

impl Throne {
    pub(super) fn new(thread: EngineEnd, epoch: u64, lease: Duration, confirms: Confirms) -> Self {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Self { thread, epoch, lease_ms, confirms, current: None, interrupted: None, given_away: 0 }
    }

    /// Whether this board reigns.
    pub(super) fn reigns(&self) -> bool {
        self.current.is_some()
    }

    /// Takes in what the engine says; whether an entry is to be written in this term.
    pub(super) fn look(&mut self, metrics: &RaftMetrics<Types>, now_ms: u64) -> bool {
        let leads = metrics.running_state.is_ok() && metrics.state.is_leader();
        let acked_ms = acked_ms(metrics, now_ms);
        let term = metrics.current_term;
        if let Some(current) = &self.current {
            let silent = now_ms > acked_ms + 2 * self.lease_ms;
            if !leads || current.term != term || silent {
                let interrupted = leads && current.term == term;
                self.end();
                self.interrupted = interrupted.then_some((term, Resume::Silent));
            } else {
                current.acked_ms.store(acked_ms, Ordering::SeqCst);
            }
            return false;
        }
        if self.interrupted.is_some_and(|(of, _)| of != term || !leads) {
            self.interrupted = None;
        }
        let applied = metrics.last_applied.as_ref().map(|id| **id.committed_leader_id());
        let heard = now_ms < acked_ms + self.lease_ms;
        if !leads || applied != Some(term) || !heard || term == self.given_away {
            return false;
        }
        match &mut self.interrupted {
            Some((_, resume @ Resume::Silent)) => {
                *resume = Resume::Writing;
                return true;
            }
            Some((_, Resume::Writing)) => return false,
            Some((_, Resume::Written)) | None => {}
        }
        self.interrupted = None;
        self.begin(term, acked_ms);
        false
    }

    /// The entry that was to be written in `term` is applied, or could not be.
    pub(super) fn written(&mut self, term: u64, applied: bool) {
        if let Some((of, resume)) = &mut self.interrupted
            && *of == term
        {
            *resume = if applied { Resume::Written } else { Resume::Silent };
        }
    }

    fn begin(&mut self, term: u64, acked_ms: u64) {
        let acked_ms = Arc::new(AtomicU64::new(acked_ms));
        let (over, watched) = watch::channel(false);
        let reign = Reign { epoch: self.epoch, term };
        let confirms = self.confirms.clone();
        let mandate = Mandate::group(reign, acked_ms.clone(), self.lease_ms, watched, confirms);
        tracing::info!(epoch = self.epoch, term, "this board leads");
        self.current = Some(Current { term, acked_ms, over });
        // An error: the store is closed, and nobody reigns there any more.
        let _ = self.thread.send(GroupRequest::Reign(Some(mandate)));
    }

    /// The lead of `term` is offered to another member, who needs no lease to run out: this board
    /// does not act in that term any more, even if nobody takes over.
    pub(super) fn give_away(&mut self, term: u64) {
        self.given_away = term;
        self.end();
    }

    /// The reign is over, if there is one.
    pub(super) fn end(&mut self) {
        if let Some(current) = self.current.take() {
            tracing::info!(
                epoch = self.epoch,
                term = current.term,
                "this board does not lead any more"
            );
            current.over.send_replace(true);
            // An error: the store is closed.
            let _ = self.thread.send(GroupRequest::Reign(None));
        }
    }
}

/// When the newest message that a majority has acknowledged was sent.
pub(super) fn acked_ms(metrics: &RaftMetrics<Types>, now_ms: u64) -> u64 {
    let membership = metrics.membership_config.membership();
    if membership.voter_ids().all(|id| id == metrics.id) {
        return FOR_EVER_MS;
    }
    let Some(acked) = &metrics.last_quorum_acked else { return 0 };
    let ago_ms = u64::try_from(acked.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Rounded up: a lease is never taken for longer than it is.
    now_ms.saturating_sub(ago_ms.saturating_add(1))
}
