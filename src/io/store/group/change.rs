//! One change of who belongs to a group, in the engine's words.

use std::collections::BTreeSet;

use model::masters::MemberId;
use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};

use super::types::Place;
use super::{ChangeError, Engine, MemberChange};

/// Changes who belongs to the group; resolves when that is committed.
pub(super) async fn changed(engine: &Engine, change: MemberChange) -> Result<(), ChangeError> {
    let changed = match change {
        MemberChange::AddLearner(member) => {
            let place = Place { board: member.board, key: member.key };
            engine.add_learner(member.id.0, place, false).await
        }
        MemberChange::Voters { voters, keep_as_learner } => {
            let voters: BTreeSet<u64> = voters.into_iter().map(|id| id.0).collect();
            engine.change_membership(voters, keep_as_learner).await
        }
        MemberChange::Forget(id) => {
            let nodes = ChangeMembers::RemoveNodes(BTreeSet::from([id.0]));
            engine.change_membership(nodes, true).await
        }
    };
    match changed {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(_)) => Err(ChangeError::Ended),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            Err(ChangeError::NotLeading { hint: to.leader_id.map(MemberId) })
        }
        Err(RaftError::APIError(error)) => {
            let under_way = matches!(
                &error,
                ClientWriteError::ChangeMembershipError(
                    openraft::errors::ChangeMembershipError::InProgress(_)
                )
            );
            Err(if under_way {
                ChangeError::UnderWay
            } else {
                ChangeError::Refused(error.to_string())
            })
        }
    }
}
