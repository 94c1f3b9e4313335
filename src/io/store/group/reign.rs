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
use std::time::{Duration, Instant};

use model::masters::Reign;
use openraft::RaftMetrics;
use openraft::async_runtime::Instant as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::seam::GroupRequest;
use super::types::Types;
use crate::io::store::standing::boot_ms;
use crate::io::store::{EngineEnd, Mandate, NotLeading};

/// Where reads ask whether this board still leads.
pub(super) type Confirms = mpsc::Sender<oneshot::Sender<Result<(), NotLeading>>>;

/// The acknowledgement of a leader that is a majority by itself.
pub(super) const FOR_EVER_MS: u64 = u64::MAX / 4;

/// For how many leases an offer of the lead may stay without a taker.
const OFFERED_LEASES: u32 = 10;

/// Keeps the mandate of this board.
pub(super) struct Throne {
    thread: EngineEnd,
    epoch: u64,
    lease_ms: u64,
    confirms: Confirms,
    current: Option<Current>,
    /// A term whose reign ended although this board leads it, and whether an entry was written since.
    interrupted: Option<(u64, Resume)>,
    /// The term whose lead was offered to another member, and when.
    offered: Option<(u64, Instant)>,
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
        Self { thread, epoch, lease_ms, confirms, current: None, interrupted: None, offered: None }
    }

    /// Whether this board reigns.
    pub(super) fn reigns(&self) -> bool {
        self.current.is_some()
    }

    /// Takes in what the engine says and when a majority was heard; whether an entry is to be written in
    /// this term.
    pub(super) fn look(
        &mut self,
        metrics: &RaftMetrics<Types>,
        acked_ms: u64,
        now_ms: u64,
    ) -> bool {
        let leads = metrics.running_state.is_ok() && metrics.state.is_leader();
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
        if !leads
            || applied != Some(term)
            || !heard
            || self.offered.is_some_and(|(of, _)| of == term)
        {
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
        if self.offered.is_none_or(|(of, _)| of != term) {
            self.offered = Some((term, Instant::now()));
        }
        self.end();
    }

    /// Whether the lead was offered to another member, and this one still has it.
    pub(super) fn is_offered(&self, metrics: &RaftMetrics<Types>) -> bool {
        let of = self.offered.map(|(term, _)| term);
        metrics.state.is_leader() && of == Some(metrics.current_term)
    }

    /// Whether somebody took it cannot be known yet.
    pub(super) fn renew_offer(&mut self) {
        if let Some((_, at)) = &mut self.offered {
            *at = Instant::now();
        }
    }

    /// Whether nobody took the lead in time. The engine knows no way back: it would neither lead nor vote
    /// until somebody else wins, who may need its vote.
    pub(super) fn is_left_with_an_offer(&self, metrics: &RaftMetrics<Types>) -> bool {
        let late = Duration::from_millis(self.lease_ms) * OFFERED_LEASES;
        self.is_offered(metrics) && self.offered.is_some_and(|(_, at)| at.elapsed() > late)
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

/// Between the engine's clock, which stands still while the board sleeps, and the one of leases, which
/// goes on: what was acknowledged before a sleep is not fresh after it.
pub(super) struct Clocks {
    /// Of the two only their distance counts: from this moment of the engine's on.
    start: Instant,
    /// No less than what the clock of leases is ahead, as of the last sleep.
    ahead_ms: Option<u64>,
    /// What was heard until then, on the engine's clock, was heard before a sleep.
    slept: Option<Instant>,
}

impl Clocks {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), ahead_ms: None, slept: None }
    }

    /// The time of leases, and whatever must be known to compare the engine's with it.
    pub(super) fn look(&mut self) -> u64 {
        let before = Instant::now();
        let now_ms = boot_ms();
        self.saw(before, now_ms, Instant::now());
        now_ms
    }

    /// The clock of leases showed `now_ms` between these two moments of the engine's.
    fn saw(&mut self, before: Instant, now_ms: u64, after: Instant) {
        let since = |at: Instant| millis(at.saturating_duration_since(self.start));
        let (most, least) =
            (now_ms.saturating_sub(since(before)), now_ms.saturating_sub(since(after) + 1));
        match self.ahead_ms {
            // Nothing but sleep lets it grow. Both are known to a millisecond.
            Some(ahead) if least > ahead + 1 => {
                self.ahead_ms = Some(most);
                self.slept = Some(after);
            }
            known => self.ahead_ms = Some(known.map_or(most, |ahead| ahead.min(most))),
        }
    }

    /// When the newest message that a majority has acknowledged was sent.
    pub(super) fn acked_ms(&self, metrics: &RaftMetrics<Types>, now_ms: u64) -> u64 {
        let membership = metrics.membership_config.membership();
        if membership.voter_ids().all(|id| id == metrics.id) {
            return FOR_EVER_MS;
        }
        // Before the other: a lease is never taken for longer than it is.
        let now = Instant::now();
        let ago = metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed());
        ago.map_or(0, |ago| self.at(ago, now, now_ms))
    }

    /// `ago`, of the engine's clock, before now.
    fn at(&self, ago: Duration, now: Instant, now_ms: u64) -> u64 {
        if self.slept.is_some_and(|slept| ago >= now.saturating_duration_since(slept)) {
            return 0;
        }
        // Rounded up.
        now_ms.saturating_sub(millis(ago).saturating_add(1))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_before_a_sleep_is_not_fresh_after_it() {
        const MS: Duration = Duration::from_millis(1);
        let (mut clocks, boot) = (Clocks::new(), 5_000_000);
        let start = clocks.start;
        clocks.saw(start, boot, start);
        // Looks that are held up between the clocks are no sleep, whichever they saw first.
        for (before, now_ms, after) in [(10, 10, 90), (100, 180, 180), (200, 200, 200)] {
            clocks.saw(start + before * MS, boot + now_ms, start + after * MS);
            let now = start + after * MS;
            assert_eq!(clocks.at(30 * MS, now, boot + now_ms), boot + now_ms - 31, "{now_ms}");
        }
        // Five seconds pass in 50 ms.
        let (now, now_ms) = (start + 250 * MS, boot + 5_250);
        clocks.saw(now, now_ms, now);
        assert_eq!(clocks.at(30 * MS, now, now_ms), 0, "it was heard five seconds ago");
        let (now, now_ms) = (now + 100 * MS, now_ms + 100);
        clocks.saw(now, now_ms, now);
        assert_eq!(clocks.at(130 * MS, now, now_ms), 0);
        assert_eq!(clocks.at(40 * MS, now, now_ms), now_ms - 41, "that was after the sleep");
    }
}
