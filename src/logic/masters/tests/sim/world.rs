//! The simulated cluster: virtual time, faults from the seed, and the end in which all must be well.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use model::masters::MemberId;
use model::token::TokenRole;

use super::Mutant;
use super::board::{BUILD, Board, Disk, Letters, TRUE_START, genesis_id};
use super::checks::Checks;
use super::driver::name;
use super::random::Random;
use super::words::{BOARDS_MAX, Entry, Letter, Payload, Wire};
use crate::genesis::Record;
use crate::masters::choice::voters_for;

const TICK_MS: u64 = 200;
/// From the healing until all must be as wished.
const PATIENCE_MS: u64 = 120_000;
/// For so long nothing may change afterwards.
const CALM_MS: u64 = 15_000;
/// Silence after which a voter is replaced.
const SILENCE_MS: u64 = 300_000;

/// What all boards share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) random: Random,
    pub(super) mutant: Mutant,
    pub(super) boards: usize,
    pub(super) expect: u8,
    pub(super) roles: Vec<(TokenRole, Option<String>)>,
    pub(super) checks: Checks,
}

impl Common {
    pub(super) fn board_of(&self, id: MemberId) -> Option<usize> {
        self.checks.board_of(id)
    }
}

/// What happens in the world.
#[expect(clippy::large_enum_variant, reason = "most are letters")]
pub(super) enum Event {
    Tick(usize),
    Arrives(Letter),
    Restart(usize),
    Resume(usize),
    Fault,
}

/// A whole cluster.
pub(super) struct World {
    pub(super) common: Common,
    pub(super) boards: Vec<Board>,
    pub(super) wire: Wire,
    pub(super) now: u64,
    sequence: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    /// What is due, by its number; a heap of numbers is quicker to keep in order.
    due: std::collections::HashMap<u64, Event>,
    pub(super) paused: [u64; BOARDS_MAX],
    faults_until: u64,
    /// Long enough for a silent voter to be replaced.
    pub(super) lasting: bool,
    pub(super) bad_clocks: bool,
    pub(super) leaves: usize,
    gone: Vec<usize>,
    trace: bool,
    told: [(u64, usize); BOARDS_MAX],
    told_entries: usize,
}

/// How a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Virtual time.
    pub(super) ms: u64,
    /// A disk was lost in the seconds in which the vote moved to it: no majority is left.
    pub(super) lost: bool,
}

/// Runs the cluster of a seed to its end.
pub(super) fn run(seed: u64, mutant: Mutant, trace: bool) -> Result<End, String> {
    let mut world = World::new(seed, mutant, trace);
    world.run().map_err(|problem| {
        let at = world.now;
        format!(
            "seed {seed}, {mutant:?}, at {at} ms: {problem}\nKUMQUAT_SIM_SEED={seed} replays it"
        )
    })
}

impl World {
    fn new(seed: u64, mutant: Mutant, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let founders = match random.below(10) {
            0 => 1,
            1 | 2 => 2,
            3..=6 => 3,
            7 | 8 => 5,
            _ => 7,
        };
        let boards = (founders + [0, 0, 1, 1, 2, 3][random.below(6)]).min(BOARDS_MAX);
        let zones = [0, 0, 0, 2, 3][random.below(5)];
        let mixed = random.percent(25);
        let role = |board: usize, random: &mut Random| match (mixed, random.below(4)) {
            (true, 0) => TokenRole::Master,
            (true, 1) if board >= founders => TokenRole::Worker,
            _ => TokenRole::Auto,
        };
        let roles = (0..boards).map(|board| {
            let zone = (zones > 0).then(|| format!("z{}", random.below(zones)));
            (role(board, &mut random), zone)
        });
        let roles: Vec<_> = roles.collect();
        let bad_clocks = random.percent(40);
        let made = (0..boards).map(|index| {
            let genesis = (index < founders).then(|| Record::new(genesis_id(&mut random)));
            let clock_off = match (bad_clocks, random.below(4)) {
                (true, 0) => -TRUE_START.seconds(),
                (true, 1) => 20 * 365 * 24 * 3600,
                _ => 0,
            };
            Board {
                index,
                disk: Disk::new(random.next() | 1, genesis),
                process: None,
                rate: random.range(980, 1_020),
                clock_off,
                synced: clock_off == 0,
                flaps: false,
                able: true,
                gone: false,
            }
        });
        let made = made.collect();
        let lasting = random.percent(12);
        let faults_until =
            if lasting { random.range(330_000, 500_000) } else { random.range(20_000, 120_000) };
        Self {
            common: Common {
                mutant,
                boards,
                expect: founders as u8,
                roles,
                checks: Checks::default(),
                random,
            },
            boards: made,
            wire: Wire::good(),
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            due: std::collections::HashMap::new(),
            paused: [0; BOARDS_MAX],
            faults_until,
            lasting,
            bad_clocks,
            leaves: 0,
            gone: Vec::new(),
            trace,
            told: [(0, 0); BOARDS_MAX],
            told_entries: 0,
        }
    }

