//! Which boards should vote: a pure choice from what is known of each.
//!
//! In: members, boards with the policy's verdicts. Out: [`Plan`]. Time is in the verdicts already.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::VOTERS_MAX;
use model::masters::MemberId;
use model::token::TokenRole;

/// A board with all that the choice asks for.
#[derive(Clone, Debug)]
pub(super) struct Board {
    /// Its name.
    pub(super) name: String,
    /// Its newest member.
    pub(super) member: Option<MemberId>,
    /// Whether that member votes.
    pub(super) votes: bool,
    /// Whether it has a place in the group, heard or not.
    pub(super) stays: bool,
    /// Whether it could be given a vote: it stays, is ready and able, and does not flap.
    pub(super) fit: bool,
    /// Whether its vote should move to another as soon as there is one.
    pub(super) lame: bool,
    /// Whether its member is close enough to the leader to be given a vote.
    pub(super) close: bool,
    /// Whether its member is heard at this moment.
    pub(super) heard: bool,
    /// Whether it was given up lately.
    pub(super) refused: bool,
    /// Whether it must keep the log although it may not vote.
    pub(super) penalised: bool,
    /// What it was let in for.
    pub(super) role: TokenRole,
    /// Its zone; boards without one share one.
    pub(super) zone: String,
    /// Elections that it forced lately.
    pub(super) flaps: usize,
    /// Since when it is ready.
    pub(super) stable_since: u64,
}

/// What the choice is made from.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Who leads.
    pub(super) own: MemberId,
    /// All boards; one whose replica was lost appears twice, as the voter that it was and as what it
    /// may become.
    pub(super) boards: Vec<Board>,
    /// Voters of the newest configuration.
    pub(super) voters: BTreeSet<MemberId>,
    /// How many voters the user wants.
    pub(super) wanted: Option<u8>,
    /// Whether voters that must go are waited for no longer.
    pub(super) impatient: bool,
}

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Change to these voters, which can be done at once.
    pub(super) change: Option<BTreeSet<MemberId>>,
    /// Boards that should follow the log and do not, the best first.
    pub(super) add: Vec<String>,
    /// Members that are to stay: voters and those on their way.
    pub(super) keep: BTreeSet<MemberId>,
    /// Hand the lead over to this voter first.
    pub(super) hand_over: Option<MemberId>,
    /// Boards whose vote should move and has nowhere to go.
    pub(super) without_replacement: Vec<String>,
}

/// Voters for so many boards: always odd.
pub(super) fn voters_for(boards: usize, wanted: Option<u8>) -> usize {
    let by_size = match boards {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    };
    match wanted {
        None => by_size,
        Some(wanted) => odd(usize::from(wanted).clamp(1, VOTERS_MAX).min(boards.max(1))),
    }
}

/// The largest odd number that is not larger.
fn odd(number: usize) -> usize {
    number - usize::from(number.is_multiple_of(2) && number > 0)
}

impl View {
    /// How many voters there should be. Only boards that are there make the group larger, only boards
    /// that are gone for good make it smaller.
    pub(super) fn size(&self) -> usize {
        let count = |there: fn(&Board) -> bool| {
            let names = self.boards.iter().filter(|board| there(board)).map(|board| &board.name);
            voters_for(names.collect::<BTreeSet<_>>().len(), self.wanted)
        };
        let (grow, shrink) = (count(|board| board.fit), count(|board| board.stays));
        odd(self.voters.len()).clamp(grow.min(shrink), shrink)
    }

    /// Voters without a reason to move, the leader first, then those who are heard.
    fn kept(&self) -> Vec<&Board> {
        let mut kept: Vec<&Board> =
            self.boards.iter().filter(|board| board.votes && board.stays && !board.lame).collect();
        kept.sort_by_key(|board| {
            (
                board.member != Some(self.own),
                !board.heard,
                board.role != TokenRole::Master,
                board.member,
            )
        });
        kept
    }

