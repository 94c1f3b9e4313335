//! What must survive, round after round, and what must not grow meanwhile.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::board::{Board, rounds};
use crate::traces::{Footprint, Traces};
use crate::{
    COUNTER, DEPLOYMENTS, PODS, assert_complete, container_pids, delete, deployment, kill, logs,
    new_board, pod, restarts, wait_deployment, wait_no_pods, wait_pods_ready, wait_ready,
};

/// Rounds in CI.
const ROUNDS: usize = 3;
/// Containers that are killed at the same time: they back off in parallel.
const CRASHING_AT_ONCE: usize = 10;

/// A pod that counts, and the pid of its container.
fn counting(board: &Board) -> Vec<i32> {
    board.create(PODS, &pod("count", &format!(": {}; {COUNTER}", board.name())));
    wait_ready(board, "count");
    let pids = container_pids(board.name());
    assert_eq!(pids.len(), 1, "one container");
    pids
}

fn assert_not_restarted(board: &Board, pids: &[i32], round: usize) {
    assert_eq!(container_pids(board.name()), pids, "round {round}: other processes");
    let pod = wait_ready(board, "count");
    assert_eq!(restarts(&pod), 0, "round {round}: restarted");
}

/// Waits until the log has grown well beyond what it has now; it must have no gap then.
fn assert_log_goes_on(board: &Board, round: usize) -> u64 {
    let before = assert_complete(&logs(board, "count", ""));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let lines = assert_complete(&logs(board, "count", ""));
        if lines >= before + 50 {
            return lines;
        }
        assert!(Instant::now() < deadline, "round {round}: the log stands still");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_killed_container_comes_back_with_back_off() {
    let Some(board) = new_board("crash") else { return };
    let (count, delays): (usize, &[u64]) = match rounds(1) {
        1 => (1, &[0, 10]),
        count => (count, &[0, 10, 20]),
    };
    for first in (0..count).step_by(CRASHING_AT_ONCE) {
        let names: Vec<String> =
            (first..count.min(first + CRASHING_AT_ONCE)).map(|n| format!("crash-{n}")).collect();
        for name in &names {
            let script = format!("echo {}-{name}-; sleep 1000; true", board.name());
            board.create(PODS, &pod(name, &script));
        }
        names.iter().for_each(|name| drop(wait_ready(&board, name)));
        for (restart, delay) in delays.iter().enumerate() {
            assert_backs_off(&board, &names, restart as u64 + 1, *delay);
        }
        for name in &names {
            let pod = board.get(&format!("{PODS}/{name}"));
            let ended = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
            assert_eq!(ended["exitCode"], 137, "{ended}");
            delete(&board, &format!("{PODS}/{name}"));
        }
        wait_no_pods(&board);
    }
    println!("{count} containers came back, each after {delays:?} s");
}

/// Kills the container of each pod; it must be back after the delay, not before and not much later.
fn assert_backs_off(board: &Board, names: &[String], restart: u64, delay: u64) {
    let mut killed = Vec::new();
    for name in names {
        let pids = container_pids(&format!("{}-{name}-", board.name()));
        assert_eq!(pids.len(), 1, "one container of {name}");
        kill(pids[0]);
        killed.push(Instant::now());
    }
    let mut back_off_shown = delay == 0;
    let mut back: Vec<Option<Duration>> = vec![None; names.len()];
    while back.iter().any(Option::is_none) {
        for (index, name) in names.iter().enumerate() {
            let pod = board.get(&format!("{PODS}/{name}"));
            let status = &pod["status"]["containerStatuses"][0];
            let waiting = &status["state"]["waiting"];
            let message = waiting["message"].as_str().unwrap_or_default();
            back_off_shown |= waiting["reason"] == "CrashLoopBackOff"
                && message.starts_with(&format!("back-off {delay}s restarting failed"));
            let runs = status["state"]["running"].is_object() && restarts(&pod) == restart;
            if runs && back[index].is_none() {
                back[index] = Some(killed[index].elapsed());
            }
            let late = Duration::from_secs(delay + 15);
            assert!(killed[index].elapsed() < late || back[index].is_some(), "{name}: {status}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let seconds = || back.iter().flatten().map(Duration::as_secs_f64);
    let (first, last) = (seconds().fold(f64::MAX, f64::min), seconds().fold(0.0, f64::max));
    println!("restart {restart} of {}: back after {first:.2} to {last:.2} s", names.len());
    // The kernel's kill and the keeper's word of it lie between the two clocks.
    assert!(first > delay as f64 - 0.5, "back-off of restart {restart} was {first} s");
    assert!(back_off_shown, "CrashLoopBackOff was never shown");
}

#[test]
fn a_killed_agent_leaves_containers_and_logs_alone() {
    let Some(mut board) = new_board("agent") else { return };
    let pids = counting(&board);
    let mut footprint = None;
    for round in 1..=rounds(ROUNDS) {
        board.kill();
        std::thread::sleep(Duration::from_millis(200));
        board.up(&[]);
        assert_not_restarted(&board, &pids, round);
        assert_log_goes_on(&board, round);
        compare(&mut footprint, &board, round);
    }
    let lines = assert_complete(&logs(&board, "count", ""));
    println!("{} restarts of the agent: 0 of containers, {lines} lines, 0 lost", rounds(ROUNDS));
}

#[test]
fn a_killed_keeper_leaves_containers_and_logs_alone() {
    let Some(board) = new_board("keeper") else { return };
    let pids = counting(&board);
    let (mut footprint, mut lines) = (None, 0);
    for round in 1..=rounds(ROUNDS) {
        let holder = board.keeper_pid();
        kill(holder);
        let new = board.wait_lock_owner("holder.lock", holder);
        assert_ne!(new, holder, "round {round}: a new holder");
        assert_log_goes_on(&board, round);
        assert_not_restarted(&board, &pids, round);
        lines = assert_log_goes_on(&board, round);
        compare(&mut footprint, &board, round);
    }
    // The new holder sees ends of containers that it did not start.
    kill(pids[0]);
    board.wait_for("restarted", &format!("{PODS}/count"), Duration::from_secs(10), |pod| {
        restarts(pod) == 1 && pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    println!("{} holders killed: 0 restarts, {lines} lines, 0 lost", rounds(ROUNDS));
}

#[test]
fn a_killed_log_pump_loses_no_line() {
    let Some(board) = new_board("pump") else { return };
    let pids = counting(&board);
    let (mut footprint, mut lines) = (None, 0);
    for round in 1..=rounds(ROUNDS) {
        let holder = board.keeper_pid();
        let pump = board.wait_lock_owner("pump.lock", 0);
        // At once, or together with the holder that would start another.
        if round % 2 == 0 {
            kill(holder);
        }
        kill(pump);
        board.wait_lock_owner("pump.lock", pump);
        lines = assert_log_goes_on(&board, round);
        assert_not_restarted(&board, &pids, round);
        compare(&mut footprint, &board, round);
    }
    println!("{} pumps killed: 0 restarts, {lines} lines, 0 lost", rounds(ROUNDS));
}

#[test]
fn a_reboot_brings_the_pods_back() {
    let Some(mut board) = new_board("reboot") else { return };
    let name = board.name().to_owned();
    board.create(DEPLOYMENTS, &deployment("web", 2, &format!(": {name}; exec sleep 1000")));
    wait_deployment(&board, "web", 2);
    let mut footprint = None;
    for round in 1..=rounds(ROUNDS) {
        board.pull_the_plug();
        let left = Traces::of(&name);
        assert_eq!(left.process_count(), 0, "round {round}: the plug is out: {left:?}");
        board.up(&[]);
        wait_pods_ready(&board, 2, |pod: &Value| restarts(pod) == round as u64);
        // The first reboot leaves two logs of each container, as do all others.
        compare(&mut footprint, &board, round);
    }
    delete(&board, &format!("{DEPLOYMENTS}/web"));
    wait_no_pods(&board);
    drop(board);
    assert_eq!(Traces::of(&name), Traces::default(), "left behind");
    println!("{} reboots: every pod back with one restart each", rounds(ROUNDS));
}

#[test]
fn pods_that_come_and_go_leave_nothing() {
    let Some(board) = new_board("leak") else { return };
    let name = board.name().to_owned();
    let mut footprint: Option<Footprint> = None;
    for round in 0..=rounds(ROUNDS) {
        board.create(DEPLOYMENTS, &deployment("web", 2, &format!(": {name}; exec sleep 1000")));
        wait_deployment(&board, "web", 2);
        delete(&board, &format!("{DEPLOYMENTS}/web"));
        wait_no_pods(&board);
        compare(&mut footprint, &board, round);
    }
    let count = footprint.map(|f| f.descriptor_count());
    drop(board);
    let left = Traces::of(&name);
    assert_eq!(left, Traces::default(), "left behind");
    println!(
        "{} rounds of pods: {} traces left, {count:?} descriptors",
        rounds(ROUNDS),
        left.count()
    );
}

/// The first round says what a board has; each later one must have the same.
fn compare(footprint: &mut Option<Footprint>, board: &Board, round: usize) {
    match footprint {
        None => *footprint = Some(Footprint::settled(board)),
        Some(first) => first.assert_same(board, &format!("round {round}")),
    }
}
