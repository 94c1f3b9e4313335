//! How the masters' log travels: one stream of frames per pair of masters, snapshots beside it.
//!
//! ```text
//! POST /v1/raft/stream    frames `u32 length | AskFrameV1` one way, `u32 length | AnswerFrameV1` back
//! POST /v1/raft/offset    head of a snapshot -> how much of it is here already
//! POST /v1/raft/snapshot  head, then the file from `?from=` on -> AnswerFrameV1 when it is installed
//! ```
//! In: the engine's questions ([`GroupWire`]), requests of other masters, the book of who is where, hints
//! of where members may be instead. Out: answers of other masters, and what they say about time. Invariants: a message is taken only from the
//! board whose key the book or the group has for the member that it names, for this member, this cluster and this
//! epoch; a snapshot has a connection of its own, so that it delays no heartbeat; a file is handed on
//! only when its digest is right.
//! Deliberately absent: retries (the engine has them), who should be a member.

mod dial;
mod frames;
mod line;
mod places;
mod port;
mod present;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use model::masters::{
    AskFrameV1, ClusterTimeV1, FenceV1, GroupAnswerV1, GroupAskV1, GroupHeadV1, MasterAtV1,
    MemberId,
};
use rustls::ClientConfig;
use tokio::sync::watch;

use crate::io::store::{BoxFuture, Group, GroupWire, SnapshotFile, WireTrouble};
use crate::io::tls::BoardPeer;
use crate::master::evictions::Evicted;

use line::Line;
use places::Places;
pub use present::Present;

/// Where asks and answers travel.
const STREAM: &str = "/v1/raft/stream";
/// How much of a snapshot is here.
const OFFSET: &str = "/v1/raft/offset";
/// Where a snapshot goes.
const SNAPSHOT: &str = "/v1/raft/snapshot";
/// A master is at one of few addresses, and answers soon or not at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A member that was heard so lately is there.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// A member that has heard no leader for so long looks for the others where they may be.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// Why a member that was thrown out is told nothing.
const SHUNNED: &str = "its board was evicted";

/// Who is where: every member with its board's key and addresses.
pub type Book = Arc<Vec<MasterAtV1>>;

/// The clocks of the masters, told with each message.
pub trait GroupClock: Send + Sync + 'static {
    /// What time this board has.
    fn say(&self) -> ClusterTimeV1;
    /// What time another member has.
    fn hear(&self, from: MemberId, time: ClusterTimeV1);
}

/// What the wire of one membership needs.
pub struct ElectorOptions {
    /// Which member this board is.
    pub own: MemberId,
    /// Epoch of its log.
    pub epoch: u64,
    /// First half of the pin of the cluster's authority.
    pub cluster: [u8; 16],
    /// TLS of this board towards other masters, as of now.
    pub tls: Arc<dyn Fn() -> Option<Arc<ClientConfig>> + Send + Sync>,
    /// Who is where.
    pub book: watch::Receiver<Book>,
    /// Time travels with the messages.
    pub clock: Arc<dyn GroupClock>,
    /// Where snapshots arrive; on the store's file system.
    pub incoming: PathBuf,
    /// Keys that were thrown out.
    pub evicted: watch::Receiver<Evicted>,
}

/// The wire of one membership, both ends of it.
pub struct Elector {
    options: ElectorOptions,
    lines: Mutex<HashMap<MemberId, Line>>,
    group: RwLock<Option<Group>>,
    /// One snapshot at a time arrives.
    arriving: Arc<tokio::sync::Mutex<()>>,
    /// Who spoke last as a leader does, and when.
    led: Mutex<Option<(MemberId, Instant)>>,
    /// Where the others may be.
    places: Mutex<Places>,
    began: Instant,
}

