//! What a board has on its host, and what it leaves there.
//!
//! [`Traces`] must be empty after a board is gone; a [`Footprint`] must be the same after every round
//! of a trial, so that nothing grows that a trial repeats.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::board::Board;

/// Time for what a trial has just ended to be gone: closed connections, reaped processes.
const SETTLE_WITHIN: Duration = Duration::from_secs(15);
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Deep enough for `/sys/fs/cgroup/<hierarchy>/<board>/<pod>/<container>`.
const CGROUP_DEPTH: usize = 6;
const FILES_DEPTH: usize = 12;

/// What a board can leave on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    namespaces: BTreeSet<PathBuf>,
    processes: BTreeSet<String>,
}

impl Traces {
    /// Of everything whose name holds `mark`: mounts (pinned namespaces are mounts), cgroups in every
    /// hierarchy, named network namespaces, processes.
    pub fn of(mark: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let has_mark = |path: &Path| path.to_string_lossy().contains(mark);
        Self {
            mounts: mounts
                .lines()
                .filter(|line| line.contains(mark))
                .map(|line| line.split(' ').nth(4).unwrap_or_default().to_owned())
                .collect(),
            cgroups: below(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH, true)
                .filter(|path| has_mark(path))
                .collect(),
            namespaces: fs::read_dir("/run/netns")
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| has_mark(path))
                .collect(),
            processes: processes(mark),
        }
    }

    /// How many processes.
    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// How many things of any kind.
    pub fn count(&self) -> usize {
        self.mounts.len() + self.cgroups.len() + self.namespaces.len() + self.processes.len()
    }
}

/// What a running board holds: everything here is a count or a name that must not grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Open descriptors, by the kind of what they are open on, of each process of the board.
    descriptors: BTreeMap<&'static str, BTreeMap<String, usize>>,
    /// Namespaces that a process lives in or a file pins, by type, beside this machine's own.
    namespaces: BTreeMap<String, usize>,
    mounts: BTreeMap<String, usize>,
    cgroups: BTreeMap<String, usize>,
    process_count: usize,
    /// Files under the run-dir, and those of pods under the data-dir.
    files: BTreeMap<String, usize>,
    packet_rules: String,
}

impl Footprint {
    /// Of a board that is up.
    pub fn of(board: &Board) -> Self {
        let traces = Traces::of(board.name());
        let mut descriptors = BTreeMap::new();
        descriptors.insert("up", descriptors_of(board.pid().cast_signed()));
        for (role, lock) in [("holder", "holder.lock"), ("pump", "pump.lock")] {
            let owner = board.lock_owner(lock);
            descriptors.insert(role, owner.map(descriptors_of).unwrap_or_default());
        }
        let data = board.data_dir();
        let roots = [board.run_dir(), data.join("pods"), data.join("logs")];
        let files: Vec<_> = roots.iter().flat_map(|root| below(root, FILES_DEPTH, false)).collect();
        Self {
            descriptors,
            namespaces: namespaces_of(board),
            process_count: traces.process_count(),
            mounts: counts(traces.mounts.iter().map(Path::new)),
            cgroups: counts(traces.cgroups.iter().map(PathBuf::as_path)),
            files: counts(files.iter().map(PathBuf::as_path)),
            packet_rules: packet_rules(board),
        }
    }

    /// Waits until the board has again what it had, and fails with the difference if it never has.
    pub fn assert_same(&self, board: &Board, when: &str) {
        let deadline = Instant::now() + SETTLE_WITHIN;
        let mut seen = Self::of(board);
        while seen != *self {
            assert!(Instant::now() < deadline, "{when}: not as before:\n{}", self.changes(&seen));
            std::thread::sleep(POLL_EVERY);
            seen = Self::of(board);
        }
    }

    /// The lines by which two footprints differ.
    fn changes(&self, later: &Self) -> String {
        let lines = |footprint: &Self| -> BTreeSet<String> {
            format!("{footprint:#?}").lines().map(str::to_owned).collect()
        };
        let (before, after) = (lines(self), lines(later));
        let gone = before.difference(&after).map(|line| format!("- {line}\n"));
        gone.chain(after.difference(&before).map(|line| format!("+ {line}\n"))).collect()
    }

