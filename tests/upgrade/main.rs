//! Boards that get another version: a cluster of version 0.2.0 grows to three masters, and
//! `kumquat upgrade` takes a cluster from one build to the next, or back.

mod bed;
mod grow;
mod rollout;

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/clients.rs"]
mod clients;
#[path = "../harness/history.rs"]
mod history;
#[path = "../harness/inside.rs"]
mod inside;
#[path = "../harness/loss.rs"]
mod loss;
#[path = "../harness/switch.rs"]
mod switch;
#[path = "../harness/walk.rs"]
mod walk;
#[path = "../harness/writers.rs"]
mod writers;
