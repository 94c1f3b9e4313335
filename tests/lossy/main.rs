//! A bad wire between master and boards loses nothing: whatever is dropped, doubled, delayed or
//! overtaken, pods end up as the API says, and nothing runs twice.
//!
//! Simulated boards (real agents, fake keepers) against the real loops of a master in this process.
//! `KUMQUAT_SEED` repeats a run's draws, `KUMQUAT_LOSSY_OPERATIONS` makes it longer.

#[path = "../bus/bed.rs"]
mod bed;
mod bus;
#[path = "../harness/fake_keeper.rs"]
mod fake_keeper;
mod link;
#[path = "../harness/loops.rs"]
mod loops;
#[path = "../harness/loss.rs"]
mod loss;
mod network;
mod proxy;
#[path = "../harness/simulated.rs"]
mod simulated;
mod world;

/// Share of messages that something happens to.
const FAULT_PERCENT: u64 = 20;
const BOARDS: usize = 5;

/// How many pods are created or deleted.
fn operations() -> usize {
    let given = std::env::var("KUMQUAT_LOSSY_OPERATIONS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(150)
}
