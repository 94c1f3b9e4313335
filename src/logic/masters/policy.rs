//! The policy's memory and its one decision at a time; [`super::choice`] says what should be.
//!
//! Times are milliseconds of one steady clock. What a leader knows begins with its reign: boards get
//! a full grace period from each new leader.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::{
    CANDIDATE_SECONDS_MAX, MASTERS_MAX, VOTER_LAG_ENTRIES_MAX, VOTER_SILENCE_SECONDS,
    VOTER_STABLE_SECONDS,
};
use model::masters::{MemberId, MembersV1};
use model::token::TokenRole;

use super::choice::{Board, Plan, View};
use super::flaps::Flaps;
use super::types::{Action, Durability, Input, Seen, Wanted, Warning};

/// A member that was not heard for so long does not count as there.
const HEARD_MS: u64 = 5_000;
/// An action that has shown nothing by then is decided anew.
const PENDING_MS: u64 = 30_000;
/// The same for the way of the lead to another voter.
const HAND_OVER_MS: u64 = 5_000;
/// Pause after an action that did not take place.
const AGAIN_MS: u64 = 1_000;
/// Pause between two looks at a settled group.
const SETTLED_MS: u64 = 10_000;
/// A new leader hears of its learners' boards only by and by: for so long it adds none besides them,
const ADD_MS: u64 = 15_000;
/// and for so long it removes none that looks needless.
const TRIM_MS: u64 = 30_000;
/// A board that was given up comes last for so long.
const REFUSED_MS: u64 = 600_000;

/// Decides on members for as long as this process runs; acts while this board leads.
#[derive(Clone, Debug)]
pub struct Policy {
    own: MemberId,
    members: MembersV1,
    leads: bool,
    led_since: u64,
    /// Learners of before this reign.
    inherited: BTreeSet<MemberId>,
    wanted: Wanted,
    boards: Vec<Seen>,
    boards_at: u64,
    flaps: Flaps,
    pending: Option<Pending>,
    not_before: u64,
    /// Since when a member is silent or unable.
    bad_since: BTreeMap<MemberId, u64>,
    /// Since when a member has no board.
    absent_since: BTreeMap<MemberId, u64>,
    /// Since when a voter is there that was told to go.
    going_since: Option<u64>,
    /// How far a learner came, and when it last came further.
    progress: BTreeMap<MemberId, (u64, u64)>,
    /// Boards that did not catch up, and when.
    refused: BTreeMap<String, u64>,
    /// Members that will never be heard again.
    lost: BTreeSet<MemberId>,
    warnings: BTreeSet<Warning>,
    settled: bool,
    woken: u64,
}

#[derive(Clone, Debug)]
struct Pending {
    action: Action,
    /// Newest member of the board when it was to be added.
    before: Option<MemberId>,
    until: u64,
}

impl Policy {
    /// A policy of the member `own`, which does not lead.
    pub fn new(own: MemberId, members: MembersV1) -> Self {
        Self {
            own,
            members,
            leads: false,
            led_since: 0,
            inherited: BTreeSet::new(),
            wanted: Wanted::default(),
            boards: Vec::new(),
            boards_at: 0,
            flaps: Flaps::default(),
            pending: None,
            not_before: 0,
            bad_since: BTreeMap::new(),
            absent_since: BTreeMap::new(),
            going_since: None,
            progress: BTreeMap::new(),
            refused: BTreeMap::new(),
            lost: BTreeSet::new(),
            warnings: BTreeSet::new(),
            settled: false,
            woken: 0,
        }
    }

    /// Takes what happened; gives what to do, at most one action that changes the group.
    pub fn take(&mut self, input: Input, now: u64) -> Vec<Action> {
        self.woken = now;
        match input {
            Input::Leads(leads) => self.leads(leads, now),
            Input::Tick => (),
            Input::Boards(boards) => {
                self.boards = boards;
                self.boards_at = now;
            }
            Input::Changed(members) => self.changed(members),
            Input::TermBegan { by, won } => self.flaps.term_began(by, won, now),
            Input::Rejoin { board, old } => {
                if self.members.get(old).is_some_and(|member| member.board == board) {
                    self.lost.insert(old);
                }
            }
            Input::Wanted(wanted) => self.wanted = wanted,
            Input::Failed => self.failed(now),
            Input::NotBegun => {
                self.pending = None;
                self.not_before = now + AGAIN_MS;
            }
        }
        self.flaps.keep(&self.members, now);
        if self.pending.as_ref().is_some_and(|pending| pending.until <= now) {
            self.failed(now);
        }
        if !self.leads || self.boards.is_empty() {
            return Vec::new();
        }
        self.remember(now);
        self.decide(now)
    }

