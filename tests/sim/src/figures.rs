//! What a process costs, from `/proc`.

use std::fs;

const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

fn field(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Proportional set size in MB.
pub(crate) fn pss_mb(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss:") as f64 / 1e3
}

/// Anonymous part of it in MB: heap and stacks, no pages of files.
pub(crate) fn pss_anon_mb(pid: u32) -> f64 {
    field(pid, "smaps_rollup", "Pss_Anon:") as f64 / 1e3
}

/// Largest resident set size so far in MB.
pub(crate) fn peak_mb(pid: u32) -> f64 {
    field(pid, "status", "VmHWM:") as f64 / 1e3
}

/// Seconds of processor time so far.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in brackets, which may hold spaces; utime and stime are 14 and 15.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let at = |index: usize| words.get(index).and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (at(11) + at(12)) / CLOCK_TICKS_PER_SECOND
}

/// Open descriptors.
pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count())
}

/// Bytes and packets that this namespace's loopback has carried.
pub(crate) fn loopback() -> (u64, u64) {
    let counter = |name: &str| {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = if name == "bytes" { 0 } else { 1 };
        words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    (counter("bytes"), counter("packets"))
}
