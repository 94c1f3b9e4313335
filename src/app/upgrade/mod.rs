//! `kumquat upgrade`: another binary for every board, one board after the other.
//!
//! ```text
//!  command ──file, progress──▶ its board ──▶ the leader: which board next (`logic::upgrade`)
//!                                              │  "try this": a stream over the board's tunnel
//!                                              ▼
//!                              the board: fetches, checks, goes on as the new binary (`io::exchange`)
//!                                              │  the leader shows it ready: it proves itself
//!                                              ▼
//!                              kept, or the board goes back by itself and the leader stops
//! ```
//! Nothing but the boards themselves remembers how far it is: whoever leads asks them, so the command
//! goes on after the leader has exchanged itself, and may be run again at any time.

mod board;
mod command;
mod proof;
mod rollout;
mod serve;

/// Folder of the leader's data-dir with the files that boards fetch.
pub(super) const FILES: &str = "upgrade";

pub(super) use board::Upgrader;
pub(super) use command::run;
pub(super) use proof::{Proof, prove};
pub(super) use rollout::{Rollout, RolloutOptions};
pub(super) use serve::{PATH, from_control, from_master, takes};
