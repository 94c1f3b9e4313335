//! When a board that cannot hold the log at the moment tries again.

use std::time::{Duration, Instant};

use crate::app::member::Holds;

/// Pause before a log whose disk failed is opened anew, at first and at most.
const REOPEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A log that was held for so long after it was opened anew is tried again soon.
const HELD_LONG: Duration = Duration::from_secs(10);

/// When a log whose disk failed is opened anew.
#[derive(Default)]
pub(super) struct Reopen {
    pub(super) at: Option<tokio::time::Instant>,
    pause: Option<Duration>,
    planned: Option<Instant>,
    /// Instead, the board shall forget that it was a master.
    pub(super) forgets: bool,
    /// It gives its copy up once it has been led for a while.
    pub(super) waits: bool,
}

impl Reopen {
    /// What a board holds that holds no log at the moment.
    pub(super) fn holds(&self) -> Holds {
        if self.at.is_some() { Holds::Pausing } else { Holds::Nothing }
    }

    /// Plans to give the copy up once this board is led, and seldom a look whether it can be used after
    /// all: each look ends what the worker does. Gives the pause before that.
    pub(super) fn wait_for_leader(&mut self) -> Duration {
        self.pause = Some(REOPEN_PAUSE.1);
        self.waits = true;
        self.next()
    }

    /// Plans the next try; gives the pause before it.
    pub(super) fn next(&mut self) -> Duration {
        let quick = |pause: &Duration| {
            self.planned.is_some_and(|planned| planned.elapsed() < *pause + HELD_LONG)
        };
        let last = self.pause.filter(|pause| self.waits || quick(pause));
        let pause = last.map_or(REOPEN_PAUSE.0, |pause| (2 * pause).min(REOPEN_PAUSE.1));
        self.planned = Some(Instant::now());
        self.pause = Some(pause);
        self.at = Some(tokio::time::Instant::now() + pause);
        pause
    }
}
