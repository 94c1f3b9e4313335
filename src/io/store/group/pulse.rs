//! When the engine has to be woken: a leader's heartbeats, and a clock for a member that hears no leader.
//!
//! ```text
//! leads         heartbeats at their time, no clock
//! hears one     no clock: a look once in a lease
//! hears none    the engine's own clock, by which it stands for election
//! silent        neither: its disk stalls
//! ```
//! The engine's clock ticks five times in a heartbeat, for ever, and only to find that nothing is due. It
//! stands for election one lease and a shortest wait after it heard a leader last; its clock runs from
//! before that moment on. In: the engine's role, [`Heard`], whether to be silent. Invariant: a member that
//! has heard no leader for longer than a lease and [`LOOK_AFTER_LEASE`] has a clock that ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::types::Types;
use super::{Engine, Timing};
use crate::io::store::standing::boot_ms;

/// Less than the shortest wait before an election.
const LOOK_AFTER_LEASE: Duration = Duration::from_millis(50);
/// While no leader is heard, whether one is again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// When this member took a message of a leader last.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Now. To be called after the engine has taken it.
    pub(super) fn now(&self) {
        self.0.store(boot_ms(), Ordering::SeqCst);
    }

    fn ago(&self) -> Duration {
        Duration::from_millis(boot_ms().saturating_sub(self.0.load(Ordering::SeqCst)))
    }
}

/// Wakes the engine until it ends.
pub(super) async fn pulse(
    engine: Engine,
    timing: Timing,
    heard: Heard,
    mut silent: watch::Receiver<bool>,
) {
    let mut metrics = engine.server_metrics();
    let every = Duration::from_millis(timing.heartbeat_ms);
    let quiet_max = timing.lease() + LOOK_AFTER_LEASE;
    let mut beat_at = Instant::now();
    loop {
        let part = part(&metrics.borrow_watched());
        let is_silent = *silent.borrow_and_update();
        let ago = heard.ago();
        let (ticks, wake) = match part {
            _ if is_silent => (false, None),
            Part::Alone => (false, None),
            Part::Leads => {
                if Instant::now() >= beat_at {
                    beat_at = Instant::now() + every;
                    if engine.trigger().heartbeat().await.is_err() {
                        return;
                    }
                }
                (false, Some(beat_at))
            }
            Part::Follows if ago < quiet_max => (false, Some(Instant::now() + (quiet_max - ago))),
            Part::Follows => (true, Some(Instant::now() + LOOK_AGAIN)),
        };
        engine.runtime_config().tick(ticks);
        // Nothing to wait for but a change.
        let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        // Cancel safety: all three only wait.
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            changed = silent.changed() => if changed.is_err() { return },
            () = sleep_until(wake.into()) => {}
        }
    }
}

enum Part {
    /// It leads and has nobody to tell.
    Alone,
    Leads,
    Follows,
}

fn part(metrics: &RaftServerMetrics<Types>) -> Part {
    let members = metrics.membership_config.membership();
    match metrics.state {
        ServerState::Leader if members.nodes().all(|(id, _)| *id == metrics.id) => Part::Alone,
        ServerState::Leader => Part::Leads,
        _ => Part::Follows,
    }
}
