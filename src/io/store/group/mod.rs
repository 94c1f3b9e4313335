//! A store as a member of a group: openraft decides what is appended and committed, the store's
//! thread does it.
//!
//! ```text
//! propose -> thread stages a group -> Ask::Propose -> proposer -> engine --Append--> thread: fdatasync
//!                                                                   |  \--GroupWire--> other members
//!            thread applies, answers <--Commit-- machine <-- committed by a majority
//! ```
//! In: [`GroupOptions`], messages of other members ([`Group::answer`]), the thread's asks. Out: requests
//! to the thread, messages through a [`GroupWire`], a [`super::Mandate`] while this member leads.
//! Invariants: the engine runs on a thread of its own, so that neither a LIST nor an fdatasync delays a
//! heartbeat; a vote is durable before it is answered; a restarted member neither votes nor stands for
//! election until every lease that it may have acknowledged is over; a reign begins with an entry of
//! its own term. An error of the disk ends the engine and leaves the store open for reads.
//! Deliberately absent: who should be a member (`logic::masters`), addresses and TLS
//! (`master::elector`), a second copy of the log.

mod change;
mod driver;
mod log;
mod machine;
mod network;
mod proposer;
mod pulse;
mod ready;
mod reign;
pub(super) mod seam;
#[cfg(test)]
mod tests;
mod timing;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::masters::{
    AppendedV1, FenceV1, GroupAnswerV1, GroupAskV1, LogIdV1, MemberId, MemberV1, MembersV1, VoteV1,
};
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{Raft, ReadPolicy, Snapshot};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::unconstrained;

use super::{OpenError, Store};
use driver::Command;
use log::{LogStore, request_of};
use machine::Machine;
use pulse::Heard;
use seam::GroupRequest;
use types::{Types, entry_from_wire, meta, to_engine, to_log, vote_to_engine, vote_to_log};

pub use seam::SnapshotFile;
pub use timing::Timing;

type Engine = Raft<Types, Machine>;

/// A future that may be sent and is pinned.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How the messages of a group travel. Called on the engine's own runtime: what it spawns lives there.
pub trait GroupWire: Send + Sync + 'static {
    /// Asks another member; whoever asks waits no longer than `within`.
    fn ask(
        &self,
        to: MemberId,
        ask: GroupAskV1,
        within: Duration,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>>;

    /// Sends a snapshot, and waits until it is installed. Dropped when it is not wanted any more.
    fn send_snapshot(
        &self,
        to: MemberId,
        file: SnapshotFile,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>>;
}

/// Why a member did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireTrouble {
    /// No connection, or it broke.
    #[error("member cannot be reached: {0}")]
    Unreachable(String),
    /// It takes no messages from us.
    #[error("member refuses: {0}")]
    Refused(String),
}

/// What a member needs to take part.
pub struct GroupOptions {
    /// Which member this store is.
    pub own: MemberId,
    /// Epoch of the cluster.
    pub epoch: u64,
    /// For a store that leads alone and founds a group while it goes on leading: its board.
    pub found: Option<MemberV1>,
    /// Clocks of the group: the same at every member.
    pub timing: Timing,
    /// The way to the others.
    pub wire: Arc<dyn GroupWire>,
}

/// A change of who belongs to the group; one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A replica that gets the log and has no say.
    AddLearner(MemberV1),
    /// These decide from now on, all of them members; the change passes through both configurations.
    Voters {
        /// Who decides.
        voters: BTreeSet<MemberId>,
        /// Whether those who decide no more keep the log.
        keep_as_learner: bool,
    },
    /// A learner goes.
    Forget(MemberId),
}

/// Where the group stands, as this member sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupHealth {
    /// Who leads.
    pub leader: Option<MemberId>,
    /// In which term.
    pub term: u64,
    /// The newest vote here: who stood for election last, and whether it won.
    pub vote: VoteV1,
    /// Whether this member leads and a majority has acknowledged it within its lease.
    pub leads: bool,
    /// The group.
    pub members: MembersV1,
    /// The last entry here.
    pub last_index: u64,
    /// The last applied one here.
    pub applied_index: u64,
    /// In which term that was written.
    pub applied_term: u64,
    /// Of a leader: how far each other member's durable log reaches.
    pub matched: BTreeMap<MemberId, u64>,
    /// Why the engine ended, when it did.
    pub failed: Option<String>,
}

