//! The words of the store: keys and records as callers see them, operations, changes, errors.

use std::{io, path::PathBuf};

use bytes::Bytes;
use model::{
    ids::{KindKey, ObjectKey, Uid, Version},
    limits,
    masters::MemberId,
};

use crate::io::clock::Clock;

/// Where a store lives and how much it keeps.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the store; made when missing.
    pub dir: PathBuf,
    /// Bytes of recent changes kept in memory for watches.
    pub history_bytes: usize,
    /// Log bytes at which a snapshot is written and the older half of the log removed.
    pub log_bytes: u64,
    /// Kinds that live in memory only, written with [`super::Store::propose_memory`].
    pub memory_kinds: Vec<KindKey>,
    /// Cluster time: written with every entry, and set at open to no less than the newest of them.
    pub clock: Clock,
    /// What Secrets are sealed with; `None` stores them in the open.
    pub secrets: Option<super::SecretsKeys>,
    /// Failures to inject below the log, in tests.
    pub(super) faults: super::file::Faults,
}

impl Options {
    /// The usual bounds for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }
}

impl Default for Options {
    fn default() -> Self {
        let memory_kinds = ["/events", "events.k8s.io/events", "coordination.k8s.io/leases"];
        Self {
            dir: PathBuf::new(),
            history_bytes: limits::STORE_HISTORY_BYTES_MAX,
            log_bytes: limits::STORE_LOG_BYTES_MAX,
            memory_kinds: memory_kinds.map(KindKey::from).to_vec(),
            clock: Clock::starting_at(Default::default()),
            secrets: None,
            faults: super::file::Faults::default(),
        }
    }
}

/// An object as stored: minified JSON without `metadata.resourceVersion`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it lives.
    pub key: ObjectKey,
    /// Version of the write that made these bytes.
    pub version: Version,
    /// Its uid.
    pub uid: Uid,
    /// Its bytes.
    pub body: Bytes,
}

/// What an operation expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// No object under the key.
    Absent,
    /// The object at exactly this version.
    At(Version),
    /// Anything; a delete still needs an object.
    Any,
}

/// One compare-and-put of finished bytes; the operations of a proposal happen together or not at all.
#[derive(Clone, Debug)]
pub struct Op {
    /// Where.
    pub key: ObjectKey,
    /// What must be there before.
    pub base: Base,
    /// Uid of the object.
    pub uid: Uid,
    /// New bytes; `None` deletes.
    pub body: Option<Bytes>,
    /// Whether the log carries the previous bytes too: set when labels or selectable fields change.
    /// Deletes always carry them.
    pub keep_old: bool,
}

/// A write that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its version, larger than that of every change before.
    pub version: Version,
    /// The object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Uid,
    /// New bytes; `None` when deleted.
    pub body: Option<Bytes>,
    /// Previous bytes, for deletes and for operations with `keep_old`.
    pub old: Option<Bytes>,
    /// There was no object before: the operation had the base [`Base::Absent`].
    pub created: bool,
}

impl Change {
    /// Bytes that this change holds in memory.
    pub(super) fn bytes(&self) -> usize {
        let text = self.key.namespace.len() + self.key.name.len();
        let held = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + text + held(&self.body) + held(&self.old)
    }
}

/// Sees every object when it begins to follow (as a put) and then every change in order, without a
/// gap, on the store's thread; a change before its proposer is answered.
///
/// It must be quick and must not call back into `propose`; reads of the store see the change.
pub trait Applied: Send {
    /// One change has happened.
    fn applied(&mut self, change: &Change);

    /// Every object was shown, and what there is has this version: deletions after the newest object
    /// and the start of the term count too.
    fn opened(&mut self, version: Version) {
        let _ = version;
    }
}

/// For stores that nobody follows from inside.
impl Applied for () {
    fn applied(&mut self, _: &Change) {}
}

/// The answer to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One version per operation, in order.
    pub versions: Vec<Version>,
}

/// Which objects a LIST wants: one kind, in the order of namespace and name.
#[derive(Clone, Debug)]
pub struct ListRange {
    /// The kind.
    pub kind: KindKey,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// Start after this namespace and name.
    pub after: Option<(String, String)>,
    /// Most records in the page.
    pub limit: usize,
}

