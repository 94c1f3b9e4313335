//! The lifecycle of one pod as a pure state machine: events in, effects out.
//!
//! ```text
//!             CreateSandbox, PrepareVolumes           init containers in order        all at once
//!   (new) ───────────────────────────────▶ (set up) ───────────────────▶ (initialized) ─────▶ running
//!                     ▲ retry, doubling │                                    │
//!                     └─────────────────┘       deletion, Gone, Stop, or all ended for good │
//!                                                                            ▼
//!   (removable) ◀── Teardown ── nothing runs ◀── SIGKILL ◀── grace ── stop signal ◀── preStop, drain
//!
//!   one container:
//!   Idle ─EnsureImage─▶ ImageAsked ─ready─▶ Idle ─Start─▶ StartAsked ─▶ Running ─exit─▶ Ended
//!                          │ missing                          │ no such program       │
//!                          ▼                                  └──────────▶ Ended      │
//!                       Blocked ─ import, change ─▶ Idle ◀──── back-off 0, 10 s .. 5 min ┘
//! ```
//! Invariants: a container is never started while a start of it runs; never more than one request of
//! a kind is out; after a stop nothing starts; `Teardown` only when nothing runs. Deliberately absent:
//! which programs, files and sockets make an effect true (the node's driver), resizing in place,
//! ephemeral containers.

mod admission;
mod advance;
mod backoff;
mod container;
mod event;
mod machine;
mod probe;
mod restore;
mod setup;
pub mod spec;
mod status;
mod stop;
#[cfg(test)]
mod tests;
pub mod token;
mod verdict;

pub use admission::{Failure, dotted};
pub use container::{ContainerState, Ended, Role, Stage, Waiting};
pub use event::{Effect, Event, Exit, HookKind, ImageRef, Moment, ProbeFault, ProbeKind};
pub use machine::{PodMachine, PodState, Step};
pub use probe::spec_of as probe_spec;
pub use restore::{Instance, Remains};
pub use spec::Pod;
pub use status::{CONTAINER_ID_SCHEME, Conditions, Host, container_id, parse_container_id};
pub use stop::PodStop;
