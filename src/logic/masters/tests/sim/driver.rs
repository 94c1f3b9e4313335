//! The shell around the policy in small: what the leader's driver does with its actions.
//!
//! One action at a time, through the log; gated on the mandate as the real one is.

use std::collections::BTreeSet;
use std::rc::Rc;

use model::masters::{MemberId, MembersV1};
use model::token::TokenRole;

use super::Mutant;
use super::replica::Replica;
use super::words::{Payload, Raft};
use crate::masters::{Action, Input, Policy, Seen};

/// What is under way.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// An id is taken for the board by the entry at `index`.
    TakeId { board: usize, id: u64, index: u64 },
    /// The board was given the kit and has not shown the replica yet.
    Kit { board: usize, id: u64, until: u64 },
    /// A list of members at `index`; then `then`.
    Members { index: u64, then: Option<MembersV1> },
    /// The lead was handed over.
    HandOver { until: u64 },
}

/// What the leader knows of a board from its beats.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) sequence: u64,
    pub(super) last: Option<u64>,
    pub(super) since: u64,
    pub(super) disk: u64,
    pub(super) replica: Option<MemberId>,
    pub(super) able: bool,
}

/// A beat older than this, and the board is not Ready.
pub(super) const READY_MS: u64 = 5_000;
const KIT_MS: u64 = 5_000;

/// The driver of one reign.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub(super) job: Option<Job>,
    pub(super) known: Vec<Known>,
    /// Actions that were begun, for the checks.
    pub(super) done: Vec<Action>,
    pub(super) mutant: Mutant,
}

/// What a step wants to be sent besides the log.
#[derive(Clone, Debug)]
pub(super) enum Send {
    Kit { board: usize, disk: u64, member: MemberId },
    Raft(MemberId, Raft),
}

pub(super) fn name(board: usize) -> String {
    format!("b{board}")
}

pub(super) fn number(name: &str) -> usize {
    name[1..].parse().expect("names are made by `name`")
}

impl Driver {
    pub(super) fn new(boards: usize, mutant: Mutant) -> Self {
        Self { job: None, known: vec![Known::default(); boards], done: Vec::new(), mutant }
    }

    /// What the policy is told of the boards.
    pub(super) fn seen(
        &self,
        replica: &Replica,
        roles: &[(TokenRole, Option<String>)],
        now: u64,
    ) -> Vec<Seen> {
        let leader = replica.leads().expect("asked of leaders only");
        let own = replica.members.get(replica.disk.id).map(|member| number(&member.board));
        let end = replica.disk.log.len() as u64;
        let nodes = (0..roles.len()).filter(|board| replica.state.nodes >> board & 1 == 1);
        nodes
            .map(|board| {
                let known = &self.known[board];
                let is_own = own == Some(board);
                let member = replica.members.of_board(&name(board)).map(|member| member.id);
                let peer = member.and_then(|id| leader.peers.get(&id));
                let fresh = known.last.is_some_and(|last| last + READY_MS >= now);
                Seen {
                    board: name(board),
                    heard_ms: if is_own { Some(now) } else { peer.and_then(|peer| peer.heard) },
                    lag_entries: peer
                        .map_or(if is_own { 0 } else { end }, |peer| end - peer.matched.min(end)),
                    ready: is_own || fresh,
                    stable_since: if is_own { 0 } else { known.since },
                    role: roles[board].0,
                    zone: roles[board].1.clone(),
                    capable: known.able || known.last.is_none(),
                    leaving: replica.state.leaving >> board & 1 == 1,
                    evicted: replica.state.evicted >> board & 1 == 1,
                }
            })
            .collect()
    }

    /// Notes a beat; gives what the policy must hear of it.
    pub(super) fn beat(
        &mut self,
        board: usize,
        beat: Known,
        replica: &Replica,
        now: u64,
    ) -> Option<Input> {
        let known = &mut self.known[board];
        if beat.sequence <= known.sequence {
            return None;
        }
        let since = match known.last {
            Some(last) if last + READY_MS >= now => known.since,
            _ => now,
        };
        *known = Known { last: Some(now), since, ..beat };
        let newest = replica.members.of_board(&name(board))?.id;
        (beat.replica != Some(newest)).then(|| Input::Rejoin { board: name(board), old: newest })
    }

