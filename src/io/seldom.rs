//! Keeps lines that strangers can cause from filling the log: a few at once, then one in a while, with
//! a count of the rest.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One log line may be written per interval on the average; what is left out in between is counted.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    /// How far lines may run ahead of one per interval.
    ahead: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the lines so far would be over at one per interval.
    paid: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    /// At most one line in this time.
    pub const fn new(interval: Duration) -> Self {
        Self::bursts(1, interval)
    }

    /// At most so many lines (at least one) in a row, then one in this time.
    pub const fn bursts(lines: u32, interval: Duration) -> Self {
        let ahead = interval.saturating_mul(lines.saturating_sub(1));
        Self { interval, ahead, state: Mutex::new(State { paid: None, left_out: 0 }) }
    }

    /// `Some` when a line may be written, with how many were left out since the one before.
    pub fn line(&self) -> Option<u64> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = state.paid.map_or(now, |paid| paid.max(now));
        if paid - now > self.ahead {
            state.left_out += 1;
            return None;
        }
        state.paid = Some(paid + self.interval);
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

    #[test]
    fn a_few_lines_at_once_then_one_in_an_interval() {
        let seldom = Seldom::bursts(3, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| seldom.line_at(start + Duration::from_secs(seconds));
        assert_eq!([at(0), at(0), at(1), at(1), at(9)], [Some(0), Some(0), Some(0), None, None]);
        assert_eq!([at(10), at(11), at(21)], [Some(2), None, Some(1)]);
        let flood = (22..622).filter_map(at).count();
        assert!((59..=61).contains(&flood), "{flood}");
        assert_eq!(
            [at(900), at(900), at(900), at(900)].map(|line| line.is_some()),
            [true, true, true, false]
        );
    }
}
