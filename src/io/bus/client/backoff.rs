//! Pauses between attempts to connect: doubled up to a bound, each of random length, so that a
//! thousand boards whose master comes back do not all call at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// The next pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pause: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: FIRST }
    }
}

impl Backoff {
    /// How long to wait this time: between half of the pause and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        // Without randomness everybody waits the whole pause, which is no harm.
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        pause.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..12).map(|_| backoff.next()).collect();
        assert!((FIRST / 2..=FIRST).contains(&pauses[0]), "{pauses:?}");
        for pause in &pauses[6..] {
            assert!((LONGEST / 2..=LONGEST).contains(pause), "{pauses:?}");
        }
        assert!(pauses[6..].iter().any(|pause| *pause != pauses[6]), "{pauses:?}");
    }
}
