//! Cluster time: a clock that no single board can push, and that never goes back.
//!
//! It is the largest of the build's time, the persisted high-water mark and the median of the voters'
//! system clocks; between two looks it runs with the steady clock. In: readings of the own clock,
//! what voters said of theirs, times of entries; all with `mono`, the steady clock's milliseconds.
//!
//! A step forward of more than [`CLOCK_STEP_DAYS_MAX`] is taken only when the median's clock is
//! synchronised or a majority of the voters agrees with it, and one of more than
//! [`CLOCK_UNSYNCED_DAYS_MAX`] never from clocks that are not synchronised. A step back is never
//! taken: time runs on from where it is.
//!
//! What ends after a while (a token) must not end because the clock was set meanwhile: steps are
//! remembered, and [`ClusterTime::put_off`] moves such an end by those that came in between.
//!
//! Deliberately absent: safety of the store, which depends on no clock; slewing.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::limits::{
    CLOCK_HEARD_SECONDS_MAX, CLOCK_STEP_DAYS_MAX, CLOCK_STEPS_KEPT_MAX, CLOCK_UNSYNCED_DAYS_MAX,
};
use model::masters::{ClusterTimeV1, MemberId};
use model::timestamp::Timestamp;

const DAY_MS: i64 = 24 * 3600 * 1_000;
/// Clocks that are no farther apart agree.
const AGREE_MS: i64 = 60_000;
/// So long clocks must agree and be synchronised before expiry follows them over years.
const TRUST_MS: u64 = 3_600_000;
/// A system clock that is farther from cluster time is reported.
const OFF_MS: i64 = 10_000;
/// A step forward that is no drift: the clock was set.
const STEP_MS: i64 = 60_000;

/// Cluster time as one master has it.
#[derive(Clone, Debug)]
pub struct ClusterTime {
    anchor: Point,
    /// The last point at which a majority of clocks agreed and were synchronised.
    confirmed: Point,
    own: Reading,
    me: Option<MemberId>,
    voters: BTreeSet<MemberId>,
    heard: BTreeMap<MemberId, Reading>,
    /// Since when clocks agree and are synchronised, and on what time: one that runs on.
    trusted: Option<(u64, Point)>,
    build: Timestamp,
    refused_days: Option<i64>,
    /// Cluster time when this began to count it.
    began: Timestamp,
    /// The latest steps forward since then, oldest first: from and to.
    steps: VecDeque<(Timestamp, Timestamp)>,
}

/// How this board's clock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Synchronised and near cluster time.
    Fine,
    /// The kernel does not call it synchronised.
    Unsynced,
    /// It is this far from cluster time (positive: ahead).
    Off {
        /// Milliseconds.
        ms: i64,
    },
    /// The clocks want a step that is not believed.
    Refused {
        /// Days forward.
        days: i64,
    },
}

/// A time at a moment of the steady clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Point {
    mono: u64,
    time: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    at: Point,
    synced: bool,
}

impl Point {
    fn now(self, mono: u64) -> Timestamp {
        let passed = i64::try_from(mono.saturating_sub(self.mono)).unwrap_or(i64::MAX / 1_000);
        Timestamp(self.time.0.saturating_add(passed.saturating_mul(1_000)))
    }
}

impl ClusterTime {
    /// Cluster time of a board that was built at `build` and has persisted `high_water`.
    pub fn new(build: Timestamp, high_water: Timestamp, mono: u64) -> Self {
        let anchor = Point { mono, time: build.max(high_water) };
        let own = Reading { at: anchor, synced: false };
        Self {
            anchor,
            confirmed: Point { mono, time: build },
            own,
            me: None,
            voters: BTreeSet::new(),
            heard: BTreeMap::new(),
            trusted: None,
            build,
            refused_days: None,
            began: anchor.time,
            steps: VecDeque::new(),
        }
    }

    /// Cluster time.
    pub fn now(&self, mono: u64) -> Timestamp {
        self.anchor.now(mono)
    }

    /// The time at which certificates are judged: it goes on from the last moment at which clocks
    /// could be trusted, so a clock that is years ahead locks nobody out.
    pub fn confirmed(&self, mono: u64) -> Timestamp {
        self.confirmed.now(mono)
    }

    /// Certificates were judged at this time before: it is not forgotten with a restart.
    pub fn confirmed_before(&mut self, time: Timestamp, mono: u64) {
        if time > self.confirmed(mono) {
            self.confirmed = Point { mono, time };
        }
    }

    /// Who votes: only their clocks count. Without voters the own clock alone does.
    pub fn voters(&mut self, own: Option<MemberId>, voters: BTreeSet<MemberId>) {
        self.heard.retain(|id, _| voters.contains(id));
        self.me = own;
        self.voters = voters;
    }

    /// A reading of the own system clock.
    pub fn read(&mut self, system: Timestamp, synced: bool, mono: u64) {
        self.own = Reading { at: Point { mono, time: system }, synced };
        self.judge(mono);
    }

