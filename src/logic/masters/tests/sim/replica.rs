//! A model of Raft in whole numbers: terms, votes, logs, joint configurations, pre-vote, leases.
//!
//! Pure as well: messages and local time in, messages out. What the engine is, this is in small; the
//! policy that runs on it is the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use model::masters::{MemberId, MembersV1};

use super::Mutant;
use super::random::Random;
use super::words::{Entry, Payload, Raft};

pub(super) const HEARTBEAT_MS: u64 = 400;
/// For so long after its last word nobody votes against a leader.
pub(super) const LEASE_MS: u64 = 2_000;
/// By so much sooner the leader stops to act: clocks run at different rates.
const MARGIN_MS: u64 = 200;
const ENTRIES_MAX: usize = 16;

/// What survives a crash.
#[derive(Clone, Debug)]
pub(super) struct Durable {
    pub(super) id: MemberId,
    pub(super) term: u64,
    pub(super) voted: Option<MemberId>,
    pub(super) log: Vec<Entry>,
}

/// What the applied entries come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub(super) nodes: u16,
    pub(super) leaving: u16,
    pub(super) evicted: u16,
    pub(super) next_id: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) next: u64,
    pub(super) matched: u64,
    /// When that was sent which it acknowledged last.
    pub(super) acked: u64,
    pub(super) heard: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Leader {
    pub(super) blank: u64,
    pub(super) peers: BTreeMap<MemberId, Peer>,
    pub(super) since: u64,
    /// It has handed over: it never acts again in this term.
    pub(super) over: bool,
    sent_at: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Role {
    Follower,
    /// Asks whether it would be voted for.
    Before(BTreeSet<MemberId>),
    Candidate(BTreeSet<MemberId>),
    Leader(Leader),
}

/// One replica.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) disk: Durable,
    pub(super) role: Role,
    pub(super) leader: Option<MemberId>,
    pub(super) commit: u64,
    pub(super) applied: u64,
    pub(super) state: State,
    /// Group as applied.
    pub(super) members: Rc<MembersV1>,
    /// Group in force: the newest in the log.
    pub(super) config: Rc<MembersV1>,
    config_at: u64,
    /// The one before.
    before: Rc<MembersV1>,
    elect_at: u64,
    heard_leader: Option<u64>,
    /// Until then it votes for nobody: a lease of before its start may hold.
    votes_from: u64,
    /// Term and candidate of the newest election, until it is known who won.
    pub(super) contest: Option<(u64, MemberId)>,
    /// Elections whose end is known: by whom, and whether that one won.
    pub(super) contests: Vec<(MemberId, bool)>,
    pub(super) mutant: Mutant,
}

/// Messages to send.
pub(super) type Out = Vec<(MemberId, Raft)>;

impl Replica {
    pub(super) fn start(disk: Durable, now: u64, mutant: Mutant, random: &mut Random) -> Self {
        let mut replica = Self {
            disk,
            role: Role::Follower,
            leader: None,
            commit: 0,
            applied: 0,
            state: State { next_id: 1, ..State::default() },
            members: Rc::default(),
            config: Rc::default(),
            config_at: 0,
            before: Rc::default(),
            elect_at: 0,
            heard_leader: None,
            votes_from: now + LEASE_MS,
            contest: None,
            contests: Vec::new(),
            mutant,
        };
        replica.find_config();
        replica.wait_for_election(now, random);
        replica
    }

    pub(super) fn last(&self) -> (u64, u64) {
        (self.disk.log.last().map_or(0, |entry| entry.term), self.disk.log.len() as u64)
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        match index {
            0 => Some(0),
            _ => self.disk.log.get(index as usize - 1).map(|entry| entry.term),
        }
    }

    fn find_config(&mut self) {
        let log = self.disk.log.iter().enumerate().rev();
        let mut found = log.filter_map(|(at, entry)| match &entry.payload {
            Payload::Members(members) => Some((at as u64 + 1, members.clone())),
            _ => None,
        });
        (self.config_at, self.config) = found.next().unwrap_or_default();
        (_, self.before) = found.next().unwrap_or_default();
    }

    fn wait_for_election(&mut self, now: u64, random: &mut Random) {
        self.elect_at = now + LEASE_MS + random.range(500, 2_000);
    }

