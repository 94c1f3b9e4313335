//! The store: the log is the truth, LMDB is the state, `propose` is the one way to write.
//!
//! Reads are synchronous and short; writes are answered when they are durable on this disk. An
//! acknowledged write survives power loss, versions are never used twice and only grow.
//!
//! Deliberately absent: what objects mean (the registry), more than one voter (openraft takes the
//! place of `writer`'s append; entries carry epoch, term and index for it), an owner index (the
//! controllers' views have it).

mod backoff;
mod cursor;
mod entry;
mod file;
mod history;
mod live;
mod log;
mod memory;
mod open;
mod pages;
mod record;
mod repair;
mod segment;
mod snapshot;
mod stage;
mod state;
#[cfg(test)]
mod tests;
mod types;
mod writer;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Instant,
};

use model::{
    ids::{KindKey, ObjectKey, Version},
    limits::{STORE_LIST_BYTES_MAX, STORE_PROPOSAL_BYTES_MIN, STORE_QUEUE_BYTES_MAX},
};
use tokio::sync::{Semaphore, oneshot};

pub use cursor::Cursor;
pub use record::with_version;
pub use types::{
    Applied, Base, Change, Committed, Expired, ListRange, Op, OpenError, Options, Page,
    ProposeError, Record, StoreError, WatchError,
};

use backoff::Backoff;
use live::Shared;
use writer::{FLUSH_IDLE, Request, SNAPSHOT_BACKOFF, Writer};

/// An open store; clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    requests: Arc<mpsc::Sender<Request>>,
    queue: Arc<Semaphore>,
    leadership: Leadership,
}

/// In whose name this store writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// Cluster epoch: raised by promote, restore and repair.
    pub epoch: u64,
    /// Term: raised at every start of a sole voter.
    pub term: u64,
}

/// The queue is counted in units of this many bytes.
const QUEUE_UNIT_BYTES: usize = 1024;

impl Store {
    /// Opens the store in `options.dir`, making it when it is missing, and starts its thread.
    ///
    /// # Errors
    /// [`OpenError`]; a torn end of the log and a damaged LMDB are no errors, they are repaired.
    pub fn open(options: Options, mut hook: Box<dyn Applied>) -> Result<Self, OpenError> {
        let opened = open::open(&options, hook.as_mut())?;
        let shared = Arc::new(Shared::new(opened.live));
        let position = opened.log.position();
        let leadership = Leadership { epoch: position.epoch, term: position.term };
        let (sender, requests) = mpsc::channel();
        let sender = Arc::new(sender);
        let writer = Writer {
            log: opened.log,
            shared: shared.clone(),
            hook,
            requests,
            own: Arc::downgrade(&sender),
            snapshots: open::Paths::of(&options.dir).snapshots,
            log_bytes: options.log_bytes,
            clock: options.clock,
            faults: options.faults,
            next_ordinal: 1,
            owes_term_start: opened.owes_term_start,
            flushed_bytes: 0,
            flush_at: opened.dirty.then(|| Instant::now() + FLUSH_IDLE),
            flush_backoff: FLUSH_IDLE,
            snapshot: None,
            snapshot_backoff: Backoff::new(SNAPSHOT_BACKOFF.0, SNAPSHOT_BACKOFF.1),
            snapshot_bytes: 0,
            lock: opened.lock,
        };
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(log::io_error("start the thread of", &options.dir))?;
        let queue = Arc::new(Semaphore::new(STORE_QUEUE_BYTES_MAX / QUEUE_UNIT_BYTES));
        Ok(Self { shared, requests: sender, queue, leadership })
    }

