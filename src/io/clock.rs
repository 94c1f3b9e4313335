//! Cluster time as this board knows it: never before the build, never backwards.
//!
//! Boards have no clock battery: the system clock may say 1970 or jump. Everything that stamps an
//! object, a token or a schedule asks this clock. It is not for measuring intervals.
//! [`logic::time`] decides what is believed; this reads the system's clock for it, at most every
//! [`READ_EVERY_MS`], and is the one place that does.

#[cfg(feature = "fault-injection")]
mod shift;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use logic::time::{ClusterTime, Standing};
use model::masters::{ClusterTimeV1, MemberId};
use model::timestamp::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Readings of the system clock are this far apart at least.
const READ_EVERY_MS: u64 = 100;

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
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

struct Shared {
    time: Mutex<ClusterTime>,
    /// The latest answer in microseconds.
    said: AtomicI64,
    /// When the system clock was read last, in milliseconds of the steady clock.
    read_at: AtomicI64,
    /// What the kernel says of its clock.
    synced: fn() -> Option<bool>,
    /// Others decide: the own clock counts only until they are heard.
    follows: AtomicBool,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now().to_string()).finish()
    }
}

impl Clock {
    /// Starts at the later of the build time and `high_water` (what was persisted or heard), and
    /// believes the system clock as one that no time server keeps.
    pub fn starting_at(high_water: Timestamp) -> Self {
        Self::asking(high_water, || Some(false))
    }

    /// The same; `synced` asks the kernel whether a time server keeps its clock.
    pub fn asking(high_water: Timestamp, synced: fn() -> Option<bool>) -> Self {
        Self(Arc::new(Shared {
            time: Mutex::new(ClusterTime::new(BUILT, high_water, micros() / 1_000)),
            said: AtomicI64::new(0),
            read_at: AtomicI64::new(i64::MIN),
            synced,
            follows: AtomicBool::new(false),
        }))
    }

    /// When this program was built: no correct clock says less.
    pub const fn built() -> Timestamp {
        BUILT
    }

    /// The time, at least as late as every earlier answer.
    pub fn now(&self) -> Timestamp {
        let micros = micros();
        self.look(micros);
        let time = self.time().now(micros / 1_000);
        let now = time.0.saturating_add(i64::try_from(micros % 1_000).unwrap_or(0));
        Timestamp(self.0.said.fetch_max(now, Ordering::Relaxed).max(now))
    }

    /// The time at which client certificates are judged: clocks that are years ahead lock nobody out.
    pub fn confirmed(&self) -> Timestamp {
        let micros = micros();
        self.look(micros);
        self.time().confirmed(micros / 1_000)
    }

    /// The end of something made at `made` to last until `end`, put off by what the clock was set
    /// forward since: [`ClusterTime::put_off`].
    pub fn put_off(&self, made: Timestamp, end: Timestamp) -> Timestamp {
        self.time().put_off(made, end)
    }

    /// Certificates were judged at this time before this process began.
    pub fn confirmed_before(&self, time: Timestamp) {
        self.time().confirmed_before(time, micros() / 1_000);
    }

    /// Goes on from what the disk says, after a start.
    pub fn resume(&self, kept: Timestamp) {
        self.time().resume(kept, micros() / 1_000);
    }

    /// Takes over a later time heard from the cluster.
    pub fn advance(&self, heard: Timestamp) {
        let mut time = self.time();
        if self.0.follows.load(Ordering::Relaxed) {
            time.voters(None, BTreeSet::from([NOBODY]));
        }
        time.reach(heard, micros() / 1_000);
    }

    /// The clock of a board that others lead: once it has heard their time, its own system clock counts
    /// no longer.
    pub fn follow(&self) {
        self.0.follows.store(true, Ordering::Relaxed);
    }

    /// Others decide, and it is not known yet who: nobody's clock counts, the own neither. Time goes on
    /// from the latest that is known.
    pub fn wait(&self) {
        self.0.follows.store(false, Ordering::Relaxed);
        self.time().voters(None, BTreeSet::from([NOBODY]));
    }

