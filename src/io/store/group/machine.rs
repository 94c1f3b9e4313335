//! The engine's state machine: it hands what is committed to the store's thread, part by part.
//!
//! State, hook and waiters belong to the thread; here is only how far it is. A snapshot is a file that
//! the store writes when its log is large; the engine hears of it when it is there, and it travels as one:
//! nothing of its size is ever in memory.

use std::io;
use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use model::limits::{GROUP_ENTRIES_MAX, GROUP_READ_BYTES_MAX};
use model::masters::LogIdV1;
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, Snapshot};

use super::log::{LogStore, request_of};
use super::seam::{GroupRequest, GroupState, LogEntry, SnapshotFile};
use super::types::{Types, entry_to_log, meta, stored, to_engine};
use crate::io::store::EngineEnd;

/// How far the store's thread has applied.
pub(super) struct Machine {
    thread: EngineEnd,
    log: LogStore,
    applied: Option<LogIdV1>,
    members: StoredMembershipOf<Types>,
}

impl Machine {
    /// Of a store that stands so.
    pub(super) fn new(thread: EngineEnd, log: LogStore, state: &GroupState) -> Self {
        let members = match &state.members {
            Some((at, members)) => stored(Some(*at), members),
            None => StoredMembershipOf::<Types>::default(),
        };
        Self { thread, log, applied: state.applied, members }
    }

    /// Has a part applied, and says so.
    async fn commit(&mut self, part: Part) -> io::Result<()> {
        let Some(last) = part.entries.last() else { return Ok(()) };
        let applied = LogIdV1 { term: last.term, index: last.index };
        let entries = part.entries;
        request_of(&self.thread, |done| GroupRequest::Commit { entries, done }).await?;
        self.applied = Some(applied);
        if let Some(members) = part.members {
            self.members = members;
        }
        self.log.applied(applied.index);
        part.responders.into_iter().for_each(|responder| responder.send(()));
        Ok(())
    }
}

/// Entries that are applied in one go.
#[derive(Default)]
struct Part {
    entries: Vec<LogEntry>,
    bytes: usize,
    members: Option<StoredMembershipOf<Types>>,
    responders: Vec<ApplyResponder<Types>>,
}

impl Part {
    fn push(&mut self, (entry, responder): EntryResponder<Types>) {
        if let EntryPayload::Membership(members) = &entry.payload {
            let members = StoredMembershipOf::<Types>::new(Some(entry.log_id), members.clone());
            self.members = Some(members);
        }
        let entry = entry_to_log(&entry);
        self.bytes += entry.payload.len();
        self.entries.push(entry);
        self.responders.extend(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= GROUP_ENTRIES_MAX || self.bytes >= GROUP_READ_BYTES_MAX
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied.and_then(to_engine), self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut part = Part::default();
        loop {
            // What is not read yet must not hold back what is.
            let next = std::future::poll_fn(|cx| match Pin::new(&mut entries).poll_next(cx) {
                Poll::Pending if part.entries.is_empty() => Poll::Pending,
                Poll::Pending => Poll::Ready(Next::Later),
                Poll::Ready(Some(entry)) => Poll::Ready(Next::Entry(entry)),
                Poll::Ready(None) => Poll::Ready(Next::End),
            })
            .await;
            match next {
                Next::Entry(entry) => part.push(entry?),
                Next::Later => self.commit(std::mem::take(&mut part)).await?,
                Next::End => return self.commit(part).await,
            }
            if part.is_full() {
                self.commit(std::mem::take(&mut part)).await?;
            }
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            // At the start, over a log whose beginning is gone.
            return Some(self.get_snapshot_builder().await);
        }
        // The thread writes them by itself, and tries again what fails: an error here ends the engine.
        let written = request_of(&self.thread, |done| GroupRequest::Newest { done }).await;
        let written = Some(written.ok().flatten()?);
        Some(Builder { thread: self.thread.clone(), written })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { thread: self.thread.clone(), written: None }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        file: SnapshotFile,
    ) -> Result<(), io::Error> {
        let head = file.head.clone();
        request_of(&self.thread, |done| GroupRequest::Install { file, done }).await?;
        self.applied = Some(head.last);
        self.members = meta(&head).last_membership;
        self.log.applied(head.last.index);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types, SnapshotFile>>, io::Error> {
        let newest = request_of(&self.thread, |done| GroupRequest::Newest { done }).await?;
        Ok(newest.map(|file| Snapshot { meta: meta(&file.head), snapshot: file }))
    }
}

enum Next {
    Entry(io::Result<EntryResponder<Types>>),
    /// Nothing more at this moment.
    Later,
    End,
}

/// A snapshot that was written, or is to be.
pub(super) struct Builder {
    thread: EngineEnd,
    written: Option<SnapshotFile>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, SnapshotFile>, io::Error> {
        let file = match self.written.take() {
            Some(file) => file,
            None => request_of(&self.thread, |done| GroupRequest::Snapshot { done }).await?,
        };
        Ok(Snapshot { meta: meta(&file.head), snapshot: file })
    }
}
