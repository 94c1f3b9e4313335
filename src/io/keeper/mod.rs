//! The keeper: a small separate process that holds containers through libcontainer.
//!
//! ```text
//!  agent ──Unix socket──> holder ──forks──> starter / exec / remove / sandbox   (one request each)
//!                         │   └───forks──> pump ──CRI lines──> log files
//!                         └─ parent of every container's init (clone as sibling of the starter)
//! ```
//!
//! In: requests of the agent ([`Keeper`]). Out: containers, their exits, their logs. Containers and
//! their logs outlive the agent, the holder and the pump, one at a time and in any order:
//! - a container's stdout and stderr are FIFOs under the run-dir, which the container itself holds
//!   open for reading and writing: with nobody else alive it gets no SIGPIPE and its bytes wait in
//!   the pipe for the next pump;
//! - what the holder knows is on disk (`record`, `exit`); a new holder reads it back, guards
//!   against reused pids by their start time, and learns of exits through pidfds. The exit *code*
//!   of a container that ended under a later holder than its own is unknown, and said so;
//! - the pump moves a chunk into a second pipe held by the holder before it writes it, so a pump
//!   that was killed has its chunk finished by the next one.
//!
//! The holder is single-threaded: libcontainer must never run in a process with threads. It is
//! the only home of the libcontainer crate. It does not pull images, set up networks beyond `lo`,
//! restart anything or decide anything.

mod build;
mod cgroup;
mod cleanup;
mod client;
mod descriptors;
mod holder;
mod launch;
mod paths;
mod process;
mod pump;
mod record;
mod session;
/// The protocol, public for those who play a keeper in simulations.
pub mod wire;
mod worker;

pub use build::build_id;
pub use cleanup::cleanup;
pub use client::{Events, Keeper, KeeperError, KeeperEvent, KeeperInfo, Start};
pub use launch::dispatch;
pub use paths::{KeeperPaths, SHARED_PROCESSES_ANNOTATION, STDIN_ANNOTATION};
pub use session::{Pipe, Session, SessionEnd};
pub use wire::{
    ContainerStateV1, ExecResultV1, ExecV1, ExitV1, Refusal, RunStateV1, SandboxV1, SessionV1,
    StartedV1,
};
