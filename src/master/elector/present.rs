//! Which members answer at this moment, whoever leads: asked before a person makes another leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::masters::{FenceV1, GroupAnswerV1, GroupAskV1, MemberId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Elector;
use super::line::Line;

/// Who answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The members that did; one that holds no log at the moment did not.
    pub members: BTreeSet<MemberId>,
    /// The highest epoch that one of them names; 0: none.
    pub epoch: u64,
}

impl Elector {
    /// Asks all of `members` but this board, side by side, and waits no longer than `within`.
    ///
    /// # Cancel safety
    /// Nothing is left behind: the connections are not those of the engine.
    pub async fn present(
        self: &Arc<Self>,
        members: impl IntoIterator<Item = MemberId>,
        within: Duration,
    ) -> Present {
        let mut asked = JoinSet::new();
        for member in members.into_iter().filter(|member| *member != self.options.own) {
            let elector = Arc::clone(self);
            asked.spawn(async move {
                let line = Line::start(elector, member);
                (member, timeout(within, line.ask(GroupAskV1::Standing)).await)
            });
        }
        let mut present = Present::default();
        while let Some(answer) = asked.join_next().await {
            let Ok((member, Ok(Ok(answer)))) = answer else { continue };
            let epoch = match answer {
                GroupAnswerV1::Refused(FenceV1::Away | FenceV1::Target) => continue,
                GroupAnswerV1::Refused(FenceV1::Epoch { is }) => is,
                GroupAnswerV1::Standing { epoch, .. } => epoch,
                // It is there, and does not know this board.
                _ => 0,
            };
            present.members.insert(member);
            present.epoch = present.epoch.max(epoch);
        }
        present
    }
}