/// Why a store takes no part in a group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The store does not fit: another member, another epoch, its disk.
    #[error("store cannot take part in the group")]
    Store(#[from] OpenError),
    /// The engine did not start.
    #[error("engine of the group did not start: {0}")]
    Engine(String),
    /// It was not made durable that this board belongs to a group.
    #[error("disk does not keep that this board is a member of the group")]
    Note(#[source] std::io::Error),
}

/// Why the group did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead.
    #[error("this board does not lead")]
    NotLeading {
        /// Who does.
        hint: Option<MemberId>,
    },
    /// Another change is under way.
    #[error("another change of the group is under way")]
    UnderWay,
    /// The group cannot become that.
    #[error("the group cannot change so: {0}")]
    Refused(String),
    /// The engine has ended.
    #[error("the engine of the group has ended")]
    Ended,
}

/// A store that takes part in a group; clones are the same.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    engine: Engine,
    log: LogStore,
    epoch: u64,
    own: MemberId,
    /// Until then a lease may hold that was acknowledged before this process began.
    votes_from: Instant,
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<GroupHealth>,
    heard: Heard,
    /// Another member has come.
    came: Arc<Notify>,
    /// Its sender lives as long as the engine's thread.
    ended: watch::Receiver<()>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("own", &self.shared.own).finish_non_exhaustive()
    }
}

/// Asks of the store's thread: every group that may be out, a snapshot, and room.
const ASKS_QUEUE: usize = 2 * model::limits::STORE_GROUPS_IN_FLIGHT_MAX;
/// How long a heartbeat waits for the whole answer, before it is answered without the disk.
const BEAT_PATIENCE: Duration = Duration::from_millis(10);
/// How long a leader waits for its successor.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);
/// How long a read waits for a majority.
const READ_WITHIN: Duration = Duration::from_secs(2);

impl Store {
    /// Takes part in a group from here on, until [`Group::stop`].
    ///
    /// # Errors
    /// [`GroupError`]; the store is as before then.
    pub async fn join_group(&self, options: GroupOptions) -> Result<Group, GroupError> {
        if options.found.is_some() && self.is_cut() {
            // The engine begins with a snapshot of the group then. One that cannot be written now must not
            // end the reign.
            let written = request_of(&self.engine(), |done| GroupRequest::Snapshot { done }).await;
            written.map_err(|error| GroupError::Engine(error.to_string()))?;
        }
        let (asks, asked) = mpsc::channel(ASKS_QUEUE);
        let (own, epoch) = (options.own, options.epoch);
        let state = self.enter(own, epoch, asks, options.found.clone()).await?;
        let epoch = state.epoch;
        let lease = match options.found {
            // It has acknowledged nobody: there was no group.
            Some(_) => Duration::ZERO,
            None => options.timing.lease(),
        };
        let (started, start) = oneshot::channel();
        let (ended_sender, ended) = watch::channel(());
        let store = self.clone();
        let votes_from = Instant::now() + lease;
        let run = move || driver::run(store, state, options, votes_from, asked, started);
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                run();
                drop(ended_sender);
            })
            .map_err(|error| GroupError::Engine(error.to_string()))?;
        let started = start.await.map_err(|_| GroupError::Engine("its thread ended".into()))?;
        let driver::Started { engine, log, commands, health, heard, came } = match started {
            Ok(started) => started,
            Err(error) => {
                self.leave_engine().await;
                return Err(error);
            }
        };
        let store = self.clone();
        let shared = Shared {
            store,
            engine,
            log,
            epoch,
            own,
            votes_from,
            commands,
            health,
            heard,
            came,
            ended,
        };
        Ok(Group { shared: Arc::new(shared) })
    }
}

impl Group {
    /// Which member this is.
    pub fn own(&self) -> MemberId {
        self.shared.own
    }

    /// Epoch of its log.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Another member has opened a way to this one: it may have been away, and with it the way back.
    pub fn came(&self) {
        self.shared.came.notify_one();
    }