/// A part of a LIST.
#[derive(Clone, Debug)]
pub struct Page {
    /// Objects in order.
    pub records: Vec<Record>,
    /// The version at which all of them were read.
    pub version: Version,
    /// Whether objects follow the last one.
    pub more: bool,
}

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file operation failed.
    #[error("store cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("store {dir} is in use by another process", dir = .0.display())]
    Locked(PathBuf),
    /// The log is damaged before its end: acknowledged writes may be lost.
    #[error(
        "log {path} is damaged at byte {offset}, the last good version is {last_good}: restore a backup, or accept \
         the loss with `kumquat repair --accept-loss-after {last_good}`", path = path.display()
    )]
    Damaged {
        /// The damaged segment.
        path: PathBuf,
        /// Where the damage starts.
        offset: u64,
        /// Everything up to here is whole.
        last_good: Version,
    },
    /// The state is lost, and neither a snapshot nor the log reaches back far enough to rebuild it.
    #[error(
        "state in {dir} is lost and the log starts at entry {first_index} with no good snapshot before it: restore a backup",
        dir = dir.display()
    )]
    Unrecoverable {
        /// The store.
        dir: PathBuf,
        /// Where the log starts.
        first_index: u64,
    },
    /// Written by a build that is too new.
    #[error(
        "{path} has format {format}, which this build is too old for: a later version of kumquat wrote \
         it; start that version",
        path = path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format number.
        format: u16,
    },
    /// The state database failed.
    #[error("store cannot open its state {path}", path = path.display())]
    State {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The vote cannot be read: this replica may have promised what it no longer knows.
    #[error("vote {path} cannot be read: this copy of the log must be replaced", path = .0.display())]
    Vote(PathBuf),
    /// The state reaches further than the log, or the log that had entries has none: what others count on is
    /// lost.
    #[error("log of {dir} is lost, or its end: this copy must be replaced", dir = .0.display())]
    Lost(PathBuf),
    /// The store is one of a group, or of another member, or holds what no group knows.
    #[error("store {dir} belongs to a group as member {own}, or to another one", dir = .dir.display())]
    Member {
        /// The store.
        dir: PathBuf,
        /// Which member it is; zero when it is none.
        own: MemberId,
    },
    /// `promote` was asked of a member that has got nothing of the log yet.
    #[error(
        "store {dir} is empty, this board has no copy of the log yet: promote a board that has one \
         (`kumquat status`)", dir = .0.display()
    )]
    Empty(PathBuf),
    /// `repair` was asked to give up what the other members of the group have.
    #[error(
        "store {dir} belongs to a group of masters: start the board, and it gets another copy from them; if \
         none of them is left, accept the loss with `kumquat repair --accept-loss-after {version} --last-copy`, \
         or restore a backup", dir = .dir.display()
    )]
    Replica {
        /// The store.
        dir: PathBuf,
        /// What was to be kept.
        version: Version,
    },
    /// It was asked to lead, or to follow, in the middle of something else.
    #[error("store {dir} is in use already", dir = .0.display())]
    Busy(PathBuf),
    /// `repair` found nothing to repair.
    #[error("log of {dir} is whole: nothing to repair", dir = .0.display())]
    Whole(PathBuf),
    /// `repair` was asked to keep more than there is.
    #[error("log is good only up to version {last_good}: use `--accept-loss-after {last_good}`")]
    BeyondGood {
        /// The last good version.
        last_good: Version,
    },
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The record of an object does not match its checksum; the next start rebuilds the state.
    #[error("record of {0} is damaged: restart kumquat, it rebuilds its state from the log")]
    Damaged(String),
    /// The state database failed.
    #[error("state cannot be read")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The state is being replaced by the leader's.
    #[error("state is being replaced by the leader's: try again")]
    Installing,
    /// No key opens a Secret.
    #[error(
        "{0} cannot be opened: its key is missing in pki/secrets.key, restore it from a backup"
    )]
    Sealed(String),
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}

/// Why a proposal did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// An operation found something else than its base; nothing of the proposal happened.
    #[error("operation {op} conflicts")]
    Conflict {
        /// Index of the first operation that conflicts.
        op: usize,
        /// What is there.
        current: Option<Version>,
    },
    /// More operations or bytes than one entry may hold.
    #[error("proposal is too large")]
    TooLarge,
    /// The disk is full; nothing happened, and writes work again when there is space.
    #[error("disk of the data directory is full: free some space")]
    NoSpace,
    /// No file can be opened; nothing happened, and writes work again when files are closed.
    #[error("kumquat has too many files open to store the write: try again")]
    Descriptors,
    /// The disk failed; the write may or may not have happened. The store refuses writes until it
    /// is opened anew.
    #[error(
        "disk of the data directory failed to store the write, look at the kernel log and restart kumquat"
    )]
    Failed,
    /// This board does not lead, or not in the reign that the handle is for; nothing happened.
    #[error("this board does not lead the cluster")]
    NotLeading {
        /// Who leads, when that is known.
        hint: Option<MemberId>,
    },
    /// It could not be handed to the group in time; nothing happened.
    #[error("the masters do not get on at this moment: try again")]
    Late,
    /// It was handed to the group, and what became of it is not known: it may have happened, or may
    /// happen later.
    #[error("whether the write happened is unknown: read the object before trying again")]
    Unknown,
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}

/// The history no longer reaches back to the wanted version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("history starts at version {oldest}")]
pub struct Expired {
    /// The oldest version from which a watch can start.
    pub oldest: Version,
}

/// Why a watch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher was too slow: what follows its position is no longer kept.
    #[error("history no longer reaches back to this watch")]
    Expired,
    /// The store is closed.
    #[error("store is closed")]
    Closed,
}
