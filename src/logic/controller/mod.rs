//! The controllers: one file each, one shape.
//!
//! `plan(world, key, now)` looks at the world and says as data what to change. It does no IO, reads
//! no clock and keeps nothing between calls: a plan that was lost, refused or overtaken is simply
//! made again. The driver (`master::controllers`) commits the operations of a plan all or nothing.
//! Because the world is updated before a commit is answered, a plan always sees the effect of the
//! plans before it, and no "expectations" as upstream has them are needed.

mod event;
mod op;

pub use event::{Event, ObjectReference};
pub use op::{Op, Plan, Propagation};