    /// Boards that could be given a vote, the best first; `zones` are those of the votes so far.
    fn best<'a>(&self, from: &[&'a Board], zones: &BTreeMap<&str, usize>) -> Option<&'a Board> {
        let order = |board: &&&'a Board| {
            let zone = zones.get(board.zone.as_str()).copied().unwrap_or(0);
            let master = board.role != TokenRole::Master;
            let since = board.stable_since;
            (
                board.refused,
                master,
                zone > 0,
                board.flaps,
                board.member.is_none(),
                since,
                &board.name,
            )
        };
        from.iter().min_by_key(order).copied()
    }

    /// The best `size` boards: who is kept, then candidates, then lame voters, which are better than
    /// nobody. Fewer when there are no more.
    fn choose<'a>(&'a self, size: usize, candidates: &[&'a Board]) -> Vec<&'a Board> {
        let mut chosen = self.kept();
        if chosen.len() >= size {
            self.thin(&mut chosen, size);
        }
        let mut left = candidates.to_vec();
        while chosen.len() < size {
            let Some(best) = self.best(&left, &zones(&chosen)) else { break };
            left.retain(|board| board.name != best.name);
            chosen.push(best);
        }
        // Nor does a board vote twice, as the member that it was and the one that it is.
        let is_in = |board: &Board| chosen.iter().any(|other| other.name == board.name);
        let lame = self.boards.iter().filter(|board| board.votes && board.stays && board.lame);
        let mut lame: Vec<&Board> = lame.filter(|board| !is_in(board)).collect();
        lame.sort_by_key(|board| (!board.heard, board.member));
        chosen.extend(lame.into_iter().take(size.saturating_sub(chosen.len())));
        self.spread(&mut chosen, &left);
        chosen
    }

    /// Takes votes away until `size` are left: from the most crowded zone, from the end of the order,
    /// never from the leader.
    fn thin(&self, chosen: &mut Vec<&Board>, size: usize) {
        while chosen.len() > size {
            let zones = zones(chosen);
            let crowd = |board: &Board| (board.heard, usize::MAX - zones[board.zone.as_str()]);
            let movable = chosen.iter().enumerate().skip(1).rev();
            let Some((at, _)) = movable.min_by_key(|(_, board)| crowd(board)) else { break };
            chosen.remove(at);
        }
    }

    /// Moves votes from a crowded zone to a candidate in an emptier one, as long as that evens them.
    fn spread<'a>(&self, chosen: &mut [&'a Board], left: &[&'a Board]) {
        let mut left: Vec<&Board> = left.iter().filter(|board| !board.refused).copied().collect();
        while let Some(best) = self.emptiest(chosen, &left) {
            let zones = zones(chosen);
            let crowded = |board: &Board| zones[board.zone.as_str()] >= 2 + count(&zones, best);
            let movable = |board: &Board| crowded(board) && board.member != Some(self.own);
            let Some(at) = chosen.iter().rposition(|board| movable(board)) else { break };
            chosen[at] = best;
            left.retain(|board| board.name != best.name);
        }
    }

    fn emptiest<'a>(&self, chosen: &[&Board], left: &[&'a Board]) -> Option<&'a Board> {
        let zones = zones(chosen);
        let fewest = left.iter().map(|board| count(&zones, board)).min()?;
        let in_it: Vec<&Board> =
            left.iter().filter(|board| count(&zones, board) == fewest).copied().collect();
        self.best(&in_it, &zones)
    }

    /// What should be and what to do for it.
    pub(super) fn plan(&self) -> Plan {
        let size = self.size();
        let candidates: Vec<&Board> =
            self.boards.iter().filter(|board| board.fit && !board.votes).collect();
        let wished = self.choose(size, &candidates);
        let close: Vec<&Board> = candidates.iter().filter(|board| board.close).copied().collect();
        let now = self.choose(size, &close);
        let mut plan = Plan {
            keep: wished.iter().filter_map(|board| board.member).collect(),
            add: wished.iter().filter(|b| b.member.is_none()).map(|b| b.name.clone()).collect(),
            ..Plan::default()
        };
        let replaced = |board: &&Board| board.votes && board.stays && board.lame;
        let stuck = wished.iter().filter(|board| replaced(board));
        plan.without_replacement = stuck.map(|board| board.name.clone()).collect();
        self.keep_standby(size, &candidates, &mut plan);
        plan.keep.extend(&self.voters);
        plan.hand_over = self.successor(&now, size);
        plan.change = self.step(&now, wished.len());
        plan
    }

    /// The change that can be made at once, if it is one: an odd number of voters of whom a majority
    /// is heard; fewer than at present only when nobody is waited for.
    fn step(&self, now: &[&Board], wished: usize) -> Option<BTreeSet<MemberId>> {
        let size = odd(now.len());
        let hope = odd(wished) > size && !self.impatient;
        if size == 0 || size < odd(self.voters.len()) && hope {
            return None;
        }
        let mut now = now.to_vec();
        self.thin(&mut now, size);
        let voters: BTreeSet<MemberId> = now.iter().filter_map(|board| board.member).collect();
        let heard = now.iter().filter(|board| board.heard).count();
        (voters.len() == size && voters != self.voters && 2 * heard > size).then_some(voters)
    }

    /// With one voter another board holds the whole log: the one that does already, unless it is
    /// lame and another one is there.
    fn keep_standby(&self, size: usize, candidates: &[&Board], plan: &mut Plan) {
        let others = plan.keep.len() + plan.add.len() > 1;
        for board in self.boards.iter().filter(|board| board.penalised) {
            plan.keep.extend(board.member);
        }
        if size > 1 || others {
            return;
        }
        let mut held: Vec<&Board> = self.boards.iter().filter(|board| board.is_standby()).collect();
        held.sort_by_key(|board| (board.penalised, board.lame, !board.close, board.member));
        // Add before remove: others go only when this one has the log.
        let is_close = held.first().is_some_and(|board| board.close);
        let kept = if is_close { 1 } else { held.len() };
        plan.keep.extend(held.iter().take(kept).filter_map(|board| board.member));
        if held.first().is_none_or(|board| board.lame) {
            let new: Vec<&Board> =
                candidates.iter().filter(|board| board.member.is_none()).copied().collect();
            let best = self.best(&new, &BTreeMap::new());
            plan.add.extend(best.map(|board| board.name.clone()));
        }
    }

    /// Who should lead when a change is half done and the leader is not in its end.
    pub(super) fn heir(&self) -> Option<MemberId> {
        let able = |board: &&Board| {
            board.heard && board.member.is_some_and(|id| self.voters.contains(&id))
        };
        let heirs = self.boards.iter().filter(able);
        heirs.max_by_key(|board| board.close).and_then(|board| board.member)
    }

    /// Who should lead when the leader is to lose its vote: a voter that keeps its own.
    fn successor(&self, now: &[&Board], size: usize) -> Option<MemberId> {
        let leads = |board: &&Board| board.member == Some(self.own);
        if size == 0 || now.iter().any(leads) || !self.voters.contains(&self.own) {
            return None;
        }
        let able = |board: &&&Board| board.votes && board.heard && board.close && !board.lame;
        now.iter().find(able).and_then(|board| board.member)
    }
}

impl Board {
    fn is_standby(&self) -> bool {
        self.stays && self.member.is_some() && !self.votes
    }
}

fn zones<'a>(boards: &[&'a Board]) -> BTreeMap<&'a str, usize> {
    let mut zones = BTreeMap::new();
    for board in boards {
        *zones.entry(board.zone.as_str()).or_default() += 1;
    }
    zones
}

fn count(zones: &BTreeMap<&str, usize>, board: &Board) -> usize {
    zones.get(board.zone.as_str()).copied().unwrap_or(0)
}
