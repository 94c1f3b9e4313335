//! Taking away from the log: its end (a full disk, entries that another leader overrules), its
//! beginning (a snapshot covers it), all of it (a snapshot replaces it).
//!
//! Every cut is durable before it returns, and at every point in between the files are a log: from
//! the end the newest segment goes first, from the beginning the oldest.

use std::io;

use crate::io::store::{
    entry::{FRAME_BYTES, Frame},
    file::{self, DiskFile},
    segment::{self, HEADER_BYTES},
    types::OpenError,
};

use super::{Log, Position, io_error, segment_paths};

impl Log {
    /// Forgets every segment and goes on after `position`, in a new segment.
    pub(in crate::io::store) fn restart_after(
        &mut self,
        position: Position,
    ) -> Result<(), OpenError> {
        while !self.segments.is_empty() {
            self.remove_oldest().map_err(io_error("remove a segment of", &self.dir.clone()))?;
        }
        self.active = None;
        self.at = 0;
        self.allocated = 0;
        self.epoch = position.epoch;
        self.base = position.base;
        self.term = position.term;
        self.last_term = position.term;
        self.next_index = position.index + 1;
        self.previous = 0;
        Ok(())
    }

    /// Removes every segment file, newest first, whatever is in it.
    pub(in crate::io::store) fn remove_files(&mut self) -> Result<(), OpenError> {
        for path in segment_paths(&self.dir)?.into_iter().rev() {
            file::remove(&path, &self.faults).map_err(io_error("remove", &path))?;
        }
        file::sync_dir(&self.dir, &self.faults).map_err(io_error("sync", &self.dir))
    }

    /// As [`Log::restart_after`], with the new segment on disk: the log says by itself where it begins.
    pub(in crate::io::store) fn begin_after(
        &mut self,
        position: Position,
    ) -> Result<(), OpenError> {
        self.restart_after(position)?;
        self.roll(0).map_err(io_error("make a segment in", &self.dir.clone()))
    }

    /// Forgets every entry after `index`, durably. After a failure nothing is written any more.
    ///
    /// # Errors
    /// Also when the log begins later than that: what is gone at the beginning is committed.
    pub(in crate::io::store) fn truncate_after(&mut self, index: u64) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        if index + 1 >= self.next_index {
            return Ok(());
        }
        if index + 1 < self.first_index() {
            return Err(io::Error::other("the log begins after what is to be kept"));
        }
        let cut = self.cut_after(index);
        self.broken = cut.is_err();
        cut
    }

    fn cut_after(&mut self, index: u64) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(newest) = self.segments.last()
            && newest.header.first_index > index
        {
            self.active = None;
            file::remove(&newest.path, &self.faults)?;
            file::sync_dir(&self.dir, &self.faults)?;
            self.segments.pop();
            self.at = self.segments.last().map_or(0, |segment| segment.bytes);
        }
        let Some(newest) = self.segments.last() else { return Ok(()) };
        let mut bytes = segment::read(&newest.path)?;
        let allocated = bytes.len() as u64;
        bytes.truncate(usize::try_from(self.at).map_err(io::Error::other)?);
        let header = newest.header;
        let (mut at, mut previous, mut term) = (HEADER_BYTES, header.previous, header.term);
        let mut next = header.first_index;
        while next <= index {
            let frame = Frame::verified(bytes.get(at..).unwrap_or_default());
            let Some((frame, payload)) = frame.filter(|(frame, _)| frame.index == next) else {
                return Err(io::Error::other("an entry that is to be kept is damaged"));
            };
            at += FRAME_BYTES + payload.len();
            (previous, term, next) = (frame.crc, frame.term, frame.index + 1);
        }
        if self.active.is_none() {
            self.active = Some(DiskFile::open(&newest.path, &self.faults)?);
        }
        self.at = at as u64;
        self.allocated = allocated;
        (self.epoch, self.base) = (header.epoch, header.base);
        (self.previous, self.next_index) = (previous, next);
        (self.term, self.last_term) = (term, term);
        self.cut_tail()
    }

    pub(super) fn clean_tail(&mut self) -> io::Result<()> {
        if self.dirty_tail {
            self.cut_tail()?;
            self.dirty_tail = false;
        }
        Ok(())
    }

    /// Cuts everything after the last good frame, durably.
    pub(super) fn cut_tail(&mut self) -> io::Result<()> {
        if let Some(active) = &self.active {
            active.set_len(self.at)?;
            active.sync_all()?;
            self.allocated = self.at;
        }
        Ok(())
    }

    /// Removes the oldest segment when a newer one exists and it ends at or before `index`.
    pub(in crate::io::store) fn remove_covered(&mut self, index: u64) -> io::Result<bool> {
        let covered = self.segments.get(1).is_some_and(|next| next.header.first_index <= index + 1);
        if covered {
            self.remove_oldest()?;
        }
        Ok(covered)
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.segments.first() else { return Ok(()) };
        file::remove(&oldest.path, &self.faults)?;
        file::sync_dir(&self.dir, &self.faults)?;
        self.segments.remove(0);
        Ok(())
    }
}
