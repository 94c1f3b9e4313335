//! Who holds the log and who votes: the membership policy of the leader.
//!
//! ```text
//!  settled --a board is missing--> AddLearner --Changed--> catching up --close and stable--> Change
//!     ^                                                        | 60 s without progress: the next one
//!     '------ Forget <--voters are right, a learner is left--------------------Changed------'
//! ```
//!
//! One voter up to two boards (the second holds the log as a learner), three from three, five from
//! seven: always an odd number. Silence alone never makes the group smaller; a voter that is silent
//! for five minutes is replaced, add before remove, by one joint change. A voter that was told to
//! leave, was evicted or lost its replica goes as soon as a replacement is there, or after a minute
//! without one.
//!
//! Level-triggered: each decision is made from the members, the boards and the user's wish alone; an
//! action that did not happen is decided anew. At most one is under way.
//!
//! Deliberately absent: safety. Elections, commits and joint majorities are the engine's; a policy
//! that decides badly costs availability, never a write. How fast a vote moves is a matter of the
//! drivers, ids and kits are too.

mod choice;
mod flaps;
mod policy;
#[cfg(test)]
mod tests;
mod types;

pub use policy::Policy;
pub use types::{Action, Durability, Input, Seen, Wanted, Warning};
