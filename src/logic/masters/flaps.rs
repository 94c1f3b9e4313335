//! Voters that force elections and do not win them: a bad link or a lame disk disturbs the others.
//!
//! Counted on every master, leading or not: such a voter is just what ends leaderships.

use std::collections::{BTreeMap, VecDeque};

use model::limits::{FLAP_PENALTY_SECONDS, FLAP_TERMS_MAX, FLAP_WINDOW_SECONDS};
use model::masters::{MemberId, MembersV1};

/// Elections that members forced without winning; times are milliseconds of any steady clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Flaps {
    terms: BTreeMap<MemberId, VecDeque<u64>>,
    penalty_until: BTreeMap<MemberId, u64>,
}

impl Flaps {
    /// A term began that `by` stood for.
    pub(super) fn term_began(&mut self, by: MemberId, won: bool, now: u64) {
        let terms = self.terms.entry(by).or_default();
        if won {
            terms.clear();
            self.penalty_until.remove(&by);
            return;
        }
        terms.push_back(now);
        while terms.front().is_some_and(|at| at + FLAP_WINDOW_SECONDS * 1_000 < now) {
            terms.pop_front();
        }
        if terms.len() >= FLAP_TERMS_MAX {
            terms.clear();
            self.penalty_until.insert(by, now + FLAP_PENALTY_SECONDS * 1_000);
        }
    }

    /// Forgets who is no member and what is long past, so that nothing grows.
    pub(super) fn keep(&mut self, members: &MembersV1, now: u64) {
        self.terms.retain(|id, _| members.get(*id).is_some());
        self.penalty_until.retain(|id, until| *until > now && members.get(*id).is_some());
    }

    /// Whether it may not vote at this time.
    pub(super) fn is_penalised(&self, id: MemberId, now: u64) -> bool {
        self.penalty_until.get(&id).is_some_and(|until| *until > now)
    }

    /// How many elections it forced lately.
    pub(super) fn count(&self, id: MemberId, now: u64) -> usize {
        let recent = |at: &&u64| **at + FLAP_WINDOW_SECONDS * 1_000 >= now;
        self.terms.get(&id).map_or(0, |terms| terms.iter().filter(recent).count())
    }
}
