//! Board to master.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::Uid;

/// A board introduces itself: after start, after a reconnect, and when asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloV1 {
    /// Random number of this boot of the board (changes when the run-dir was empty).
    pub boot: u64,
    /// Revision of the desired set that the board holds durably; 0 for none.
    pub desired_revision: u64,
    /// The Node object as the board would register it (labels, capacity, addresses, nodeInfo,
    /// conditions), minified JSON.
    pub node: Bytes,
}

/// Every five seconds: what the board has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatUpV1 {
    /// Random number of this boot.
    pub boot: u64,
    /// Revision of the desired set that is durable on the board.
    pub desired_revision: u64,
    /// Revision of the network state that is applied.
    pub net_revision: u64,
    /// Sequence of the last [`StatusV1`] sent.
    pub status_sequence: u64,
}

/// Statuses of pods that changed, coalesced for up to 100 ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusV1 {
    /// Counts status messages of this boot; the master acknowledges it in its beats once durable.
    pub sequence: u64,
    /// The pods.
    pub pods: Vec<PodStatusV1>,
    /// `status` of the Node as a JSON merge patch, empty when unchanged.
    pub node_status: Bytes,
    /// Events (core/v1 Event, minified JSON without name and uid) to record.
    pub events: Vec<Bytes>,
}

/// One pod's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatusV1 {
    /// The pod's uid: a pod of the same name but another uid is another pod.
    pub uid: Uid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `status` of the Pod, minified JSON.
    pub status: Bytes,
    /// All containers have ended and every trace is gone: the API object may be removed.
    pub removable: bool,
}

/// Tokens of service accounts that pods of the board need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAskV1 {
    /// At most [`crate::limits::TOKEN_ASKS_MAX`].
    pub wants: Vec<TokenWantV1>,
}

/// One token that a volume of a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenWantV1 {
    /// The pod's uid.
    pub pod: Uid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whom the token is for; empty for the API server.
    pub audience: String,
    /// How long it is to live.
    pub seconds: u64,
}