    /// The footprint once it has stood still for a second.
    pub fn settled(board: &Board) -> Self {
        let deadline = Instant::now() + SETTLE_WITHIN;
        let mut last = Self::of(board);
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_secs(1) && Instant::now() < deadline {
            std::thread::sleep(POLL_EVERY);
            let seen = Self::of(board);
            if seen != last {
                (last, since) = (seen, Instant::now());
            }
        }
        last
    }

    /// How many descriptors all processes of the board have open.
    pub fn descriptor_count(&self) -> usize {
        self.descriptors.values().flat_map(BTreeMap::values).sum()
    }
}

/// Kinds of open descriptors and how many of each; the kernel's numbers are left out.
fn descriptors_of(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for entry in entries {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let text = target.to_string_lossy().into_owned();
        let kind = match text.split_once(":[") {
            Some((kind, _)) => kind.to_owned(),
            None => without_start(&target),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// How often each path is there, whichever start of a container it belongs to.
fn counts<'a>(paths: impl Iterator<Item = &'a Path>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for path in paths {
        *counts.entry(without_start(path)).or_default() += 1;
    }
    counts
}

/// `<uid>_main_7` as `<uid>_main_N`, `7.log` as `N.log`: another start is no difference, one more is.
fn without_start(path: &Path) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let part = |part: &str| match (part.rsplit_once('_'), part.split_once(".log")) {
        (Some((container, start)), _) if is_number(start) => format!("{container}_N"),
        (_, Some((start, rest))) if is_number(start) => format!("N.log{rest}"),
        _ => part.to_owned(),
    };
    let parts: Vec<String> = path.to_string_lossy().split('/').map(part).collect();
    parts.join("/")
}

/// Namespaces of the board's processes and under its run-dir, by type.
fn namespaces_of(board: &Board) -> BTreeMap<String, usize> {
    let mut found = BTreeSet::new();
    for pid in pids_of(board.name()) {
        let entries = fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|entry| fs::read_link(entry.path()).ok()));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let run_dir = board.run_dir().to_string_lossy().into_owned();
    for line in mounts.lines().filter(|line| line.contains(&run_dir)) {
        // mountinfo names the namespace as the root of its mount: `net:[4026532281]`.
        found.extend(line.split(' ').nth(3).filter(|root| root.contains(":[")).map(PathBuf::from));
    }
    let mut kinds = BTreeMap::new();
    for namespace in found {
        let text = namespace.to_string_lossy().into_owned();
        let kind = text.split(':').next().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// nftables of the machine and of the board's namespace, as text; empty without `nft`.
fn packet_rules(board: &Board) -> String {
    let list = || Command::new("nft").args(["list", "ruleset"]).output();
    let text = |output: std::io::Result<std::process::Output>| {
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let own = text(list()).unwrap_or_default();
    let inside = kumquat::io::net::inside(board.namespace(), || text(list())).unwrap_or_default();
    format!("{own}--\n{inside}")
}

/// Paths below a folder, folders only or everything.
fn below(at: &Path, depth: usize, folders_only: bool) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = fs::read_dir(at).into_iter().flatten().flatten();
    Box::new(entries.flat_map(move |entry| {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let own = (is_folder || !folders_only).then(|| path.clone());
        let inner: Box<dyn Iterator<Item = PathBuf>> = match is_folder && depth > 0 {
            true => below(&path, depth - 1, folders_only),
            false => Box::new(std::iter::empty()),
        };
        own.into_iter().chain(inner)
    }))
}

fn pids_of(mark: &str) -> impl Iterator<Item = String> {
    processes(mark).into_iter().filter_map(|line| line.split(' ').next().map(str::to_owned))
}

/// Processes with `mark` in their command line or cgroup, as `pid command`.
///
/// One that has ended and was left to the machine's own init is not the board's any more.
fn processes(mark: &str) -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let own = std::process::id().to_string();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
            let file = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let line = file("cmdline").replace('\0', " ");
            let marked = line.contains(mark) || file("cgroup").contains(mark);
            let status = file("status");
            let has = |start: &str| status.lines().any(|line| line.starts_with(start));
            let ended = has("State:\tZ") && status.lines().any(|line| line == "PPid:\t1");
            (marked && pid != own && !ended).then(|| format!("{pid} {line}"))
        })
        .collect()
}
