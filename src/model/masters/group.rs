//! Messages of the group's log: from leader to follower and back, in frames with a version byte.
//!
//! The words are Raft's (Ongaro, "Consensus: Bridging Theory and Practice", figure 3.1), the form is
//! ours, so that an engine may be exchanged. An entry's payload is never decoded on the way.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MemberId, MembersV1};
use crate::limits::{GROUP_ANSWER_BYTES_MAX, GROUP_ASK_BYTES_MAX, GROUP_ENTRIES_MAX};
use crate::timestamp::Timestamp;

/// First byte of every frame that this build writes.
pub const GROUP_SCHEMA: u8 = 1;

/// Which cluster, who speaks and who is meant: whoever is not meant refuses with [`FenceV1`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHeadV1 {
    /// First half of the pin of the cluster's authority, as in the leader record.
    pub cluster: [u8; 16],
    /// Epoch of the sender's log.
    pub epoch: u64,
    /// Who speaks.
    pub from: MemberId,
    /// Who is meant.
    pub to: MemberId,
    /// What time the sender has.
    pub time: ClusterTimeV1,
}

/// What time a member has; the voters' clocks together make cluster time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTimeV1 {
    /// Cluster time as this member has it.
    pub cluster: Timestamp,
    /// Its system clock, untouched.
    pub system: Timestamp,
    /// Whether the kernel says that its clock is synchronised.
    pub synced: bool,
}

/// Place of an entry: the term in which it was made, and its index.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogIdV1 {
    /// Term of the leader that made it.
    pub term: u64,
    /// Place in the log.
    pub index: u64,
}

/// A vote: for whom in which term, and whether a majority gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoteV1 {
    /// The term.
    pub term: u64,
    /// The candidate.
    pub of: MemberId,
    /// Whether the candidate leads this term.
    pub granted: bool,
}

/// What one member asks another; variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAskV1 {
    /// Entries, or none when only `commit` has moved.
    Append {
        /// The leader's vote.
        vote: VoteV1,
        /// Entry before the first of these.
        previous: Option<LogIdV1>,
        /// Up to where entries are committed.
        commit: Option<LogIdV1>,
        /// At most [`GROUP_ENTRIES_MAX`].
        entries: Vec<EntryWireV1>,
    },
    /// A candidate wants a vote.
    Vote {
        /// What it wants to be.
        vote: VoteV1,
        /// End of its log.
        last: Option<LogIdV1>,
        /// The leader asked it to: the lease of that leader does not hold.
        transfer: bool,
    },
    /// A candidate wants to know whether it would get the vote.
    PreVote {
        /// What it would be.
        vote: VoteV1,
        /// End of its log.
        last: Option<LogIdV1>,
    },
    /// The leader hands its place over.
    Transfer {
        /// The leader's vote.
        from: VoteV1,
        /// Who takes over.
        to: MemberId,
        /// How far the log of `to` must reach.
        last: Option<LogIdV1>,
    },
    /// Up to where must be applied before a read answers.
    ReadIndex,
    /// Where do you stand: asked by a voter that wants to lead alone after a start.
    Standing,
    /// A heartbeat: it renews the leader's lease, and is answered as [`AppendedV1`] without waiting
    /// for a disk. An `Append` without entries waits: its answer says what is durable.
    Beat {
        /// The leader's vote.
        vote: VoteV1,
        /// An entry that the follower is known to have.
        previous: Option<LogIdV1>,
        /// Up to where entries are committed.
        commit: Option<LogIdV1>,
    },
}

/// One entry on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryWireV1 {
    /// Its place.
    pub id: LogIdV1,
    /// What it carries.
    pub payload: PayloadWireV1,
}

/// What an entry carries; variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayloadWireV1 {
    /// A leader's term begins.
    Blank,
    /// An entry of the store, as encoded by its leader.
    Entry(Bytes),
    /// The group changes.
    Members(MembersV1),
}

/// What comes back; variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAnswerV1 {
    /// To `Append` and `Beat`.
    Append(AppendedV1),
    /// To `Vote` and `PreVote`.
    Vote {
        /// The newest vote of whoever answers.
        vote: VoteV1,
        /// End of its log.
        last: Option<LogIdV1>,
        /// Whether the candidate has this vote.
        granted: bool,
    },
    /// To `Transfer`: whether it stands for election.
    Transferred(bool),
    /// To a snapshot: the newest vote of whoever took it.
    Installed(VoteV1),
    /// To `ReadIndex`: `None` when it does not lead.
    ReadIndex(Option<LogIdV1>),
    /// To `Standing`.
    Standing {
        /// Epoch of its log.
        epoch: u64,
        /// Its newest vote.
        vote: VoteV1,
        /// End of its log.
        last: Option<LogIdV1>,
    },
    /// To anything: not for you.
    Refused(FenceV1),
}