    /// Answers a message of another member. Who that is was checked before.
    pub async fn answer(&self, ask: GroupAskV1) -> GroupAnswerV1 {
        let answer = match ask {
            GroupAskV1::Append { vote, previous, commit, entries } => {
                let entries: Option<Vec<_>> = entries.into_iter().map(entry_from_wire).collect();
                match entries {
                    Some(entries) => self.append(vote, previous, commit, entries).await,
                    None => None,
                }
            }
            GroupAskV1::Beat { vote, previous, commit } => self.beat(vote, previous, commit).await,
            GroupAskV1::Vote { vote, last, transfer } => self.vote(vote, last, transfer).await,
            GroupAskV1::PreVote { vote, last } => self.pre_vote(vote, last).await,
            GroupAskV1::Transfer { from, to, last } => {
                let last = last.and_then(to_engine);
                let request = TransferLeaderRequest::new(vote_to_engine(from), to.0, last);
                let taken = self.shared.engine.handle_transfer_leader(request).await;
                taken.ok().map(|taken| GroupAnswerV1::Transferred(taken.is_ok()))
            }
            GroupAskV1::ReadIndex => Some(GroupAnswerV1::ReadIndex(self.read_index().await)),
            GroupAskV1::Standing => Some(self.standing()),
        };
        // The engine ended, or the message says nothing to this build.
        answer.unwrap_or(GroupAnswerV1::Refused(FenceV1::Away))
    }

    async fn append(
        &self,
        vote: VoteV1,
        previous: Option<LogIdV1>,
        commit: Option<LogIdV1>,
        entries: Vec<openraft::type_config::alias::EntryOf<Types>>,
    ) -> Option<GroupAnswerV1> {
        let request = AppendEntriesRequest::<Types> {
            vote: vote_to_engine(vote),
            prev_log_id: previous.and_then(to_engine),
            entries,
            leader_commit: commit.and_then(to_engine),
        };
        let appended = match self.shared.engine.append_entries(request).await.ok()? {
            AppendEntriesResponse::Success => AppendedV1::Done { upto: None },
            AppendEntriesResponse::PartialSuccess(upto) => {
                AppendedV1::Done { upto: Some(upto.as_ref().map_or(LogIdV1::default(), to_log)) }
            }
            AppendEntriesResponse::Conflict => AppendedV1::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendedV1::HigherVote(vote_to_log(&vote)),
        };
        if !matches!(appended, AppendedV1::HigherVote(_)) {
            self.shared.heard.now();
        }
        Some(GroupAnswerV1::Append(appended))
    }

    /// A heartbeat renews the leader's lease as soon as the engine has seen it. The engine answers when
    /// everything it has accepted is durable; a leader must not wait for that.
    async fn beat(
        &self,
        vote: VoteV1,
        previous: Option<LogIdV1>,
        commit: Option<LogIdV1>,
    ) -> Option<GroupAnswerV1> {
        // Cancel safety: it is waited for again below, or the engine answers nobody.
        let append = unconstrained(self.append(vote, previous, commit, vec![]));
        let mut whole = std::pin::pin!(append);
        if let Ok(answer) = tokio::time::timeout(BEAT_PATIENCE, &mut whole).await {
            return answer;
        }
        // Messages to the engine are served in order: it has seen the heartbeat before this question, if
        // that does not overtake it where both wait for room in the queue.
        let seen = self.shared.engine.with_raft_state(|state| vote_to_log(state.vote_ref()));
        // Cancel safety: as above; the question changes nothing.
        let seen = tokio::select! {
            biased;
            answer = &mut whole => return answer,
            seen = seen => seen,
        };
        if seen.ok()? == vote {
            self.shared.heard.now();
            return Some(GroupAnswerV1::Append(AppendedV1::Done { upto: None }));
        }
        whole.await
    }

    /// Until the leases that it may have acknowledged before it started are over, it votes for nobody.
    fn votes(&self) -> bool {
        Instant::now() >= self.shared.votes_from
    }

    fn no_vote(&self) -> GroupAnswerV1 {
        let vote = self.shared.log.vote().unwrap_or_default();
        GroupAnswerV1::Vote { vote, last: self.shared.log.last(), granted: false }
    }

    async fn vote(
        &self,
        vote: VoteV1,
        last: Option<LogIdV1>,
        transfer: bool,
    ) -> Option<GroupAnswerV1> {
        if !self.votes() && !transfer {
            return Some(self.no_vote());
        }
        let mut request = VoteRequest::<Types>::new(vote_to_engine(vote), last.and_then(to_engine));
        request.leadership_transfer = transfer;
        Some(voted(self.shared.engine.vote(request).await.ok()?))
    }

    async fn pre_vote(&self, vote: VoteV1, last: Option<LogIdV1>) -> Option<GroupAnswerV1> {
        if !self.votes() {
            return Some(self.no_vote());
        }
        let request = VoteRequest::<Types>::new(vote_to_engine(vote), last.and_then(to_engine));
        Some(voted(self.shared.engine.pre_vote(request).await.ok()?))
    }