    /// The clock of a master: whose clocks count. Nobody: the own alone.
    pub fn voters(&self, own: Option<MemberId>, voters: BTreeSet<MemberId>) {
        self.0.follows.store(false, Ordering::Relaxed);
        self.time().voters(own, voters);
    }

    /// What another voter says of its clocks.
    pub fn hear(&self, from: MemberId, said: ClusterTimeV1) {
        self.time().hear(from, said, micros() / 1_000);
    }

    /// What to say to other masters.
    pub fn say(&self) -> ClusterTimeV1 {
        let micros = micros();
        self.look(micros);
        self.time().say(micros / 1_000)
    }

    /// How this board's system clock stands.
    pub fn standing(&self) -> Standing {
        let micros = micros();
        self.look(micros);
        self.time().standing(micros / 1_000)
    }

    /// Whether a time server keeps the system clock; `None` when the kernel does not say.
    pub fn synced(&self) -> Option<bool> {
        self.system().1
    }

    fn time(&self) -> MutexGuard<'_, ClusterTime> {
        self.0.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the system clock, unless that was done just before.
    fn look(&self, micros: u64) {
        let mono = micros / 1_000;
        let now = i64::try_from(mono).unwrap_or(i64::MAX);
        let before = self.0.read_at.load(Ordering::Relaxed);
        let due = before.saturating_add(READ_EVERY_MS as i64) <= now;
        let wins =
            |at| self.0.read_at.compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed);
        if due && wins(before).is_ok() {
            let (system, synced) = self.system();
            self.time().read(system, synced == Some(true), mono);
        }
    }

    /// The system clock, and whether a time server keeps it.
    fn system(&self) -> (Timestamp, Option<bool>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let system = Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let read = (system, (self.0.synced)());
        #[cfg(feature = "fault-injection")]
        let read = shift::apply(read);
        read
    }
}

/// An id that no member has: whoever waits for this voter's clock waits for ever.
const NOBODY: MemberId = MemberId(0);

/// The steady clock, which goes on while a board sleeps.
fn micros() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has it");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000
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
    fn never_goes_back_and_goes_on_by_itself() {
        let clock = Clock::starting_at(Timestamp(0));
        assert!(clock.now() >= BUILT);
        let future = clock.now().plus_millis(3_600_000);
        clock.advance(future);
        let mut before = clock.now();
        assert!(before >= future);
        let began = micros();
        while micros() - began < 5_000 {
            let now = clock.now();
            assert!(now >= before, "{now} {before}");
            before = now;
        }
        let after = clock.now();
        assert!(after.0 >= future.0 + 5_000, "its system clock is an hour behind");
        assert!(before < future.plus_millis(60_000), "{before}");
    }

    #[test]
    fn a_board_that_is_led_has_the_time_of_its_leader() {
        let clock = Clock::asking(Timestamp(0), || Some(true));
        clock.follow();
        let own = clock.now();
        // A leader whose time is behind does not pull it back, one that is ahead pulls it on.
        clock.advance(own.plus_millis(-86_400_000));
        assert!(clock.now() >= own);
        clock.advance(own.plus_millis(86_400_000));
        assert!(clock.now() >= own.plus_millis(86_400_000));
        assert_eq!(clock.synced(), Some(true));
    }

    #[test]
    fn a_master_that_waits_for_the_others_does_not_believe_its_own_clock() {
        let sole = Clock::asking(Timestamp(0), || Some(true));
        assert!(sole.now() > BUILT.plus_millis(60_000), "this machine's clock is not in the past");
        let one = Clock::asking(Timestamp(0), || Some(true));
        one.wait();
        assert!(one.now() < BUILT.plus_millis(60_000), "{one:?}");
        one.voters(Some(MemberId(1)), [1, 2, 3].map(MemberId).into());
        assert!(one.now() < BUILT.plus_millis(60_000), "one of three is no majority: {one:?}");
        one.voters(None, BTreeSet::new());
        one.0.read_at.store(i64::MIN, Ordering::Relaxed);
        assert!(one.now() > BUILT.plus_millis(60_000));
    }
}