/// What became of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendedV1 {
    /// Durable up to here; `None`: all of them.
    Done {
        /// The last durable one, when not all are.
        upto: Option<LogIdV1>,
    },
    /// The entry before the first is another one here.
    Conflict,
    /// A newer term is known.
    HigherVote(VoteV1),
}

/// Why a message was not taken; variants are only ever added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FenceV1 {
    /// Another cluster.
    #[error("the message is from another cluster")]
    Cluster,
    /// Another epoch: the lower of the two is over.
    #[error("the log has epoch {is}")]
    Epoch {
        /// Epoch of whoever refuses.
        is: u64,
    },
    /// Another member was meant: this replica is a newer one of the board, or none at all.
    #[error("the message is for another member")]
    Target,
    /// The sender is no member, is not the board that its certificate names, or was evicted.
    #[error("the sender is no member of the group")]
    Sender,
    /// It does not hold the log at this moment: starting, stopping, or replaced.
    #[error("the board holds no log at this moment")]
    Away,
}

/// Head of a snapshot whose body follows as a stream that may be resumed at an offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeadV1 {
    /// The leader's vote.
    pub vote: VoteV1,
    /// The last entry that it contains.
    pub last: LogIdV1,
    /// The group as of that entry.
    pub members: MembersV1,
    /// Epoch of the log.
    pub epoch: u64,
    /// Position of that epoch's index 0.
    pub base: u64,
    /// Length of the body.
    pub bytes: u64,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
}

/// One question on a stream between two masters; answers may come in another order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskFrameV1 {
    /// Unique among the questions of a connection whose answers are awaited.
    pub sequence: u64,
    /// From whom and to whom.
    pub head: GroupHeadV1,
    /// The question.
    pub ask: GroupAskV1,
}

/// The answer to the question of the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFrameV1 {
    /// Number of the question.
    pub sequence: u64,
    /// What time the one has who answers.
    pub time: ClusterTimeV1,
    /// The answer.
    pub answer: GroupAnswerV1,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Written by a build that this one does not understand.
    #[error("frame between masters has schema {0}, this build reads {GROUP_SCHEMA}")]
    Schema(u8),
    /// Empty, cut, too large, or with something behind it.
    #[error("frame between masters cannot be decoded")]
    Body,
    /// A count or a list of members beyond its bounds.
    #[error("frame between masters is beyond its bounds")]
    Bounds,
}

impl AskFrameV1 {
    /// As bytes, the version byte first.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`BadFrame`]; also for lists that are too long and members that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let frame: Self = decode(bytes, GROUP_ASK_BYTES_MAX)?;
        if let GroupAskV1::Append { entries, .. } = &frame.ask {
            let bad = |entry: &EntryWireV1| match &entry.payload {
                PayloadWireV1::Members(members) => members.check().is_err(),
                PayloadWireV1::Blank | PayloadWireV1::Entry(_) => false,
            };
            if entries.len() > GROUP_ENTRIES_MAX || entries.iter().any(bad) {
                return Err(BadFrame::Bounds);
            }
        }
        Ok(frame)
    }
}

impl AnswerFrameV1 {
    /// As bytes, the version byte first.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`BadFrame`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        decode(bytes, GROUP_ANSWER_BYTES_MAX)
    }
}

impl SnapshotHeadV1 {
    /// As bytes, the version byte first.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`BadFrame`]; also for members that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let head: Self = decode(bytes, GROUP_ANSWER_BYTES_MAX)?;
        head.members.check().map_err(|_| BadFrame::Bounds)?;
        Ok(head)
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![GROUP_SCHEMA]).expect("a frame is plain data")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], bytes_max: usize) -> Result<T, BadFrame> {
    match bytes.split_first() {
        Some((&GROUP_SCHEMA, body)) if bytes.len() <= bytes_max => {
            match postcard::take_from_bytes(body) {
                Ok((value, [])) => Ok(value),
                _ => Err(BadFrame::Body),
            }
        }
        Some((&schema, _)) if schema != GROUP_SCHEMA => Err(BadFrame::Schema(schema)),
        _ => Err(BadFrame::Body),
    }
}
