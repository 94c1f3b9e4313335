//! A cluster that version 0.2.0 made, with its data and its tokens, gets this build board by board,
//! grows to three masters, and survives its leader.
//!
//! Runs where `target/v0.2.0/kumquat` lies (`cargo xtask soak upgrade` builds it from its commit).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::{self, GAP_MAX, MAPS, Users, WITHIN};
use crate::board::{Board, possible, text};
use crate::busybox;
use crate::history;
use crate::switch::{Cluster, is_ready};

/// The release that the cluster comes from.
const OLD: &str = "0.2.0";
/// How long the group may take to have its voters, on a machine that is busy.
const GROWN_WITHIN: &str = "120s";

/// The binary of that release, if it is there and is that one.
fn old_binary() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/v0.2.0/kumquat");
    let said = Command::new(&path).args(["version", "-o", "json"]).output().ok()?;
    let said: Value = serde_json::from_slice(&said.stdout).ok()?;
    // Builds before the next release call themselves the same; that release knew one master.
    let knows = Command::new(&path).args(["promote", "--help"]).output().ok()?;
    (said["version"] == OLD && !knows.status.success()).then_some(path)
}

/// Another version on a board that is stopped for it; gives how long it was away.
fn exchange(board: &mut Board, binary: &Path) -> Duration {
    let began = Instant::now();
    board.stop();
    board.install(binary);
    board.start(&[]);
    let waited = board.command(&["wait", "--timeout", "30s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), board.log());
    began.elapsed()
}

fn status(board: &Board) -> Value {
    let said = board.command(&["status", "-o", "json"]);
    serde_json::from_slice(&said.stdout).unwrap_or_default()
}

/// Waits until the board says that all boards are ready and run this version.
fn wait_all(board: &Board, versions: &[&str]) -> Duration {
    let began = Instant::now();
    loop {
        let said = status(board);
        let boards = said["boards"].as_array().map_or(&[][..], Vec::as_slice);
        let fine = boards.len() == versions.len()
            && boards.iter().zip(versions).all(|(board, version)| {
                board["ready"] == true && board["version"].as_str() == Some(version)
            });
        if fine {
            return began.elapsed();
        }
        assert!(began.elapsed() < WITHIN, "not all ready with {versions:?}: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_cluster_of_the_first_release_grows_to_three_masters() {
    grow("grow", [1, 2, 0]);
}

#[test]
fn it_grows_when_its_master_goes_first() {
    grow("growfirst", [0, 1, 2]);
}

/// Exchanges the binaries of three boards in an order; the first is the master.
fn grow(name: &str, order: [usize; 3]) {
    if !possible("growth") || !busybox::present("growth") {
        return;
    }
    let Some(old) = old_binary() else {
        println!(
            "not run: growth of a cluster of {OLD} needs its binary: cargo xtask soak upgrade"
        );
        return;
    };
    let new = Board::binary_path();
    let mut cluster = Cluster::off(name, 3);
    for board in &cluster.boards {
        board.install(&old);
    }
    cluster.boards[0].up(&[]);
    cluster.join();
    bed::fill(&cluster);
    let (data, containers) = (bed::data(cluster.master()), bed::containers(cluster.master()));
    let first = bed::version(cluster.master());
    let now = env!("CARGO_PKG_VERSION");
    assert_ne!(OLD, now, "two versions");
    let mut versions = [OLD; 3];
    wait_all(cluster.master(), &versions);
    let (began, from) = (Instant::now(), history::now());
    let users = Users::start(&cluster);
    for index in order {
        let away = exchange(&mut cluster.boards[index], &new);
        println!("{} was away for {away:.2?}", cluster.boards[index].node());
        let mixed = versions == [OLD; 3];
        versions[index] = now;
        wait_all(cluster.master(), &versions);
        if mixed {
            assert_eq!(bed::data(cluster.master()), data, "with boards of two versions");
            // One of the two ends of the wire is a version ahead.
            bed::run_one_more(&cluster, if index == 0 { 2 } else { index });
        }
    }
    let ready = wait_all(cluster.master(), &[now; 3]);
    let mixed_until = history::now();
    println!("all ready with the new version after {ready:.2?} more");
    let waited = cluster.boards[0].command(&["wait", "--voters", "3", "--timeout", GROWN_WITHIN]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), status(cluster.master()));
    println!("three voters {:.2?} after the first exchange", began.elapsed());
    let grown = history::now();
    assert_eq!(bed::data(cluster.master()), data, "all objects are the same");
    assert_eq!(bed::containers(cluster.master()), containers, "no container was touched");
    assert!(bed::version(cluster.master()) > first);
    let killed = (Instant::now(), history::now());
    cluster.boards[0].kill();
    let next = loop {
        let leads = |index: &usize| {
            status(&cluster.boards[*index])["leader"] == cluster.boards[*index].node()
        };
        if let Some(index) = [1, 2].into_iter().find(leads) {
            break index;
        }
        assert!(killed.0.elapsed() < WITHIN, "nobody leads");
    };
    println!("another leader after {:.2?}", killed.0.elapsed());
    cluster.boards[next].wait_for("a read", MAPS, WITHIN, |_| true);
    std::thread::sleep(Duration::from_secs(3));
    let ended = history::now();
    too_old(&mut cluster.boards[0], &old);
    come_back(&mut cluster, next, &new);
    let (written, calls) = users.stop();
    let leader = &cluster.boards[next];
    assert_eq!(bed::data(leader), data, "all objects are the same after the leader's death");
    assert_eq!(bed::containers(leader), containers, "no container was touched");
    judge_writes(&written, leader);
    let gap = |from, until| written.longest_gap(from, until);
    println!(
        "{} accepted writes; longest time without: {:.2?} over the exchange of binaries, {:.2?} while it \
         grew, {:.2?} over the leader's death",
        written.accepted().len(),
        gap(from, mixed_until),
        gap(mixed_until, grown),
        gap(killed.1, ended),
    );
    let failed = bed::failed(&calls, began);
    println!("{} calls of the Service, {failed} failed", calls.len());
    assert!(calls.len() > 300, "callers were at work");
    assert_eq!(failed, 0, "no call of the Service fails");
    assert!(gap(mixed_until, grown) < Duration::from_secs(2), "growth stops no writer");
    for (from, until) in [(from, mixed_until), (killed.1, ended)] {
        assert!(gap(from, until) < GAP_MAX, "an exchange or a death stops writers for long");
    }
}

/// Versions only grow, and what was acknowledged is there.
fn judge_writes(written: &crate::writers::Written, leader: &Board) {
    let mut newest = std::collections::BTreeMap::new();
    for operation in &written.history.operations {
        let Some((_, history::Answer::Written(version))) = operation.returned else { continue };
        let before = newest.insert(operation.key.clone(), version);
        assert!(before < Some(version), "{}: {before:?} then {version}", operation.key);
    }
    assert!(newest.len() >= 2, "writers were at work");
    for (key, version) in newest {
        let kept = leader.get(&format!("{MAPS}/{key}"));
        let kept: u64 = kept["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|it| it.parse().ok())
            .expect("it");
        assert!(kept >= version, "{key} lost what was acknowledged: {kept} < {version}");
    }
}

/// The board that held the log alone does not open it with the old version any more, which says so.
fn too_old(board: &mut Board, old: &Path) {
    board.install(old);
    let refused = board.up_refused(&[]);
    assert!(!refused.status.success());
    let said = text(&refused);
    println!("version {OLD} on grown data says: {said}");
    assert!(said.contains("format"), "{said}");
}

/// With the new one it follows.
fn come_back(cluster: &mut Cluster, leader: usize, new: &Path) {
    cluster.boards[0].install(new);
    cluster.boards[0].start(&[]);
    let node = format!("/api/v1/nodes/{}", cluster.boards[0].node());
    cluster.boards[leader]
        .wait_for("it is back", &node, WITHIN, |node| is_ready(node) == Some(true));
    let voters = status(&cluster.boards[leader])["voters"].as_array().map(Vec::len);
    assert_eq!(voters, Some(3));
}
