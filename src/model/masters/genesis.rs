//! What fresh boards with one bootstrap token say to each other before there is a cluster
//! (`POST /v1/genesis`).
//!
//! JSON in a `join::Sealed`: each text travels with a proof of the token's secret over exactly that
//! text and over the connection. Fields are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::leader::SignedRecord;
use crate::token::TokenId;

/// Label of the asking board's proof.
pub const ASK_LABEL: &str = "kumquat genesis ask";
/// Label of the answering board's proof: over the exporter, the ask's proof and the answer's text.
pub const ANSWER_LABEL: &str = "kumquat genesis answer";

/// A fresh board: random, made once on a fresh disk. The smallest one stands for founder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GenesisId(pub [u8; 16]);

/// The word of a board that only this board may found, as long as it is in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseV1 {
    /// Who may found.
    pub to: GenesisId,
    /// Its round when the promise was given; a later round of it releases the promise.
    pub round: u64,
}

/// How a fresh board stands; durable on its disk before it is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisWordV1 {
    /// Who speaks.
    pub id: GenesisId,
    /// Name of its board.
    pub name: String,
    /// Boards that it expects; promises count only between boards that expect the same.
    pub expect: u8,
    /// Grows whenever it gives up to stand for founder.
    pub round: u64,
    /// Whom it has promised; itself: it stands for founder.
    pub promise: Option<PromiseV1>,
}

/// What a fresh board asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisAskV1 {
    /// Which token both have.
    pub token: TokenId,
    /// How the asking board stands.
    pub word: GenesisWordV1,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenesisAnswerV1 {
    /// How the answering board stands; `None` when it is a master of a cluster.
    #[serde(default)]
    pub word: Option<GenesisWordV1>,
    /// The cluster that the token lets in to, when there is one.
    #[serde(default)]
    pub founded: Option<FoundedV1>,
}

/// A cluster that was founded with the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundedV1 {
    /// SHA-256 of the SubjectPublicKeyInfo of its authority: with the token it makes a whole one.
    pub pin: [u8; 32],
    /// Its leader's record, as far as known; else the answering board is asked to let in.
    #[serde(default)]
    pub leader: Option<SignedRecord>,
}

impl fmt::Display for GenesisId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GenesisId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GenesisId({self})")
    }
}

impl TryFrom<String> for GenesisId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut id = [0; 16];
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or("bad genesis id");
        if text.len() != 2 * id.len() {
            return Err("bad genesis id");
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(id))
    }
}

impl From<GenesisId> for String {
    fn from(id: GenesisId) -> Self {
        id.to_string()
    }
}
