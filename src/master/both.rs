//! Two boards: a write is answered when both have it (`durability = "both"`).
//!
//! ```text
//! before a write   no other board takes one: wait, at most 2 s, then 503; nothing has happened
//! after a write    another board has it durable: answer; not within 2 s: 504, this board alone has it
//! ```
//! A group with one voter commits what that voter alone has, and its learner may be promoted without it.
//! Where the user wishes so, the API's writes wait for a learner; a learner answers an append when it is on
//! its disk. In: the wish (the object of the masters, else this board's configuration), how far each member
//! is. Controllers' writes do not wait: they follow from what was acknowledged, and the pods of a board that
//! died have to move. With three voters or more a majority has every write anyway.

use std::time::Duration;

use logic::masters::{Durability, Wanted};
use model::limits::{STORE_WAIT_SECONDS_MAX, VOTER_LAG_ENTRIES_MAX};
use model::masters::MASTERS_OBJECT;
use model::status::ApiError;
use tokio::time::{sleep, timeout};

use super::members::{Grouping, Rows};
use crate::io::store::{Group, GroupHealth, Store};

/// How long a write waits for the other board.
const WITHIN: Duration = Duration::from_secs(STORE_WAIT_SECONDS_MAX);
/// A learner that has not answered for so long is away.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// While it is away, whether it is back.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Seconds until a client tries again.
const RETRY_SECONDS: u32 = 1;

/// What is done about a second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// A write is answered when the voters have it.
    One,
    /// When two boards have it.
    Both,
    /// Wished for, but no other board holds the log.
    Alone,
}

/// The wait for the second board; the default never waits.
#[derive(Clone, Default)]
pub struct Both(Option<Of>);

#[derive(Clone)]
struct Of {
    grouping: Grouping,
    store: Store,
    configured: Wanted,
}

impl Both {
    /// Of this board's part in the group. `configured` counts where the object says nothing.
    pub fn new(grouping: Grouping, store: Store, configured: Wanted) -> Self {
        Self(Some(Of { grouping, store, configured }))
    }

    /// What is done at this moment.
    pub fn copies(&self) -> Copies {
        let Some(of) = self.0.as_ref().filter(|of| of.is_wished()) else { return Copies::One };
        let group = of.group();
        let alone = group.is_none_or(|group| group.health().borrow().members.members.len() < 2);
        if alone { Copies::Alone } else { Copies::Both }
    }

