//! What the store's thread is asked for.

use model::{
    ids::Version,
    masters::{MemberId, MemberV1, Reign},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    backup::Flushed,
    group::seam::{Asks, GroupRequest, GroupState},
    standing::{Mandate, NotLeading},
    types::{Applied, Committed, Op, OpenError, ProposeError},
    work::Worked,
};

/// How an answer goes back.
pub(super) type Answer = oneshot::Sender<Result<Committed, ProposeError>>;
/// How the answer of a thread that waits, or of a task, goes back.
pub(super) type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// One request.
pub(super) enum Request {
    /// Operations on logged or on memory-only kinds.
    Write(Write),
    /// Work on a snapshot has ended.
    Snapshotted {
        /// Which.
        number: u64,
        /// What came of it.
        worked: Worked,
    },
    /// Begin to lead, alone.
    LeadAlone {
        /// Who follows from inside.
        hook: Box<dyn Applied>,
        /// Told when the term has begun.
        reply: Reply<Result<Mandate, OpenError>>,
    },
    /// Show every object to a hook, and every change from then on.
    Attach {
        /// In which reign.
        reign: Reign,
        /// Who follows from inside.
        hook: Box<dyn Applied>,
        /// Told when every object was shown.
        answer: oneshot::Sender<Result<(), Unattached>>,
    },
    /// Let go of the hook.
    Detach(oneshot::Sender<()>),
    /// Become a member of a group.
    Enter {
        /// How.
        entry: Entry,
        /// Told where log and state stand.
        answer: oneshot::Sender<Result<GroupState, OpenError>>,
    },
    /// Be no part of a group's engine any more.
    Leave(oneshot::Sender<()>),
    /// Flush, and give the state for a capture.
    Flushed(oneshot::Sender<std::io::Result<Flushed>>),
    /// What the group's engine asks for.
    Group(GroupRequest),
    /// Flush and end.
    Close(oneshot::Sender<()>),
    /// End as if killed.
    #[cfg(test)]
    Abandon,
}

/// A proposal.
pub(super) struct Write {
    /// What to do.
    pub(super) ops: Vec<Op>,
    /// Whether to the log.
    pub(super) logged: bool,
    /// Under which mandate only.
    pub(super) mandate: Option<Mandate>,
    /// Who waits.
    pub(super) answer: Answer,
    /// Its share of the queue.
    pub(super) permit: OwnedSemaphorePermit,
}

/// How a store becomes part of a group.
pub(super) struct Entry {
    /// As which member.
    pub(super) own: MemberId,
    /// Epoch of the group.
    pub(super) epoch: u64,
    /// The way to the engine.
    pub(super) asks: Asks,
    /// This master, which is alone, becomes the group's first member and goes on leading.
    pub(super) keep: Option<MemberV1>,
}

/// Why a hook does not follow.
#[derive(Debug, thiserror::Error)]
pub enum Unattached {
    /// The reign is over.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// The state cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a proposal is answered when it is done.
pub(super) fn versions(position: u64, count: usize) -> Committed {
    let count = u32::try_from(count).unwrap_or(0);
    Committed { versions: (0..count).map(|nth| Version::of_entry(position, nth)).collect() }
}
