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

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use logic::masters::{Durability, Wanted};
use model::ids::Version;
use model::limits::{STORE_WAIT_SECONDS_MAX, VOTER_LAG_ENTRIES_MAX};
use model::masters::{MASTERS_OBJECT, MemberId};
use model::status::ApiError;
use tokio::time::{sleep, timeout};

use super::members::{Grouping, Rows, Said};
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

/// What a write was begun with: the group, if another member of it was to have the write, too.
#[must_use = "the write is not answered before `Both::after`"]
pub struct Begun(Option<Group>);

#[derive(Clone)]
struct Of {
    grouping: Grouping,
    store: Store,
    configured: Wanted,
    /// What the object of this version said, when it was read last.
    last: Arc<Mutex<(Option<Version>, Said)>>,
}

impl Both {
    /// Of this board's part in the group. `configured` counts where the object says nothing.
    pub fn new(grouping: Grouping, store: Store, configured: Wanted) -> Self {
        Self(Some(Of { grouping, store, configured, last: Arc::default() }))
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
    pub async fn before(&self) -> Result<Begun, ApiError> {
        let ready = async {
            loop {
                match self.waits_for() {
                    Some(group) if !takes_one(&group) => sleep(LOOK_EVERY).await,
                    found => return Begun(found),
                }
            }
        };
        timeout(WITHIN, ready).await.map_err(|_| {
            let words = words(self.waits_for().as_ref(), "nothing has changed");
            let mut away = ApiError::new(503, "ServiceUnavailable", words);
            away.details = serde_json::json!({ "retryAfterSeconds": RETRY_SECONDS });
            away.retry_after_seconds = Some(RETRY_SECONDS);
            away
        })
    }

    /// Waits until another board has every write of before this call, unless that is wished no more. That
    /// the group became another one since the write was `begun` ends no wait: what one board committed
    /// stays on one disk, also when the other was thrown out a moment later.
    ///
    /// # Errors
    /// 504: it does not say so.
    pub async fn after(&self, begun: Begun) -> Result<(), ApiError> {
        let found = self.0.as_ref().zip(begun.0.or_else(|| self.waits_for()));
        let Some((of, group)) = found else { return Ok(()) };
        let upto = group.last_index();
        let mut health = group.health();
        let kept = async {
            loop {
                if has_copy(&health.borrow_and_update(), group.own(), upto) || !of.is_wished() {
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
        timeout(WITHIN, kept).await.map_err(|_| {
            ApiError::new(504, "Timeout", words(Some(&group), "only this board has the write"))
        })
    }

    /// The group, if writes wait for another member of it.
    fn waits_for(&self) -> Option<Group> {
        let of = self.0.as_ref()?;
        let group = of.group().filter(|group| may_be_on_one(&group.health().borrow()))?;
        of.is_wished().then_some(group)
    }
}

/// What a client is told whose write has no second copy.
fn words(group: Option<&Group>, so: &str) -> String {
    let members = group.map(|group| group.health().borrow().members.clone()).unwrap_or_default();
    let own = group.map(Group::own);
    let others = members.members.iter().filter(|member| Some(member.id) != own);
    let others: Vec<&str> = others.map(|member| &*member.board).collect();
    let why = match others[..] {
        [] => "no other board holds the log any more".to_owned(),
        _ => format!("board {} does not answer", others.join(" or ")),
    };
    format!(
        "durability is \"both\", and {why}; {so}. Bring it back, or have one copy: \
         kubectl -n kube-system patch configmap {MASTERS_OBJECT} -p '{{\"data\":{{\"durability\":\"one\"}}}}'"
    )
}

impl Of {
    fn group(&self) -> Option<Group> {
        self.grouping.engine().borrow().as_ref().map(|engine| engine.group.clone())
    }

    /// What cannot be read wishes what it did before; the object is parsed when it is another one.
    fn is_wished(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(record) = self.store.get(&Rows::key()) {
            let version = record.as_ref().map(|record| record.version);
            if version.is_none() || version != last.0 {
                let said = record.as_ref().map(|record| Rows::parse(&record.body).said);
                *last = (version, said.unwrap_or_default());
            }
        }
        last.1.over(self.configured).durability == Durability::Both
    }
}

/// Whether what is committed may be on one board, while another holds the log too. While the group becomes
/// one of several voters, the old one may have committed alone what was written just before.
fn may_be_on_one(health: &GroupHealth) -> bool {
    let members = &health.members;
    members.members.len() > 1 && (members.is_joint() || members.voters().len() == 1)
}

/// Whether another member answers, and is not far behind.
fn takes_one(group: &Group) -> bool {
    let heard = group.heard();
    let health = group.health().borrow().clone();
    health.members.members.iter().map(|member| member.id).any(|id| {
        let matched = health.matched.get(&id).copied().unwrap_or(0);
        heard.get(&id).is_some_and(|ago| *ago < HEARD_WITHIN)
            && matched + VOTER_LAG_ENTRIES_MAX >= health.last_index
    })
}

/// Whether another member has everything up to an entry on its disk.
fn has_copy(health: &GroupHealth, own: MemberId, upto: u64) -> bool {
    let others = health.members.members.iter().map(|member| member.id).filter(|id| *id != own);
    others.into_iter().any(|id| health.matched.get(&id).is_some_and(|matched| *matched >= upto))
}

#[cfg(test)]
mod tests {
    use model::masters::{MemberV1, MembersV1, Part};

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

    const OWN: MemberId = MemberId(1);

    #[test]
    fn only_what_one_voter_may_have_committed_alone_is_waited_for() {
        assert!(may_be_on_one(&health(1, 1, 0)));
        assert!(!may_be_on_one(&health(1, 0, 0)), "there is nobody to wait for");
        assert!(!may_be_on_one(&health(3, 1, 0)), "a majority has it");
        // A third board comes: what was committed a moment ago may be on the old voter's disk alone.
        let mut growing = health(3, 0, 9);
        growing.members.configs.insert(0, [OWN].into());
        assert!(may_be_on_one(&growing));
        assert!(!has_copy(&growing, OWN, 10), "not by growing");
        growing.matched.insert(MemberId(3), 10);
        assert!(has_copy(&growing, OWN, 10), "a voter's copy is one, too");
    }

    #[test]
    fn a_copy_reaches_up_to_the_write() {
        assert!(!has_copy(&health(1, 1, 9), OWN, 10));
        assert!(has_copy(&health(1, 1, 10), OWN, 10));
        // The learner was thrown out meanwhile.
        assert!(!has_copy(&health(1, 0, 10), OWN, 10));
        let mut left = health(1, 1, 10);
        left.members.members.truncate(1);
        assert!(!has_copy(&left, OWN, 10), "its copy counts no more");
    }

    #[tokio::test]
    async fn without_the_wish_nothing_waits() {
        let both = Both::default();
        assert_eq!(both.copies(), Copies::One);
        let begun = both.before().await.expect("nobody is waited for");
        assert!(both.after(begun).await.is_ok());
    }
}