    /// When [`Policy::take`] wants fresh [`Input::Boards`]; `None` while this board does not lead or
    /// is alone.
    pub fn wake_at(&self) -> Option<u64> {
        let alone = self.members.members.len() <= 1 && self.boards.len() <= 1;
        if !self.leads || (alone && self.settled) {
            return None;
        }
        let pause = if self.settled { SETTLED_MS } else { AGAIN_MS };
        Some(self.woken + pause)
    }

    /// What the user should know at this moment.
    pub fn warnings(&self) -> &BTreeSet<Warning> {
        &self.warnings
    }

    /// The group as this policy knows it.
    pub fn members(&self) -> &MembersV1 {
        &self.members
    }

    fn leads(&mut self, leads: bool, now: u64) {
        let (own, members) = (self.own, std::mem::take(&mut self.members));
        let (flaps, wanted) = (std::mem::take(&mut self.flaps), self.wanted);
        let inherited = members.learners();
        *self = Self {
            leads,
            led_since: now,
            inherited,
            flaps,
            wanted,
            woken: now,
            ..Self::new(own, members)
        };
    }

    fn changed(&mut self, members: MembersV1) {
        self.members = members;
        let is_member = |id: &MemberId| self.members.get(*id).is_some();
        self.lost.retain(is_member);
        let shows = |pending: &Pending| match &pending.action {
            Action::AddLearner { board } => {
                self.members.of_board(board).map(|member| member.id) > pending.before
            }
            Action::Change { voters, .. } => {
                !self.members.is_joint() && self.members.voters() == *voters
            }
            Action::Forget(id) => !is_member(id),
            Action::HandOver(_) | Action::Warn(_) => false,
        };
        self.pending.take_if(|pending| shows(pending));
    }

    fn failed(&mut self, now: u64) {
        if let Some(Pending { action: Action::AddLearner { board }, .. }) = self.pending.take() {
            self.refused.insert(board, now);
        }
        self.not_before = now + AGAIN_MS;
    }

    /// Notes since when things are as they are.
    fn remember(&mut self, now: u64) {
        let Self { members, boards, boards_at, .. } = self;
        let seen_of = |board: &str| boards.iter().find(|seen| seen.board == board);
        let is_old = |id: MemberId, board: &str| {
            members.of_board(board).is_some_and(|newest| newest.id != id)
        };
        let mut alive = BTreeSet::new();
        for member in &members.members {
            let seen = seen_of(&member.board);
            note(&mut self.absent_since, member.id, seen.is_none(), now);
            let Some(seen) = seen else { continue };
            let good =
                !is_old(member.id, &member.board) && seen.capable && is_heard(seen, *boards_at);
            note(&mut self.bad_since, member.id, !good || self.lost.contains(&member.id), now);
            let best = self.progress.entry(member.id).or_insert((u64::MAX, now));
            if seen.lag_entries < best.0 || is_close(seen, *boards_at) {
                *best = (seen.lag_entries, now);
            } else if member.id != self.own
                && now >= best.1 + CANDIDATE_SECONDS_MAX * 1_000
                && !members.is_voter(member.id)
            {
                self.refused.entry(member.board.clone()).or_insert(now);
            }
            alive.insert(member.id);
        }
        let is_member = |id: &MemberId| members.get(*id).is_some();
        self.bad_since.retain(|id, _| is_member(id));
        self.absent_since.retain(|id, _| is_member(id));
        self.progress.retain(|id, _| alive.contains(id));
        let known: BTreeSet<&str> = boards.iter().map(|seen| seen.board.as_str()).collect();
        self.refused.retain(|board, at| known.contains(board.as_str()) && *at + REFUSED_MS > now);
        let going = members.voters().into_iter().any(|id| self.is_going(id, now));
        self.going_since = going.then(|| self.going_since.unwrap_or(now));
    }

