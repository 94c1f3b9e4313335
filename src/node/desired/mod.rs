//! What this board has to run: the last desired set that the master sent, durable.
//!
//! In: `wire::DesiredV1`, whole or as a difference. Out: the set, and what changed in it. Invariant: a
//! revision that is reported in a beat is on disk. A board without a master lives by this alone.

mod fence;
mod log;
mod record;
mod seal;
mod set;

pub(super) use fence::Reign;
pub(super) use log::{DesiredError, DesiredLog};
pub(super) use set::Changes;