    pub(super) fn say(&self, text: impl Fn() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now, text());
        }
    }

    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence)));
        self.due.insert(self.sequence, event);
    }

    fn run(&mut self) -> Result<End, String> {
        for board in 0..self.boards.len() {
            let start = self.common.random.range(0, 5_000);
            self.at(start, Event::Restart(board));
            self.at(start + 1, Event::Tick(board));
        }
        self.at(2_000, Event::Fault);
        let mut looked = 0;
        let mut calm_since = None;
        let mut limit = u64::MAX;
        while let Some(Reverse((time, number))) = self.events.pop() {
            self.now = time;
            let event = self.due.remove(&number).expect("each number is pushed with its event");
            self.happen(event)?;
            if self.now < self.faults_until || self.now < looked + 500 {
                continue;
            }
            looked = self.now;
            if limit == u64::MAX {
                self.heal();
                let lost = self.boards.iter().any(|board| board.gone);
                limit = self.now + PATIENCE_MS + if lost { SILENCE_MS } else { 0 };
            }
            match (self.missing(), calm_since) {
                (None, None) => {
                    self.say(|| "all is as wished".into());
                    self.actions();
                    calm_since = Some(self.now);
                }
                (None, Some(since)) if self.now > since + CALM_MS => {
                    let actions = self.actions();
                    if !actions.is_empty() {
                        return Err(format!("no calm: {actions:?}"));
                    }
                    return Ok(End { ms: self.now, lost: false });
                }
                (Some(missing), _) => {
                    calm_since = None;
                    if self.now > limit && self.is_lost() {
                        return Ok(End { ms: self.now, lost: true });
                    }
                    if self.now > limit {
                        return Err(format!("not as wished: {missing}"));
                    }
                }
                _ => (),
            }
        }
        Err("nothing happens any more".into())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick(board) => {
                self.at(self.now + TICK_MS, Event::Tick(board));
                if self.paused[board] <= self.now && !self.boards[board].gone {
                    let letters = self.boards[board].tick(self.now, &mut self.common)?;
                    self.post(letters);
                    self.check_time(board)?;
                }
            }
            Event::Arrives(letter) => {
                let to = letter.to;
                if self.paused[to] > self.now {
                    self.at(self.paused[to], Event::Arrives(letter));
                } else if !self.boards[to].gone {
                    let Letter { from, word, .. } = letter;
                    let letters = self.boards[to].take(from, word, self.now, &mut self.common)?;
                    self.post(letters);
                }
            }
            Event::Restart(board) => {
                if self.boards[board].process.is_none() && !self.boards[board].gone {
                    self.say(|| format!("b{board} starts"));
                    self.boards[board].start(self.now, &mut self.common);
                }
            }
            Event::Resume(board) => self.boards[board].flaps = false,
            Event::Fault if self.now < self.faults_until => {
                self.fault();
                let pause = self.common.random.range(500, 8_000);
                self.at(self.now + pause, Event::Fault);
            }
            Event::Fault => (),
        }
        self.remove_those_that_left();
        if self.trace {
            self.tell();
        }
        Ok(())
    }

    /// Says what was decided and what came of it.
    fn tell(&mut self) {
        for board in 0..self.boards.len() {
            let Some(master) = self.boards[board].master() else { continue };
            let term = master.replica.disk.term;
            let done = master.driver.as_ref().map(|driver| driver.done.as_slice()).unwrap_or(&[]);
            let (known, told) = self.told[board];
            let told = if known == term { told } else { 0 };
            for action in done.iter().skip(told) {
                self.say(|| format!("b{board} in term {term} does {action:?}"));
            }
            self.told[board] = (term, done.len());
        }
        let committed = &self.common.checks.committed;
        for entry in committed.iter().skip(self.told_entries) {
            if let Payload::Members(members) = &entry.payload {
                let all: Vec<u64> = members.members.iter().map(|member| member.id.0).collect();
                self.say(|| format!("members {all:?}, voters {:?}", members.configs));
            } else if !matches!(entry.payload, Payload::Write(_)) {
                self.say(|| format!("term {} {:?}", entry.term, entry.payload));
            }
        }
        self.told_entries = committed.len();
    }

    fn post(&mut self, letters: Letters) {
        for letter in letters {
            if self.boards[letter.from].gone {
                continue;
            }
            let [first, second] = self.wire.delays(&letter, &mut self.common.random);
            for delay in [first, second].into_iter().flatten() {
                self.at(self.now + delay, Event::Arrives(letter.clone()));
            }
        }
    }

    /// Cluster time is never far ahead of the truth: bad clocks here are years wrong and say so.
    fn check_time(&self, board: usize) -> Result<(), String> {
        let Some(process) = &self.boards[board].process else { return Ok(()) };
        let time = process.time.now(self.boards[board].local(self.now));
        let truth = TRUE_START.millis() + self.now as i64;
        if time.millis() > truth + 60_000 {
            return Err(format!("cluster time of b{board} is {} ms ahead", time.millis() - truth));
        }
        if time < BUILD {
            return Err(format!("cluster time of b{board} is before its build"));
        }
        Ok(())
    }

    /// The board that leads and may act.
    pub(super) fn leader(&self) -> Option<usize> {
        let acts = |board: &&Board| {
            let local = board.local(self.now);
            board.replica().is_some_and(|replica| replica.may_act(local))
        };
        self.boards.iter().filter(|board| !board.gone).find(acts).map(|board| board.index)
    }

    /// Boards with a place in the group, as the leader has it.
    pub(super) fn staying(&self, leader: usize) -> Vec<usize> {
        let state = self.boards[leader].replica().map(|replica| replica.state).unwrap_or_default();
        let bits = state.nodes & !state.leaving & !state.evicted;
        let worker = |board: usize| self.common.roles[board].0 == TokenRole::Worker;
        let stays = |board: &usize| bits >> board & 1 == 1 && !worker(*board);
        (0..self.boards.len()).filter(|board| stays(board) && !self.boards[*board].gone).collect()
    }

    fn actions(&mut self) -> Vec<crate::masters::Action> {
        let masters =
            self.boards.iter_mut().filter_map(|board| board.process.as_mut()?.master.as_mut());
        masters.flat_map(|master| master.acted()).collect()
    }

    /// Boards that were told to leave go when the group has let them.
    fn remove_those_that_left(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(replica) = self.boards[leader].replica() else { return };
        let state = replica.state;
        for board in 0..self.boards.len() {
            let is_member = replica.members.of_board(&name(board)).is_some()
                || replica.config.of_board(&name(board)).is_some();
            let left = state.leaving >> board & 1 == 1 && !is_member;
            let evicted = state.evicted >> board & 1 == 1;
            if (left || evicted) && !self.boards[board].gone {
                self.gone.push(board);
            }
        }
        for board in std::mem::take(&mut self.gone) {
            self.say(|| format!("b{board} is gone"));
            self.boards[board].gone = true;
            self.boards[board].crash(Mutant::None);
        }
    }

    fn heal(&mut self) {
        self.say(|| "all is healed".into());
        self.wire = Wire::good();
        self.paused = [0; BOARDS_MAX];
        for board in 0..self.boards.len() {
            self.boards[board].flaps = false;
            self.boards[board].able = true;
            self.at(self.now + 1, Event::Restart(board));
        }
    }

    /// Whether the newest configuration has no majority of replicas any more. Faults spare those of the
    /// configuration in force; a change that begins just then can still go to a replica that is lost.
    fn is_lost(&self) -> bool {
        let longest =
            self.boards.iter().filter_map(|board| board.replica()).max_by_key(|r| r.last());
        let is_there = |id| self.boards.iter().any(|board| !board.gone && board.held() == Some(id));
        longest
            .is_some_and(|replica| replica.config.is_joint() && !replica.config.is_quorum(is_there))
    }

    /// What is not as it should be, judged from outside.
    fn missing(&self) -> Option<String> {
        let Some(leader) = self.leader() else {
            return Some(format!("nobody leads: {}", self.replicas()));
        };
        let master = self.boards[leader].master()?;
        let (replica, members) = (&master.replica, &master.replica.members);
        let joined = |board: usize| replica.state.nodes >> board & 1 == 1;
        if let Some(out) = self.boards.iter().find(|b| !b.gone && !joined(b.index)) {
            return Some(format!("b{} has not joined", out.index));
        }
        if members.is_joint() || replica.config != replica.members {
            return Some("the change of members is not done".into());
        }
        let asks = |entry: &Entry| matches!(entry.payload, Payload::Leave(_) | Payload::Evict(_));
        if replica.disk.log[replica.applied as usize..].iter().any(asks) {
            return Some("a removal is not written".into());
        }
        let told = |board: usize| (replica.state.leaving | replica.state.evicted) >> board & 1 == 1;
        let flapping = master.flapping();
        let stays = |board: &&Board| {
            joined(board.index)
                && !told(board.index)
                && self.common.roles[board.index].0 != TokenRole::Worker
        };
        let fit =
            |board: &&Board| stays(board) && !board.gone && !flapping.contains(&name(board.index));
        let staying = self.boards.iter().filter(stays).count();
        let able = self.boards.iter().filter(fit).count();
        let voters = members.voters();
        let (few, many) = (voters_for(able, None), voters_for(staying, None));
        if able == 0 {
            // Whoever is left was told to go and cannot.
            return None;
        }
        if voters.len() < few.min(many) || voters.len() > many {
            return Some(format!("{} voters instead of {few} to {many}", voters.len()));
        }
        let spare = self.boards.iter().filter(fit).filter(|board| {
            members.of_board(&name(board.index)).is_none_or(|member| !voters.contains(&member.id))
        });
        let spare = spare.count();
        let (mut stands_by, mut learners) = (false, 0);
        for member in &members.members {
            let board = self.boards.iter().find(|board| name(board.index) == member.board)?;
            let holds = board.replica().is_some_and(|replica| replica.disk.id == member.id);
            let votes = voters.contains(&member.id);
            if !stays(&board) {
                return Some(format!("b{} is still a member", board.index));
            }
            let flaps = flapping.contains(&member.board);
            let moves = spare > 0 || !board.gone;
            if votes && ((!holds && moves) || (flaps && spare > 0)) {
                return Some(format!("b{} still votes", board.index));
            }
            let lost = !holds && !board.gone;
            if !votes && (lost || (!flaps && voters.len() > 1)) {
                return Some(format!("b{} is still a learner", board.index));
            }
            learners += usize::from(!votes && !flaps);
            stands_by |= !votes && holds;
        }
        if voters.len() == 1 && learners > 1 && stands_by {
            return Some(format!("{learners} learners"));
        }
        if voters.len() == 1 && able > 1 && !stands_by {
            return Some("no board stands by".into());
        }
        self.time_is_off()
    }

    /// How the replicas stand, for the text of a failure.
    fn replicas(&self) -> String {
        let replicas = self.boards.iter().filter_map(|board| {
            let replica = board.replica()?;
            let role = match &replica.role {
                super::replica::Role::Leader(leader) if leader.over => "leader that is over",
                super::replica::Role::Leader(_) => "leader",
                super::replica::Role::Before(_) => "before",
                super::replica::Role::Candidate(_) => "candidate",
                super::replica::Role::Follower => "follower",
            };
            let (disk, configs) = (&replica.disk, &replica.config.configs);
            let (last, gone) = (replica.last(), board.gone);
            let (term, commit) = (disk.term, replica.commit);
            Some(format!(
                "b{} is {} ({role}, gone {gone}, term {term}, last {last:?}, commit {commit}, {configs:?})",
                board.index, disk.id
            ))
        });
        let fresh = self.boards.iter().filter(|board| !board.disk.joined);
        let fresh = fresh.map(|board| format!("b{} fresh {:?}", board.index, board.disk.genesis));
        replicas.chain(fresh).collect::<Vec<_>>().join("; ")
    }

    /// With good clocks everywhere, masters agree with the truth.
    fn time_is_off(&self) -> Option<String> {
        let truth = TRUE_START.millis() + self.now as i64;
        for board in self.boards.iter().filter(|board| !self.bad_clocks && !board.gone) {
            let Some(process) = board.process.as_ref().filter(|p| p.master.is_some()) else {
                continue;
            };
            let off = truth - process.time.now(board.local(self.now)).millis();
            if off > 30_000 {
                return Some(format!("cluster time of b{} is {off} ms behind", board.index));
            }
        }
        None
    }
}
