//! Master to board.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::Uid;
use crate::timestamp::Timestamp;

use super::up::TokenWantV1;

/// What the board has to run, whole or as the difference to an earlier revision.
///
/// The board applies it durably, then reports `revision` in its beats. With `base == 0` it is the
/// whole set: everything not listed is removed. With another base the board must hold exactly that
/// revision, else it answers with a Hello and gets a whole set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredV1 {
    /// Revision of the board's desired set after this message.
    pub revision: u64,
    /// Revision that this is a difference to; 0 for a whole set.
    pub base: u64,
    /// Pods to add or replace.
    pub pods: Vec<DesiredPodV1>,
    /// Pods that no longer exist in the API: kill without grace and forget.
    pub pods_gone: Vec<Uid>,
    /// ConfigMaps and Secrets that the pods need, to add or replace.
    pub objects: Vec<ObjectV1>,
    /// Keys (`configmaps ns/name`, `secrets ns/name`) that no pod of the board needs any more.
    pub objects_gone: Vec<String>,
}

/// One pod as the API holds it. A `deletionTimestamp` in it asks for a graceful stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPodV1 {
    /// The pod's uid.
    pub uid: Uid,
    /// Resource version of `pod`.
    pub version: u64,
    /// The whole Pod, minified JSON.
    pub pod: Bytes,
}

/// A ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectV1 {
    /// `configmaps ns/name` or `secrets ns/name`.
    pub key: String,
    /// Resource version of `object`.
    pub version: u64,
    /// The whole object, minified JSON.
    pub object: Bytes,
}

/// Asks the board for something once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandV1 {
    /// Send Hello again: the master has lost track of this board.
    SayHello,
    /// Send every pod's status again.
    ResendStatus,
}

/// Every five seconds: what the master believes this board has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatDownV1 {
    /// Newest revision of the board's desired set.
    pub desired_revision: u64,
    /// Newest revision of the broadcast network state.
    pub net_revision: u64,
    /// Last status message that the master has made durable.
    pub status_sequence: u64,
    /// Cluster time.
    pub cluster_time: Timestamp,
}

/// Stands for a message that is too large for one bus payload: the board fetches it elsewhere.
///
/// What it fetches are the parts as [`super::pack`] packs them; their header says what they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchV1 {
    /// SHA-256 of the packed parts.
    pub digest: [u8; 32],
    /// Their length.
    pub bytes: u64,
}

/// Answers to a [`super::TokenAskV1`], in any order; what is not answered is asked for again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensV1 {
    /// The answers.
    pub answers: Vec<TokenAnswerV1>,
}

/// What came of one wish for a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswerV1 {
    /// What was asked for.
    pub want: TokenWantV1,
    /// The token, or why there is none.
    pub token: Result<TokenV1, String>,
}

/// A service account's token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenV1 {
    /// The token's text, which is secret.
    pub text: String,
    /// When it was issued.
    pub issued: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

impl std::fmt::Debug for TokenV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenV1").field("expires", &self.expires).finish_non_exhaustive()
    }
}
