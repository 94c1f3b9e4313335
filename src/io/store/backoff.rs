//! When to try again what failed: later each time, up to a bound.

use std::time::{Duration, Instant};

/// Waits that double.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    wait: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet.
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, wait: first, until: None }
    }

    /// Whether it may be tried.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// It failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.until = Some(now + self.wait);
        self.wait = (self.wait * 2).min(self.longest);
    }

    /// It worked.
    pub(super) fn succeeded(&mut self) {
        self.until = None;
        self.wait = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over_after_a_success() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 3 * second);
        let start = Instant::now();
        assert!(backoff.is_over(start));
        for seconds in [1, 2, 3, 3] {
            backoff.failed(start);
            let over = start + seconds * second;
            assert!(backoff.is_over(over) && !backoff.is_over(over - second / 2), "{seconds}");
        }
        backoff.succeeded();
        assert!(backoff.is_over(start));
        backoff.failed(start);
        assert!(backoff.is_over(start + second));
    }
}
