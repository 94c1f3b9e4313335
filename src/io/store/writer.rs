//! The store's thread: stages proposals, makes a group durable, applies it, answers.
//!
//! ```text
//! wait -> take what has arrived
//!   alone:   stage (check bases) -> append + fdatasync -> apply -> hook -> wake -> answer
//!   leading: stage -> hand to the engine        (`follow`: what the engine asks for in return)
//!   5 s without writes, or 1 MiB applied: flush LMDB in one transaction; when the log is large: snapshot, cut the log
//! ```
//! With nothing to flush it waits without a timer: an idle store neither writes nor wakes. Nothing is
//! applied, shown or answered before it is durable, and in a group before it is committed. Staging is
//! the leader's; applying never compares and is the same on every replica.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use model::{
    ids::{KindKey, Version},
    limits::{STORE_FLUSH_IDLE_SECONDS, STORE_GROUP_BYTES_MAX, STORE_OVERLAY_FLUSH_BYTES},
    masters::Reign,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{
    follow::{Appends, Replica},
    live::{Latest, Shared},
    log::{AppendError, Group, Log, Position},
    membership::Membership,
    open::{self, Paths},
    record,
    requests::{Answer, Request, Write},
    snapshot::Stop,
    stage::{Pending, Staged},
    standing::Mandate,
    types::{Applied, Change, Committed, OpenError, Options, ProposeError},
    vote::VoteFile,
    work::Work,
};

/// What this store is to the cluster.
pub(super) enum Role {
    /// It can be read.
    Idle,
    /// It is the only one.
    Sole,
    /// One of a group's replicas.
    Group(Box<Replica>),
}

/// How the disk fares, as the thread sees it.
#[derive(Debug, Default)]
pub(super) struct DiskState {
    /// Since when the thread waits for it.
    pub(super) waits_since: Option<Instant>,
    /// When it last had no room for a write.
    pub(super) full_at: Option<Instant>,
}

/// The same for the store's thread and whoever looks.
pub(super) type Syncing = Arc<Mutex<DiskState>>;

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
    /// How it was opened.
    pub(super) options: Options,
    /// Where its files are.
    pub(super) paths: Paths,
    /// What this store is to the cluster.
    pub(super) role: Role,
    /// The vote of a group's member.
    pub(super) vote: Option<VoteFile>,
    /// The entry up to which everything is applied; what the log holds beyond is not committed.
    pub(super) applied: Position,
    /// The reign of this store, for whoever acts in it.
    pub(super) reign: watch::Sender<Option<Mandate>>,
    /// Ends the mandate of a master that is alone.
    pub(super) end_alone: Option<watch::Sender<bool>>,
    /// Ordinal of the next memory-only version at the last applied position.
    pub(super) next_ordinal: u32,
    /// Whether this term's first entry still has to be written (the disk was full at open).
    pub(super) owes_term_start: bool,
    /// Of the log's bytes in this run, how many LMDB holds.
    pub(super) flushed_bytes: u64,
    /// When to flush next.
    pub(super) flush_at: Option<Instant>,
    /// Wait before the next try of a failed flush.
    pub(super) flush_backoff: Duration,
    /// Up to where nobody needs the log any more, while there may be segments to remove.
    pub(super) purging: Option<u64>,
    /// Work on snapshots.
    pub(super) work: Work,
    /// Ends captures of this state, which keep it from being closed.
    pub(super) captures: Stop,
    /// How the disk fares.
    pub(super) syncing: Syncing,
    /// Held until the thread ends.
    pub(super) lock: std::fs::File,
}

/// The wait of a flush after the last write.
pub(super) const FLUSH_IDLE: Duration = Duration::from_secs(STORE_FLUSH_IDLE_SECONDS);

struct Waiting {
    answer: Answer,
    outcome: Result<Committed, ProposeError>,
    /// Returned with the answer.
    _permit: OwnedSemaphorePermit,
}

/// How the thread ends.
enum End {
    /// Nobody can ask any more.
    Unused,
    /// Somebody wants to know when it has.
    Closed(oneshot::Sender<()>),
    /// As if killed.
    #[cfg(test)]
    Abandoned,
}

/// What is served together: one group of a master that is alone, one sync of a group's replica.
struct Round {
    group: Group,
    staged: Vec<Staged>,
    pending: Pending,
    waiting: Vec<Waiting>,
    memory: Vec<Write>,
    appends: Appends,
}

