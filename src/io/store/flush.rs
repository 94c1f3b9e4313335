//! What is applied goes to LMDB now and then, and the beginning of the log goes.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    state::{FlushError, Put},
    writer::{FLUSH_IDLE, Writer},
};

const FLUSH_BACKOFF_MAX: Duration = Duration::from_secs(60);

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
    pub(super) fn cut_at(&self) -> u64 {
        self.options.log_bytes.max(2 * self.work.bytes)
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
