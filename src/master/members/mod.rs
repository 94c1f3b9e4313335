//! Who the masters are: the leader's hand behind [`logic::masters::Policy`].
//!
//! ```text
//!  boards that may hold the log ── POST /v1/kit, held open ──▶ Desk ──┐
//!  Nodes, contacts, the group's health ───────────────────────────────┼─▶ Policy ─▶ one action at a time
//!  ConfigMap kube-system/kumquat-masters: ids, addresses, wishes ─────┘      │
//!        ▲                                                                   ▼
//!        └── Book: where every member is, on every master        kit, learner, joint change, forget
//! ```
//! Invariant: a member id is taken by a compare-and-put before anybody bears it, so none is used twice,
//! whichever leaders come and go. A board gets the kit only over its own authenticated connection.
//! Deliberately absent: what should be (the policy decides), and how the group changes (the engine).

mod act;
mod book;
mod desk;
mod driver;
mod grouping;
mod judging;

pub use book::{Rows, Said, follow as follow_book};
pub use desk::{Candidate, Desk};
pub use driver::{Leading, Members, run};
pub use grouping::{Engine, FOUNDER, Grouping, GroupingOptions, Note};