    fn is_quorum(&self, says: impl Fn(MemberId) -> bool) -> bool {
        if self.mutant == Mutant::LearnersCount {
            let members = &self.config.members;
            return 2 * members.iter().filter(|member| says(member.id)).count() > members.len();
        }
        self.config.is_quorum(says)
    }

    pub(super) fn leads(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    pub(super) fn leads_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// When that was sent which a quorum has acknowledged.
    fn acked(&self, now: u64) -> u64 {
        let Some(leader) = self.leads() else { return 0 };
        let of = |id: MemberId| match id == self.disk.id {
            true => now,
            false => leader.peers.get(&id).map_or(0, |peer| peer.acked),
        };
        let configs = self.config.configs.iter().map(|config| {
            let mut acked: Vec<u64> = config.iter().map(|id| of(*id)).collect();
            acked.sort_unstable();
            acked[(acked.len() - 1) / 2]
        });
        configs.min().unwrap_or(0)
    }

    /// Whether it may act as the leader.
    pub(super) fn may_act(&self, now: u64) -> bool {
        let Some(leader) = self.leads() else { return false };
        let fresh = self.mutant == Mutant::ExpiredAck
            || now < self.acked(now) + LEASE_MS * self.lease_factor() - MARGIN_MS;
        fresh && !leader.over && self.commit >= leader.blank
    }

    fn lease_factor(&self) -> u64 {
        if self.mutant == Mutant::LongLease { 5 } else { 1 }
    }

    pub(super) fn append(&mut self, payload: Payload) -> u64 {
        let is_members = matches!(payload, Payload::Members(_));
        self.disk.log.push(Entry { term: self.disk.term, payload });
        if is_members {
            self.find_config();
        }
        self.disk.log.len() as u64
    }

    pub(super) fn tick(&mut self, now: u64, random: &mut Random) -> Out {
        if let Some(leader) = self.leads() {
            let silent = now > self.acked(now).max(leader.since) + 2 * LEASE_MS;
            let removed = !self.config.is_voter(self.disk.id) && self.commit >= self.config_at;
            if silent || removed || (leader.over && now > leader.since + 4 * LEASE_MS) {
                self.follow(now, random);
                return Vec::new();
            }
            if now >= leader.sent_at + HEARTBEAT_MS {
                return self.send_all(now);
            }
            return Vec::new();
        }
        if now < self.elect_at || !self.may_stand() || now < self.votes_from {
            return Vec::new();
        }
        self.wait_for_election(now, random);
        self.role = Role::Before([self.disk.id].into());
        self.leader = None;
        if self.is_quorum(|id| id == self.disk.id) {
            return self.campaign(now, false, random);
        }
        let ask = Raft::PreVote { term: self.disk.term + 1, last: self.last() };
        self.others().map(|id| (id, ask.clone())).collect()
    }

    /// Also who is not in the newest configuration is needed until that is committed (Ongaro, section
    /// 4.2.2).
    fn may_stand(&self) -> bool {
        self.config.is_voter(self.disk.id)
            || (self.config_at > self.commit && self.before.is_voter(self.disk.id))
    }

    /// Whether a voter that hears badly would stand without asking first.
    pub(super) fn may_flap(&self, now: u64) -> bool {
        self.leads().is_none() && self.may_stand() && !self.is_leased(now)
    }

    fn others(&self) -> impl Iterator<Item = MemberId> + use<> {
        let (config, own) = (self.config.clone(), self.disk.id);
        let ids: Vec<MemberId> = config.members.iter().map(|member| member.id).collect();
        ids.into_iter().filter(move |id| *id != own && config.is_voter(*id))
    }

    /// Stands for election; a flapping replica does so without asking first.
    pub(super) fn campaign(&mut self, now: u64, transfer: bool, random: &mut Random) -> Out {
        self.wait_for_election(now, random);
        self.note_contest(self.disk.term + 1, self.disk.id);
        self.disk.term += 1;
        self.disk.voted = Some(self.disk.id);
        self.role = Role::Candidate([self.disk.id].into());
        self.leader = None;
        if self.is_quorum(|id| id == self.disk.id) {
            return self.win(now);
        }
        let ask = Raft::Vote { term: self.disk.term, last: self.last(), transfer };
        self.others().map(|id| (id, ask.clone())).collect()
    }

    fn win(&mut self, now: u64) -> Out {
        self.leader = Some(self.disk.id);
        self.end_contest(self.disk.term, self.disk.id);
        let blank = self.append(Payload::Blank);
        self.role = Role::Leader(Leader { blank, since: now, ..Leader::default() });
        self.advance();
        self.send_all(now)
    }

    fn note_contest(&mut self, term: u64, by: MemberId) {
        match self.contest {
            Some((known, _)) if known >= term => (),
            earlier => {
                self.contests.extend(earlier.map(|(_, by)| (by, false)));
                self.contest = Some((term, by));
            }
        }
    }

    fn end_contest(&mut self, term: u64, winner: MemberId) {
        if self.contest.is_some_and(|(known, _)| known <= term) {
            let (known, by) = self.contest.take().expect("seen above");
            self.contests.push((by, known == term && by == winner));
        }
    }

    fn follow(&mut self, now: u64, random: &mut Random) {
        self.role = Role::Follower;
        self.leader = None;
        self.wait_for_election(now, random);
    }

    fn see_term(&mut self, term: u64, now: u64, random: &mut Random) {
        if term > self.disk.term {
            self.disk.term = term;
            self.disk.voted = None;
            self.follow(now, random);
        }
    }

    /// Whether a lease that this replica knows of forbids to vote.
    fn is_leased(&self, now: u64) -> bool {
        let heard = self.heard_leader.is_some_and(|heard| now < heard + LEASE_MS);
        let own = self.leads().is_some() && now < self.acked(now) + LEASE_MS;
        heard || own || now < self.votes_from
    }

    pub(super) fn send_all(&mut self, now: u64) -> Out {
        let members = self.config.clone();
        let end = self.disk.log.len() as u64;
        let own = self.disk.id;
        if let Some(leader) = self.leads_mut() {
            leader.sent_at = now;
            leader.peers.retain(|id, _| members.get(*id).is_some());
            for member in members.members.iter().filter(|member| member.id != own) {
                let new = Peer { next: end + 1, matched: 0, acked: 0, heard: None };
                leader.peers.entry(member.id).or_insert(new);
            }
        }
        self.advance();
        members
            .members
            .iter()
            .filter(|m| m.id != own)
            .filter_map(|m| self.send(m.id, now))
            .collect()
    }

    fn send(&self, to: MemberId, now: u64) -> Option<(MemberId, Raft)> {
        let next = self.leads()?.peers.get(&to)?.next.max(1);
        let previous = (self.term_at(next - 1)?, next - 1);
        let entries =
            self.disk.log[next as usize - 1..].iter().take(ENTRIES_MAX).cloned().collect();
        let (term, commit) = (self.disk.term, self.commit);
        Some((to, Raft::Append { term, previous, entries, commit, sent: now }))
    }

    /// Commits what a quorum has.
    fn advance(&mut self) {
        let Some(leader) = self.leads() else { return };
        let mut upto = self.commit;
        for index in self.commit + 1..=self.disk.log.len() as u64 {
            let has = |id: MemberId| {
                id == self.disk.id
                    || leader.peers.get(&id).is_some_and(|peer| peer.matched >= index)
            };
            if self.term_at(index) == Some(self.disk.term) && self.is_quorum(has) {
                upto = index;
            }
        }
        self.commit = upto;
    }

    pub(super) fn take(
        &mut self,
        from: MemberId,
        raft: Raft,
        now: u64,
        random: &mut Random,
    ) -> Out {
        match raft {
            Raft::PreVote { term, last } => {
                let granted = term > self.disk.term && last >= self.last() && !self.is_leased(now);
                let term = if granted { term } else { self.disk.term };
                vec![(from, Raft::PreVoteAnswer { term, granted })]
            }
            Raft::PreVoteAnswer { term, granted } => {
                if !granted {
                    self.see_term(term, now, random);
                } else if let Role::Before(votes) = &mut self.role
                    && term == self.disk.term + 1
                {
                    votes.insert(from);
                    let votes = votes.clone();
                    if self.is_quorum(|id| votes.contains(&id)) {
                        return self.campaign(now, false, random);
                    }
                }
                Vec::new()
            }
            Raft::Vote { term, last, transfer } => {
                self.vote(from, term, last, transfer, now, random)
            }
            Raft::VoteAnswer { term, granted } => {
                if !granted {
                    self.see_term(term, now, random);
                } else if let Role::Candidate(votes) = &mut self.role
                    && term == self.disk.term
                {
                    votes.insert(from);
                    let votes = votes.clone();
                    if self.is_quorum(|id| votes.contains(&id)) {
                        return self.win(now);
                    }
                }
                Vec::new()
            }
            Raft::Append { term, previous, entries, commit, sent } => {
                let matched = self.appended(from, term, previous, entries, commit, now, random);
                let of = self.contest.filter(|(known, _)| *known == self.disk.term);
                let of = of.map_or(self.disk.id, |(_, by)| by);
                vec![(from, Raft::AppendAnswer { term: self.disk.term, of, matched, sent })]
            }
            Raft::AppendAnswer { term, of, matched, sent } => {
                if term > self.disk.term {
                    self.note_contest(term, of);
                }
                self.see_term(term, now, random);
                self.acknowledged(from, term, matched, sent, now)
            }
            Raft::TimeoutNow { term } => {
                if term == self.disk.term && self.config.is_voter(self.disk.id) {
                    return self.campaign(now, true, random);
                }
                Vec::new()
            }
        }
    }

    fn vote(
        &mut self,
        from: MemberId,
        term: u64,
        last: (u64, u64),
        transfer: bool,
        now: u64,
        random: &mut Random,
    ) -> Out {
        self.note_contest(term, from);
        if term < self.disk.term || (self.is_leased(now) && !transfer) || now < self.votes_from {
            return vec![(from, Raft::VoteAnswer { term: self.disk.term, granted: false })];
        }
        self.see_term(term, now, random);
        let free = self.disk.voted.is_none_or(|voted| voted == from);
        let granted = free && last >= self.last() && self.leader.is_none();
        if granted {
            self.disk.voted = Some(from);
            self.wait_for_election(now, random);
        }
        vec![(from, Raft::VoteAnswer { term: self.disk.term, granted })]
    }

    #[allow(clippy::too_many_arguments, reason = "they are the fields of the message")]
    fn appended(
        &mut self,
        from: MemberId,
        term: u64,
        previous: (u64, u64),
        entries: Vec<Entry>,
        commit: u64,
        now: u64,
        random: &mut Random,
    ) -> Result<u64, u64> {
        if term < self.disk.term {
            return Err(self.disk.log.len() as u64);
        }
        self.see_term(term, now, random);
        if !matches!(self.role, Role::Follower) {
            self.role = Role::Follower;
        }
        self.end_contest(term, from);
        self.leader = Some(from);
        self.heard_leader = Some(now);
        self.wait_for_election(now, random);
        if self.term_at(previous.1) != Some(previous.0) {
            return Err((self.disk.log.len() as u64).min(previous.1.saturating_sub(1)));
        }
        let matched = previous.1 + entries.len() as u64;
        let mut changed = false;
        for (index, entry) in (previous.1 + 1..).zip(entries) {
            match self.term_at(index) {
                Some(term) if term == entry.term => continue,
                Some(_) => {
                    assert!(index > self.commit, "a committed entry is cut off");
                    self.disk.log.truncate(index as usize - 1);
                    self.disk.log.push(entry);
                }
                None => self.disk.log.push(entry),
            }
            changed = true;
        }
        if changed {
            self.find_config();
        }
        self.commit = self.commit.max(commit.min(matched));
        Ok(matched)
    }

    fn acknowledged(
        &mut self,
        from: MemberId,
        term: u64,
        matched: Result<u64, u64>,
        sent: u64,
        now: u64,
    ) -> Out {
        if term != self.disk.term {
            return Vec::new();
        }
        let end = self.disk.log.len() as u64;
        let Some(leader) = self.leads_mut() else { return Vec::new() };
        let Some(peer) = leader.peers.get_mut(&from) else { return Vec::new() };
        peer.acked = peer.acked.max(sent);
        peer.heard = Some(now);
        match matched {
            Ok(upto) => {
                peer.matched = peer.matched.max(upto);
                peer.next = peer.matched + 1;
            }
            Err(length) => peer.next = (length + 1).min(peer.next).max(peer.matched + 1),
        }
        let more = peer.next <= end;
        self.advance();
        if more { self.send(from, now).into_iter().collect() } else { Vec::new() }
    }
}
