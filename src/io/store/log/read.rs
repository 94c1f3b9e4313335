//! Reading entries back: for the state at open, and for members of the group that lag behind.

use std::io;

use bytes::Bytes;
use model::masters::LogIdV1;

use crate::io::store::{
    entry::{EntryV1, FRAME_BYTES, Frame},
    segment::{self, HEADER_BYTES, SegmentHeader},
    types::OpenError,
};

use super::{Log, Position, Segment, io_error};

/// An entry as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::io::store) struct Logged {
    /// Its place.
    pub(in crate::io::store) id: LogIdV1,
    /// Its bytes, not decoded.
    pub(in crate::io::store) payload: Bytes,
}

impl Log {
    /// Hands every entry from `index` on to `visit`, with its position in versions.
    pub(in crate::io::store) fn replay(
        &self,
        index: u64,
        mut visit: impl FnMut(Position, EntryV1) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        for (nth, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(nth + 1);
            if next.is_some_and(|next| next.header.first_index <= index) {
                continue;
            }
            let path = &segment.path;
            let bytes = segment::read(path).map_err(io_error("read", path))?;
            let SegmentHeader { epoch, base, .. } = segment.header;
            let mut at = HEADER_BYTES;
            while let Some((frame, payload)) = bytes.get(at..).and_then(Frame::verified) {
                if frame.index >= index {
                    let format = || OpenError::Format { path: path.clone(), format: 0 };
                    let entry = EntryV1::decode(payload).ok_or_else(format)?;
                    visit(Position { epoch, base, term: frame.term, index: frame.index }, entry)?;
                }
                at += FRAME_BYTES + payload.len();
            }
        }
        Ok(())
    }

    /// Entries from `from` to `upto`, as many as `bytes_max` allows but at least one where there is one.
    ///
    /// # Errors
    /// An entry that should be there is damaged, or its file cannot be read.
    pub(in crate::io::store) fn read(
        &self,
        from: u64,
        upto: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<Logged>> {
        let upto = upto.min(self.next_index - 1);
        let mut found: Vec<Logged> = Vec::new();
        if from < self.first_index() {
            return Ok(found);
        }
        let (mut next, mut bytes) = (from, 0);
        while next <= upto && (found.is_empty() || bytes < bytes_max) {
            let nth = self.segments.partition_point(|segment| segment.header.first_index <= next);
            let Some(nth) = nth.checked_sub(1) else { break };
            self.walk(nth, |frame, payload| {
                if frame.index < next {
                    return true;
                }
                let fits = found.is_empty() || bytes + payload.len() <= bytes_max;
                if frame.index > upto || !fits {
                    bytes = bytes_max.max(1);
                    return false;
                }
                bytes += payload.len();
                let id = LogIdV1 { term: frame.term, index: frame.index };
                found.push(Logged { id, payload: Bytes::copy_from_slice(payload) });
                true
            })?;
            let reached = found.last().map_or(from, |entry| entry.id.index + 1);
            if reached == next {
                break;
            }
            next = reached;
        }
        if found.is_empty() && from <= upto {
            return Err(io::Error::other("an entry of the log cannot be read"));
        }
        Ok(found)
    }

    /// Term of an entry, or of the one before the first; `None` for others.
    pub(in crate::io::store) fn term_at(&self, index: u64) -> io::Result<Option<u64>> {
        if index + 1 == self.next_index {
            return Ok(Some(self.term));
        }
        if let Some(first) = self.segments.first()
            && first.header.first_index == index + 1
        {
            return Ok(Some(first.header.term));
        }
        if index < self.first_index() || index >= self.next_index {
            return Ok(None);
        }
        Ok(self.read(index, index, 0)?.first().map(|entry| entry.id.term))
    }

    /// The first entry of each term from `index` on.
    pub(in crate::io::store) fn first_of_terms(&self, index: u64) -> io::Result<Vec<LogIdV1>> {
        let mut firsts: Vec<LogIdV1> = Vec::new();
        for nth in 0..self.segments.len() {
            self.walk(nth, |frame, _| {
                let new = firsts.last().is_none_or(|last| last.term != frame.term);
                if frame.index >= index && new {
                    firsts.push(LogIdV1 { term: frame.term, index: frame.index });
                }
                true
            })?;
        }
        Ok(firsts)
    }

    /// Where an entry lies in versions: which epoch it belongs to says its segment.
    pub(in crate::io::store) fn position_of(&self, id: LogIdV1) -> Position {
        let holds = |segment: &&Segment| segment.header.first_index <= id.index;
        let header = self.segments.iter().rev().find(holds).map(|segment| segment.header);
        let (epoch, base) =
            header.map_or((self.epoch, self.base), |header| (header.epoch, header.base));
        Position { epoch, base, term: id.term, index: id.index }
    }

    /// The entry before the first one of this epoch that is kept; `None` when that is the very first.
    pub(in crate::io::store) fn before_epoch(&self) -> Option<LogIdV1> {
        let first = self.segments.iter().find(|segment| segment.header.epoch == self.epoch);
        let (index, term) = first.map_or((self.next_index - 1, self.term), |segment| {
            (segment.header.first_index - 1, segment.header.term)
        });
        (index > 0).then_some(LogIdV1 { term, index })
    }

    /// Hands the frames of one segment to `visit` while it wants more.
    fn walk(&self, nth: usize, mut visit: impl FnMut(Frame, &[u8]) -> bool) -> io::Result<()> {
        let segment = &self.segments[nth];
        let end = if nth + 1 == self.segments.len() { self.at } else { segment.bytes };
        let mut bytes = segment::read(&segment.path)?;
        bytes.truncate(usize::try_from(end).map_err(io::Error::other)?);
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            let Some((frame, payload)) = Frame::verified(&bytes[at..]) else {
                return Err(io::Error::other("an entry of the log is damaged"));
            };
            if !visit(frame, payload) {
                break;
            }
            at += FRAME_BYTES + payload.len();
        }
        Ok(())
    }
}
