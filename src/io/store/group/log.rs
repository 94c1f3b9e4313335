//! The engine's log storage: a window of recent entries in memory in front of the store's thread.
//!
//! An entry is readable as soon as it is appended, and the engine is told when it is durable: so
//! replication runs beside the local sync, and heartbeats wait for no disk. Vote and truncation are
//! awaited. One thread does all of it in order; the window never holds what the thread was told to
//! forget.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use model::limits::GROUP_READ_BYTES_MAX;
use model::masters::{LogIdV1, VoteV1};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{LogState, OptionalSend};
use tokio::sync::oneshot;

use super::seam::{Done, GroupRequest, GroupState, LogEntry};
use super::types::{
    Types, entry_to_engine, entry_to_log, to_engine, to_log, vote_to_engine, vote_to_log,
};
use crate::io::store::EngineEnd;

/// The engine's log, and its readers; clones are the same.
#[derive(Clone)]
pub(super) struct LogStore {
    thread: EngineEnd,
    window: Arc<Mutex<Window>>,
}

/// What the log is, as far as the engine was told.
struct Window {
    /// Recent entries without a gap up to the last one; older ones are on disk.
    entries: VecDeque<LogEntry>,
    bytes: usize,
    vote: Option<VoteV1>,
    purged: Option<LogIdV1>,
    last: Option<LogIdV1>,
    /// First entry of each term, as found at the start.
    first_of_terms: Vec<LogIdV1>,
    /// Index of the last applied entry: until then an entry stays here, with its tag.
    applied: u64,
    /// Index of the last durable entry.
    flushed: u64,
    /// Bytes appended since the start.
    appended_bytes: u64,
    /// Index of an entry in every so many bytes of the newest ones, and how much was appended before.
    marks: VecDeque<(u64, u64)>,
}

/// A mark stands in so many bytes of appended entries.
const MARK_BYTES: u64 = 64 * 1024;
/// Bytes of entries that stay in the log behind a snapshot, for members that are a little behind.
const KEPT_BYTES: u64 = 4 * 1024 * 1024;

impl Window {
    /// Lets go of what is applied and durable, but for a rest that followers may still read.
    fn evict(&mut self) {
        while self.bytes > GROUP_READ_BYTES_MAX
            && self
                .entries
                .front()
                .is_some_and(|entry| entry.index <= self.applied.min(self.flushed))
        {
            self.pop_front();
        }
    }

    /// Notes where the newest entries begin, a few bytes apart.
    fn mark(&mut self, index: u64, bytes: usize) {
        let newest = self.marks.back().map_or(0, |(_, at)| *at);
        if self.marks.is_empty() || self.appended_bytes - newest >= MARK_BYTES {
            self.marks.push_back((index, self.appended_bytes));
        }
        self.appended_bytes += bytes as u64;
        while self.marks.front().is_some_and(|(_, at)| self.appended_bytes - at > KEPT_BYTES) {
            self.marks.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(gone) = self.entries.pop_front() {
            self.bytes -= gone.payload.len();
        }
    }

    /// Entries from `from` to `upto`, or up to which index they are only on disk.
    fn read(&self, from: u64, upto: u64, bytes_max: usize) -> Result<Vec<LogEntry>, u64> {
        let last = self.last.map_or(0, |last| last.index);
        let upto = upto.min(last);
        let first = self.entries.front().map_or(last + 1, |entry| entry.index);
        if from > upto {
            return Ok(Vec::new());
        }
        if from < first {
            return Err(upto.min(first - 1));
        }
        let mut bytes = 0;
        // Less than the window's length, so it fits.
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        let wanted = self.entries.iter().skip(skip).take_while(|entry| {
            let is_first = bytes == 0;
            bytes += entry.payload.len();
            entry.index <= upto && (is_first || bytes <= bytes_max)
        });
        Ok(wanted.cloned().collect())
    }
}

impl LogStore {
    /// Over a log that stands so.
    pub(super) fn new(thread: EngineEnd, state: &GroupState) -> Self {
        let window = Window {
            entries: VecDeque::new(),
            bytes: 0,
            vote: state.vote,
            purged: state.purged,
            last: state.last.max(state.purged),
            first_of_terms: state.first_of_terms.clone(),
            applied: state.applied.map_or(0, |id| id.index),
            flushed: state.last.map_or(0, |id| id.index),
            appended_bytes: 0,
            marks: VecDeque::new(),
        };
        Self { thread, window: Arc::new(Mutex::new(window)) }
    }

    /// A panic elsewhere leaves whole values behind: each change is made under one lock.
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries up to here are applied.
    pub(super) fn applied(&self, index: u64) {
        let mut window = self.window();
        window.applied = index;
        window.evict();
    }

    /// Up to where entries may go that a snapshot up to `snapshot` has.
    pub(super) fn purgeable(&self, snapshot: u64) -> u64 {
        let window = self.window();
        // What was appended before the start is not known by its bytes: it may all go.
        window.marks.front().map_or(snapshot, |(index, _)| snapshot.min(index - 1))
    }

    /// The newest vote, durable.
    pub(super) fn vote(&self) -> Option<VoteV1> {
        self.window().vote
    }

    /// The last entry, durable or not.
    pub(super) fn last(&self) -> Option<LogIdV1> {
        self.window().last
    }

    /// Entries of these indices, one at least if there is one, of at most so many bytes.
    async fn read(&self, from: u64, upto: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let upto = match self.window().read(from, upto, bytes_max) {
            Ok(entries) => return Ok(entries),
            Err(on_disk) => on_disk,
        };
        self.request(|done| GroupRequest::Read { from, upto, bytes_max, done }).await
    }

