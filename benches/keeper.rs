//! What the keeper costs: create+start beside crun and runc with the same spec, exec, and memory.
//!
//! `cargo bench --profile fast --bench keeper`. Needs root and busybox-static; crun and runc are
//! measured when they are there. `KUMQUAT_BINARY` names another binary, the static release for one.

#[path = "../tests/keeper_board/mod.rs"]
mod keeper_board;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keeper_board::{Board, run};
use kumquat::io::keeper::{ExecV1, Keeper, KeeperPaths};
use serde_json::{Value, json};

const ROUNDS: usize = 40;

fn main() {
    hide_unified_cgroups();
    run("bench", async |board| {
        let paths = KeeperPaths { exe: own_copy(board), ..board.paths.clone() };
        let keeper = Keeper::connect_or_spawn(paths).await.expect("a keeper");
        board.sandbox(&keeper, "pod").await;
        memory(&keeper, 0).await;
        latency(board, &keeper).await;
        for number in 0..10 {
            let start = board.start("pod", &format!("m{number}"), "sleep 1000");
            keeper.start(start).await.expect("started");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        memory(&keeper, 10).await;
    });
}

/// Debian's crun refuses hybrid control groups: all runtimes are measured on plain version 1, in a
/// mount namespace of this process. Must run before there are threads.
fn hide_unified_cgroups() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.is_dir() || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
        return;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    umount2(unified, MntFlags::MNT_DETACH).expect("unified control groups unmounted here");
}

/// A copy of the binary, so that no page is shared with other processes.
fn own_copy(board: &Board) -> PathBuf {
    let copy = board.dir.join("kumquat");
    let binary = std::env::var_os("KUMQUAT_BINARY").map_or(board.paths.exe.clone(), PathBuf::from);
    fs::copy(binary, &copy).expect("copied");
    copy
}

async fn latency(board: &Board, keeper: &Keeper) {
    let (mut ours, mut removals, mut execs) = (Vec::new(), Vec::new(), Vec::new());
    let mut others: Vec<(&str, Vec<Duration>)> = vec![("crun", vec![]), ("runc", vec![])];
    for round in 0..ROUNDS {
        let id = format!("c{round}");
        let start = board.start("pod", &id, "sleep 1000");
        let begun = Instant::now();
        keeper.start(start).await.expect("started");
        ours.push(begun.elapsed());
        let exec = ExecV1 {
            id: id.clone(),
            argv: vec!["true".into()],
            timeout_ms: 10_000,
            ..ExecV1::default()
        };
        let begun = Instant::now();
        keeper.exec(exec).await.expect("ran");
        execs.push(begun.elapsed());
        let bundle = bundle(board, &id);
        let begun = Instant::now();
        keeper.remove(&id).await.expect("removed");
        removals.push(begun.elapsed());
        for (name, times) in &mut others {
            times.extend(start_with(name, &board.dir, &bundle, &id));
        }
    }
    print("keeper create+start (with overlay)", &mut ours);
    for (name, mut times) in others {
        print(&format!("{name} create+start (without overlay)"), &mut times);
    }
    print("keeper exec", &mut execs);
    print("keeper remove", &mut removals);
}

/// The keeper's own spec for another runtime: the image itself as root, another cgroup.
fn bundle(board: &Board, id: &str) -> PathBuf {
    let own = board.paths.run_dir.join("keeper/containers").join(id).join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(own).expect("runs")).expect("a spec");
    spec["root"] = json!({"path": board.dir.join("image"), "readonly": false});
    spec["linux"]["cgroupsPath"] = json!(format!("/{}/other", board.paths.cgroup));
    let bundle = board.dir.join("bundle");
    fs::create_dir_all(&bundle).expect("tmp");
    fs::write(bundle.join("config.json"), spec.to_string()).expect("tmp");
    bundle
}

fn start_with(name: &str, dir: &Path, bundle: &Path, id: &str) -> Option<Duration> {
    let root = dir.join(name);
    let runtime = |arguments: &[&str]| {
        let mut command = Command::new(name);
        command.arg("--root").arg(&root).stdin(Stdio::null());
        command.args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let bundle = bundle.to_str()?;
    let begun = Instant::now();
    let started = runtime(&["run", "-d", "--bundle", bundle, id]);
    let took = begun.elapsed();
    runtime(&["delete", "-f", id]);
    started.then_some(took)
}

fn print(name: &str, times: &mut [Duration]) {
    times.sort();
    if times.is_empty() {
        return println!("{name}: not run");
    }
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{name}: p50 {:.1} ms, p90 {:.1} ms", millis(at(50)), millis(at(90)));
}

async fn memory(keeper: &Keeper, containers: usize) {
    let info = keeper.info().await.expect("alive");
    let pss = |pid: u32| -> u64 {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(path).expect("alive");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    };
    let (holder, pump) = (pss(info.pid), info.pump.map_or(0, pss));
    println!("keeper PSS with {containers} containers: holder {holder} kB, pump {pump} kB");
}
