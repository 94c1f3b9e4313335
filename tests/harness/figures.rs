//! What a process costs, from `/proc`.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs;

const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

fn field(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Proportional set size in MB.
pub fn pss_mb(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss:") as f64 / 1e3
}

/// Anonymous part of it in MB: heap and stacks, no pages of files.
pub fn pss_anon_mb(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss_Anon:") as f64 / 1e3
}

/// Largest resident set size so far in MB.
pub fn peak_mb(pid: u32) -> f64 {
    field(pid, "status", "VmHWM:") as f64 / 1e3
}

/// Seconds of processor time so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in brackets, which may hold spaces; utime and stime are 14 and 15.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let at = |index: usize| words.get(index).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (at(11) + at(12)) / CLOCK_TICKS_PER_SECOND
}

/// Open descriptors.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count())
}

/// Bytes and packets that an interface has received and sent, in the namespace of this thread.
pub fn traffic(interface: &str) -> Traffic {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let rest = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    let words: Vec<u64> =
        rest.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let at = |index: usize| words.get(index).copied().unwrap_or(0);
    Traffic { received: (at(0), at(1)), sent: (at(8), at(9)) }
}

/// What an interface has carried: bytes and packets each way.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    pub received: (u64, u64),
    pub sent: (u64, u64),
}
