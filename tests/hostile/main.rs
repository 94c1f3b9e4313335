//! Whatever bytes, disks and clocks come: a clear error, nothing left behind, and the board goes on.
//!
//! Real boards: garbage on every door, a full disk, damaged files, senseless starts.

mod archives;
mod damage;
mod doors;
mod full_disk;
mod masters;
mod ports;
mod starts;

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/clients.rs"]
mod clients;
#[path = "../harness/disk.rs"]
mod disk;
#[path = "../harness/forgery.rs"]
mod forgery;
#[path = "../harness/history.rs"]
mod history;
#[path = "../harness/strangers.rs"]
mod strangers;
#[path = "../harness/switch.rs"]
mod switch;

use std::process::Output;
use std::time::Duration;

use board::{Board, possible, text};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SOON: Duration = Duration::from_secs(30);

/// A board that is up, or nothing where boards cannot be.
fn running(test: &str) -> Option<Board> {
    possible(test).then(|| {
        let mut board = Board::new(test);
        board.up(&[]);
        board
    })
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"value": value}})
}

/// Reads and writes work, and the process is the one that was started.
fn still_serves(board: &Board, name: &str) {
    board.create(CONFIG_MAPS, &config_map(name, "x"));
    assert_eq!(board.get(&format!("{CONFIG_MAPS}/{name}"))["data"]["value"], "x");
    assert_quiet(board);
}

/// Nothing that a board says may be a panic.
fn assert_quiet(board: &Board) {
    let log = board.log();
    assert!(!log.contains("panicked at"), "{log}");
}

/// A command failed as it should: exit code 1 and words that hold each of `words`.
fn assert_refused(what: &str, output: &Output, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{what}: {said}");
    for word in words {
        assert!(said.contains(word), "{what}: no {word:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
}

fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script]}],
        },
    })
}

fn wait_ready(board: &Board, name: &str) -> Value {
    board.wait_for("pod ready", &format!("{PODS}/{name}"), SOON, |pod| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    })
}

fn import_busybox(board: &Board) {
    let archive = board.busybox();
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
}
