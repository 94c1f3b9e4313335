//! How many unknown records may be judged: a signature costs milliseconds on a small board.

use std::time::Instant;

use model::limits::HEARD_RECORDS_MAX;

/// A bucket that refills once a second.
#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: HEARD_RECORDS_MAX, since: now }
    }

    /// Takes one; false when this second's are used up.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since).as_secs() >= 1 {
            *self = Self::new(now);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_a_second() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        let taken = (0..1_000).filter(|_| allowance.take(now)).count();
        assert_eq!(taken, HEARD_RECORDS_MAX);
        assert!(allowance.take(now + Duration::from_secs(1)));
    }
}
