//! Doubling delays between attempts, as kubelet's `flowcontrol.Backoff` counts them.

use serde::{Deserialize, Serialize};

/// First delay.
pub(super) const DELAY_MILLIS_MIN: u64 = 10_000;
/// Longest delay.
pub(super) const DELAY_MILLIS_MAX: u64 = 300_000;
/// A container that ran this long starts over with no delay.
pub(super) const RESET_MILLIS: u64 = 2 * DELAY_MILLIS_MAX;

/// The delay before the next start of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backoff {
    delay_millis: u64,
    updated_ticks: u64,
}

impl Backoff {
    /// How long to wait after an end at `ended_ticks`: nothing the first time.
    pub(super) fn delay_millis(&self, ended_ticks: u64) -> u64 {
        if self.expired(ended_ticks) { 0 } else { self.delay_millis }
    }

    /// Counts a restart after an end at `ended_ticks`.
    pub(super) fn count(&mut self, ended_ticks: u64, now_ticks: u64) {
        self.delay_millis = if self.expired(ended_ticks) {
            DELAY_MILLIS_MIN
        } else {
            (self.delay_millis * 2).clamp(DELAY_MILLIS_MIN, DELAY_MILLIS_MAX)
        };
        self.updated_ticks = now_ticks;
    }

    fn expired(&self, ended_ticks: u64) -> bool {
        ended_ticks.saturating_sub(self.updated_ticks) > RESET_MILLIS
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(super) fn go_duration(millis: u64) -> String {
    let seconds = millis / 1_000;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_five_minutes_and_reset() {
        let mut backoff = Backoff::default();
        let mut now = 1_000;
        let mut seen = Vec::new();
        for _ in 0..8 {
            let delay = backoff.delay_millis(now);
            seen.push(go_duration(delay));
            now += delay;
            backoff.count(now - delay, now);
        }
        assert_eq!(seen, ["0s", "10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        assert_eq!(backoff.delay_millis(now + RESET_MILLIS + 1), 0);
    }
}
