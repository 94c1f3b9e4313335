//! Keeps lines that strangers can cause from filling the log: one in a while, with a count of the rest.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One log line may be written per interval; what is left out in between is counted.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// At most one line in this time.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(State { last: None, left_out: 0 }) }
    }

    /// `Some` when a line may be written, with how many were left out since the one before.
    pub fn line(&self) -> Option<u64> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let early = |last: Instant| now.saturating_duration_since(last) < self.interval;
        if state.last.is_some_and(early) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_and_the_rest_counted() {
        let seldom = Seldom::new(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| seldom.line_at(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(1), at(9), at(10)], [Some(0), None, None, Some(2)]);
        assert_eq!([at(11), at(30), at(50)], [None, Some(1), Some(0)]);
    }
}
