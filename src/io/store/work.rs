//! Work on snapshots, on a thread of its own: writing one when the log is large, reading one that is to go
//! to another member.
//!
//! ```text
//! large log -> written, checked -> newest -> alone: the log is cut    in a group: the engine is told
//!           \-> failed: again later, nobody is told
//! ```
//! Either takes as long as it takes to write or read the whole state, at which the store's thread never
//! waits. One at a time, numbered: what was abandoned for an install comes to nothing.

use std::{
    io,
    path::PathBuf,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use model::masters::{LogIdV1, SnapshotHeadV1};

use super::{
    backoff::Backoff,
    follow::answer,
    group::seam::{Done, SnapshotFile},
    requests::Request,
    snapshot::{self, Head, Stop, Written},
    writer::{Role, Writer},
};

/// A snapshot writes the whole state: after a failure it is not tried at every flush.
const SNAPSHOT_BACKOFF: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));

/// What came of it.
pub(super) enum Worked {
    /// A snapshot was written, or not.
    Written(io::Result<Written>),
    /// The newest good one was looked for.
    Found(Option<Written>),
}

/// What is under way, and what came of it before.
pub(super) struct Work {
    job: Option<Job>,
    /// How many there were.
    count: u64,
    /// When to try again to write one after one that failed.
    backoff: Backoff,
    /// Size of the last one.
    pub(super) bytes: u64,
    /// Bytes of the log when the last one was begun.
    begun_at: Option<u64>,
    /// The newest one, for other members.
    pub(super) newest: Option<SnapshotFile>,
    /// Who waits for one of what was applied when it asked, and of which number that one is, at least.
    writers: Vec<(u64, Done<SnapshotFile>)>,
    /// Who waits for the newest one.
    lookers: Vec<Done<Option<SnapshotFile>>>,
}

struct Job {
    number: u64,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Work {
    /// Nothing is under way.
    pub(super) fn new() -> Self {
        Self {
            job: None,
            count: 0,
            backoff: Backoff::new(SNAPSHOT_BACKOFF.0, SNAPSHOT_BACKOFF.1),
            bytes: 0,
            begun_at: None,
            newest: None,
            writers: Vec::new(),
            lookers: Vec::new(),
        }
    }

    /// Waits until nothing is under way; what comes of it is not needed any more.
    pub(super) fn join(&mut self) {
        if let Some(job) = self.job.take() {
            let _ = job.thread.join();
        }
    }

    /// Ends what is under way: when this returns nothing holds the state or touches a snapshot.
    pub(super) fn abandon(&mut self) {
        self.job.iter().for_each(|job| job.stop.stop());
        self.join();
    }
}

impl Writer {
    /// Begins a snapshot when the log is large.
    pub(super) fn want_snapshot(&mut self) {
        let mut wanted = self.log.bytes() >= self.cut_at();
        if let Role::Group(replica) = &mut self.role {
            replica.tell_snapshot();
            // While a member is behind, the log stays large after a snapshot: another one would do no good.
            let appended_bytes = self.log.appended_bytes();
            let more = |begun_at| appended_bytes - begun_at >= self.options.log_bytes / 4;
            wanted &= self.work.begun_at.is_none_or(more);
        }
        if wanted && self.work.job.is_none() && self.work.backoff.is_over(Instant::now()) {
            self.start_snapshot();
        }
    }

    /// Begins a snapshot of what LMDB holds; whether that could be.
    fn start_snapshot(&mut self) -> bool {
        let Some(state) = self.shared.read().state.clone() else { return false };
        let (dir, faults) = (self.paths.snapshots.clone(), self.options.faults.clone());
        self.work.begun_at = Some(self.log.appended_bytes());
        self.start(move |stop| {
            let written = snapshot::write(&dir, &state, &faults, stop);
            drop(state);
            Worked::Written(written)
        })
    }

