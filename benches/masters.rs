//! Three masters among ten boards on a switch: what idling and what a durable write cost each of them.
//!
//! `cargo xtask bench masters [SECONDS_IDLE]` builds the static release binary and runs this with
//! `KUMQUAT_BINARY` set to it. Every board has a disk of its own, whose device counts what reaches it.
//! `KUMQUAT_BOARDS` asks for another number of boards, `KUMQUAT_THREADS=1` for the cost of each thread.
//! Prints figures; only boards that never get ready make it fail.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;
#[path = "../tests/harness/disk.rs"]
mod disk;
#[path = "../tests/harness/figures.rs"]
mod figures;
#[path = "../tests/harness/switch.rs"]
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use board::{Board, ETH, text};
use disk::Disk;
use kumquat::io::net;
use serde_json::{Value, json};
use switch::Cluster;

const BOARDS: u8 = 10;
const MASTERS: usize = 3;
const DISK_MEGABYTES: u64 = 64;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// After the last change everything that is put off has been written by then: what a board knows of the network
/// 300 s later.
const SETTLED: Duration = Duration::from_secs(330);
const WRITES: u64 = 300;
const WRITE_EVERY: Duration = Duration::from_millis(100);

fn main() {
    if !board::possible("bench masters") {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let idle = Duration::from_secs(number("KUMQUAT_IDLE_SECONDS").unwrap_or(600));
    let boards = number("KUMQUAT_BOARDS").and_then(|boards| u8::try_from(boards).ok());
    let by_thread = number("KUMQUAT_THREADS").is_some();
    // The disks are gone after the boards.
    let mut disks = Vec::new();
    let cluster = grown(boards.unwrap_or(BOARDS), &mut disks);
    std::thread::sleep(SETTLED);
    let parts = parts(&cluster);
    println!("{boards} boards, {MASTERS} of them masters", boards = cluster.boards.len());
    head(&format!("idle for {} s", idle.as_secs()));
    let before: Vec<_> = cluster.boards.iter().zip(&disks).map(Cost::of).collect();
    let threads_before = threads(&cluster, by_thread);
    let began = Instant::now();
    std::thread::sleep(idle);
    let took = began.elapsed().as_secs_f64();
    let after: Vec<_> = cluster.boards.iter().zip(&disks).map(Cost::of).collect();
    for (index, part) in &parts {
        after[*index].since(&before[*index]).row(part, took);
    }
    show_threads(&parts, &threads_before, &threads(&cluster, by_thread), took);
    writes(&cluster, &disks, &parts);
}

/// A cluster with three voters; the other boards never become masters.
fn grown(count: u8, disks: &mut Vec<Disk>) -> Cluster {
    let mut cluster = Cluster::off("bench-masters", count);
    for board in &mut cluster.boards {
        disks.push(Disk::at(&board.data_dir(), board.name(), DISK_MEGABYTES));
        board.configure("[masters]\nvoters = 3");
    }
    cluster.boards[0].up(&[]);
    for index in 1..cluster.boards.len() {
        cluster.role = if index < MASTERS { "auto" } else { "worker" };
        cluster.start_joining(index);
    }
    for index in 1..cluster.boards.len() {
        cluster.wait_ready(index, Duration::from_secs(120));
    }
    let voters = MASTERS.to_string();
    let waited = cluster.boards[0].command(&["wait", "--voters", &voters, "--timeout", "120s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[0].log());
    cluster
}

/// Of which boards figures are shown, and what they are.
fn parts(cluster: &Cluster) -> Vec<(usize, &'static str)> {
    let said = cluster.boards[0].command(&["status", "-o", "json"]);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
    let leader = cluster.boards.iter().position(|board| said["leader"] == board.node());
    let leader = leader.expect("somebody leads");
    let follower = (0..MASTERS).find(|index| *index != leader).expect("three masters");
    let worker = (cluster.boards.len() > MASTERS).then_some((MASTERS, "worker"));
    [(leader, "leader"), (follower, "follower")].into_iter().chain(worker).collect()
}

/// What a board has cost so far.
#[derive(Clone, Copy)]
struct Cost {
    cpu_seconds: f64,
    wakes: u64,
    packets: u64,
    bytes: u64,
    device_bytes: u64,
    pss_mb: f64,
    /// Heap and stacks.
    anon_mb: f64,
}

impl Cost {
    fn of((board, disk): (&Board, &Disk)) -> Self {
        let processes = processes(board);
        let carried = net::inside(board.namespace(), || Ok(figures::traffic(ETH)));
        let carried = carried.expect("namespace");
        Self {
            cpu_seconds: processes.iter().map(|pid| figures::cpu_seconds(*pid)).sum(),
            wakes: processes.iter().flat_map(|pid| threads_of(*pid)).map(|it| it.1.wakes).sum(),
            packets: carried.received.1 + carried.sent.1,
            bytes: carried.received.0 + carried.sent.0,
            device_bytes: disk.bytes_written(),
            pss_mb: processes.iter().map(|pid| figures::pss_mb(*pid)).sum(),
            anon_mb: processes.iter().map(|pid| figures::pss_anon_mb(*pid)).sum(),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            wakes: self.wakes.saturating_sub(before.wakes),
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            device_bytes: self.device_bytes - before.device_bytes,
            ..*self
        }
    }

    fn row(&self, part: &str, took: f64) {
        println!(
            "{part:<10} {:>8.2} {:>10.1} {:>11.1} {:>9.0} {:>13} {:>8.1} ({:.1})",
            self.cpu_seconds / took * 100.0,
            self.wakes as f64 / took,
            self.packets as f64 / took,
            self.bytes as f64 / took,
            self.device_bytes,
            self.pss_mb,
            self.anon_mb,
        );
    }
}

fn head(what: &str) {
    println!(
        "{what}\n{:<10} {:>8} {:>10} {:>11} {:>9} {:>13} {:>15}",
        "", "cpu %", "wakes/s", "packets/s", "bytes/s", "disk bytes", "PSS MB (anon)"
    );
}

fn processes(board: &Board) -> Vec<u32> {
    board.processes().into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect()
}

/// What a thread has cost so far.
#[derive(Clone, Copy, Default)]
struct Thread {
    ticks: u64,
    wakes: u64,
}

/// The threads of a process by number and name.
fn threads_of(pid: u32) -> Vec<(String, Thread)> {
    let folder = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let thread = |path: std::path::PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let name = name.split_once('(')?.1.to_owned();
        let words: Vec<&str> = rest.split_whitespace().collect();
        let at = |index: usize| words.get(index).and_then(|word| word.parse().ok()).unwrap_or(0u64);
        let status = fs::read_to_string(path.join("status")).ok()?;
        let wakes = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let wakes = wakes.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let number = path.file_name()?.to_string_lossy().into_owned();
        Some((format!("{name} {number}"), Thread { ticks: at(11) + at(12), wakes }))
    };
    folder.filter_map(|entry| thread(entry.path())).collect()
}

type Threads = Vec<BTreeMap<String, Thread>>;

fn threads(cluster: &Cluster, wanted: bool) -> Threads {
    let of = |board: &Board| {
        let processes = if wanted { processes(board) } else { Vec::new() };
        processes.into_iter().flat_map(threads_of).collect()
    };
    cluster.boards.iter().map(of).collect()
}

fn show_threads(parts: &[(usize, &str)], before: &Threads, after: &Threads, took: f64) {
    for (index, part) in parts {
        for (name, now) in &after[*index] {
            let then = before[*index].get(name).copied().unwrap_or_default();
            let (ticks, wakes) = (now.ticks - then.ticks, now.wakes - then.wakes);
            if ticks + wakes > 0 {
                let (cpu, wakes) = (ticks as f64 / took, wakes as f64 / took);
                println!("  {part}: {name:<24} {cpu:>6.2} % {wakes:>8.1} wakes/s");
            }
        }
    }
}

/// Ten writes a second through the leader, for half a minute.
fn writes(cluster: &Cluster, disks: &[Disk], parts: &[(usize, &str)]) {
    let leader = &cluster.boards[parts[0].0];
    let value = "x".repeat(1_000);
    let before: Vec<u64> = disks.iter().map(Disk::bytes_written).collect();
    let mut times = Vec::new();
    for index in 0..WRITES {
        let began = Instant::now();
        let name = format!("bench-{index}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"value": value}});
        leader.create(CONFIG_MAPS, &body);
        times.push(began.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(WRITE_EVERY.saturating_sub(began.elapsed()));
    }
    // The state follows the log a moment later.
    std::thread::sleep(Duration::from_secs(8));
    println!("{WRITES} durable writes, ten a second, each over a connection of its own");
    for (index, part) in parts {
        let per_write = (disks[*index].bytes_written() - before[*index]) / WRITES;
        println!("{part:<10} {per_write:>8} bytes to the device per write");
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(times.len() as f64 * share) as usize];
    println!("latency    p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99));
}
