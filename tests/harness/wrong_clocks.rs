//! Clocks of boards that are wrong, through what a build with `fault-injection` reads.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs;
use std::time::Duration;

use crate::board::Board;

/// In seconds.
pub const TWENTY_YEARS: i64 = 631_152_000;
/// Longer ago than there was a clock: boards see 1970.
pub const TO_1970: i64 = -4_000_000_000;
/// Changes of a clock that jumps.
pub const JUMPS: [i64; 6] = [TWENTY_YEARS, TO_1970, 86_400, -86_400, TWENTY_YEARS, 0];

/// How a clock is wrong.
#[derive(Clone, Copy, Debug)]
pub enum Wrong {
    /// By so many seconds; whether the kernel says that a time server keeps it.
    By(i64, bool),
    /// It does not stay.
    Jumping,
}

/// Makes a board's clock wrong from here on.
pub fn set(board: &Board, seconds: i64, is_synced: bool) {
    let synced = if is_synced { "synced" } else { "unsynced" };
    fs::create_dir_all(board.run_dir()).expect("its run-dir");
    let path = board.run_dir().join("clock-shift");
    let fresh = board.run_dir().join("clock-shift.new");
    fs::write(&fresh, format!("{seconds} {synced}\n")).expect("written");
    fs::rename(fresh, path).expect("renamed");
}

/// Makes it right.
pub fn mend(board: &Board) {
    let _none = fs::remove_file(board.run_dir().join("clock-shift"));
}

/// Makes these clocks wrong; a jumping one has jumped then, and stands somewhere.
pub fn make_wrong(boards: &[&Board], wrong: Wrong) {
    match wrong {
        Wrong::By(seconds, synced) => boards.iter().for_each(|board| set(board, seconds, synced)),
        Wrong::Jumping => {
            for seconds in JUMPS {
                boards.iter().for_each(|board| set(board, seconds, false));
                // Longer than the clock is believed without a look.
                std::thread::sleep(Duration::from_millis(400));
            }
        }
    }
}