    async fn read_index(&self) -> Option<LogIdV1> {
        let read = self.shared.engine.get_read_linearizer(ReadPolicy::ReadIndex);
        let read = tokio::time::timeout(READ_WITHIN, read).await.ok()?.ok()?;
        Some(to_log(read.read_log_id().log_id()))
    }

    /// The last entry of its log, of this moment.
    pub fn last_index(&self) -> u64 {
        self.shared.log.last().map_or(0, |last| last.index)
    }

    /// Where this member stands.
    pub fn standing(&self) -> GroupAnswerV1 {
        let Shared { epoch, log, .. } = &*self.shared;
        GroupAnswerV1::Standing {
            epoch: *epoch,
            vote: log.vote().unwrap_or_default(),
            last: log.last(),
        }
    }

    /// Installs a snapshot that a leader has sent, whole and checked; the file is moved.
    pub async fn install(&self, file: SnapshotFile) -> GroupAnswerV1 {
        let vote = vote_to_engine(file.head.vote);
        let snapshot = Snapshot { meta: meta(&file.head), snapshot: file };
        match self.shared.engine.install_full_snapshot(vote, snapshot).await {
            Ok(answer) => GroupAnswerV1::Installed(vote_to_log(&answer.vote)),
            Err(_) => GroupAnswerV1::Refused(FenceV1::Away),
        }
    }

    /// Changes who belongs to the group, and waits until that is committed.
    ///
    /// # Errors
    /// [`ChangeError`].
    ///
    /// # Cancel safety
    /// The change goes on when the future is dropped.
    pub async fn change(&self, change: MemberChange) -> Result<(), ChangeError> {
        let (done, answer) = oneshot::channel();
        let command = Command::Change { change, done };
        self.shared.commands.send(command).await.map_err(|_| ChangeError::Ended)?;
        answer.await.map_err(|_| ChangeError::Ended)?
    }

    /// Gives the lead to that member, or to the voter with the most of the log; whether another one
    /// leads a second later.
    pub async fn hand_over(&self, to: Option<MemberId>) -> bool {
        self.give_away(Command::HandOver { to, retires: false }).await
    }

    /// The same of a member that is about to stop: whoever takes the lead, it will not be this one.
    pub async fn retire(&self) -> bool {
        self.give_away(Command::HandOver { to: None, retires: true }).await
    }

    async fn give_away(&self, command: Command) -> bool {
        if self.shared.commands.send(command).await.is_err() {
            return false;
        }
        let mut health = self.shared.health.clone();
        let own = self.shared.own;
        let other = health.wait_for(|health| health.leader.is_some_and(|leader| leader != own));
        matches!(tokio::time::timeout(HAND_OVER_WITHIN, other).await, Ok(Ok(_)))
    }

    /// Resolves when another member leads and the first entry of its reign is applied here: it does not need
    /// this one for that any more. Also when the engine has ended.
    pub async fn succeeded(&self) {
        let mut health = self.shared.health.clone();
        let own = self.shared.own;
        let reigns = |health: &GroupHealth| {
            health.leader.is_some_and(|leader| leader != own) && health.applied_term == health.term
        };
        // An error: the engine has ended.
        let _ = health.wait_for(reigns).await;
    }

    /// Where the group stands.
    pub fn health(&self) -> watch::Receiver<GroupHealth> {
        self.shared.health.clone()
    }

    /// Of a leader: how long ago each other member answered last.
    pub fn heard(&self) -> BTreeMap<MemberId, Duration> {
        let heartbeats = self.shared.engine.metrics().borrow_watched().heartbeat.clone();
        let heard = heartbeats.into_iter().flatten().filter(|(id, _)| *id != self.shared.own.0);
        heard.filter_map(|(id, at)| Some((MemberId(id), at?.elapsed()))).collect()
    }

    /// Takes no part any more: the engine and its thread are gone when this returns, the store is open.
    pub async fn stop(&self) {
        // An error: it has ended before.
        let _ = self.shared.commands.send(Command::Stop).await;
        // Nothing is ever sent: the error says that the thread is gone.
        let _ = self.shared.ended.clone().changed().await;
        self.shared.store.leave_engine().await;
    }
}

fn voted(answer: VoteResponse<Types>) -> GroupAnswerV1 {
    GroupAnswerV1::Vote {
        vote: vote_to_log(&answer.vote),
        last: answer.last_log_id.as_ref().map(to_log),
        granted: answer.vote_granted,
    }
}
