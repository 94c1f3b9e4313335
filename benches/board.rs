//! Measures what one board costs: the rows of SPEC.md that a single board has.
//!
//! `cargo xtask bench [MINUTES_IDLE]` builds the static release binary and runs this with
//! `KUMQUAT_BINARY` set to it. Prints figures and their budget; it never fails on a slow machine.
//! The board's data-dir lies on an ext4 loop device of its own, so that every byte that reaches the
//! device is counted, journal included.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;
#[path = "../tests/harness/disk.rs"]
mod disk;

use std::time::{Duration, Instant};

use board::{Board, text};
use disk::Disk;
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    if !board::possible("bench") || !busybox::present("bench") {
        return;
    }
    let minutes: f64 =
        std::env::var("KUMQUAT_IDLE_MINUTES").ok().and_then(|m| m.parse().ok()).unwrap_or(10.0);
    let disk = Disk::new("bench", 512);
    let mut board = Board::on("bench", disk.folder());
    board.up(&[]);
    let imported = board.command(&["image", "import", board.busybox().to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));

    row("binary", &format!("{:.2} MB", binary_bytes() as f64 / 1e6), "14 MB on aarch64");
    start_to_ready(&mut board);
    memory(&board, "one board idle, all roles", "24 MB");
    durable_writes(&board, &disk);
    apply_to_running(&board);
    pods_memory(&board);
    idle(&board, &disk, minutes);
}

fn row(what: &str, measured: &str, budget: &str) {
    println!("{what:<44} {measured:<40} budget {budget}");
}

fn binary_bytes() -> u64 {
    std::fs::metadata(Board::binary_path()).map_or(0, |facts| facts.len())
}

fn percentiles(samples: &mut [f64]) -> String {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
    format!("p50 {:.0} ms, p99 {:.0} ms (n={})", at(0.5), at(0.99), samples.len())
}

fn start_to_ready(board: &mut Board) {
    // Asked for once, while the board runs; a restart does not change it.
    board.kubeconfig();
    let mut samples = Vec::new();
    for _ in 0..20 {
        board.stop();
        let started = Instant::now();
        board.start(&[]);
        while board.api_text("/readyz").is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        samples.push(started.elapsed().as_secs_f64() * 1e3);
    }
    row("process start to API ready", &percentiles(&mut samples), "300 ms");
}

/// Proportional set size of all processes of the board, in kB.
fn pss(board: &Board) -> Vec<(String, u64)> {
    board
        .processes()
        .into_iter()
        .map(|pid| {
            let file = |name: &str| {
                std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
            };
            let line = file("cmdline").replace('\0', " ");
            let kind = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let rollup = file("smaps_rollup");
            let field = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kilobytes = field.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            (kind, kilobytes.unwrap_or(0))
        })
        .collect()
}

fn memory(board: &Board, what: &str, budget: &str) -> u64 {
    std::thread::sleep(Duration::from_secs(20));
    let parts = pss(board);
    let total: u64 = parts.iter().map(|(_, kilobytes)| kilobytes).sum();
    let listed: Vec<_> = parts.iter().map(|(kind, kb)| format!("{kind} {kb} kB")).collect();
    let figure = format!("{:.1} MB PSS ({})", total as f64 / 1e3, listed.join(", "));
    row(what, &figure, budget);
    total
}

fn durable_writes(board: &Board, disk: &Disk) {
    let value = "x".repeat(1_000);
    let before = disk.bytes_written();
    let count = 200;
    let mut samples = Vec::new();
    for index in 0..count {
        let began = Instant::now();
        let name = format!("bench-{index}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"value": value}});
        board.create(CONFIG_MAPS, &body);
        samples.push(began.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
    }
    std::thread::sleep(Duration::from_secs(8));
    let per_write = (disk.bytes_written() - before) / count;
    row("device bytes per durable write, 10/s", &format!("{per_write} bytes"), "16 KB");
    row("  latency of each, with a new TLS connection", &percentiles(&mut samples), "-");
}

fn sleeper(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": busybox::IMAGE, "command": ["/bin/sleep", "100000"]}]}})
}

fn apply_to_running(board: &Board) {
    let mut samples = Vec::new();
    for index in 0..50 {
        let name = format!("run-{index}");
        samples.push(board.create_and_watch_running(PODS, &sleeper(&name)).as_secs_f64() * 1e3);
        board.api("DELETE", &format!("{PODS}/{name}"), None).expect("delete");
    }
    let what = "apply to Running seen on a watch";
    row(what, &percentiles(&mut samples), "p50 150 ms, p99 500 ms");
    board.wait_for("pods gone", PODS, Duration::from_secs(60), |pods| {
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
}

fn pods_memory(board: &Board) {
    let before = memory(board, "  before 10 pods", "-");
    for index in 0..10 {
        board.create_and_watch_running(PODS, &sleeper(&format!("mem-{index}")));
    }
    let after = memory(board, "  with 10 pods", "-");
    let each = after.saturating_sub(before) as f64 / 10.0 / 1e3;
    row("each pod", &format!("{each:.2} MB PSS"), "0.3 MB");
}

fn idle(board: &Board, disk: &Disk, minutes: f64) {
    // The kernel writes back what was not synced (new folders and logs of the pods) up to half a
    // minute later; idle begins after that.
    // What boards keep of the network is written five minutes after the last change at the latest.
    std::thread::sleep(Duration::from_secs(330));
    let ticks = || -> f64 {
        let of = |pid: i32| -> f64 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = stat.rsplit(')').next().unwrap_or_default().to_owned();
            let fields: Vec<_> = after.split_whitespace().collect();
            let number = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
            number(11).unwrap_or(0.0) + number(12).unwrap_or(0.0)
        };
        board.processes().into_iter().map(of).sum()
    };
    let (bytes, cpu, began) = (disk.bytes_written(), ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs_f64(minutes * 60.0));
    let seconds = began.elapsed().as_secs_f64();
    let share = (ticks() - cpu) / CLOCK_TICKS_PER_SECOND / seconds * 100.0;
    let written = disk.bytes_written() - bytes;
    row(
        "idle with 10 pods: disk writes",
        &format!("{written} bytes in {minutes} min"),
        "0 bytes in 10 min",
    );
    row("idle with 10 pods: CPU", &format!("{share:.3} % of a core"), "0.5 %");
}