impl Elector {
    /// Answers nobody until [`Elector::seat`].
    pub fn new(options: ElectorOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            lines: Mutex::default(),
            group: RwLock::default(),
            arriving: Arc::default(),
            led: Mutex::default(),
            places: Mutex::default(),
            began: Instant::now(),
        })
    }

    /// Who answers the others from here on; `None` when this board takes no part any more, which also
    /// lets go of the connections.
    pub fn seat(&self, group: Option<Group>) {
        if group.is_none() {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        *self.group.write().unwrap_or_else(PoisonError::into_inner) = group;
    }

    fn group(&self) -> Option<Group> {
        self.group.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn at(&self, member: MemberId) -> Option<MasterAtV1> {
        self.options.book.borrow().iter().find(|at| at.member == member).cloned()
    }

    fn head(&self, to: MemberId) -> GroupHeadV1 {
        let ElectorOptions { own, epoch, cluster, clock, .. } = &self.options;
        GroupHeadV1 { cluster: *cluster, epoch: *epoch, from: *own, to, time: clock.say() }
    }

    fn line(self: &Arc<Self>, to: MemberId) -> Line {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| !line.is_over());
        lines.entry(to).or_insert_with(|| Line::start(self.clone(), to)).clone()
    }

    /// How long ago a member last spoke as a leader does; `None` when somebody else did so since.
    pub fn silence(&self, of: MemberId) -> Option<Duration> {
        let led = *self.led.lock().unwrap_or_else(PoisonError::into_inner);
        led.filter(|(leader, _)| *leader == of).map(|(_, at)| at.elapsed())
    }

    /// Whether the group itself names this board as that member: the book, which comes from an object that
    /// people write, cannot take that away.
    fn is_member(&self, member: MemberId, board: &BoardPeer) -> bool {
        let Some(group) = self.group() else { return false };
        let health = group.health();
        let health = health.borrow();
        health.members.get(member).is_some_and(|member| member.key == board.key)
    }

    /// Why a message is not taken, if so.
    fn fence(&self, board: &BoardPeer, head: &GroupHeadV1) -> Option<FenceV1> {
        let ElectorOptions { own, epoch, cluster, .. } = &self.options;
        let known = self.at(head.from).is_some_and(|at| at.key == board.key)
            || self.is_member(head.from, board);
        match () {
            () if head.cluster != *cluster => Some(FenceV1::Cluster),
            () if !known || !board.is_master => Some(FenceV1::Sender),
            () if self.options.evicted.borrow().contains(&board.key) => Some(FenceV1::Sender),
            () if head.to != *own => Some(FenceV1::Target),
            () if head.epoch != *epoch => Some(FenceV1::Epoch { is: *epoch }),
            () => None,
        }
    }

    /// Whether a member is told nothing any more: it was thrown out, and the others decide without it.
    /// As long as they cannot, its removal from the group needs its own vote.
    fn shuns(&self, member: MemberId) -> bool {
        let evicted = self.options.evicted.borrow().clone();
        if evicted.is_empty() || !self.at(member).is_some_and(|at| evicted.contains(&at.key)) {
            return false;
        }
        let Some(group) = self.group() else { return true };
        let (heard, members) = (group.heard(), group.health().borrow().members.clone());
        let is_out = |id| members.get(id).is_none_or(|member| evicted.contains(&member.key));
        let is_there = |id| heard.get(&id).is_some_and(|ago| *ago < HEARD_WITHIN);
        let decide =
            members.is_quorum(|id| !is_out(id) && (id == self.options.own || is_there(id)));
        if decide {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).remove(&member);
        }
        decide
    }

    /// Answers one message of another master.
    async fn take(&self, board: &BoardPeer, frame: AskFrameV1) -> GroupAnswerV1 {
        if let Some(fence) = self.fence(board, &frame.head) {
            return GroupAnswerV1::Refused(fence);
        }
        self.options.clock.hear(frame.head.from, frame.head.time);
        if matches!(frame.ask, GroupAskV1::Append { .. } | GroupAskV1::Beat { .. }) {
            let now = Some((frame.head.from, Instant::now()));
            *self.led.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        match self.group() {
            Some(group) => group.answer(frame.ask).await,
            None => GroupAnswerV1::Refused(FenceV1::Away),
        }
    }
}

/// The sending end, for the engine.
pub struct Wire(pub Arc<Elector>);

impl GroupWire for Wire {
    fn ask(
        &self,
        to: MemberId,
        ask: GroupAskV1,
        within: Duration,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>> {
        if self.0.shuns(to) {
            return Box::pin(async { Err(WireTrouble::Unreachable(SHUNNED.to_owned())) });
        }
        let line = self.0.line(to);
        Box::pin(async move {
            match tokio::time::timeout(within, line.ask(ask)).await {
                Ok(answer) => answer.map_err(WireTrouble::Unreachable),
                Err(_) => Err(WireTrouble::Unreachable("it did not answer in time".to_owned())),
            }
        })
    }

    fn send_snapshot(
        &self,
        to: MemberId,
        file: SnapshotFile,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>> {
        Box::pin(async move {
            if self.0.shuns(to) {
                return Err(WireTrouble::Unreachable(SHUNNED.to_owned()));
            }
            snapshot::send(&self.0, to, file).await.map_err(WireTrouble::Unreachable)
        })
    }
}