    /// The same for the engine: a range of its indices, of which only the start must be there.
    async fn read_for_engine(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.read(start + 1, end, bytes_max).await?;
        let decode = |entry: LogEntry| {
            let index = entry.index;
            entry_to_engine(entry).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} is unreadable"))
            })
        };
        entries.into_iter().map(decode).collect()
    }

    async fn request<T>(&self, request: impl FnOnce(Done<T>) -> GroupRequest) -> io::Result<T> {
        request_of(&self.thread, request).await
    }
}

/// Asks the store's thread and waits for its answer.
pub(super) async fn request_of<T>(
    thread: &EngineEnd,
    request: impl FnOnce(Done<T>) -> GroupRequest,
) -> io::Result<T> {
    let closed = || io::Error::other("the store is closed");
    let (done, answer) = oneshot::channel();
    thread.send(request(done)).map_err(|_| closed())?;
    answer.await.map_err(|_| closed())?
}

/// A range of the engine's indices as start and end.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let (mut start, end) = bounds(&range);
        let mut entries = Vec::new();
        loop {
            let part = self.read_for_engine(start, end, GROUP_READ_BYTES_MAX).await?;
            let Some(last) = part.last() else { return Ok(entries) };
            start = last.log_id.index() + 1;
            entries.extend(part);
        }
    }

    /// In parts: what a follower applies after a start may be more than memory has.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<EntryOf<Types>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        Entries { log: self.clone(), start, end, ready: VecDeque::new(), reading: None }
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.vote().map(vote_to_engine))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        self.read_for_engine(start, end, GROUP_READ_BYTES_MAX).await
    }

    /// The last entry of each term, from where terms were found to begin.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogIdOf<Types>>,
    ) -> Result<Vec<LogIdOf<Types>>, io::Error> {
        let (first, last) = (to_log(range.start()), to_log(range.end()));
        let firsts = self.window().first_of_terms.clone();
        let mut ids = Vec::new();
        for (nth, begin) in firsts.iter().enumerate() {
            let next = firsts.get(nth + 1).map_or(u64::MAX, |next| next.index);
            let index = last.index.min(next - 1);
            if begin.index <= index && index >= first.index {
                ids.push(LogIdV1 { term: begin.term, index });
            }
        }
        Ok(ids.into_iter().filter_map(to_engine).collect())
    }
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Vec<EntryOf<Types>>>> + Send>>;

/// Entries of a range, read part by part.
struct Entries {
    log: LogStore,
    start: u64,
    end: u64,
    ready: VecDeque<EntryOf<Types>>,
    reading: Option<Reading>,
}

impl Stream for Entries {
    type Item = io::Result<EntryOf<Types>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.start = entry.log_id.index() + 1;
                return Poll::Ready(Some(Ok(entry)));
            }
            if self.start >= self.end {
                return Poll::Ready(None);
            }
            let (log, start, end) = (self.log.clone(), self.start, self.end);
            let reading = self.reading.get_or_insert_with(|| {
                Box::pin(async move { log.read_for_engine(start, end, GROUP_READ_BYTES_MAX).await })
            });
            let read = std::task::ready!(reading.as_mut().poll(cx));
            self.reading = None;
            match read {
                Ok(entries) if entries.is_empty() => {
                    self.end = self.start;
                    let gone = format!("entry {} is not in the log", self.start + 1);
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::NotFound, gone))));
                }
                Ok(entries) => self.ready = entries.into(),
                Err(error) => {
                    self.end = self.start;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let window = self.window();
        Ok(LogState {
            last_purged_log_id: window.purged.and_then(to_engine),
            last_log_id: window.last.and_then(to_engine),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        let vote = vote_to_log(vote);
        self.request(|done| GroupRequest::SaveVote { vote, done }).await?;
        self.window().vote = Some(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> =
            entries.into_iter().map(|entry| entry_to_log(&entry)).collect();
        let Some(last) =
            entries.last().map(|entry| LogIdV1 { term: entry.term, index: entry.index })
        else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        {
            let mut window = self.window();
            for entry in &entries {
                window.bytes += entry.payload.len();
                window.mark(entry.index, entry.payload.len());
            }
            window.entries.extend(entries.iter().cloned());
            window.last = Some(last);
        }
        let window = self.window.clone();
        let flushed = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
                window.flushed = window.flushed.max(last.index);
                window.evict();
            }
            callback.io_completed(result);
        });
        let append = GroupRequest::Append { entries, flushed };
        self.thread.send(append).map_err(|_| io::Error::other("the store is closed"))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        let last = last.as_ref().map(to_log);
        let after = last.map_or(0, |last| last.index);
        {
            let mut window = self.window();
            while window.entries.back().is_some_and(|entry| entry.index > after) {
                if let Some(gone) = window.entries.pop_back() {
                    window.bytes -= gone.payload.len();
                }
            }
            window.last = last;
            window.flushed = window.flushed.min(after);
            while window.marks.back().is_some_and(|(index, _)| *index > after) {
                window.marks.pop_back();
            }
        }
        self.request(|done| GroupRequest::Truncate { after, done }).await
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        let purged = to_log(&upto);
        {
            let mut window = self.window();
            while window.entries.front().is_some_and(|entry| entry.index <= purged.index) {
                window.pop_front();
            }
            window.purged = Some(purged);
            if window.last.is_none_or(|last| last.index < purged.index) {
                window.last = Some(purged);
                window.flushed = window.flushed.max(purged.index);
            }
        }
        // Not waited for: it may take several syncs, and the engine keeps nobody's lease up meanwhile.
        let purge = GroupRequest::Purge { upto: purged.index };
        self.thread.send(purge).map_err(|_| io::Error::other("the store is closed"))
    }
}
