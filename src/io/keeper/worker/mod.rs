//! Workers: short-lived forks of the holder, each for one request, which they answer themselves.
//!
//! A worker owns the connection of its request, may block, and ends when it has answered. What it
//! leaves behind on failure it removes itself; the holder removes it when the worker was killed.

mod console;
pub(super) mod exec;
mod overlay;
mod pause;
pub(super) mod remove;
pub(super) mod sandbox;
pub(super) mod session;
mod spec;
pub(super) mod start;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::paths::Layout;
use super::wire::{self, Refusal, ResponseV1};

/// The board that a keeper serves.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) layout: Layout,
    /// Name of the board's cgroup.
    pub(super) cgroup: String,
}

impl Site {
    pub(super) fn pod_cgroup(&self, uid: &str) -> PathBuf {
        PathBuf::from(&self.cgroup).join(uid)
    }

    pub(super) fn container_cgroup(&self, pod_uid: &str, id: &str) -> PathBuf {
        self.pod_cgroup(pod_uid).join(id)
    }
}

/// Why a request failed, as the client sees it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) refusal: Refusal,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(refusal: Refusal, text: impl Into<String>) -> Self {
        Self { refusal, text: text.into() }
    }

    pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> Self {
        let causes = super::process::with_causes(error);
        Self::new(Refusal::Failed, format!("{what}: {causes}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let refusal = match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Refusal::Invalid,
            _ => Refusal::Failed,
        };
        Self::new(refusal, super::process::with_causes(&error))
    }
}

/// Answers a request; the worker's exit code.
pub(super) fn answer(stream: &mut UnixStream, outcome: Result<ResponseV1, Failure>) -> u8 {
    let (response, code) = match outcome {
        Ok(response) => (response, 0),
        Err(Failure { refusal, text }) => (ResponseV1::Failed { refusal, text }, 1),
    };
    // The client may be gone; what was done stays done.
    let _ = wire::write(stream, &response);
    code
}
