//! Services on three boards: who reaches whom, and that nobody notices an update.
//!
//! Calls are made from the network namespaces of real pods, with names looked up at the board's DNS,
//! on new connections and without a second try. Long form: `cargo xtask soak rolls`, `soak hour`.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/disk.rs"]
mod disk;
#[path = "../harness/figures.rs"]
mod figures;
#[path = "../harness/inside.rs"]
mod inside;
#[path = "../harness/loss.rs"]
mod loss;
#[path = "../harness/router.rs"]
mod router;
#[path = "../harness/switch.rs"]
mod switch;
#[path = "../harness/traces.rs"]
mod traces;

mod bed;
mod callers;
mod frames;
mod matrix;
mod rolling;
mod soak;
