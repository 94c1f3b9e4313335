//! Linearizability: concurrent clients of a store under faults see one store that does one thing at a
//! time, whatever happens to masters and links.
//!
//! The checker judges itself first (`known`), then one real master that is killed again and again.

mod known;
mod leaders;
mod one;

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/clients.rs"]
mod clients;
#[path = "../harness/history.rs"]
mod history;
#[path = "../harness/linearizable.rs"]
mod linearizable;
#[path = "../harness/loss.rs"]
mod loss;
#[path = "../harness/reigns.rs"]
mod reigns;
#[path = "../harness/walk.rs"]
mod walk;
#[path = "../harness/writers.rs"]
mod writers;
