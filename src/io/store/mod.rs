//! The store: the log is the truth, LMDB is the state, `propose` is the one way to write.
//!
//! Reads are synchronous and short; writes are answered when they are durable on this disk. An
//! acknowledged write survives power loss, versions are never used twice and only grow.
//!
//! A master that is alone is its own majority (`writer`). In a group the engine in `group` decides what
//! is appended and committed, and never touches a file (`follow`).
//!
//! Deliberately absent: what objects mean (the registry), who is in the group (the policy), an owner
//! index (the controllers' views have it).

mod backoff;
mod backup;
mod cursor;
mod entry;
mod file;
mod flight;
mod flush;
mod follow;
mod group;
mod history;
mod install;
mod live;
mod log;
mod membership;
mod memory;
mod open;
mod pages;
mod record;
mod repair;
mod replica;
mod requests;
mod secrets;
mod segment;
mod snapshot;
mod stage;
mod standing;
mod state;
#[cfg(test)]
mod tests;
mod types;
mod vote;
mod work;
mod write_memory;
mod writer;

use std::{
    io,
    path::Path,
    sync::{Arc, PoisonError, Weak, mpsc},
    time::{Duration, Instant},
};

use model::{
    ids::{KindKey, ObjectKey, Version},
    limits::{STORE_LIST_BYTES_MAX, STORE_PROPOSAL_BYTES_MIN, STORE_QUEUE_BYTES_MAX},
    masters::{MemberId, MemberV1, MembersV1, Reign},
};
use tokio::sync::{Semaphore, oneshot, watch};

pub use backup::{Capture, SnapshotFacts};
pub use cursor::Cursor;
pub use group::{
    BoxFuture, ChangeError, Group, GroupError, GroupHealth, GroupOptions, GroupWire, MemberChange,
    SnapshotFile, Timing, WireTrouble,
};
pub use record::with_version;
pub use requests::Unattached;
pub use secrets::SecretsKeys;
pub use standing::{Mandate, NotLeading};
pub use types::{
    Applied, Base, Change, Committed, Expired, ListRange, Op, OpenError, Options, Page,
    ProposeError, Record, StoreError, WatchError,
};

use group::seam::{Asks, GroupRequest, GroupState};
use live::Shared;
use requests::{Entry, Request, Write};
use work::Work;
use writer::{FLUSH_IDLE, Role, Syncing, Writer};

/// An open store; clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    requests: Arc<mpsc::Sender<Request>>,
    queue: Arc<Semaphore>,
    reign: watch::Receiver<Option<Mandate>>,
    /// Writes of this handle count under this mandate only.
    bound: Option<Mandate>,
    standing: Standing,
    syncing: Syncing,
    /// What Secrets are sealed with; `None` leaves them in the open.
    secrets: Option<SecretsKeys>,
    /// How many may read all of it at once.
    captures: Arc<Semaphore>,
}

/// In whose name this store writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Cluster epoch: raised by promote, restore and repair.
    pub epoch: u64,
    /// Term: raised at every start of a sole voter.
    pub term: u64,
}

/// What a store was when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It asks nobody: a new store, or that of a master which is alone.
    Sole,
    /// A replica of a group.
    Member {
        /// Which one.
        own: MemberId,
        /// Epoch of the group.
        epoch: u64,
    },
}

/// The queue is counted in units of this many bytes.
const QUEUE_UNIT_BYTES: usize = 1024;