    /// Whether a member was told to go, or its board is no more.
    fn is_going(&self, id: MemberId, now: u64) -> bool {
        let Some(member) = self.members.get(id) else { return true };
        match self.boards.iter().find(|seen| seen.board == member.board) {
            Some(seen) => !stays(seen),
            None => self.is_absent(id, now),
        }
    }

    fn is_absent(&self, id: MemberId, now: u64) -> bool {
        let since = self.absent_since.get(&id);
        since.is_some_and(|since| now >= since + VOTER_STABLE_SECONDS * 1_000)
    }

    fn is_lame(&self, id: MemberId, now: u64) -> bool {
        let bad = self.bad_since.get(&id);
        let silent = bad.is_some_and(|since| now >= since + VOTER_SILENCE_SECONDS * 1_000);
        silent || self.lost.contains(&id) || self.flaps.is_penalised(id, now)
    }

    fn view(&self, now: u64) -> View {
        let mut boards: Vec<Board> = self.boards.iter().map(|seen| self.board(seen, now)).collect();
        for member in self.members.members.iter().filter(|member| self.members.is_voter(member.id))
        {
            let shown = boards.iter().any(|board| board.member == Some(member.id));
            if !shown && !self.is_going(member.id, now) {
                boards.push(self.board_of_old(member.id, &member.board));
            }
        }
        let patience = CANDIDATE_SECONDS_MAX * 1_000;
        View {
            own: self.own,
            boards,
            voters: self.members.voters(),
            wanted: self.wanted.voters,
            impatient: self.going_since.is_some_and(|since| now >= since + patience),
        }
    }

    fn board(&self, seen: &Seen, now: u64) -> Board {
        let newest = self.members.of_board(&seen.board).map(|member| member.id);
        let member = newest.filter(|id| !self.lost.contains(id));
        let penalised = member.is_some_and(|id| self.flaps.is_penalised(id, now));
        let is_own = member == Some(self.own);
        let stays = stays(seen);
        Board {
            name: seen.board.clone(),
            member,
            votes: member.is_some_and(|id| self.members.is_voter(id)),
            stays,
            fit: stays && seen.ready && seen.capable && !penalised,
            lame: member.is_some_and(|id| self.is_lame(id, now)),
            close: member.is_some() && (is_own || is_close(seen, self.boards_at)),
            heard: is_own || (member.is_some() && is_heard(seen, self.boards_at)),
            refused: self.refused.contains_key(&seen.board),
            penalised,
            role: seen.role,
            zone: seen.zone.clone().unwrap_or_default(),
            flaps: member.map_or(0, |id| self.flaps.count(id, now)),
            stable_since: seen.stable_since,
        }
    }

    /// A voter whose board is a newer member or lost its replica, or that has no board for a moment:
    /// it keeps its place until another takes it.
    fn board_of_old(&self, id: MemberId, board: &str) -> Board {
        let seen = self.boards.iter().find(|seen| seen.board == board);
        Board {
            name: board.to_owned(),
            member: Some(id),
            votes: true,
            stays: true,
            fit: false,
            lame: seen.is_some(),
            close: false,
            heard: false,
            refused: false,
            penalised: false,
            role: TokenRole::Auto,
            zone: seen.and_then(|seen| seen.zone.clone()).unwrap_or_default(),
            flaps: 0,
            stable_since: 0,
        }
    }

    fn decide(&mut self, now: u64) -> Vec<Action> {
        let view = self.view(now);
        let plan = view.plan();
        let mut actions = self.warn(&view, &plan);
        let step = self.step(&view, &plan, now);
        self.settled = step.is_none()
            && self.pending.is_none()
            && plan.add.is_empty()
            && plan.keep == self.members.members.iter().map(|member| member.id).collect()
            && self.members.voters().len() == view.size();
        if self.pending.is_none()
            && now >= self.not_before
            && let Some(action) = step
        {
            let wait =
                if matches!(action, Action::HandOver(_)) { HAND_OVER_MS } else { PENDING_MS };
            let before = match &action {
                Action::AddLearner { board } => self.members.of_board(board).map(|m| m.id),
                _ => None,
            };
            self.pending = Some(Pending { action: action.clone(), before, until: now + wait });
            actions.push(action);
        }
        actions
    }