    /// What a voter said of its clocks; others are not heard.
    pub fn hear(&mut self, from: MemberId, said: ClusterTimeV1, mono: u64) {
        if self.voters.contains(&from) && self.me != Some(from) {
            let at = Point { mono, time: said.system };
            self.heard.insert(from, Reading { at, synced: said.synced });
            self.judge(mono);
        }
    }

    /// Takes a time that was decided on: of an entry, or of the leader that this board follows.
    pub fn reach(&mut self, decided: Timestamp, mono: u64) {
        let before = self.now(mono);
        if decided <= before {
            return;
        }
        if decided.millis().saturating_sub(before.millis()) > STEP_MS {
            if self.steps.len() == CLOCK_STEPS_KEPT_MAX {
                self.steps.pop_front();
            }
            self.steps.push_back((before, decided));
        }
        self.anchor = Point { mono, time: decided };
    }

    /// Goes on from what lies on the disk, where that is later: nobody knows how long this board was off, so
    /// what was made before then ages by the next step.
    pub fn resume(&mut self, kept: Timestamp, mono: u64) {
        if kept > self.now(mono) {
            self.anchor = Point { mono, time: kept };
            self.began = kept;
            self.steps.clear();
        }
    }

    /// The end of something that was made at `made` to last until `end`: later by the steps since then,
    /// in which no time passed. What was made before this began to count has aged in between.
    pub fn put_off(&self, made: Timestamp, end: Timestamp) -> Timestamp {
        if made.seconds() < self.began.seconds() {
            return end;
        }
        let since = self.steps.iter().filter(|(from, _)| made <= *from);
        let skipped = since.map(|(from, to)| to.millis().saturating_sub(from.millis()));
        end.plus_millis(skipped.fold(0, i64::saturating_add))
    }

    /// What to say to other masters.
    pub fn say(&self, mono: u64) -> ClusterTimeV1 {
        ClusterTimeV1 {
            cluster: self.now(mono),
            system: self.own.at.now(mono),
            synced: self.own.synced,
        }
    }

    /// How this board's clock stands.
    pub fn standing(&self, mono: u64) -> Standing {
        let off = self.own.at.now(mono).millis().saturating_sub(self.now(mono).millis());
        match self.refused_days {
            Some(days) => Standing::Refused { days },
            None if off.abs() > OFF_MS => Standing::Off { ms: off },
            None if !self.own.synced => Standing::Unsynced,
            None => Standing::Fine,
        }
    }

    /// Readings that count at this moment, ascending.
    fn readings(&self, mono: u64) -> Vec<(Timestamp, bool)> {
        let fresh_ms = CLOCK_HEARD_SECONDS_MAX * 1_000;
        let votes = self.me.is_some_and(|own| self.voters.contains(&own));
        let own = (votes || self.voters.is_empty()).then_some(&self.own);
        let heard = self.heard.values().filter(|reading| reading.at.mono + fresh_ms >= mono);
        let all = own.into_iter().chain(heard);
        let mut all: Vec<_> = all.map(|reading| (reading.at.now(mono), reading.synced)).collect();
        all.sort();
        all
    }

    /// Whether so many of the voters are a majority.
    fn is_majority(&self, count: usize) -> bool {
        2 * count > self.voters.len().max(1)
    }

    /// Looks at the median and takes it if it can be believed.
    fn judge(&mut self, mono: u64) {
        let readings = self.readings(mono);
        self.refused_days = None;
        if !self.is_majority(readings.len()) {
            self.trusted = None;
            return;
        }
        let (median, median_synced) = readings[(readings.len() - 1) / 2];
        let agrees = |time: &Timestamp| time.millis().abs_diff(median.millis()) <= AGREE_MS as u64;
        let agreeing = readings.iter().filter(|(time, _)| agrees(time));
        let synced = agreeing.clone().filter(|(_, synced)| *synced).count();
        self.confirm(median, self.is_majority(synced), mono);
        let step = median.millis().saturating_sub(self.now(mono).millis());
        let believed = step <= CLOCK_STEP_DAYS_MAX * DAY_MS
            || median_synced
            || (self.is_majority(agreeing.count()) && step <= CLOCK_UNSYNCED_DAYS_MAX * DAY_MS);
        if !believed {
            self.refused_days = Some(step / DAY_MS);
            return;
        }
        self.reach(median, mono);
    }

    /// Takes a trusted time for the judging of certificates; one that is years ahead, or behind, only when
    /// it has been so for an hour: a wrong time server locks nobody out at once, and its repair mends
    /// what it has done.
    fn confirm(&mut self, median: Timestamp, trusted: bool, mono: u64) {
        if !trusted {
            self.trusted = None;
            return;
        }
        let apart = |point: &Point| point.now(mono).millis().abs_diff(median.millis());
        let runs_on = self.trusted.filter(|(_, point)| apart(point) <= AGREE_MS as u64);
        let since = runs_on.map_or(mono, |(since, _)| since);
        self.trusted = Some((since, Point { mono, time: median }));
        let step = median.millis().saturating_sub(self.confirmed(mono).millis());
        let near = (0..=CLOCK_UNSYNCED_DAYS_MAX * DAY_MS).contains(&step);
        if near || mono >= since + TRUST_MS {
            self.confirmed = Point { mono, time: median.max(self.build) };
        }
    }
}
