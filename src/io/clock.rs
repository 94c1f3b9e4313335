//! Cluster time as this board knows it: never before the build, never backwards.
//!
//! Boards have no clock battery: the system clock may say 1970 or jump. Everything that stamps an
//! object, a token or a schedule asks this clock. It is not for measuring intervals.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

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
#[derive(Clone, Debug)]
pub struct Clock {
    high_water_micros: Arc<AtomicI64>,
}

impl Clock {
    /// Starts at the later of the build time and `high_water` (what was persisted or heard).
    pub fn starting_at(high_water: Timestamp) -> Self {
        Self { high_water_micros: Arc::new(AtomicI64::new(high_water.max(BUILT).0)) }
    }

    /// The time, at least as late as every earlier answer.
    pub fn now(&self) -> Timestamp {
        let system = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let before = self.high_water_micros.fetch_max(system, Ordering::Relaxed);
        Timestamp(before.max(system))
    }

    /// Takes over a later time heard from the cluster.
    pub fn advance(&self, heard: Timestamp) {
        self.high_water_micros.fetch_max(heard.0, Ordering::Relaxed);
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
        assert_eq!(clock.now(), future);
    }
}
