//! A bad wire: of what passes, a share is dropped, doubled, delayed or overtaken by the next.
//!
//! What happens to a packet is drawn from a seed, so a run can be repeated; when it happens depends
//! on the clock. The seed is printed by those who choose it.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest delay of a packet.
const DELAY_MILLIS_MAX: u64 = 700;
/// A packet that waits to be overtaken does not wait for ever.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(300);

/// Random numbers from a seed (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in `percent` of cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// `KUMQUAT_SEED`, or a new seed; printed either way.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("KUMQUAT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("random bytes");
        u64::from_le_bytes(bytes)
    });
    println!("{test}: KUMQUAT_SEED={seed}");
    seed
}

/// What happened to packets.
#[derive(Debug, Default)]
pub struct Tally {
    pub passed: AtomicU64,
    pub dropped: AtomicU64,
    pub doubled: AtomicU64,
    pub delayed: AtomicU64,
    pub overtaken: AtomicU64,
    pub cut: AtomicU64,
}

impl Tally {
    /// Adds one.
    pub fn count(of: &AtomicU64) {
        of.fetch_add(1, Ordering::Relaxed);
    }

    /// How many packets did not simply pass.
    pub fn faults(&self) -> u64 {
        let of = [&self.dropped, &self.doubled, &self.delayed, &self.overtaken];
        of.into_iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Passes on what comes from `from`, with `percent` of faults, until either side is gone.
pub async fn relay<T: Clone>(
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<T>,
    percent: u64,
    mut random: Random,
    tally: &Tally,
) {
    // Packets that come later than they should, with the time at which they do.
    let mut late: Vec<(Instant, T)> = Vec::new();
    let mut overtaken: Option<(Instant, T)> = None;
    loop {
        let due = late.iter().chain(&overtaken).map(|(at, _)| *at).min();
        let wait = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut now = Vec::new();
        // Cancel safe: both arms only wait.
        tokio::select! {
            packet = from.recv() => {
                let Some(packet) = packet else { return };
                let behind = overtaken.take();
                fate(packet, percent, &mut random, tally, &mut now, &mut late, &mut overtaken);
                now.extend(behind.map(|(_, packet)| packet));
            }
            () = wait => {}
        }
        let time = Instant::now();
        while let Some(index) = late.iter().position(|(at, _)| *at <= time) {
            now.push(late.swap_remove(index).1);
        }
        if overtaken.as_ref().is_some_and(|(at, _)| *at <= time) {
            now.extend(overtaken.take().map(|(_, packet)| packet));
        }
        for packet in now {
            if to.send(packet).await.is_err() {
                return;
            }
        }
    }
}

fn fate<T: Clone>(
    packet: T,
    percent: u64,
    random: &mut Random,
    tally: &Tally,
    now: &mut Vec<T>,
    late: &mut Vec<(Instant, T)>,
    overtaken: &mut Option<(Instant, T)>,
) {
    if !random.chance(percent) {
        Tally::count(&tally.passed);
        now.push(packet);
        return;
    }
    match random.below(4) {
        0 => Tally::count(&tally.dropped),
        1 => {
            Tally::count(&tally.doubled);
            now.extend([packet.clone(), packet]);
        }
        2 => {
            Tally::count(&tally.delayed);
            let delay = Duration::from_millis(1 + random.below(DELAY_MILLIS_MAX));
            late.push((Instant::now() + delay, packet));
        }
        _ => {
            Tally::count(&tally.overtaken);
            *overtaken = Some((Instant::now() + OVERTAKEN_WITHIN, packet));
        }
    }
}