    /// Begins an action.
    pub(super) fn begin(&mut self, action: Action, replica: &mut Replica, now: u64) -> Vec<Send> {
        self.done.push(action.clone());
        match action {
            Action::AddLearner { board } => {
                let board = number(&board);
                let id = match self.mutant {
                    Mutant::IdReused => {
                        let ids = replica.members.members.iter();
                        let others = ids.filter(|member| number(&member.board) != board);
                        1 + others.map(|member| member.id.0).max().unwrap_or(0)
                    }
                    _ => replica.state.next_id,
                };
                let index = replica.append(Payload::TakeId(id));
                self.job = Some(Job::TakeId { board, id, index });
            }
            Action::Change { voters, learners } => self.change(voters, learners, replica),
            Action::Forget(id) => {
                let rest = replica.config.members.iter().filter(|member| member.id != id);
                let rest = rest.map(|member| (member.id, member.board.clone(), member.key));
                self.write(MembersV1::of([replica.config.voters()], rest), None, replica);
            }
            Action::HandOver(to) => {
                let term = replica.disk.term;
                let leader = replica.leads_mut().expect("only leaders act");
                leader.over = true;
                leader.since = now;
                self.job = Some(Job::HandOver { until: now + 4_000 });
                return vec![Send::Raft(to, Raft::TimeoutNow { term })];
            }
            Action::Warn(_) => (),
        }
        Vec::new()
    }

    fn change(
        &mut self,
        voters: BTreeSet<MemberId>,
        learners: BTreeSet<MemberId>,
        replica: &mut Replica,
    ) {
        let old = replica.config.voters();
        let keeps = |id: &MemberId| {
            voters.contains(id) || learners.contains(id) || !replica.config.is_voter(*id)
        };
        let all = || replica.config.members.iter().map(|m| (m.id, m.board.clone(), m.key));
        let last = |voters: BTreeSet<MemberId>| {
            MembersV1::of([voters], all().filter(|(id, ..)| keeps(id)))
        };
        let (first, then) = match self.mutant {
            Mutant::EvenVoters if voters.len() > 1 => {
                let fewer = voters.iter().copied().skip(1).collect();
                (MembersV1::of([old, voters.clone()], all()), last(fewer).ok())
            }
            Mutant::NotJoint => (last(voters.clone()), None),
            Mutant::RemoveBeforeAdd if old.intersection(&voters).count() > 0 => {
                let both: BTreeSet<MemberId> = old.intersection(&voters).copied().collect();
                (MembersV1::of([both], all()), last(voters.clone()).ok())
            }
            _ if replica.config.is_joint() => (last(voters.clone()), None),
            _ => (MembersV1::of([old, voters.clone()], all()), last(voters.clone()).ok()),
        };
        self.write(first, then, replica);
    }

    fn write<E>(
        &mut self,
        members: Result<MembersV1, E>,
        then: Option<MembersV1>,
        replica: &mut Replica,
    ) {
        if let Ok(members) = members {
            let index = replica.append(Payload::Members(Rc::new(members)));
            self.job = Some(Job::Members { index, then });
        }
    }

    /// Goes on with what is under way; `Some(Failed)` when it came to nothing.
    pub(super) fn go_on(&mut self, replica: &mut Replica, now: u64) -> (Option<Input>, Vec<Send>) {
        match self.job.take() {
            None => (None, Vec::new()),
            Some(Job::TakeId { board, id, index }) if replica.commit >= index => {
                let own = replica.applied >= index
                    && (replica.state.next_id > id || self.mutant == Mutant::IdReused);
                let disk = self.known[board].disk;
                if !own || disk == 0 {
                    return (Some(Input::Failed), Vec::new());
                }
                self.job = Some(Job::Kit { board, id, until: now + KIT_MS });
                (None, vec![Send::Kit { board, disk, member: MemberId(id) }])
            }
            Some(Job::Kit { board, id, .. }) if self.known[board].replica == Some(MemberId(id)) => {
                let new = (MemberId(id), name(board), [0; 32]);
                let all = replica.config.members.iter().map(|m| (m.id, m.board.clone(), m.key));
                let all: Vec<_> = all.filter(|(old, ..)| old.0 != id).chain([new]).collect();
                self.write(MembersV1::of([replica.config.voters()], all), None, replica);
                let failed = self.job.is_none().then_some(Input::Failed);
                (failed, Vec::new())
            }
            Some(Job::Kit { until, .. } | Job::HandOver { until }) if now >= until => {
                (Some(Input::Failed), Vec::new())
            }
            Some(Job::Members { index, then }) if replica.commit >= index => {
                if let Some(then) = then {
                    self.write(Ok::<_, ()>(then), None, replica);
                }
                (None, Vec::new())
            }
            waits => {
                self.job = waits;
                (None, Vec::new())
            }
        }
    }
}

/// Feeds fresh boards and begins what the policy decides, as far as the mandate allows.
pub(super) fn drive(
    driver: &mut Driver,
    policy: &mut Policy,
    replica: &mut Replica,
    input: Input,
    now: u64,
) -> Vec<Send> {
    let mut sends = Vec::new();
    for action in policy.take(input, now) {
        if matches!(action, Action::Warn(_)) {
            continue;
        }
        if replica.may_act(now) && driver.job.is_none() {
            sends.extend(driver.begin(action, replica, now));
        } else {
            policy.take(Input::NotBegun, now);
        }
    }
    sends
}
