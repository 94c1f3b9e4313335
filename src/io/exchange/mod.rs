//! Another binary for this board: it is tried beside the old one, and takes its place only when the
//! board has proven itself with it.
//!
//! ```text
//!  staged: FILE.trial, synced ─▶ record "trial" ─▶ guard started ─▶ execve FILE.trial up ...
//!                                                                         │
//!     ready in time:  rename FILE.trial over FILE, record "kept" ◀────────┤
//!     it ends, hangs: the guard ends it; FILE, which is the old one, is started again ◀┘
//!     power cut:      FILE, which is the old one, is what the board starts
//! ```
//! A disk that takes no record ends no board: who runs, and whether FILE.trial is there, say the same.
//! Invariant: until the board has proven itself, FILE is the binary that ran before, whatever happens;
//! so whatever starts the board starts something that works. The process keeps its id over the exchange,
//! and the keeper with the containers is not part of it. Deliberately absent: what a proof is (floor 5).

mod guard;
mod process;
mod record;
mod staged;
mod trial;

pub use guard::dispatch;
pub use record::{Record, State, last};
pub use staged::{Held, Staging, digest_of, says_version};
pub use trial::{Begun, Plan, Trial, begin, exchange, staged_beside};