    /// The next thing to do, the most urgent first.
    fn step(&self, view: &View, plan: &Plan, now: u64) -> Option<Action> {
        if self.members.is_joint() {
            let voters = self.members.voters();
            if let Some(heir) = view.heir().filter(|_| !voters.contains(&self.own)) {
                return Some(Action::HandOver(heir));
            }
            return Some(Action::Change { voters, learners: BTreeSet::new() });
        }
        let learners = self.members.learners();
        let gone = learners.iter().find(|id| self.is_going(**id, now));
        if let Some(id) = gone {
            return Some(Action::Forget(*id));
        }
        if let Some(to) = plan.hand_over {
            return Some(Action::HandOver(to));
        }
        if let Some(voters) = &plan.change {
            let former = view.voters.difference(voters);
            let learners = former.filter(|id| self.keeps_log(view, plan, **id)).copied().collect();
            return Some(Action::Change { voters: voters.clone(), learners });
        }
        let has_room = self.members.members.len() < MASTERS_MAX;
        let may_add = learners.is_disjoint(&self.inherited) || now >= self.led_since + ADD_MS;
        if let Some(board) = plan.add.first().filter(|_| has_room && may_add) {
            return Some(Action::AddLearner { board: board.clone() });
        }
        let mut needless = learners.difference(&plan.keep).copied();
        let lost = learners.iter().find(|id| self.lost.contains(id)).copied();
        let trims = now >= self.led_since + TRIM_MS;
        lost.or_else(|| needless.next().filter(|_| trims)).map(Action::Forget)
    }

    /// Whether a voter that loses its vote stays a learner: as a standby, or because it flaps.
    fn keeps_log(&self, view: &View, plan: &Plan, id: MemberId) -> bool {
        let mut boards = view.boards.iter();
        let board = boards.find(|board| board.member == Some(id));
        board.is_some_and(|board| {
            let standby = plan.change.as_ref().is_some_and(|voters| voters.len() == 1);
            board.stays && !self.lost.contains(&id) && (board.penalised || standby && !board.lame)
        })
    }

    /// Keeps the list of warnings and tells those that are new.
    fn warn(&mut self, view: &View, plan: &Plan) -> Vec<Action> {
        let mut warnings = BTreeSet::new();
        for board in &plan.without_replacement {
            warnings.insert(Warning::NoReplacement { board: board.clone() });
        }
        for board in &view.boards {
            let name = || board.name.clone();
            if board.penalised {
                warnings.insert(Warning::Flaps { board: name() });
            }
            if board.refused && board.member.is_some() && !board.votes {
                warnings.insert(Warning::Stuck { board: name() });
            }
            let learner = board.member.is_some() && !board.votes;
            if learner && !board.heard && self.wanted.durability == Durability::Both {
                warnings.insert(Warning::LearnerAway { board: name() });
            }
        }
        if !plan.add.is_empty() && self.members.members.len() >= MASTERS_MAX {
            warnings.insert(Warning::Full);
        }
        let new = warnings.difference(&self.warnings).cloned().map(Action::Warn).collect();
        self.warnings = warnings;
        new
    }
}

fn note(since: &mut BTreeMap<MemberId, u64>, id: MemberId, holds: bool, now: u64) {
    if holds {
        since.entry(id).or_insert(now);
    } else {
        since.remove(&id);
    }
}

fn stays(seen: &Seen) -> bool {
    !seen.leaving && !seen.evicted && seen.role != TokenRole::Worker
}

fn is_heard(seen: &Seen, at: u64) -> bool {
    seen.heard_ms.is_some_and(|heard| heard + HEARD_MS >= at)
}

/// Close enough for a vote, and there for long enough (Autopilot's rule: Ongaro section 4.2.1).
fn is_close(seen: &Seen, at: u64) -> bool {
    let stable = seen.ready && at >= seen.stable_since + VOTER_STABLE_SECONDS * 1_000;
    stable && is_heard(seen, at) && seen.lag_entries <= VOTER_LAG_ENTRIES_MAX
}
