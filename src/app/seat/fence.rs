//! A leader of a later epoch ends the reign of one that was away or cut off when it was promoted.
//!
//! That one is asked itself; its word counts when this cluster's authority signed it. After a stolen
//! master was evicted the authority is another one, which this board does not know: then the word of a
//! master that it knows by its key counts ([`counts`]).

use std::collections::BTreeSet;
use std::time::Duration;

use model::leader::SignedRecord;
use model::masters::{MasterAtV1, MemberId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::make::step_down;
use super::wait::{LOOK_AGAIN, fenced_meanwhile};
use super::{Base, Reopen};
use crate::app::member::Holds;
use crate::app::member::dial;
use crate::app::member::locate::counts;
use crate::app::membership::Membership;
use crate::app::standing::Standing;
use crate::io::store;
use crate::io::tls::Credentials;
use crate::master::keys::Keys;
use crate::master::members::{Grouping, Rows};

/// Who was promoted while this board was off: asked only by the one voter of a group, which is elected
/// without asking anybody, before it acts as the leader.
pub(super) async fn fenced_by(base: &Base, standing: &Standing) -> Option<SignedRecord> {
    let members = standing.store.members()?;
    let store::Standing::Member { own, epoch } = standing.store.standing() else { return None };
    if members.voters() != BTreeSet::from([own]) {
        return None;
    }
    let others = other_masters(base, standing).into_iter();
    later_leader(others, epoch, &standing.credentials, &base.identity.cluster).await
}

/// The other masters, as the log of this board names them.
pub(super) fn other_masters(base: &Base, standing: &Standing) -> Vec<MasterAtV1> {
    let Ok((rows, _)) = Rows::read(&standing.store) else { return Vec::new() };
    rows.members.into_values().filter(|at| at.board != base.identity.name).collect()
}

/// A leader of a later epoch of this cluster, as one of these masters names it.
async fn later_leader(
    asked: impl Iterator<Item = MasterAtV1>,
    epoch: u64,
    credentials: &Credentials,
    cluster: &str,
) -> Option<SignedRecord> {
    let mut answers = JoinSet::new();
    for at in asked {
        for address in at.addresses {
            let (address, credentials) = ((address, at.peer_port).into(), credentials.clone());
            answers.spawn(async move {
                timeout(FENCE_WITHIN, dial::asked(address, &credentials)).await
            });
        }
    }
    while let Some(answer) = answers.join_next().await {
        let Ok(Ok(Ok(told))) = answer else { continue };
        if counts(&told, credentials, cluster) && told.record.record().epoch > epoch {
            let leader = told.record.record().name.as_str();
            tracing::warn!(leader, "another board was promoted meanwhile: this one follows it");
            return Some(told.record);
        }
    }
    None
}

/// Forgets that this board was a master, and looks for the leader where that record says; `masters` are those
/// that it knows by their keys, should they have another authority.
pub(super) async fn follow_later(
    base: &mut Base,
    record: SignedRecord,
    masters: Vec<MasterAtV1>,
    reopen: &mut Reopen,
) -> Holds {
    // If it can be: a stolen master may be among them.
    let leads = |at: &&MasterAtV1| at.board == record.record().name;
    let masters = match masters.iter().find(leads) {
        Some(leader) => vec![leader.clone()],
        None => masters,
    };
    let known = Membership { leader: Some(record), masters };
    if let Err(error) = known.save(&base.dirs) {
        let error = format!("{error:#}");
        tracing::warn!(error, "where the leader is cannot be kept: it is looked for");
    }
    step_down(base, reopen).await
}

/// What a leader knows of those who may lead instead.
#[derive(Clone)]
pub(super) struct Reigning {
    epoch: u64,
    cluster: String,
    credentials: Credentials,
    keys: Keys,
    grouping: Grouping,
}

impl Reigning {
    /// Of the board that leads at this moment.
    pub(super) fn of(base: &Base, standing: &Standing) -> Self {
        Self {
            epoch: standing.store.leadership().epoch,
            cluster: base.identity.cluster.clone(),
            credentials: standing.credentials.clone(),
            keys: Keys::of(standing.store.clone()),
            grouping: standing.members.grouping().clone(),
        }
    }

    /// The members that have not answered this leader for so long.
    fn silent(&self) -> Vec<MemberId> {
        let Some(engine) = self.grouping.engine().borrow().clone() else { return Vec::new() };
        let heard = engine.group.heard();
        let members = engine.group.health().borrow().members.clone();
        let others = members.members.iter().map(|member| member.id).filter(|id| *id != engine.own);
        others.filter(|id| heard.get(id).is_none_or(|ago| *ago > LOOK_AGAIN)).collect()
    }

    /// A leader of a later epoch that a silent member names, and that says so itself.
    pub(super) async fn fenced(reign: Option<Self>) -> SignedRecord {
        let Some(reign) = reign else { return std::future::pending().await };
        let ask = |silent: Vec<MemberId>| {
            let book = reign.grouping.book().borrow().to_vec();
            let reign = reign.clone();
            async move {
                let asked = book.into_iter().filter(|at| silent.contains(&at.member));
                let Self { epoch, credentials, cluster, .. } = &reign;
                let later = later_leader(asked, *epoch, credentials, cluster).await?;
                reign.is_over_by(&later).await.then_some(later)
            }
        };
        fenced_meanwhile(|| reign.silent(), ask).await
    }

    /// As [`Reigning::is_over_by`]; nobody leads here: no.
    pub(super) async fn is_over(reign: Option<Self>, rival: SignedRecord) -> bool {
        match reign {
            Some(reign) => reign.is_over_by(&rival).await,
            None => false,
        }
    }

    /// Whether the leader that a record names, which may be an old one, answers there as that board, is
    /// one of this cluster's still, and leads in a later epoch than this one.
    async fn is_over_by(&self, rival: &SignedRecord) -> bool {
        for address in dial::addresses(rival.record()) {
            let asking = dial::asked(address, &self.credentials);
            let Ok(Ok(told)) = timeout(FENCE_WITHIN, asking).await else { continue };
            let (board, said) = (&told.board, told.record.record());
            let is_itself = board.name == said.name && self.keys.is_admitted(board);
            let counts = counts(&told, &self.credentials, &self.cluster);
            if is_itself && counts && said.epoch > self.epoch {
                let leader = said.name.as_str();
                tracing::warn!(leader, "another board was promoted: this one follows it");
                return true;
            }
        }
        let leader = rival.record().name.as_str();
        tracing::warn!(
            leader,
            "a later leader was heard of and does not answer: this one leads on"
        );
        false
    }
}

/// How long another member may take to say who leads.
const FENCE_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::app::authority::tests::{Authority, Known, Master};
    use crate::io::tls::BoardKey;

    #[tokio::test]
    async fn a_promoted_board_fences_a_leader_that_does_not_know_its_authority() {
        let (old, new) = (Authority::new("fence-old"), Authority::new("fence-new"));
        let own = old.board("pi-1", &BoardKey::generate().expect("made"));
        let later = new.record("pi-2", 2);
        let boss = Master::start(&new, "pi-2", &later, b"").await;
        let by = |credentials: Credentials, epoch, cluster: &'static str| {
            let asked = vec![boss.at.clone()].into_iter();
            async move { later_leader(asked, epoch, &credentials, cluster).await }
        };
        let knows = |masters| own.clone().pinning(Arc::new(Known(masters)));
        let known = || knows(vec![boss.at.clone()]);
        assert_eq!(by(known(), 1, "c").await, Some(later.clone()));
        assert_eq!(by(known(), 2, "c").await, None, "of its own epoch");
        assert_eq!(by(known(), 1, "d").await, None, "of another cluster");
        assert_eq!(by(knows(Vec::new()), 1, "c").await, None, "of nobody that it knows");
        // What it cannot check, and nobody says who has that authority.
        let thief = Master::start(&old, "pi-3", &later, b"").await;
        let asked = vec![thief.at.clone()].into_iter();
        let heard = later_leader(asked, 1, &knows(vec![thief.at.clone()]), "c").await;
        assert_eq!(heard, None, "it does not name that authority itself");
        let signed = Master::start(&old, "pi-4", &old.record("pi-4", 2), b"").await;
        let heard = later_leader(vec![signed.at.clone()].into_iter(), 1, &own, "c").await;
        assert!(heard.is_some(), "what the authority of both signs");
    }
}
