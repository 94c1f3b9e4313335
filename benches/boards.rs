//! Ten real boards on a switch: how long until all are ready, what each costs, what idling carries.
//!
//! `cargo xtask bench boards [MINUTES_IDLE]` builds the static release binary and runs this with
//! `KUMQUAT_BINARY` set to it. All boards are switched on at the same moment: nine with a token, and
//! the master that has made it. Prints figures; only a board that never gets ready makes it fail.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;
#[path = "../tests/harness/figures.rs"]
mod figures;
#[path = "../tests/harness/switch.rs"]
mod switch;

use std::time::{Duration, Instant};

use board::{Board, ETH, text};
use figures::Traffic;
use kumquat::io::net;
use switch::Cluster;

const BOARDS: u8 = 10;
const ROUNDS: usize = 5;
const WORKER_BUDGET: &str = "10 MB";

fn main() {
    if !board::possible("bench boards") {
        return;
    }
    let minutes: f64 =
        std::env::var("KUMQUAT_IDLE_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(2.0);
    let mut times = Vec::new();
    for round in 1..ROUNDS {
        let mut cluster = Cluster::founded(&format!("bench{round}"), BOARDS);
        times.push(all_ready(&mut cluster));
    }
    let mut cluster = Cluster::founded("bench", BOARDS);
    times.push(all_ready(&mut cluster));
    times.sort_by(f64::total_cmp);
    let shown: Vec<_> = times.iter().map(|time| format!("{time:.1}")).collect();
    row("ten boards started at once: all Ready", &format!("{} s", shown.join(", ")), "-");
    // Boards give back what only their start needed a minute after it.
    std::thread::sleep(Duration::from_secs(75));
    row("master, no pods", &pss(&cluster.boards[0]).1, "24 MB");
    let workers: Vec<_> = cluster.boards[1..].iter().map(pss).collect();
    let mean = workers.iter().map(|(total, _)| total).sum::<f64>() / workers.len() as f64;
    row("worker, no pods, the mean of nine", &format!("{mean:.1} MB PSS"), WORKER_BUDGET);
    row("  one of them", &workers[0].1, "-");
    idle(&cluster, minutes);
}

fn row(what: &str, measured: &str, budget: &str) {
    println!("{what:<44} {measured:<52} budget {budget}");
}

/// Switches all boards off and on again, nine of them new; seconds until all are ready.
fn all_ready(cluster: &mut Cluster) -> f64 {
    let uses = (BOARDS - 1).to_string();
    let made = cluster.master().command(&["token", "create", "--role", "worker", "--uses", &uses]);
    assert!(made.status.success(), "{}", text(&made));
    let token = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    cluster.boards[0].stop();
    let begun = Instant::now();
    cluster.boards[0].start(&[]);
    for board in &mut cluster.boards[1..] {
        board.start(&["--token", &token]);
    }
    // The control socket of the master comes with it.
    let count = BOARDS.to_string();
    loop {
        let waited = cluster.master().command(&["wait", "--boards", &count, "--timeout", "60s"]);
        if waited.status.success() {
            return begun.elapsed().as_secs_f64();
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", text(&waited));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All processes of a board in MB, and how that is made up.
fn pss(board: &Board) -> (f64, String) {
    let processes = board.processes().into_iter().filter_map(|pid| u32::try_from(pid).ok());
    let parts: Vec<f64> = processes.map(figures::pss_mb).collect();
    let total: f64 = parts.iter().sum();
    let listed: Vec<_> = parts.iter().map(|part| format!("{part:.1}")).collect();
    (total, format!("{total:.1} MB PSS ({})", listed.join(" + ")))
}

fn idle(cluster: &Cluster, minutes: f64) {
    let traffic = || -> Vec<Traffic> {
        let of = |board: &Board| net::inside(board.namespace(), || Ok(figures::traffic(ETH)));
        cluster.boards.iter().map(|board| of(board).expect("namespace")).collect()
    };
    let cpu = |board: &Board| -> f64 {
        let processes = board.processes().into_iter().filter_map(|pid| u32::try_from(pid).ok());
        processes.map(figures::cpu_seconds).sum()
    };
    let cpus = || -> Vec<f64> { cluster.boards.iter().map(cpu).collect() };
    let (before, cpus_before, begun) = (traffic(), cpus(), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(minutes * 60.0));
    let (after, cpus_after, took) = (traffic(), cpus(), begun.elapsed().as_secs_f64());
    let rate = |index: usize| {
        let per = |later: u64, earlier: u64| (later - earlier) as f64 / took;
        let (now, then) = (after[index], before[index]);
        format!(
            "in {:.0} bytes/s, {:.1} packets/s; out {:.0} bytes/s, {:.1} packets/s",
            per(now.received.0, then.received.0),
            per(now.received.1, then.received.1),
            per(now.sent.0, then.sent.0),
            per(now.sent.1, then.sent.1),
        )
    };
    let busy = |index: usize| (cpus_after[index] - cpus_before[index]) / took * 100.0;
    row(&format!("idle for {minutes} min, master"), &rate(0), "-");
    row("  a worker", &rate(1), "-");
    let shares = format!("master {:.2} %, a worker {:.2} % of a core", busy(0), busy(1));
    row("  processor", &shares, "0.5 %");
}
