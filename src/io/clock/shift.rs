//! A system clock that is wrong on purpose: for trials, in builds with the feature `fault-injection`.
//!
//! The file `clock-shift` in the folder `KUMQUAT_FAULTS` holds `<seconds> [synced|unsynced]`: by how
//! much the clock is off, and what the kernel is made to say of it. The file may change while the board
//! runs; without it the clock is as it is.

use std::fs;
use std::path::Path;

use model::timestamp::Timestamp;

/// What the board is made to believe.
pub(super) fn apply(read: (Timestamp, Option<bool>)) -> (Timestamp, Option<bool>) {
    let Some(folder) = std::env::var_os("KUMQUAT_FAULTS") else { return read };
    let Ok(text) = fs::read_to_string(Path::new(&folder).join("clock-shift")) else { return read };
    let mut words = text.split_whitespace();
    let seconds: i64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let synced = match words.next() {
        Some("synced") => Some(true),
        Some("unsynced") => Some(false),
        _ => read.1,
    };
    // No kernel's clock says less than 1970.
    let shifted = read.0.0.saturating_add(seconds.saturating_mul(1_000_000)).max(0);
    (Timestamp(shifted), synced)
}
