//! What the engine and the store's thread say to each other.
//!
//! The thread owns log, vote and state and serves these requests strictly in the order in which they
//! come; the engine decides what is appended and what is committed and touches no file. An index is
//! here, as in the log, counted from 1.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use model::masters::{LogIdV1, MemberId, MembersV1, SnapshotHeadV1, VoteV1};
use tokio::sync::{mpsc, oneshot};

use crate::io::store::Mandate;

/// An entry with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::io::store) struct LogEntry {
    /// Term of the leader that made it.
    pub(in crate::io::store) term: u64,
    /// Place in the log, from 1.
    pub(in crate::io::store) index: u64,
    /// As in the frame.
    pub(in crate::io::store) payload: Bytes,
    /// Which proposal of this board it is; 0: none. Never on disk, so it may be lost.
    pub(in crate::io::store) tag: u64,
}

/// Where the answer to a request goes.
pub(in crate::io::store) type Done<T> = oneshot::Sender<io::Result<T>>;
/// Called on the store's thread once entries are durable, or cannot be.
pub(in crate::io::store) type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A snapshot file, or what is to become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub head: SnapshotHeadV1,
}

/// What the engine asks of the store's thread. An error ends the engine, not the store.
pub(in crate::io::store) enum GroupRequest {
    /// Makes entries durable; several requests may share a sync, each is told in turn.
    Append {
        /// Contiguous, after the last one.
        entries: Vec<LogEntry>,
        /// Told when they are durable.
        flushed: Flushed,
    },
    /// Forgets the entries after one, durably.
    Truncate {
        /// The last one that stays; 0: none stays.
        after: u64,
        /// Answered when they are gone.
        done: Done<()>,
    },
    /// Entries up to here are in a snapshot and nobody needs them; more may be kept, and for longer. Nobody
    /// waits for it: the engine would send no heartbeats meanwhile.
    Purge {
        /// The last one.
        upto: u64,
    },
    /// Makes a vote durable.
    SaveVote {
        /// The vote.
        vote: VoteV1,
        /// Answered when it is durable.
        done: Done<()>,
    },
    /// Applies committed entries, tells the hook and answers whoever proposed them.
    Commit {
        /// Contiguous, after the last applied one.
        entries: Vec<LogEntry>,
        /// Answered when they are applied.
        done: Done<()>,
    },
    /// Reads entries back.
    Read {
        /// The first one.
        from: u64,
        /// The last one, at most.
        upto: u64,
        /// Bytes, at most; one entry is given whatever its size.
        bytes_max: usize,
        /// The entries; none when there is none at `from`.
        done: Done<Vec<LogEntry>>,
    },
    /// Replaces state and log by a snapshot that is whole and checked.
    Install {
        /// The file; it is moved.
        file: SnapshotFile,
        /// Answered when the state is the snapshot's.
        done: Done<()>,
    },
    /// Writes a snapshot of what is applied.
    Snapshot {
        /// The file.
        done: Done<SnapshotFile>,
    },
    /// Looks for the newest good snapshot.
    Newest {
        /// The file, when there is one.
        done: Done<Option<SnapshotFile>>,
    },
    /// Proposals that will not come back in a `Commit`.
    Refused {
        /// Which ones.
        tags: Vec<u64>,
        /// Why.
        why: Refusal,
    },
    /// This board begins to lead: the first entry of its term is applied; or its reign is over.
    Reign(Option<Mandate>),
}

/// Why a proposal does not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::io::store) enum Refusal {
    /// It was surely not appended.
    NotLeading {
        /// Who leads, when that is known.
        hint: Option<MemberId>,
    },
    /// It may be committed one day, or never.
    Unknown,
}

/// Where log and state stand when the engine starts.
#[derive(Clone, Debug)]
pub(in crate::io::store) struct GroupState {
    /// Cluster epoch.
    pub(in crate::io::store) epoch: u64,
    /// The vote on disk.
    pub(in crate::io::store) vote: Option<VoteV1>,
    /// The entry before the first kept one of this epoch.
    pub(in crate::io::store) purged: Option<LogIdV1>,
    /// The last entry, or the last purged one.
    pub(in crate::io::store) last: Option<LogIdV1>,
    /// The last applied one.
    pub(in crate::io::store) applied: Option<LogIdV1>,
    /// The group as of the last applied entry, and the entry that made it so or any later applied one.
    pub(in crate::io::store) members: Option<(LogIdV1, MembersV1)>,
    /// First kept entry of each term, ascending.
    pub(in crate::io::store) first_of_terms: Vec<LogIdV1>,
}

/// What the store's thread asks of the engine.
#[derive(Debug)]
pub(in crate::io::store) enum Ask {
    /// Entries to replicate while this mandate lasts, in this order: tag and payload.
    Propose {
        /// Of the reign in which they were staged: in no other they may be appended, not even in a later
        /// one of the same term.
        mandate: Mandate,
        /// Tag and payload of each.
        entries: Vec<(u64, Bytes)>,
    },
    /// There is a new snapshot: the engine may let go of what it covers.
    Snapshot,
}

/// The way of the store's thread to the engine: wide enough for all groups that it lets out at once.
pub(in crate::io::store) type Asks = mpsc::Sender<Ask>;
