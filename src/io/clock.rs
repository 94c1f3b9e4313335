//! Cluster time as this board knows it: never before the build, never backwards.
//!
//! Boards have no clock battery: the system clock may say 1970 or jump. Everything that stamps an
//! object, a token or a schedule asks this clock. It is not for measuring intervals.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use model::timestamp::Timestamp;

/// When this code was built: release builds set `SOURCE_DATE_EPOCH` to the time of their commit (the
/// same bytes from the same source), others know only when this was written.
const BUILT: Timestamp = Timestamp::from_seconds(match option_env!("SOURCE_DATE_EPOCH") {
    // A build time before this line was written is a mistake of the build.
    Some(text) if seconds(text) > WRITTEN_SECONDS => seconds(text),
    _ => WRITTEN_SECONDS,
});
/// 2026-11-22.
const WRITTEN_SECONDS: i64 = 1_795_305_600;

/// A decimal number, at compile time.
const fn seconds(text: &str) -> i64 {
    let bytes = text.as_bytes();
    let (mut at, mut number) = (0, 0);
    while at < bytes.len() {
        assert!(bytes[at].is_ascii_digit(), "SOURCE_DATE_EPOCH is seconds since 1970");
        number = number * 10 + (bytes[at] - b'0') as i64;
        at += 1;
    }
    number
}

/// A shared clock; clones show the same time.
///
/// It goes on by itself from the latest time that it knows: a board whose system clock stays in 1970,
/// because it has neither a battery nor a time server, counts hours and days all the same.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    /// Microseconds between `start` and cluster time, as far as the latest known time tells; only
    /// ever grows.
    ahead_micros: Arc<AtomicI64>,
}

impl Clock {
    /// Starts at the later of the build time and `high_water` (what was persisted or heard).
    pub fn starting_at(high_water: Timestamp) -> Self {
        let ahead_micros = Arc::new(AtomicI64::new(high_water.max(BUILT).0));
        Self { start: Instant::now(), ahead_micros }
    }

    /// When this program was built: no correct clock says less.
    pub const fn built() -> Timestamp {
        BUILT
    }

    /// The time, at least as late as every earlier answer.
    pub fn now(&self) -> Timestamp {
        self.at_system_time(SystemTime::now())
    }

    /// Takes over a later time heard from the cluster.
    pub fn advance(&self, heard: Timestamp) {
        self.reach(heard.0);
    }

    fn at_system_time(&self, system: SystemTime) -> Timestamp {
        let system = system.duration_since(UNIX_EPOCH);
        // Read before the ticking clock: a pause between the two makes it no later than it is.
        self.reach(system.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Makes it at least this time, and gives what it is.
    fn reach(&self, micros: i64) -> Timestamp {
        let passed = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        let ahead = micros.saturating_sub(passed);
        let before = self.ahead_micros.fetch_max(ahead, Ordering::Relaxed);
        Timestamp(before.max(ahead).saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_time_is_read() {
        assert_eq!(seconds("1795305600"), WRITTEN_SECONDS);
        assert_eq!(Timestamp::from_seconds(WRITTEN_SECONDS).to_string(), "2026-11-22T00:00:00Z");
    }

    #[test]
    fn never_goes_back() {
        let clock = Clock::starting_at(Timestamp(0));
        assert!(clock.now() >= BUILT);
        let future = clock.now().plus_millis(3_600_000);
        clock.advance(future);
        let before = clock.now();
        assert!(before >= future);
        assert!(clock.at_system_time(UNIX_EPOCH) >= before, "a system clock that fell back");
    }

    #[test]
    fn goes_on_while_the_system_clock_stays_in_1970() {
        let clock = Clock::starting_at(Timestamp(0));
        let before = clock.at_system_time(UNIX_EPOCH);
        let start = Instant::now();
        while start.elapsed().as_millis() < 2 {
            std::hint::spin_loop();
        }
        let after = clock.at_system_time(UNIX_EPOCH);
        assert!(after >= before.plus_millis(2), "{before} {after}");
        assert!(after < before.plus_millis(60_000), "{before} {after}");
    }
}