    /// Epoch and term of this opening of the store.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// One object.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn get(&self, key: &ObjectKey) -> Result<Option<Record>, StoreError> {
        self.shared.get(key)
    }

    /// Objects of one kind in the order of namespace and name, all as of one version.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn list(&self, range: &ListRange) -> Result<Page, StoreError> {
        self.shared.list(range, STORE_LIST_BYTES_MAX)
    }

    /// As [`Store::list`], but no more than one object beyond `bytes_max`.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn list_within(&self, range: &ListRange, bytes_max: usize) -> Result<Page, StoreError> {
        self.shared.list(range, bytes_max.min(STORE_LIST_BYTES_MAX))
    }

    /// How many objects of a kind there are, in one namespace or all.
    pub fn count(&self, kind: &KindKey, namespace: Option<&str>) -> usize {
        self.shared.count(kind, namespace)
    }

    /// Writes all operations or none; the answer comes when they are durable.
    ///
    /// # Errors
    /// [`ProposeError`]; after `Failed` and `Closed` the write may have happened.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the write happens.
    pub async fn propose(&self, ops: Vec<Op>) -> Result<Committed, ProposeError> {
        self.write(ops, true).await
    }

    /// Writes objects of memory-only kinds (`Options::memory_kinds`); they are gone at the next start.
    ///
    /// # Errors
    /// Like [`Store::propose`]; `Failed` also for other kinds.
    pub async fn propose_memory(&self, ops: Vec<Op>) -> Result<Committed, ProposeError> {
        self.write(ops, false).await
    }

    async fn write(&self, ops: Vec<Op>, logged: bool) -> Result<Committed, ProposeError> {
        let bytes: usize =
            ops.iter().filter_map(|op| op.body.as_ref()).map(bytes::Bytes::len).sum();
        if bytes > STORE_QUEUE_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        let units = bytes.max(STORE_PROPOSAL_BYTES_MIN).div_ceil(QUEUE_UNIT_BYTES);
        let units = u32::try_from(units).map_err(|_| ProposeError::TooLarge)?;
        let permit = self.queue.clone().acquire_many_owned(units).await;
        let permit = permit.map_err(|_| ProposeError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Write { ops, logged, answer, permit };
        self.requests.send(request).map_err(|_| ProposeError::Closed)?;
        answered.await.map_err(|_| ProposeError::Closed)?
    }

    /// The newest version.
    pub fn version(&self) -> Version {
        self.shared.read().version
    }

    /// Whether the disk has failed, so that every write is refused until the store is opened anew.
    pub fn failed(&self) -> bool {
        self.shared.read().failed
    }

    /// Follows all kinds after `from`.
    ///
    /// # Errors
    /// [`Expired`] when the history starts later; always so for versions of an earlier run, whose
    /// memory-only objects are gone.
    pub fn watch_from(&self, from: Version) -> Result<Cursor, Expired> {
        Cursor::new(&self.shared, None, None, from)
    }

    /// Follows one kind, in one namespace or all, after `from`; other kinds do not wake it.
    ///
    /// # Errors
    /// [`Expired`] when the history starts later.
    pub fn watch_kind(
        &self,
        kind: &KindKey,
        namespace: Option<&str>,
        from: Version,
    ) -> Result<Cursor, Expired> {
        Cursor::new(&self.shared, Some(kind.clone()), namespace.map(str::to_owned), from)
    }

    /// The oldest version from which `kind` can be watched.
    pub fn oldest(&self, kind: &KindKey) -> Version {
        let mut live = self.shared.write();
        let id = live.history.id(kind);
        cursor::oldest(&live, Some(id))
    }

    /// Flushes what is in memory and ends; every clone answers `Closed` from then on.
    pub async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Close(answer)).is_ok() {
            // The thread ends either way; an error means it ended before.
            let _ = answered.await;
        }
        self.queue.close();
    }

    /// Gives up what the damaged log in `dir` held after `version`, so that the store opens again.
    ///
    /// What the state holds beyond `version` is kept. Versions go on in a new epoch, so none is used
    /// twice. Gives the version up to which everything is kept.
    ///
    /// # Errors
    /// [`OpenError::Whole`] when nothing is damaged, [`OpenError::BeyondGood`] when `version` is
    /// newer than the last good one.
    pub fn repair(dir: &Path, version: Version) -> Result<Version, OpenError> {
        repair::repair(dir, version)
    }
}