    fn start(&mut self, work: impl FnOnce(&Stop) -> Worked + Send + 'static) -> bool {
        let Some(own) = self.own.upgrade() else { return false };
        self.work.count += 1;
        let (number, stop) = (self.work.count, Stop::default());
        let watched = stop.clone();
        let spawned = std::thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            let worked = work(&watched);
            // The store may have ended: what was written is good all the same.
            let _ = own.send(Request::Snapshotted { number, worked });
        });
        match spawned {
            Ok(thread) => {
                self.work.job = Some(Job { number, stop, thread });
                true
            }
            Err(error) => {
                self.work.backoff.failed(Instant::now());
                tracing::warn!(%error, "cannot start a snapshot");
                false
            }
        }
    }

    /// Takes in what came of the work of this number; nothing when it was abandoned.
    pub(super) fn snapshotted(&mut self, number: u64, worked: Worked) {
        if self.work.job.as_ref().is_none_or(|job| job.number != number) {
            return;
        }
        // It has sent its result: nothing is left that could fail.
        self.work.join();
        match worked {
            Worked::Written(result) => self.snapshot_written(number, result),
            Worked::Found(found) => {
                let found = found.map(|found| self.snapshot_file(found));
                self.work.newest = found;
                self.answer_lookers();
            }
        }
        let waits = !self.work.writers.is_empty() && self.work.job.is_none();
        if waits && let Err(error) = self.begin_snapshot() {
            self.answer_writers(u64::MAX, Err(error));
        }
        if !self.work.lookers.is_empty() && self.work.job.is_none() {
            self.look();
        }
    }

    /// Alone, removes log segments that the snapshot covers, down to half of the bound. In a group they
    /// go when the engine says that nobody needs them.
    fn snapshot_written(&mut self, number: u64, result: io::Result<Written>) {
        let cut = match &result {
            Ok(written) => {
                self.work.bytes = written.bytes;
                match self.role {
                    Role::Group(_) => Ok(()),
                    _ => self.remove_covered(written.head.position.index),
                }
            }
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        match cut {
            Ok(()) => self.work.backoff.succeeded(),
            Err(error) => {
                self.work.backoff.failed(Instant::now());
                tracing::warn!(%error, "cannot write a snapshot: the log keeps growing");
            }
        }
        match result {
            Ok(written) => {
                let file = self.snapshot_file(written);
                self.work.newest = Some(file.clone());
                if let Role::Group(replica) = &mut self.role {
                    replica.has_snapshot();
                }
                self.answer_writers(number, Ok(file));
                self.answer_lookers();
            }
            Err(error) => self.answer_writers(number, Err(error)),
        }
    }

    /// The snapshot of another member took the place of state and log, or could not.
    pub(super) fn installed_snapshot(
        &mut self,
        installed: io::Result<(PathBuf, Head)>,
        wanted: &SnapshotHeadV1,
    ) -> io::Result<()> {
        let outcome = match installed {
            Ok((path, head)) => {
                let (bytes, sha256) = (wanted.bytes, Some(wanted.sha256));
                self.work.bytes = bytes;
                let file = self.snapshot_file(Written { path, head, bytes, sha256 });
                self.work.newest = Some(file);
                Ok(())
            }
            Err(error) => {
                // It may be gone already.
                self.work.newest = None;
                Err(error)
            }
        };
        // What was under way was abandoned.
        let other = io::Error::other("another member's snapshot came meanwhile");
        self.answer_writers(u64::MAX, Err(other));
        self.answer_lookers();
        outcome
    }

    /// Begins a snapshot of what is applied, and answers when it is written.
    pub(super) fn write_snapshot(&mut self, done: Done<SnapshotFile>) {
        // What is under way may be of an earlier state.
        let waits = self.work.job.is_some();
        if !waits && let Err(error) = self.begin_snapshot() {
            return answer(done, Err(error));
        }
        self.work.writers.push((self.work.count + u64::from(waits), done));
    }

    fn begin_snapshot(&mut self) -> io::Result<()> {
        self.flush_all()?;
        // The flush may have begun one.
        let begun = self.work.job.is_some() || self.start_snapshot();
        begun.then_some(()).ok_or_else(|| io::Error::other("the snapshot cannot be started"))
    }

    /// The newest snapshot from which another member of this epoch can go on.
    pub(super) fn newest_snapshot(&mut self, done: Done<Option<SnapshotFile>>) {
        self.work.lookers.push(done);
        if self.work.newest.is_some() {
            self.answer_lookers();
        } else if self.work.job.is_none() {
            self.look();
        }
    }

    /// Looks for the newest snapshot for other members. What is found is read on a thread of its own: it
    /// may be as large as the state.
    fn look(&mut self) {
        let epoch = self.log.position().epoch;
        let suits = |head: &Head| {
            let members = head.membership.as_ref().map(|membership| &membership.members.members);
            head.position.epoch == epoch && members.is_some_and(|members| !members.is_empty())
        };
        let paths = match snapshot::suitable(&self.paths.snapshots, suits) {
            Ok(paths) if !paths.is_empty() => paths,
            Ok(_) => return self.answer_lookers(),
            Err(error) => return self.refuse_lookers(&error),
        };
        let faults = self.options.faults.clone();
        let started = self.start(move |stop| {
            let whole = |path: PathBuf| match snapshot::check(&path, &faults, stop) {
                Ok(found) => Some(found),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "snapshot is damaged");
                    None
                }
            };
            Worked::Found(paths.into_iter().find_map(whole))
        });
        if !started {
            self.refuse_lookers(&io::Error::other("the snapshot cannot be read"));
        }
    }

    fn answer_lookers(&mut self) {
        let purged = self.log.before_epoch().map_or(0, |purged| purged.index);
        let epoch = self.log.position().epoch;
        let good = |file: &&SnapshotFile| {
            file.head.epoch == epoch
                && file.head.last.index >= purged
                && !file.head.members.members.is_empty()
        };
        let newest = self.work.newest.as_ref().filter(good).cloned();
        for done in std::mem::take(&mut self.work.lookers) {
            answer(done, Ok(newest.clone()));
        }
    }

    fn refuse_lookers(&mut self, error: &io::Error) {
        for done in std::mem::take(&mut self.work.lookers) {
            answer(done, Err(io::Error::other(error.to_string())));
        }
    }

    /// Answers those who wait for the snapshot of this number, or an earlier one.
    fn answer_writers(&mut self, number: u64, result: io::Result<SnapshotFile>) {
        let (done, wait): (Vec<_>, _) =
            std::mem::take(&mut self.work.writers).into_iter().partition(|(of, _)| *of <= number);
        self.work.writers = wait;
        for (_, done) in done {
            let file = result.as_ref().map(SnapshotFile::clone);
            answer(done, file.map_err(|error| io::Error::other(error.to_string())));
        }
    }

    fn snapshot_file(&self, written: Written) -> SnapshotFile {
        let Written { path, head: Head { position, membership }, bytes, sha256 } = written;
        let vote = self.vote.as_ref().map(|vote| vote.ballot().vote).unwrap_or_default();
        let head = SnapshotHeadV1 {
            vote,
            last: LogIdV1 { term: position.term, index: position.index },
            members: membership.map(|membership| membership.members).unwrap_or_default(),
            epoch: position.epoch,
            base: position.base,
            bytes,
            sha256: sha256.unwrap_or_default(),
        };
        SnapshotFile { path, head }
    }
}