impl Writer {
    /// Serves until closed.
    pub(super) fn run(mut self) {
        let end = loop {
            match self.wait() {
                Ok(first) => {
                    if let Some(end) = self.serve(first) {
                        break end;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.on_time(),
                Err(RecvTimeoutError::Disconnected) => break End::Unused,
            }
        };
        match end {
            End::Unused => self.end(),
            End::Closed(answer) => {
                self.end();
                // Whoever closed may have gone: nothing to tell then.
                let _ = answer.send(());
            }
            #[cfg(test)]
            End::Abandoned => self.abandon(),
        }
    }

    fn wait(&self) -> Result<Request, RecvTimeoutError> {
        let purge_at = self.purging.map(|_| Instant::now());
        match self.flush_at.into_iter().chain(self.deadline()).chain(purge_at).min() {
            Some(at) => self.requests.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.expire(now);
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
        self.purge_some();
    }

    /// Serves the request and everything that has arrived meanwhile, as one group.
    fn serve(&mut self, first: Request) -> Option<End> {
        let mut round = Round {
            group: self.log.group(),
            staged: Vec::new(),
            pending: Pending::new(),
            waiting: Vec::new(),
            memory: Vec::new(),
            appends: Appends::default(),
        };
        let mut closing = None;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Write(write) => self.take_write(write, &mut round),
                Request::Group(request) => self.follow(request, &mut round.appends),
                Request::Close(answer) => closing = Some(End::Closed(answer)),
                #[cfg(test)]
                Request::Abandon => return Some(End::Abandoned),
                other => {
                    // What came before it is done before it.
                    self.finish(&mut round);
                    self.change(other);
                    round.group = self.log.group();
                }
            }
            let full = round.group.bytes() >= STORE_GROUP_BYTES_MAX || closing.is_some();
            next = if full { None } else { self.requests.try_recv().ok() };
        }
        self.finish(&mut round);
        self.hand_over();
        self.expire(Instant::now());
        // The same object written over and over fills the log but not the overlay.
        let unflushed_bytes = self.log.appended_bytes() - self.flushed_bytes;
        if self.shared.read().overlay_bytes >= STORE_OVERLAY_FLUSH_BYTES
            || unflushed_bytes >= self.options.log_bytes / 4
        {
            self.flush();
        }
        self.purge_some();
        closing
    }

    fn take_write(&mut self, write: Write, round: &mut Round) {
        let reign = self.reign.borrow().as_ref().map(Mandate::reign);
        let is_old = |wanted: &Mandate| wanted.is_over() || Some(wanted.reign()) != reign;
        if reign.is_none() || write.mandate.as_ref().is_some_and(is_old) {
            return write.refuse(ProposeError::NotLeading { hint: None });
        }
        if !write.logged {
            return round.memory.push(write);
        }
        if let Role::Group(_) = self.role {
            return self.queue(write);
        }
        let Write { ops, answer, permit, .. } = write;
        let Round { group, pending, staged, .. } = round;
        let outcome = self.stage(ops, group, pending, staged);
        round.waiting.push(Waiting { answer, outcome, _permit: permit });
    }

    /// Makes durable what a round has gathered, applies and answers what is decided by that.
    fn finish(&mut self, round: &mut Round) {
        // Whoever asked for it is told when it fails.
        let _ = self.flush_appends(&mut round.appends);
        let group = std::mem::take(&mut round.group);
        round.pending.clear();
        self.commit(&group, std::mem::take(&mut round.staged), std::mem::take(&mut round.waiting));
        for write in std::mem::take(&mut round.memory) {
            let outcome = self.write_memory(write.ops);
            // Whoever asked may have gone; the write stands.
            let _ = write.answer.send(outcome);
        }
    }

    /// Serves what changes who writes here, or who follows from inside.
    fn change(&mut self, request: Request) {
        match request {
            Request::Snapshotted { number, worked } => self.snapshotted(number, worked),
            Request::LeadAlone { hook, reply } => reply(self.lead_alone(hook)),
            Request::Attach { reign, hook, answer } => {
                // Whoever asked may have gone: it drops the reign as well then.
                let _ = answer.send(self.attach(reign, hook));
            }
            Request::Detach(answer) => {
                self.hook = Box::new(());
                let _ = answer.send(());
            }
            Request::Enter { entry, answer } => {
                let _ = answer.send(self.enter(entry));
            }
            Request::Flushed(answer) => drop(answer.send(self.flush_for_capture())),
            Request::Leave(answer) => {
                self.leave();
                let _ = answer.send(());
            }
            _ => {}
        }
    }

    /// Makes a group durable, applies it and answers.
    fn commit(&mut self, group: &Group, staged: Vec<Staged>, waiting: Vec<Waiting>) {
        let refused: Option<fn() -> ProposeError> = match self.append(group) {
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

    /// Appends to the log, and says since when the disk takes its time.
    pub(super) fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        if group.is_empty() {
            return Ok(());
        }
        self.waits_for_disk(true);
        let appended = self.log.append(group);
        self.waits_for_disk(false);
        appended
    }

    /// Says that the thread waits for the disk, or does not any more.
    pub(super) fn waits_for_disk(&self, waits: bool) {
        let mut disk = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        disk.waits_since = waits.then(Instant::now);
    }

    /// Says that the disk had no room for a write.
    pub(super) fn found_no_room(&self) {
        let mut disk = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        disk.full_at = Some(Instant::now());
    }

    /// Refuses writes from now on: what the disk holds is unknown.
    pub(super) fn fail(&self, error: &std::io::Error) {
        let mut live = self.shared.write();
        if !live.failed {
            live.failed = true;
            tracing::error!(%error, "disk failed to store a write: writes are refused until kumquat restarts");
        }
    }

    /// Applies durable, committed entries: deterministic, and nothing in it can fail.
    pub(super) fn apply(&mut self, entries: Vec<Staged>) {
        let mut changes = Vec::new();
        let mut live = self.shared.write();
        for Staged { entry, at } in entries {
            let position = at.place();
            self.applied = at;
            live.version = entry.last_version(position);
            let last = live.version.0 & ((1 << Version::ORDINAL_BITS) - 1);
            self.next_ordinal = u32::try_from(last).unwrap_or(u32::MAX) + 1;
            live.membership = Membership::after(live.membership.take(), &entry, at);
            for change in entry.changes(position) {
                if let Some(key) = record::encode_key(&change.key) {
                    let Change { version, uid, ref body, .. } = change;
                    live.overlay_put(key, Latest { version, uid, body: body.clone() });
                }
                live.count(&change.key, !change.created, change.body.is_some());
                changes.push(live.remember(change));
            }
        }
        live.segments = self.log.segments().to_vec();
        drop(live);
        self.flush_at = Some(Instant::now() + FLUSH_IDLE);
        self.tell(&changes);
    }

    /// Hands changes to the hook, then wakes the watches of their kinds.
    pub(super) fn tell(&mut self, changes: &[Arc<Change>]) {
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

    /// Begins a term in which nobody else has to be asked.
    fn lead_alone(&mut self, mut hook: Box<dyn Applied>) -> Result<Mandate, OpenError> {
        if let Some(vote) = &self.vote {
            let own = vote.ballot().own;
            return Err(OpenError::Member { dir: self.options.dir.clone(), own });
        }
        if !matches!(self.role, Role::Idle) {
            return Err(OpenError::Busy(self.options.dir.clone()));
        }
        open::show(&self.shared, hook.as_mut())?;
        let started = open::start_term(&mut self.log, &self.options)?;
        self.applied = self.log.position();
        self.owes_term_start = started.is_none();
        let version = {
            let mut live = self.shared.write();
            let version = started.unwrap_or(live.version);
            live.restart_history(version);
            live.segments = self.log.segments().to_vec();
            version
        };
        hook.opened(version);
        self.next_ordinal = 1;
        self.hook = hook;
        self.role = Role::Sole;
        let (mandate, end) = Mandate::alone(self.own_reign());
        self.end_alone = Some(end);
        self.reign.send_replace(Some(mandate.clone()));
        Ok(mandate)
    }

    /// Epoch and term of the log.
    pub(super) fn own_reign(&self) -> Reign {
        let Position { epoch, term, .. } = self.log.position();
        Reign { epoch, term }
    }

    fn end(&mut self) {
        self.leave();
        if self.flush_at.is_some() {
            self.flush();
        }
        self.work.join();
        self.close_state();
    }

    #[cfg(test)]
    fn abandon(&mut self) {
        self.work.join();
        self.close_state();
    }

    fn close_state(&self) {
        self.captures.stop();
        self.reign.send_replace(None);
        let state = {
            let mut live = self.shared.write();
            live.history.close();
            live.installing = false;
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
