//! Streams that the master opens towards a board (over the tunnel, or in memory on one board).

use serde::{Deserialize, Serialize};

use crate::ids::Uid;

/// First message of a stream; the answer is raw bytes until the stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamRequestV1 {
    /// Container logs.
    Logs(LogsRequestV1),
    /// A blob of an image that the board has.
    Blob(BlobRequestV1),
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
