//! Streams that the master opens towards a board (over the tunnel, or in memory on one board).

use serde::{Deserialize, Serialize};

use crate::ids::Uid;
use crate::upgrade::UpgradeRequestV1;

/// First message of a stream; the answer of the first two is raw bytes until the stream ends, that of
/// the others, and what the master sends meanwhile, are frames of [`super::channel`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamRequestV1 {
    /// Container logs.
    Logs(LogsRequestV1),
    /// A blob of an image that the board has.
    Blob(BlobRequestV1),
    /// A process in a running container.
    Exec(ExecRequestV1),
    /// The running container's own process.
    Attach(AttachRequestV1),
    /// A TCP connection into the pod.
    PortForward(PortForwardRequestV1),
    /// The binary of the board; the answer is lines of JSON.
    Upgrade(UpgradeRequestV1),
}

impl StreamRequestV1 {
    /// Whether the master also sends while the board answers.
    pub fn is_duplex(&self) -> bool {
        !matches!(self, Self::Logs(_) | Self::Blob(_) | Self::Upgrade(_))
    }
}

/// Which of a process's streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdioV1 {
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors; never with a terminal, which has one output.
    pub stderr: bool,
    /// A terminal instead of pipes.
    pub tty: bool,
}

/// The options of `pods/{name}/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequestV1 {
    /// The pod.
    pub pod: Uid,
    /// Container name.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What is wanted of it.
    pub stdio: StdioV1,
}

/// The options of `pods/{name}/attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequestV1 {
    /// The pod.
    pub pod: Uid,
    /// Container name.
    pub container: String,
    /// What is wanted of it.
    pub stdio: StdioV1,
}

/// One connection of `pods/{name}/portforward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForwardRequestV1 {
    /// The pod.
    pub pod: Uid,
    /// TCP port inside it, on its loopback.
    pub port: u16,
}

/// A manifest, configuration or layer by its digest, as it lies in the board's image store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRequestV1 {
    /// SHA-256 of the blob.
    pub sha256: [u8; 32],
    /// Bytes to leave out at its beginning.
    pub from: u64,
}

/// The options of `GET /api/v1/namespaces/{ns}/pods/{name}/log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequestV1 {
    /// The pod.
    pub pod: Uid,
    /// Container name.
    pub container: String,
    /// Go on as the container writes.
    pub follow: bool,
    /// Of the instance before the running one.
    pub previous: bool,
    /// Prefix each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only the first bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines written at or after this time, in microseconds since 1970.
    pub since_micros: Option<i64>,
}