    /// Waits until a write may begin.
    ///
    /// # Errors
    /// 503: the board that would have to keep it does not answer. Nothing has happened.
    pub async fn before(&self) -> Result<(), ApiError> {
        let ready = async {
            while self.waits_for().is_some_and(|group| !takes_one(&group)) {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(WITHIN, ready).await.map_err(|_| {
            let mut away =
                ApiError::new(503, "ServiceUnavailable", self.words("nothing has changed"));
            away.details = serde_json::json!({ "retryAfterSeconds": RETRY_SECONDS });
            away.retry_after_seconds = Some(RETRY_SECONDS);
            away
        })
    }

    /// Waits until another board has every write of before this call.
    ///
    /// # Errors
    /// 504: it does not say so.
    pub async fn after(&self) -> Result<(), ApiError> {
        let Some(group) = self.waits_for() else { return Ok(()) };
        let upto = group.last_index();
        let mut health = group.health();
        let kept = async {
            loop {
                if has_copy(&health.borrow_and_update(), upto) || self.waits_for().is_none() {
                    return;
                }
                // Cancel safety: both only wait. An error means that the engine has ended: nobody will
                // say so any more, which the deadline tells.
                tokio::select! {
                    Ok(()) = health.changed() => {}
                    () = sleep(LOOK_EVERY) => {}
                }
            }
        };
        timeout(WITHIN, kept)
            .await
            .map_err(|_| ApiError::new(504, "Timeout", self.words("only this board has the write")))
    }

    /// The group, if writes wait for a learner of it.
    fn waits_for(&self) -> Option<Group> {
        let of = self.0.as_ref()?;
        let group = of.group().filter(|group| has_one_voter(&group.health().borrow()))?;
        of.is_wished().then_some(group)
    }

    fn words(&self, so: &str) -> String {
        let group = self.waits_for();
        let health = group.map(|group| group.health().borrow().clone()).unwrap_or_default();
        let learners = health.members.learners();
        let boards = learners.iter().filter_map(|id| health.members.get(*id));
        let boards: Vec<&str> = boards.map(|member| &*member.board).collect();
        format!(
            "durability is \"both\", and board {} does not answer; {so}. Bring it back, or have one copy: \
             kubectl -n kube-system patch configmap {MASTERS_OBJECT} -p '{{\"data\":{{\"durability\":\"one\"}}}}'",
            boards.join(" or "),
        )
    }
}

impl Of {
    fn group(&self) -> Option<Group> {
        self.grouping.engine().borrow().as_ref().map(|engine| engine.group.clone())
    }

    fn is_wished(&self) -> bool {
        // What cannot be read wishes nothing; writes fail by themselves then.
        let said = Rows::read(&self.store).map(|(rows, _)| rows.said).unwrap_or_default();
        said.over(self.configured).durability == Durability::Both
    }
}

/// Whether what is committed is on one board, while another holds the log too.
fn has_one_voter(health: &GroupHealth) -> bool {
    let members = &health.members;
    !members.is_joint() && members.voters().len() == 1 && !members.learners().is_empty()
}

/// Whether a learner answers, and is not far behind.
fn takes_one(group: &Group) -> bool {
    let heard = group.heard();
    let health = group.health().borrow().clone();
    health.members.learners().iter().any(|id| {
        let matched = health.matched.get(id).copied().unwrap_or(0);
        heard.get(id).is_some_and(|ago| *ago < HEARD_WITHIN)
            && matched + VOTER_LAG_ENTRIES_MAX >= health.last_index
    })
}

/// Whether a learner has everything up to an entry on its disk.
fn has_copy(health: &GroupHealth, upto: u64) -> bool {
    let learners = health.members.learners();
    learners.iter().any(|id| health.matched.get(id).is_some_and(|matched| *matched >= upto))
}

#[cfg(test)]
mod tests {
    use model::masters::{MemberId, MemberV1, MembersV1, Part};

    use super::*;

    fn health(voters: u64, learners: u64, matched: u64) -> GroupHealth {
        let member = |id: u64| MemberV1 {
            id: MemberId(id),
            board: format!("pi-{id}"),
            key: [0; 32],
            part: if id <= voters { Part::Voter } else { Part::Learner },
        };
        let configs = vec![(1..=voters).map(MemberId).collect()];
        let members = MembersV1 { configs, members: (1..=voters + learners).map(member).collect() };
        let matched = (2..=voters + learners).map(|id| (MemberId(id), matched)).collect();
        GroupHealth { members, matched, last_index: 10, ..GroupHealth::default() }
    }

    #[test]
    fn only_a_learner_beside_the_one_voter_is_waited_for() {
        assert!(has_one_voter(&health(1, 1, 0)));
        assert!(!has_one_voter(&health(1, 0, 0)), "there is nobody to wait for");
        assert!(!has_one_voter(&health(3, 1, 0)), "a majority has it");
    }

    #[test]
    fn a_copy_reaches_up_to_the_write() {
        assert!(!has_copy(&health(1, 1, 9), 10));
        assert!(has_copy(&health(1, 1, 10), 10));
        assert!(!has_copy(&health(1, 0, 10), 10));
    }

    #[tokio::test]
    async fn without_the_wish_nothing_waits() {
        let both = Both::default();
        assert_eq!(both.copies(), Copies::One);
        assert!(both.before().await.is_ok() && both.after().await.is_ok());
    }
}
