//! What a board and a master say to each other when the board joins (`POST /v1/join`).
//!
//! Each message is a text with a proof of the token's secret over exactly that text and over the
//! connection that it travels on, so there is nothing to bring into a canonical form and nothing that
//! could be used on another connection. Fields are only ever added.

use serde::{Deserialize, Serialize};

use crate::leader::SignedRecord;
use crate::timestamp::Timestamp;
use crate::token::{TokenId, TokenRole};
use crate::words::Nonce;

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

/// Label of the signature of a [`PendingAsk`] by the board's key: over the exporter and the text.
pub const PENDING_LABEL: &str = "kumquat pending ask";

/// What a board without a token asks (`POST /v1/pending`), again and again until a person lets it in:
/// [`Sealed`], with a signature of its key as proof. The answer is a [`PendingAnswer`] (202), or a
/// [`JoinAnswer`].
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
    /// To what nonce it commits itself ([`crate::words::commitment`]).
    pub commitment: [u8; 32],
    /// That nonce, once the cluster has said its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<Nonce>,
}

/// What a board is told that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingAnswer {
    /// The cluster's nonce for the board's commitment. A board that has opened its own for another one
    /// begins anew.
    pub nonce: Nonce,
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
/// Last word of what that list says of a key whose board left in order, and erased what it had.
pub const LEFT_BY_ITSELF: &str = "left";

/// ConfigMap in `kube-system` whose data names the keys of boards that were let in as workers: they stay
/// such, whatever becomes of their Nodes.
pub const WORKERS: &str = "kumquat-workers";
/// ConfigMap in `kube-system` whose data names the keys of boards that were ever given the authority's
/// key, and with it all others.
pub const HOLDERS: &str = "kumquat-holders";

/// A board's key, the SHA-256 of its SubjectPublicKeyInfo, as annotations show it: lower-case hex.
pub fn key_text(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`key_text`] writes.
pub fn parse_key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 2 * key.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(key)
}
