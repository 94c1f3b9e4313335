//! What can happen to a pod, and what can be asked for in answer.

use std::net::Ipv4Addr;
use std::sync::Arc;

use model::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::spec::Pod;

/// A point in time by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Cluster time, for what users see.
    pub wall: Timestamp,
    /// Milliseconds since boot, for intervals.
    pub ticks: u64,
}

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Holds the others back until the container has started.
    Startup,
    /// Restarts the container.
    Liveness,
    /// Takes the container out of service.
    Readiness,
}

/// What a probe that did not succeed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFault {
    /// The container does not do what it should.
    Unhealthy(String),
    /// The container could not be asked, which says nothing about it.
    Unknown(String),
}

/// Which lifecycle hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// After the start.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 128 + signal when killed.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// The kernel killed it for memory.
    pub out_of_memory: bool,
    /// What it wrote to its termination log.
    pub message: String,
}

/// An image that a container can be made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Normalised name.
    pub name: String,
    /// `name@sha256:...`: `imageID` of the status.
    pub id: String,
    /// The image's own stop signal, empty for none.
    pub stop_signal: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The API object changed.
    Desired(Arc<Pod>),
    /// The API object is gone: kill without grace.
    Gone,
    /// Services send new connections to the pod, or have let go of it. Said before the event that
    /// stops the pod, and after it when it changes.
    Served {
        /// New connections may come.
        calls: bool,
        /// A master is heard, which will say when they do not any more.
        led: bool,
    },
    /// Network, IPC and host name are there.
    SandboxReady {
        /// The pod's own address; `None` in the host network, and where there is no pod network.
        address: Option<Ipv4Addr>,
    },
    /// They could not be made.
    SandboxFailed {
        /// Why.
        message: String,
    },
    /// Every volume is filled.
    VolumesReady,
    /// A volume could not be filled.
    VolumesFailed {
        /// Why.
        message: String,
        /// Whether trying again can help; else only a change of objects or of the pod does.
        retry: bool,
    },
    /// The board can give pods a place in the network.
    NetworkReady,
    /// The sandbox has no place in the pod network, such as one of a version that had none.
    PlaceLost,
    /// A ConfigMap or Secret of the pod changed.
    ObjectsChanged,
    /// An image was imported on this board.
    ImagesChanged,
    /// A container's image is on the board.
    ImageReady {
        /// The container.
        container: String,
        /// The image.
        image: ImageRef,
    },
    /// It is not.
    ImageMissing {
        /// The container.
        container: String,
        /// Waiting reason: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
        reason: String,
        /// Why, and what to do.
        message: String,
    },
    /// A container runs.
    Started {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Since when.
        at: Timestamp,
    },
    /// A container could not be made from its spec.
    ConfigFailed {
        /// The container.
        container: String,
        /// Why.
        message: String,
    },
    /// A container's program could not be started.
    StartFailed {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Why.
        message: String,
    },
    /// A container ended.
    Exited {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// How.
        exit: Exit,
    },
    /// A probe answered.
    Probed {
        /// The container.
        container: String,
        /// Which start was probed.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
        /// What it found.
        result: Result<(), ProbeFault>,
    },
    /// A hook ended.
    Hooked {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
        /// The failure's text.
        result: Result<(), String>,
    },
    /// The sandbox is gone.
    SandboxRemoved,
    /// The sandbox could not be removed.
    SandboxNotRemoved {
        /// Why.
        message: String,
    },
    /// Every trace is gone.
    TornDown,
    /// Some trace is left.
    TeardownFailed {
        /// Why.
        message: String,
    },
    /// The time that `next_wake` asked for has come.
    Timer,
}

/// What to do. Each is answered by an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make network, IPC and host name.
    CreateSandbox,
    /// Remove them.
    RemoveSandbox,
    /// Fill every volume.
    PrepareVolumes,
    /// Look for the image.
    EnsureImage {
        /// Of this container.
        container: String,
    },
    /// Start a container.
    Start {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
    },
    /// Send a signal (no answer but the exit).
    Signal {
        /// To this container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Name as in a spec: `SIGTERM`.
        signal: String,
    },
    /// Probe once.
    Probe {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Run a hook.
    Hook {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
        /// Which hook.
        kind: HookKind,
        /// It is given up after this.
        timeout_millis: u64,
    },
    /// Forget an ended container but for its log (no answer).
    RemoveContainer {
        /// The container.
        container: String,
        /// Which start.
        attempt: u32,
    },
    /// Remove containers, sandbox, volumes and logs.
    Teardown,
    /// Record an event about the pod (no answer).
    Report {
        /// `Warning` instead of `Normal`.
        warning: bool,
        /// CamelCase word.
        reason: &'static str,
        /// Sentence.
        message: String,
        /// The container that it is about, if one.
        container: Option<String>,
    },
    /// The status may have changed (no answer).
    StatusChanged,
}
