//! The store's thread: stages proposals, makes a group durable, applies it, answers.
//!
//! ```text
//! wait -> take what has arrived -> stage (check bases) -> append + fdatasync -> apply -> hook -> wake -> answer
//!   \-> 5 s without writes, or 1 MiB applied: flush LMDB in one transaction; when the log is large: snapshot, cut the log
//! ```
//! With nothing to flush it waits without a timer: an idle store neither writes nor wakes. Nothing is
//! applied, shown or answered before it is durable. With several masters, `append` is what openraft
//! replaces; staging stays with the leader and applying is the same everywhere.

use std::{
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Arc, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use model::{
    ids::{KindKey, Version},
    limits::{
        OBJECT_BYTES_MAX, STORE_ENTRY_OPS_MAX, STORE_FLUSH_IDLE_SECONDS, STORE_GROUP_BYTES_MAX,
        STORE_OVERLAY_FLUSH_BYTES,
    },
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::io::clock::Clock;

use super::{
    backoff::Backoff,
    entry::EntryV1,
    file::Faults,
    live::{Latest, Live, Shared},
    log::{AppendError, Group, Log, Position},
    record, snapshot,
    stage::{Pending, Staged},
    state::{FlushError, Put},
    types::{Applied, Base, Change, Committed, Op, ProposeError},
};

/// How an answer goes back.
pub(super) type Answer = oneshot::Sender<Result<Committed, ProposeError>>;

/// What the thread is asked for.
pub(super) enum Request {
    /// Operations on logged or on memory-only kinds.
    Write {
        /// What to do.
        ops: Vec<Op>,
        /// Whether to the log.
        logged: bool,
        /// Who waits.
        answer: Answer,
        /// Its share of the queue.
        permit: OwnedSemaphorePermit,
    },
    /// A snapshot was written, or not.
    Snapshotted(std::io::Result<(Position, u64)>),
    /// Flush and end.
    Close(oneshot::Sender<()>),
    /// End as if killed.
    #[cfg(test)]
    Abandon,
}

/// The state of the thread.
pub(super) struct Writer {
    /// The log.
    pub(super) log: Log,
    /// What readers see.
    pub(super) shared: Arc<Shared>,
    /// Who follows from inside.
    pub(super) hook: Box<dyn Applied>,
    /// What is asked.
    pub(super) requests: Receiver<Request>,
    /// To ask itself, while somebody still can ask.
    pub(super) own: Weak<Sender<Request>>,
    /// Where snapshots go.
    pub(super) snapshots: PathBuf,
    /// Log bytes that start a snapshot.
    pub(super) log_bytes: u64,
    /// Cluster time, for entries.
    pub(super) clock: Clock,
    /// Injected failures.
    pub(super) faults: Faults,
    /// Ordinal of the next memory-only version at the log's last position.
    pub(super) next_ordinal: u32,
    /// Whether this term's first entry still has to be written (the disk was full at open).
    pub(super) owes_term_start: bool,
    /// Of the log's bytes in this run, how many LMDB holds.
    pub(super) flushed_bytes: u64,
    /// When to flush next.
    pub(super) flush_at: Option<Instant>,
    /// Wait before the next try of a failed flush.
    pub(super) flush_backoff: Duration,
    /// The snapshot that is being written.
    pub(super) snapshot: Option<JoinHandle<()>>,
    /// When to try again after one that failed.
    pub(super) snapshot_backoff: Backoff,
    /// Size of the last one.
    pub(super) snapshot_bytes: u64,
    /// Held until the thread ends.
    pub(super) lock: std::fs::File,
}

/// The wait of a flush after the last write.
pub(super) const FLUSH_IDLE: Duration = Duration::from_secs(STORE_FLUSH_IDLE_SECONDS);
const FLUSH_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A snapshot writes the whole state: after a failure it is not tried at every flush.
pub(super) const SNAPSHOT_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(1800));

struct Waiting {
    answer: Answer,
    outcome: Result<Committed, ProposeError>,
    /// Returned with the answer.
    _permit: OwnedSemaphorePermit,
}

impl Writer {
    /// Serves until closed.
    pub(super) fn run(mut self) {
        let closed = loop {
            match self.wait() {
                Ok(Request::Close(answer)) => break Some(answer),
                #[cfg(test)]
                Ok(Request::Abandon) => return self.abandon(),
                Ok(first) => {
                    if let Some(answer) = self.serve(first) {
                        break Some(answer);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        self.end();
        if let Some(answer) = closed {
            // Whoever closed may have gone: nothing to tell then.
            let _ = answer.send(());
        }
    }

    fn wait(&self) -> Result<Request, RecvTimeoutError> {
        match self.flush_at {
            Some(at) => self.requests.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Serves the request and everything that has arrived meanwhile, as one group.
    fn serve(&mut self, first: Request) -> Option<oneshot::Sender<()>> {
        let mut group = self.log.group();
        let mut staged = Vec::new();
        let mut pending = Pending::new();
        let mut waiting = Vec::new();
        let mut memory = Vec::new();
        let mut closing = None;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Write { ops, logged: true, answer, permit } => {
                    let outcome = self.stage(ops, &mut group, &mut pending, &mut staged);
                    waiting.push(Waiting { answer, outcome, _permit: permit });
                }
                Request::Write { ops, logged: false, answer, permit } => {
                    memory.push((ops, answer, permit));
                }
                Request::Snapshotted(result) => self.snapshotted(result),
                Request::Close(answer) => closing = Some(answer),
                #[cfg(test)]
                Request::Abandon => {}
            }
            let full = group.bytes() >= STORE_GROUP_BYTES_MAX || closing.is_some();
            next = if full { None } else { self.requests.try_recv().ok() };
        }
        self.commit(&group, staged, waiting);
        for (ops, answer, _permit) in memory {
            let outcome = self.write_memory(ops);
            // Whoever asked may have gone; the write stands.
            let _ = answer.send(outcome);
        }
        // The same object written over and over fills the log but not the overlay.
        let unflushed_bytes = self.log.appended_bytes() - self.flushed_bytes;
        if self.shared.read().overlay_bytes >= STORE_OVERLAY_FLUSH_BYTES
            || unflushed_bytes >= self.log_bytes / 4
        {
            self.flush();
        }
        closing
    }

    /// Makes a group durable, applies it and answers.
    fn commit(&mut self, group: &Group, staged: Vec<Staged>, waiting: Vec<Waiting>) {
        let refused: Option<fn() -> ProposeError> = match self.log.append(group) {
            Ok(()) => None,
            Err(AppendError::Full) => Some(|| ProposeError::NoSpace),
            Err(AppendError::Descriptors) => Some(|| ProposeError::Descriptors),
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Some(|| ProposeError::Failed)
            }
        };
        if refused.is_none() && !staged.is_empty() {
            self.owes_term_start = false;
            self.apply(staged);
        }
        for waiter in waiting {
            let outcome = match (refused, waiter.outcome) {
                (None, outcome) => outcome,
                // A conflict may be with an entry of the group that did not happen.
                (Some(error), Ok(_) | Err(ProposeError::Conflict { .. })) => Err(error()),
                (Some(_), Err(own)) => Err(own),
            };
            // Whoever asked may have gone; the write stands.
            let _ = waiter.answer.send(outcome);
        }
    }

    fn fail(&self, error: &std::io::Error) {
        let mut live = self.shared.write();
        if !live.failed {
            live.failed = true;
            tracing::error!(%error, "disk failed to store a write: writes are refused until kumquat restarts");
        }
    }

    /// Applies durable entries: deterministic, and nothing in it can fail.
    fn apply(&mut self, staged: Vec<Staged>) {
        let mut changes = Vec::new();
        let mut live = self.shared.write();
        for Staged { entry, existed, position } in staged {
            live.version = entry.last_version(position);
            let last = live.version.0 & ((1 << Version::ORDINAL_BITS) - 1);
            self.next_ordinal = u32::try_from(last).unwrap_or(u32::MAX) + 1;
            for (change, existed) in entry.changes(position).zip(existed) {
                if let Some(key) = record::encode_key(&change.key) {
                    let Change { version, uid, ref body, .. } = change;
                    live.overlay_put(key, Latest { version, uid, body: body.clone() });
                }
                live.count(&change.key, existed, change.body.is_some());
                changes.push(live.remember(change));
            }
        }
        live.segments = self.log.segments().to_vec();
        drop(live);
        self.flush_at = Some(Instant::now() + FLUSH_IDLE);
        self.tell(&changes);
    }

    /// Hands changes to the hook, then wakes the watches of their kinds.
    fn tell(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            self.hook.applied(change);
        }
        let mut kinds: Vec<&KindKey> = changes.iter().map(|change| &change.key.kind).collect();
        kinds.sort();
        kinds.dedup();
        let mut live = self.shared.write();
        for kind in kinds {
            live.history.wake(kind);
        }
    }

    fn write_memory(&mut self, ops: Vec<Op>) -> Result<Committed, ProposeError> {
        // Dropped surplus objects take ordinals too.
        let ordinals = u32::try_from(2 * ops.len()).unwrap_or(u32::MAX);
        let exhausted = self.next_ordinal.saturating_add(ordinals) >= 1 << Version::ORDINAL_BITS;
        if ops.len() > STORE_ENTRY_OPS_MAX {
            return Err(ProposeError::TooLarge);
        }
        if self.owes_term_start || exhausted {
            self.advance_position()?;
        }
        let shared = self.shared.clone();
        let mut changes = Vec::new();
        let versions = {
            let mut live = shared.write();
            check_memory(&live, &ops)?;
            let position = live.version.position();
            let mut versions = Vec::with_capacity(ops.len());
            for op in ops {
                let kind = op.key.kind.clone();
                let old = live.memory.get(&op.key).map(|record| record.body);
                let change = Change {
                    version: self.next_version(position),
                    old: old.clone().filter(|_| op.keep_old || op.body.is_none()),
                    created: old.is_none(),
                    key: op.key,
                    uid: op.uid,
                    body: op.body,
                };
                versions.push(change.version);
                changes.push(put_memory(&mut live, change, old.is_some()));
                while let Some(surplus) = live.memory.surplus(&kind) {
                    let gone = Change {
                        version: self.next_version(position),
                        key: surplus.key,
                        uid: surplus.uid,
                        body: None,
                        old: Some(surplus.body),
                        created: false,
                    };
                    changes.push(put_memory(&mut live, gone, true));
                }
            }
            versions
        };
        self.tell(&changes);
        Ok(Committed { versions })
    }

    fn next_version(&mut self, position: u64) -> Version {
        let version = Version::of_entry(position, self.next_ordinal);
        self.next_ordinal += 1;
        version
    }

    /// Logs an entry that changes nothing, for the versions above it.
    fn advance_position(&mut self) -> Result<(), ProposeError> {
        let mut group = self.log.group();
        let entry = EntryV1::At(self.clock.now(), Vec::new());
        let position = self.log.add(&mut group, &entry.encode());
        match self.log.append(&group) {
            Ok(()) => {
                self.owes_term_start = false;
                self.apply(vec![Staged { entry, existed: Vec::new(), position }]);
                Ok(())
            }
            Err(AppendError::Full) => Err(ProposeError::NoSpace),
            Err(AppendError::Descriptors) => Err(ProposeError::Descriptors),
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Err(ProposeError::Failed)
            }
        }
    }

    /// Moves the overlay into LMDB; on failure it stays and is tried again later.
    pub(super) fn flush(&mut self) {
        let shared = self.shared.clone();
        if shared.read().overlay.is_empty() {
            self.flush_at = None;
            return;
        }
        let flushed = {
            let live = shared.read();
            let Some(state) = &live.state else { return };
            let puts = live.overlay.iter().map(|(key, latest)| Put {
                key,
                version: latest.version,
                uid: latest.uid,
                body: latest.body.as_deref(),
            });
            state.flush(puts, Some(self.log.position()))
        };
        match flushed {
            Ok(()) => {
                shared.write().overlay_clear();
                self.flushed_bytes = self.log.appended_bytes();
                self.flush_at = None;
                self.flush_backoff = FLUSH_IDLE;
                self.start_snapshot();
            }
            Err(error) => {
                match error {
                    FlushError::Full => tracing::warn!("disk is full: state stays in memory"),
                    FlushError::Failed(error) => {
                        tracing::error!(%error, "state cannot be flushed");
                    }
                }
                self.flush_at = Some(Instant::now() + self.flush_backoff);
                self.flush_backoff = (self.flush_backoff * 2).min(FLUSH_BACKOFF_MAX);
            }
        }
    }

    fn cut_at(&self) -> u64 {
        self.log_bytes.max(2 * self.snapshot_bytes)
    }

    /// Begins a snapshot on a thread of its own when the log is large.
    fn start_snapshot(&mut self) {
        let Some(own) = self.own.upgrade() else { return };
        let wanted = self.log.bytes() >= self.cut_at();
        if self.snapshot.is_some() || !wanted || !self.snapshot_backoff.is_over(Instant::now()) {
            return;
        }
        let Some(state) = self.shared.read().state.clone() else { return };
        let (dir, faults) = (self.snapshots.clone(), self.faults.clone());
        let spawned = std::thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            // A panic is a failure like others: the log must not stay uncut for ever.
            let write = AssertUnwindSafe(|| snapshot::write(&dir, &state, &faults));
            let written = std::panic::catch_unwind(write)
                .unwrap_or_else(|_| Err(std::io::Error::other("writing it panicked")));
            drop(state);
            // The store may have ended: the snapshot is good all the same.
            let _ = own.send(Request::Snapshotted(written));
        });
        match spawned {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a snapshot"),
        }
    }

    /// Removes log segments that the snapshot covers, down to half of the bound.
    fn snapshotted(&mut self, result: std::io::Result<(Position, u64)>) {
        if let Some(thread) = self.snapshot.take() {
            // It has sent its result: nothing is left that could fail.
            let _ = thread.join();
        }
        let cut = result.and_then(|(position, bytes)| {
            self.snapshot_bytes = bytes;
            let keep_bytes = self.cut_at() / 2;
            while self.log.bytes() > keep_bytes && self.log.remove_covered(position.index)? {}
            Ok(())
        });
        self.shared.write().segments = self.log.segments().to_vec();
        match cut {
            Ok(()) => self.snapshot_backoff.succeeded(),
            Err(error) => {
                self.snapshot_backoff.failed(Instant::now());
                tracing::warn!(%error, "cannot write a snapshot: the log keeps growing");
            }
        }
    }

    fn end(&mut self) {
        if self.flush_at.is_some() {
            self.flush();
        }
        if let Some(thread) = self.snapshot.take() {
            // Its result is not needed any more.
            let _ = thread.join();
        }
        self.close_state();
    }

    #[cfg(test)]
    fn abandon(&mut self) {
        if let Some(thread) = self.snapshot.take() {
            let _ = thread.join();
        }
        self.close_state();
    }

    fn close_state(&self) {
        let state = {
            let mut live = self.shared.write();
            live.history.close();
            live.state.take()
        };
        if let Some(state) = state {
            state.close();
        }
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "store lock cannot be released");
        }
    }
}

fn check_memory(live: &Live, ops: &[Op]) -> Result<(), ProposeError> {
    for (nth, op) in ops.iter().enumerate() {
        if !live.memory.holds(&op.key.kind) || record::encode_key(&op.key).is_none() {
            tracing::error!(key = %op.key, "not a memory-only object");
            return Err(ProposeError::Failed);
        }
        if op.body.as_ref().is_some_and(|body| body.len() > OBJECT_BYTES_MAX) {
            return Err(ProposeError::TooLarge);
        }
        let current = live.memory.get(&op.key).map(|record| record.version);
        let held = match op.base {
            Base::Absent => current.is_none(),
            Base::At(version) => current == Some(version),
            Base::Any => op.body.is_some() || current.is_some(),
        };
        if !held {
            return Err(ProposeError::Conflict { op: nth, current });
        }
    }
    Ok(())
}

fn put_memory(live: &mut Live, change: Change, existed: bool) -> Arc<Change> {
    live.memory.put(&change.key, change.version, change.uid, change.body.clone());
    live.count(&change.key, existed, change.body.is_some());
    live.remember(change)
}
