//! What is applied goes to LMDB now and then; a large log ends in a snapshot.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    requests::Request,
    snapshot::{self, Written},
    state::{FlushError, Put},
    writer::{FLUSH_IDLE, Role, Writer},
};

const FLUSH_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A snapshot writes the whole state: after a failure it is not tried at every flush.
pub(super) const SNAPSHOT_BACKOFF: (Duration, Duration) =
    (Duration::from_secs(30), Duration::from_secs(1800));

impl Writer {
    /// Moves the overlay into LMDB; on failure it stays and is tried again later.
    pub(super) fn flush(&mut self) {
        if self.shared.read().overlay.is_empty() {
            self.flush_at = None;
        } else {
            // A failure is told where it happens.
            let _ = self.flush_all();
        }
    }

    /// Moves LMDB to the last applied entry, whether or not it changed an object. What the log holds
    /// beyond is not committed: LMDB must not claim it.
    pub(super) fn flush_all(&mut self) -> io::Result<()> {
        self.waits_for_disk(true);
        let flushed = self.flush_to_state();
        self.waits_for_disk(false);
        match flushed? {
            Ok(()) => {
                self.shared.write().overlay_clear();
                self.flushed_bytes = self.log.appended_bytes();
                self.flush_at = None;
                self.flush_backoff = FLUSH_IDLE;
                self.want_snapshot();
                Ok(())
            }
            Err(error) => {
                let error = match error {
                    FlushError::Full => {
                        tracing::warn!("disk is full: state stays in memory");
                        io::Error::from_raw_os_error(libc::ENOSPC)
                    }
                    FlushError::Failed(error) => {
                        tracing::error!(%error, "state cannot be flushed");
                        io::Error::other(error)
                    }
                };
                self.flush_at = Some(Instant::now() + self.flush_backoff);
                self.flush_backoff = (self.flush_backoff * 2).min(FLUSH_BACKOFF_MAX);
                Err(error)
            }
        }
    }

    /// One synced transaction. Nothing is locked meanwhile: it may take seconds, and readers would wait.
    /// Only this thread changes what it writes.
    fn flush_to_state(&self) -> io::Result<Result<(), FlushError>> {
        let (state, overlay, membership) = {
            let live = self.shared.read();
            let Some(state) = live.state.clone() else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            (state, live.overlay.clone(), live.membership.clone())
        };
        if let Err(error) = self.options.faults.commits() {
            return Ok(Err(heed::Error::Io(error).into()));
        }
        let puts = overlay.iter().map(|(key, latest)| Put {
            key,
            version: latest.version,
            uid: latest.uid,
            body: latest.body.as_deref(),
        });
        Ok(state.flush(puts, Some(self.applied), membership.as_ref()))
    }

    /// Log bytes at which a snapshot is due.
    fn cut_at(&self) -> u64 {
        self.options.log_bytes.max(2 * self.snapshot_bytes)
    }

    /// Begins a snapshot when the log is large; in a group the engine does, when it is told.
    fn want_snapshot(&mut self) {
        let wanted = self.log.bytes() >= self.cut_at();
        if self.snapshot.is_some() || !wanted || !self.snapshot_backoff.is_over(Instant::now()) {
            return;
        }
        match &mut self.role {
            Role::Group(replica) => replica.ask_for_snapshot(),
            _ => self.start_snapshot(),
        }
    }

    /// Begins a snapshot on a thread of its own.
    pub(super) fn start_snapshot(&mut self) {
        let Some(own) = self.own.upgrade() else { return };
        let Some(state) = self.shared.read().state.clone() else { return };
        let (dir, faults) = (self.paths.snapshots.clone(), self.options.faults.clone());
        let spawned = std::thread::Builder::new().name("store-snapshot".into()).spawn(move || {
            let written = snapshot::write(&dir, &state, &faults);
            drop(state);
            // The store may have ended: the snapshot is good all the same.
            let _ = own.send(Request::Snapshotted(written));
        });
        match spawned {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => tracing::warn!(%error, "cannot start a snapshot"),
        }
    }

    /// Removes log segments that the snapshot covers, down to half of the bound. In a group they go
    /// when the engine says that nobody needs them.
    pub(super) fn snapshotted(&mut self, result: io::Result<Written>) {
        if let Some(thread) = self.snapshot.take() {
            // It has sent its result: nothing is left that could fail.
            let _ = thread.join();
        }
        let cut = match &result {
            Ok(written) => {
                self.snapshot_bytes = written.bytes;
                match self.role {
                    Role::Group(_) => Ok(()),
                    _ => self.remove_covered(written.head.position.index),
                }
            }
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        match cut {
            Ok(()) => self.snapshot_backoff.succeeded(),
            Err(error) => {
                self.snapshot_backoff.failed(Instant::now());
                tracing::warn!(%error, "cannot write a snapshot: the log keeps growing");
            }
        }
        self.tell_snapshot(result);
    }

    /// Removes segments that end at or before `index`, while the log is longer than half of the bound.
    pub(super) fn remove_covered(&mut self, index: u64) -> io::Result<()> {
        let keep_bytes = self.cut_at() / 2;
        let mut removed = Ok(true);
        while self.log.bytes() > keep_bytes && matches!(removed, Ok(true)) {
            removed = self.log.remove_covered(index);
        }
        self.shared.write().segments = self.log.segments().to_vec();
        removed.map(drop)
    }

    /// Removes one of the segments that a group does not need any more, if there are more than are kept:
    /// each takes a sync, and whoever asks for something else meanwhile waits for no more than one.
    pub(super) fn purge_some(&mut self) {
        let Some(upto) = self.purging else { return };
        let removed = if self.log.bytes() > self.cut_at() / 2 {
            self.waits_for_disk(true);
            let removed = self.log.remove_covered(upto);
            self.waits_for_disk(false);
            removed
        } else {
            Ok(false)
        };
        match removed {
            Ok(true) => self.shared.write().segments = self.log.segments().to_vec(),
            Ok(false) => self.purging = None,
            Err(error) => {
                // The next snapshot tries again.
                self.purging = None;
                tracing::warn!(%error, "cannot remove the beginning of the log");
            }
        }
    }
}
