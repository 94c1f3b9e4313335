//! What runs short on this board: memory, disk, process numbers, by kubelet's thresholds
//! (`memory.available`, `nodefs.available`, `nodefs.inodesFree`).
//!
//! Looked at with each beat, told on a change only. A shortage ends at twice the threshold of memory
//! or process numbers, so that a value at the edge does not write to the master's disk for ever.

use std::path::Path;

use crate::io::host::{DiskSpace, MemoryUse, PidUse};

/// Below this much memory a board is under pressure; a tenth of it on boards of less than 1 GiB.
const MEMORY_AVAILABLE_BYTES_MIN: u64 = 100 * 1024 * 1024;
/// Below this share of the kernel's process numbers.
const PIDS_FREE_PERCENT_MIN: u64 = 10;
/// Below this share of the file system, in percent, and below this many bytes: kubelet's share alone
/// would leave a tenth of a large drive unused. Blocks that are reserved for root count as used.
const DISK_FREE_PERCENT_MIN: u64 = 10;
const DISK_FREE_BYTES_ENOUGH: u64 = 4 * 1024 * 1024 * 1024;
/// Below this share of the files that the file system can hold.
pub(super) const INODES_FREE_PERCENT_MIN: u64 = 5;

/// What runs short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

impl Pressure {
    /// Looks at the board; a shortage of `self` ends later than it began. Blocking.
    pub(super) fn look_again(self, data_dir: &Path, memory_bytes: u64) -> Self {
        Self {
            memory: self.is_short_of_memory(MemoryUse::read().available_bytes, memory_bytes),
            disk: DiskSpace::of(data_dir).is_ok_and(|space| is_nearly_full(&space)),
            pids: self.is_short_of_pids(PidUse::read()),
        }
    }

    fn is_short_of_memory(self, available: u64, total: u64) -> bool {
        let threshold = MEMORY_AVAILABLE_BYTES_MIN.min(total / 10);
        // Kernels before 3.14 and broken /proc say nothing: 0 of 0.
        available > 0 && available < if self.memory { 2 * threshold } else { threshold }
    }

    fn is_short_of_pids(self, pids: PidUse) -> bool {
        let threshold = pids.max / 100 * PIDS_FREE_PERCENT_MIN;
        let free = pids.max.saturating_sub(pids.used);
        free < if self.pids { 2 * threshold } else { threshold }
    }
}

/// The bytes that stay free on a file system of `total_bytes`, or it is nearly full.
pub(super) fn disk_free_bytes_min(total_bytes: u64) -> u64 {
    (total_bytes / 100 * DISK_FREE_PERCENT_MIN).min(DISK_FREE_BYTES_ENOUGH)
}

fn is_nearly_full(space: &DiskSpace) -> bool {
    space.available_bytes < disk_free_bytes_min(space.total_bytes)
        || space.inodes_available < space.inodes_total / 100 * INODES_FREE_PERCENT_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_runs_short_below_the_threshold_and_recovers_above_twice_of_it() {
        let check = |was: bool, available_mi: u64, total_mi: u64, expected: bool| {
            let before = Pressure { memory: was, ..Pressure::default() };
            let short = before.is_short_of_memory(available_mi << 20, total_mi << 20);
            assert_eq!(short, expected, "{was} {available_mi} of {total_mi}");
        };
        check(false, 101, 4_096, false);
        check(false, 99, 4_096, true);
        check(true, 199, 4_096, true);
        check(true, 201, 4_096, false);
        check(false, 60, 512, false);
        check(false, 50, 512, true);
        check(false, 0, 0, false);
    }

    #[test]
    fn process_numbers_run_short() {
        let short = |was: bool, used: u64, max: u64| {
            Pressure { pids: was, ..Pressure::default() }.is_short_of_pids(PidUse { used, max })
        };
        assert!(!short(false, 29_000, 32_768) && short(false, 30_000, 32_768));
        assert!(short(true, 29_000, 32_768) && !short(true, 20_000, 32_768));
        assert!(!short(false, 0, 0), "unknown");
    }

    #[test]
    fn a_full_disk_is_one_without_room_or_without_inodes() {
        let check = |available_bytes, inodes_available, expected| {
            let (total_bytes, inodes_total) = (16_000_000_000, 1_000_000);
            let space = DiskSpace { total_bytes, available_bytes, inodes_available, inodes_total };
            assert_eq!(is_nearly_full(&space), expected, "{space:?}");
        };
        check(8_000_000_000, 500_000, false);
        check(1_600_000_000, 50_000, false);
        check(1_599_999_999, 500_000, true);
        check(8_000_000_000, 49_999, true);
        let large = |available_bytes| {
            let total_bytes = 1_000_000_000_000;
            is_nearly_full(&DiskSpace { total_bytes, available_bytes, ..Default::default() })
        };
        assert!(large((4 << 30) - 1) && !large(4 << 30), "4 GiB of 1 TB are enough");
        // btrfs and others bound no files.
        let unbounded = DiskSpace { total_bytes: 100, available_bytes: 50, ..Default::default() };
        assert!(!is_nearly_full(&unbounded));
    }
}
