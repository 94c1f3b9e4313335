//! The engine's network: its questions as messages of the group over a [`GroupWire`].
//!
//! A member that refuses, is another one, or cannot be reached is "unreachable" for the engine, which
//! then waits a little before it tries again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::masters::{AppendedV1, GroupAnswerV1, GroupAskV1, MemberId};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::TransferLeaderError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{OptionalSend, RaftMetrics, RaftNetworkFactory, RaftNetworkV2};

use super::GroupWire;
use super::reign::FOR_EVER_MS;
use super::seam::SnapshotFile;
use super::types::{Place, Types, entry_to_wire, to_engine, to_log, vote_to_engine, vote_to_log};
use crate::io::store::standing::boot_ms;

/// Between two tries to reach a member that is away.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long a member may take to make entries durable; then they are sent anew, which does no harm.
const APPEND_WITHIN: Duration = Duration::from_secs(2);

/// Makes clients to members.
pub(super) struct Network {
    pub(super) own: MemberId,
    pub(super) wire: Arc<dyn GroupWire>,
    pub(super) majority: Arc<Majority>,
}

/// Whether a majority hears the leader that this member is. One that is heard and hears nobody must let
/// the leases of the others run out: the engine stops its heartbeats for that at times, and its entries
/// must stop as well, because they renew a lease too.
pub(super) struct Majority {
    lease_ms: u64,
    /// When the newest message was sent that a majority has acknowledged, or when the lead began.
    heard_ms: AtomicU64,
    /// The term in which this member leads; 0: none.
    term: AtomicU64,
}

impl Majority {
    pub(super) fn new(lease: Duration) -> Self {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX / 2);
        Self { lease_ms, heard_ms: AtomicU64::new(FOR_EVER_MS), term: AtomicU64::new(0) }
    }

    /// Takes in what the engine says, and when a majority was heard.
    pub(super) fn look(&self, metrics: &RaftMetrics<Types>, acked_ms: u64, now_ms: u64) {
        let term = if metrics.state.is_leader() { metrics.current_term } else { 0 };
        let heard_ms = if term == 0 { FOR_EVER_MS } else { acked_ms };
        if self.term.swap(term, Ordering::SeqCst) != term && term != 0 {
            self.heard_ms.store(heard_ms.max(now_ms), Ordering::SeqCst);
        } else if heard_ms > self.heard_ms.load(Ordering::SeqCst) || term == 0 {
            self.heard_ms.store(heard_ms, Ordering::SeqCst);
        } else if self.heard_ms.load(Ordering::SeqCst) == FOR_EVER_MS {
            // It was a majority by itself until now.
            self.heard_ms.store(now_ms, Ordering::SeqCst);
        }
    }

    fn is_lost(&self) -> bool {
        boot_ms() > self.heard_ms.load(Ordering::SeqCst) + self.lease_ms
    }
}

/// A client to one member.
pub(super) struct Peer {
    own: MemberId,
    to: MemberId,
    /// Whether what it sends are heartbeats: they wait for no disk.
    beats: bool,
    wire: Arc<dyn GroupWire>,
    majority: Arc<Majority>,
}

impl Network {
    fn peer(&self, to: u64, beats: bool) -> Peer {
        let (wire, majority) = (self.wire.clone(), self.majority.clone());
        Peer { own: self.own, to: MemberId(to), beats, wire, majority }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &Place) -> Peer {
        self.peer(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &Place) -> Peer {
        self.peer(target, true)
    }
}

impl Peer {
    async fn ask(
        &self,
        ask: GroupAskV1,
        within: Duration,
        action: RPCTypes,
    ) -> Result<GroupAnswerV1, RPCError<Types>> {
        let asked = tokio::time::timeout(within, self.wire.ask(self.to, ask, within)).await;
        let late = Timeout { action, id: self.own.0, target: self.to.0, timeout: within };
        match asked.map_err(|_| late)? {
            Ok(GroupAnswerV1::Refused(fence)) => Err(unreachable(fence)),
            Ok(answer) => Ok(answer),
            Err(trouble) => Err(unreachable(trouble)),
        }
    }
}

fn unreachable(why: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(why))
}

fn unexpected() -> RPCError<Types> {
    unreachable("the member answered something else")
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if !self.beats && self.majority.is_lost() {
            return Err(unreachable("no majority hears this board"));
        }
        let vote = vote_to_log(&rpc.vote);
        let previous = rpc.prev_log_id.as_ref().map(to_log);
        let commit = rpc.leader_commit.as_ref().map(to_log);
        let (ask, within) = match self.beats {
            true => (GroupAskV1::Beat { vote, previous, commit }, option.soft_ttl()),
            false => {
                let entries = rpc.entries.into_iter().map(entry_to_wire).collect();
                (GroupAskV1::Append { vote, previous, commit, entries }, APPEND_WITHIN)
            }
        };
        match self.ask(ask, within, RPCTypes::AppendEntries).await? {
            GroupAnswerV1::Append(AppendedV1::Done { upto: None }) => {
                Ok(AppendEntriesResponse::Success)
            }
            GroupAnswerV1::Append(AppendedV1::Done { upto: Some(upto) }) => {
                Ok(AppendEntriesResponse::PartialSuccess(to_engine(upto)))
            }
            // An entry before the first cannot be another one.
            GroupAnswerV1::Append(AppendedV1::Conflict) if previous.is_some() => {
                Ok(AppendEntriesResponse::Conflict)
            }
            GroupAnswerV1::Append(AppendedV1::HigherVote(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(vote_to_engine(vote)))
            }
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ask = GroupAskV1::Vote {
            vote: vote_to_log(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(to_log),
            transfer: rpc.leadership_transfer,
        };
        vote_answer(self.ask(ask, option.soft_ttl(), RPCTypes::Vote).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ask = GroupAskV1::PreVote {
            vote: vote_to_log(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(to_log),
        };
        vote_answer(self.ask(ask, option.soft_ttl(), RPCTypes::Vote).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let mut file = snapshot.snapshot;
        file.head.vote = vote_to_log(&vote);
        // Cancel safety: whichever comes first ends the sending; a new one begins where it ended.
        let sent = tokio::select! {
            sent = self.wire.send_snapshot(self.to, file) => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let trouble = |why: String| StreamingError::Unreachable(Unreachable::from_string(why));
        match sent {
            Ok(GroupAnswerV1::Installed(vote)) => Ok(SnapshotResponse::new(vote_to_engine(vote))),
            Ok(GroupAnswerV1::Refused(fence)) => Err(trouble(fence.to_string())),
            Ok(_) => Err(trouble("the member answered something else".to_owned())),
            Err(why) => Err(trouble(why.to_string())),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let last = req.last_log_id().map(to_log);
        let ask = GroupAskV1::Transfer {
            from: vote_to_log(req.from_leader()),
            to: MemberId(*req.to_node_id()),
            last,
        };
        let within = option.soft_ttl().max(APPEND_WITHIN);
        match self.ask(ask, within, RPCTypes::TransferLeader).await? {
            GroupAnswerV1::Transferred(true) => Ok(Ok(())),
            GroupAnswerV1::Transferred(false) => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: req.last_log_id().copied(),
                actual: None,
            })),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

fn vote_answer(answer: GroupAnswerV1) -> Result<VoteResponse<Types>, RPCError<Types>> {
    match answer {
        GroupAnswerV1::Vote { vote, last, granted } => {
            Ok(VoteResponse::new(vote_to_engine(vote), last.and_then(to_engine), granted))
        }
        _ => Err(unexpected()),
    }
}
