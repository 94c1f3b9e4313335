//! How boards come to trust each other and how that ends: founding together, waiting for a person,
//! being thrown out. Real boards on a switch.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
mod clocks;
mod evicting;
mod founding;
#[path = "../harness/switch.rs"]
mod switch;
mod waiting;
#[path = "../harness/wrong_clocks.rs"]
mod wrong_clocks;

use std::time::{Duration, Instant};

use board::{Board, text};
use serde_json::Value;
use switch::Switch;

/// Generous, for a machine that is busy; what was measured is printed.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Waits for something that becomes true.
fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(POLL);
    }
    began.elapsed()
}

/// Waits until `board` sees so many boards ready.
fn wait_boards(board: &Board, count: usize) {
    let within = format!("{}s", WITHIN.as_secs());
    let waited = board.command(&["wait", "--boards", &count.to_string(), "--timeout", &within]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), board.log());
}

fn status(board: &Board) -> Value {
    let output = board.command(&["status", "-o", "json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// How a board came to its cluster, as it lies on its disk.
fn role(board: &Board) -> Option<String> {
    let bytes = std::fs::read(board.data_dir().join("board.json")).ok()?;
    let identity: Value = serde_json::from_slice(&bytes).expect("an identity");
    Some(identity["role"].as_str().expect("a role").to_owned())
}

/// The pin of a board's cluster: its authority's certificate.
fn authority(board: &Board) -> String {
    std::fs::read_to_string(board.data_dir().join("pki/ca.crt")).expect("an authority")
}

fn boards(switch: &Switch, count: u8) -> Vec<Board> {
    (1..=count).map(|number| switch.board(number)).collect()
}
