//! The pod network on real boards: pods reach each other on one board, across boards, across subnets;
//! through restarts, reboots, lost links and new addresses of all boards; and nothing stays behind.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/router.rs"]
mod router;
#[path = "../harness/switch.rs"]
mod switch;

mod bed;
mod moves;
mod pods;
mod subnets;
