//! The two tasks through which the store's side reaches the engine: proposals in order, reads together.

use model::masters::MemberId;
use openraft::ReadPolicy;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::type_config::alias::OneshotReceiverOf;
use openraft::vote::leader_id_std::CommittedLeaderId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::timeout;

use super::seam::{Ask, GroupRequest, Refusal};
use super::types::{Payload, Types};
use super::{Engine, READ_WITHIN};
use crate::io::store::{EngineEnd, NotLeading};

/// Hands what the store's thread has staged to the engine, a group in one append, in order.
pub(super) async fn propose(engine: Engine, thread: EngineEnd, mut asked: mpsc::Receiver<Ask>) {
    let mut waiting = JoinSet::new();
    loop {
        // Cancel safety: both arms lose nothing.
        let ask = tokio::select! {
            ask = asked.recv() => ask,
            Some(_) = waiting.join_next() => continue,
        };
        match ask {
            None => return,
            // An error: the engine has ended, which its metrics say as well.
            Some(Ask::Snapshot) => {
                let _ = engine.trigger().snapshot().await;
            }
            Some(Ask::Propose { mandate, entries }) => {
                let leader = CommittedLeaderId::new(mandate.reign().term);
                let (mut answers, mut late) = (Vec::with_capacity(entries.len()), Vec::new());
                for (tag, bytes) in entries {
                    // A reign that goes on in its term does so above an entry of its own: nothing that
                    // was staged before may come behind that one.
                    if mandate.is_over() {
                        late.push(tag);
                        continue;
                    }
                    let (responder, answer) =
                        ProgressResponder::<Types, ClientWriteResult<Types>>::complete_only();
                    let write = engine.write(Payload { bytes, tag });
                    let write = write.with_leader(leader).responder(responder);
                    // Unconstrained: it stands in the engine's queue at once, or in line for it. An error
                    // drops the responder.
                    let _ = unconstrained(write.into_future()).await;
                    answers.push((tag, answer));
                }
                if !late.is_empty() {
                    let why = Refusal::NotLeading { hint: None };
                    // An error: the store is closed, and with it whoever waits.
                    let _ = thread.send(GroupRequest::Refused { tags: late, why });
                }
                waiting.spawn(refusals(thread.clone(), answers));
            }
        }
    }
}

type WriteAnswer = OneshotReceiverOf<Types, ClientWriteResult<Types>>;

/// Tells the thread which proposals do not come back as committed.
async fn refusals(thread: EngineEnd, answers: Vec<(u64, WriteAnswer)>) {
    let (mut refused, mut hint, mut unknown) = (Vec::new(), None, Vec::new());
    for (tag, answer) in answers {
        match answer.await {
            Ok(Ok(_)) => {}
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                hint = to.leader_id.map(MemberId);
                refused.push(tag);
            }
            // Discarded after a change of leaders, or the engine has ended.
            _ => unknown.push(tag),
        }
    }
    let why = [(refused, Refusal::NotLeading { hint }), (unknown, Refusal::Unknown)];
    for (tags, why) in why.into_iter().filter(|(tags, _)| !tags.is_empty()) {
        // An error: the store is closed, and with it whoever waits.
        let _ = thread.send(GroupRequest::Refused { tags, why });
    }
}

/// Answers whoever wants to know whether this board still leads: all who ask while a question is under
/// way share the next one.
pub(super) async fn confirm(
    engine: Engine,
    mut asked: mpsc::Receiver<oneshot::Sender<Result<(), NotLeading>>>,
) {
    while let Some(first) = asked.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = asked.try_recv() {
            waiting.push(next);
        }
        let answer =
            match timeout(READ_WITHIN, engine.ensure_linearizable(ReadPolicy::ReadIndex)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) | Err(_) => {
                    let hint = engine.current_leader().await.map(MemberId);
                    Err(NotLeading { hint: hint.filter(|leader| leader.0 != *engine.node_id()) })
                }
            };
        for waiter in waiting {
            // Whoever asked may have gone.
            let _ = waiter.send(answer);
        }
    }
}
