//! What a board and a master say to each other when the board joins (`POST /v1/join`).
//!
//! Each message is a text with a proof of the token's secret over exactly that text and over the
//! connection that it travels on, so there is nothing to bring into a canonical form and nothing that
//! could be used on another connection. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::leader::SignedRecord;
use crate::timestamp::Timestamp;
use crate::token::{TokenId, TokenRole};

/// Label of the board's proof: over the exporter and the request's text.
pub const BOARD_LABEL: &str = "kumquat join board";
/// Label of the master's proof: over the exporter, the board's proof and the answer's text.
pub const MASTER_LABEL: &str = "kumquat join master";

/// A text and the proof over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// JSON of a [`JoinRequest`] or [`JoinAnswer`].
    pub text: String,
    /// HMAC-SHA256.
    pub proof: Vec<u8>,
}

/// What a board asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which token it has.
    pub token: TokenId,
    /// The name that it wants.
    pub name: String,
    /// Random, new on a fresh disk.
    pub board_id: String,
    /// Its public key, DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Its version of kumquat.
    pub version: String,
    /// What it may become at most, when its person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<TokenRole>,
}

/// What a board without a token asks (`POST /v1/pending`), again and again until a person lets it in.
/// The answer is nothing yet (202), or a [`JoinAnswer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingAsk {
    /// The name that it wants.
    pub name: String,
    /// Random, new on a fresh disk.
    pub board_id: String,
    /// Its public key, DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Its version of kumquat.
    pub version: String,
    /// What it may become at most, when its person says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<TokenRole>,
}

/// What it becomes a member of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// Its certificate as PEM.
    pub certificate: String,
    /// The cluster's authority as PEM.
    pub authority: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Addresses of pods, CIDR.
    pub pod_range: String,
    /// Addresses of Services, CIDR.
    pub service_range: String,
    /// What the token lets it become.
    pub role: TokenRole,
    /// Epoch of the leader.
    pub epoch: u64,
    /// Term of the leader.
    pub term: u64,
    /// Cluster time, in microseconds since 1970.
    pub cluster_time: Timestamp,
    /// Where the leader is, if it has said so yet.
    pub leader: Option<SignedRecord>,
}

/// Annotation of a Node: which key its board has ([`key_text`]).
pub const BOARD_KEY: &str = "kumquat.dev/board-key";
/// ConfigMap in `kube-system` whose data names the keys that may never come back.
pub const EVICTED: &str = "kumquat-evicted";

/// A board's key, the SHA-256 of its SubjectPublicKeyInfo, as annotations show it: lower-case hex.
pub fn key_text(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