impl Store {
    /// Opens the store in `options.dir`, making it when it is missing, and starts its thread. It can be
    /// read; it is written when it leads, alone or in a group.
    ///
    /// # Errors
    /// [`OpenError`]; a torn end of the log and a damaged LMDB are no errors, they are repaired.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let opened = open::open(&options)?;
        let shared = Arc::new(Shared::new(opened.live));
        let (sender, requests) = mpsc::channel();
        let sender = Arc::new(sender);
        let (reign, reigns) = watch::channel(None);
        let syncing = Syncing::default();
        let standing = opened.vote.as_ref().map_or(Standing::Sole, |vote| {
            let vote::Ballot { own, epoch, .. } = vote.ballot();
            Standing::Member { own, epoch }
        });
        let (dir, secrets) = (options.dir.clone(), options.secrets.clone());
        let writer = Writer {
            log: opened.log,
            shared: shared.clone(),
            hook: Box::new(()),
            requests,
            own: Arc::downgrade(&sender),
            paths: open::Paths::of(&dir),
            options,
            role: Role::Idle,
            vote: opened.vote,
            applied: opened.applied,
            reign,
            end_alone: None,
            next_ordinal: 1,
            owes_term_start: false,
            flushed_bytes: 0,
            flush_at: opened.dirty.then(|| Instant::now() + FLUSH_IDLE),
            flush_backoff: FLUSH_IDLE,
            purging: None,
            work: Work::new(),
            captures: snapshot::Stop::default(),
            syncing: syncing.clone(),
            lock: opened.lock,
        };
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run())
            .map_err(log::io_error("start the thread of", &dir))?;
        let queue = Arc::new(Semaphore::new(STORE_QUEUE_BYTES_MAX / QUEUE_UNIT_BYTES));
        let (bound, reign, captures) = (None, reigns, backup::places());
        let requests = sender;
        Ok(Self { shared, requests, queue, reign, bound, standing, syncing, secrets, captures })
    }

    /// Ends the thread and waits until its files are free.
    fn end_now(self) {
        let (answer, mut answered) = oneshot::channel();
        if self.requests.send(Request::Close(answer)).is_ok() {
            while matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// [`Store::open`] and [`Store::lead_alone`] in one, on the calling thread.
    ///
    /// # Errors
    /// Those of both.
    pub fn open_alone(options: Options, hook: Box<dyn Applied>) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        let store = Self::open(options)?;
        let (answer, answered) = mpsc::sync_channel(1);
        // The thread lives until the store is closed, and the channel holds its one answer.
        let reply = Box::new(move |led| drop(answer.send(led)));
        let hook = store.opening(hook);
        let asked = store.requests.send(Request::LeadAlone { hook, reply });
        let led = asked.ok().and_then(|()| answered.recv().ok());
        let Err(error) = led.unwrap_or(Err(OpenError::Busy(dir))) else { return Ok(store) };
        store.end_now();
        Err(error)
    }

    /// Begins a term in which nobody else has to be asked; every object is shown to `hook`, then every
    /// change. [`Store::reign`] tells of the mandate before this returns.
    ///
    /// # Errors
    /// [`OpenError::Member`] for a replica of a group, [`OpenError::Busy`] when it leads already.
    pub async fn lead_alone(&self, hook: Box<dyn Applied>) -> Result<Mandate, OpenError> {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may have gone: the store leads all the same.
        let reply = Box::new(move |led| drop(answer.send(led)));
        let hook = self.opening(hook);
        let asked = self.requests.send(Request::LeadAlone { hook, reply });
        let led = if asked.is_ok() { answered.await.ok() } else { None };
        led.unwrap_or_else(|| Err(OpenError::Busy("closed".into())))
    }

    /// What this store was when it was opened.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Who may act for this store: `None` while it does not lead.
    pub fn reign(&self) -> watch::Receiver<Option<Mandate>> {
        self.reign.clone()
    }

    /// Epoch and term of the reign that this store is in; zero while it does not lead.
    pub fn leadership(&self) -> Leadership {
        let reign = self.reign.borrow().as_ref().map(Mandate::reign);
        let Reign { epoch, term } = reign.unwrap_or_default();
        Leadership { epoch, term }
    }

    /// The same store for whoever acts under `mandate`: its writes are refused once that is over, even if
    /// this board leads again, be it in the same term.
    pub fn of(&self, mandate: &Mandate) -> Self {
        Self { bound: Some(mandate.clone()), ..self.clone() }
    }

    /// Shows every object to `hook`, and then every change without a gap.
    ///
    /// # Errors
    /// [`Unattached`] when the reign of `mandate` is over, or the state cannot be read.
    pub async fn lead(&self, mandate: &Mandate, hook: Box<dyn Applied>) -> Result<(), Unattached> {
        let (answer, answered) = oneshot::channel();
        let hook = self.opening(hook);
        let attach = Request::Attach { reign: mandate.reign(), hook, answer };
        let gone = Unattached::NotLeading(NotLeading { hint: None });
        match self.requests.send(attach) {
            Ok(()) => answered.await.unwrap_or(Err(gone)),
            Err(_) => Err(gone),
        }
    }

    /// Lets go of the hook: it sees nothing any more when this returns.
    pub async fn detach(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Detach(answer)).is_ok() {
            // A thread that has ended has no hook any more.
            let _ = answered.await;
        }
    }

    /// The group as of what is applied; `None` when this master is alone.
    pub fn members(&self) -> Option<MembersV1> {
        let live = self.shared.read();
        live.membership.as_ref().map(|membership| membership.members.clone())
    }

    /// Makes this store a replica of a group whose engine is at the other end of `asks`. With `keep` a
    /// master that is alone becomes the first member and leads on in the same reign.
    ///
    /// # Errors
    /// [`OpenError::Member`] when it is another member, or holds entries that no group knows.
    pub(in crate::io::store) async fn enter(
        &self,
        own: MemberId,
        epoch: u64,
        asks: Asks,
        keep: Option<MemberV1>,
    ) -> Result<GroupState, OpenError> {
        let (answer, answered) = oneshot::channel();
        let entry = Entry { own, epoch, asks, keep };
        let asked = self.requests.send(Request::Enter { entry, answer });
        let entered = if asked.is_ok() { answered.await.ok() } else { None };
        entered.unwrap_or_else(|| Err(OpenError::Busy("closed".into())))
    }

    /// Ends the part of this store in a group: it is idle again when this returns.
    pub(in crate::io::store) async fn leave_engine(&self) {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Leave(answer)).is_ok() {
            // A thread that has ended serves no engine.
            let _ = answered.await;
        }
    }

    /// The way of the engine to the thread.
    pub(in crate::io::store) fn engine(&self) -> EngineEnd {
        EngineEnd { requests: Arc::downgrade(&self.requests) }
    }

    /// Since when the thread waits for the disk, when it does.
    pub(in crate::io::store) fn syncing_since(&self) -> Option<Instant> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner).waits_since
    }

    /// Epoch of the newest segment of the log; none when there is none.
    pub fn log_epoch(&self) -> Option<u64> {
        self.shared.read().segments.last().map(|newest| newest.header.epoch)
    }

    /// Whether the beginning of this epoch's log is gone.
    pub(in crate::io::store) fn is_cut(&self) -> bool {
        let live = self.shared.read();
        let epoch = live.segments.last().map(|newest| newest.header.epoch);
        let mut of_epoch = live.segments.iter().map(|segment| segment.header);
        of_epoch
            .find(|header| Some(header.epoch) == epoch)
            .is_some_and(|first| first.first_index > 1)
    }

    /// When the disk last had no room for a write.
    pub(in crate::io::store) fn full_at(&self) -> Option<Instant> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner).full_at
    }

    /// One object.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn get(&self, key: &ObjectKey) -> Result<Option<Record>, StoreError> {
        let found = self.shared.get(key)?;
        found.map(|record| Ok(self.opened(record)?.0)).transpose()
    }

    /// Objects of one kind in the order of namespace and name, all as of one version.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn list(&self, range: &ListRange) -> Result<Page, StoreError> {
        self.list_within(range, STORE_LIST_BYTES_MAX)
    }

    /// As [`Store::list`], but no more than one object beyond `bytes_max`.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn list_within(&self, range: &ListRange, bytes_max: usize) -> Result<Page, StoreError> {
        let page = self.shared.list(range, bytes_max.min(STORE_LIST_BYTES_MAX))?;
        if self.secrets.is_none() || !secrets::is_secret(&range.kind) {
            return Ok(page);
        }
        let records = page.records.into_iter().map(|record| Ok(self.opened(record)?.0));
        Ok(Page { records: records.collect::<Result<_, StoreError>>()?, ..page })
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

    async fn write(&self, mut ops: Vec<Op>, logged: bool) -> Result<Committed, ProposeError> {
        if let Some(keys) = self.secrets.as_ref().filter(|_| logged) {
            keys.seal_all(&mut ops).map_err(|error| {
                tracing::error!(%error, "a Secret is not written");
                ProposeError::Failed
            })?;
        }
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
        let mandate = self.bound.clone();
        let request = Request::Write(Write { ops, logged, mandate, answer, permit });
        self.requests.send(request).map_err(|_| ProposeError::Closed)?;
        let outcome = answered.await.map_err(|_| ProposeError::Closed)?;
        if let Err(ProposeError::Conflict { .. }) = outcome {
            // What it conflicts with may be the past, when another board leads by now.
            let mandate = self.reign.borrow().clone();
            let Some(mandate) = mandate else {
                return Err(ProposeError::NotLeading { hint: None });
            };
            mandate
                .confirm()
                .await
                .map_err(|NotLeading { hint }| ProposeError::NotLeading { hint })?;
        }
        outcome
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
        Ok(Cursor::new(&self.shared, None, None, from)?.opening(self.secrets.clone()))
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
        let namespace = namespace.map(str::to_owned);
        let cursor = Cursor::new(&self.shared, Some(kind.clone()), namespace, from)?;
        Ok(cursor.opening(self.secrets.clone()))
    }

    /// The oldest version from which `kind` can be watched.
    pub fn oldest(&self, kind: &KindKey) -> Version {
        let id = self.shared.kind_id(kind);
        cursor::oldest(&self.shared.read(), Some(id))
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

    /// Makes a member of a group whose others are gone for good a store of its own: all that its log
    /// holds counts, committed or not, and versions go on in a new epoch, so that the others are fenced
    /// when they come back after all. `epoch`: the latest one that is known of the group, beside what the
    /// store holds. Gives the version up to which everything is kept.
    ///
    /// # Errors
    /// The store is open elsewhere, empty or damaged, or the disk refuses.
    pub fn promote(dir: &Path, epoch: u64) -> Result<Version, OpenError> {
        repair::promote(dir, epoch)
    }

    /// Gives up what the damaged log in `dir` held after `version`, so that the store opens again.
    ///
    /// What the state holds beyond `version` is kept. Versions go on in a new epoch, so none is used
    /// twice. Gives the version up to which everything is kept. `last_copy_of`: nobody else has the log of the
    /// group that this store is of, which was in this epoch; it is a store of its own afterwards.
    ///
    /// # Errors
    /// [`OpenError::Whole`] when nothing is damaged, [`OpenError::BeyondGood`] when `version` is
    /// newer than the last good one, [`OpenError::Replica`] when others may have the log.
    pub fn repair(
        dir: &Path,
        version: Version,
        last_copy_of: Option<u64>,
    ) -> Result<Version, OpenError> {
        repair::repair(dir, version, last_copy_of)
    }
}

/// The engine's way to the thread; it keeps no store open.
#[derive(Clone, Debug)]
pub(in crate::io::store) struct EngineEnd {
    requests: Weak<mpsc::Sender<Request>>,
}

impl EngineEnd {
    /// Asks, without waiting.
    ///
    /// # Errors
    /// The store is closed.
    pub(in crate::io::store) fn send(&self, request: GroupRequest) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "store is closed");
        let requests = self.requests.upgrade().ok_or_else(closed)?;
        requests.send(Request::Group(request)).map_err(|_| closed())
    }
}
