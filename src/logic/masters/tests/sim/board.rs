//! One simulated board: what its disk keeps, what its process has, and how it takes messages.

use std::collections::BTreeSet;
use std::rc::Rc;

use model::masters::{ClusterTimeV1, FoundedV1, GenesisAnswerV1, GenesisId, MemberId, MembersV1};
use model::timestamp::Timestamp;

use super::Mutant;
use super::driver::{Driver, Known, Send, drive, name, number};
use super::random::Random;
use super::replica::{Durable, Replica};
use super::words::{Entry, Letter, Payload, Raft, Word};
use super::world::Common;
use crate::genesis::{self, Genesis, Record};
use crate::masters::{Action, Input, Policy};
use crate::time::ClusterTime;

const ANNOUNCE_MS: u64 = 1_000;
const JOIN_MS: u64 = 1_000;
/// Nodes change now and then, whatever the policy waits for.
const LOOK_MS: u64 = 5_000;

/// What survives a crash.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    /// Another number on another disk.
    pub(super) number: u64,
    /// Before there is a cluster; `None`: this board only joins.
    pub(super) genesis: Option<Record>,
    pub(super) joined: bool,
    pub(super) replica: Option<Durable>,
    high_water: Timestamp,
}

/// A replica with what runs beside it.
#[derive(Clone, Debug)]
pub(super) struct Master {
    pub(super) replica: Replica,
    pub(super) policy: Policy,
    pub(super) driver: Option<Driver>,
    announced_at: u64,
    looked_at: u64,
    sequence: u64,
    /// The newest term that it was seen to lead.
    led: u64,
}

/// What a process has; gone with a crash.
#[derive(Clone, Debug)]
pub(super) struct Process {
    genesis: Option<Genesis>,
    pub(super) master: Option<Master>,
    pub(super) time: ClusterTime,
    last_time: Timestamp,
    asked_to_join_at: Option<u64>,
}

/// One board.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) index: usize,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    /// Thousandths of real time that its steady clock runs at.
    pub(super) rate: u64,
    /// Its system clock is so many seconds wrong.
    pub(super) clock_off: i64,
    pub(super) synced: bool,
    pub(super) flaps: bool,
    pub(super) able: bool,
    /// It takes part no more: told to leave and gone, evicted, or broken for good.
    pub(super) gone: bool,
}

pub(super) const TRUE_START: Timestamp = Timestamp::from_seconds(1_800_000_000);
pub(super) const BUILD: Timestamp = Timestamp::from_seconds(1_800_000_000 - 90 * 24 * 3600);

/// What a board wants to happen outside.
pub(super) type Letters = Vec<Letter>;
type Outcome = Result<Letters, String>;

impl Disk {
    pub(super) fn new(number: u64, genesis: Option<Record>) -> Self {
        let high_water = Timestamp::default();
        Self { number, genesis, joined: false, replica: None, high_water }
    }
}

impl Board {
    /// The member whose replica lies on its disk.
    pub(super) fn held(&self) -> Option<MemberId> {
        self.durable().map(|disk| disk.id)
    }

    fn durable(&self) -> Option<&Durable> {
        match &self.process {
            Some(process) => process.master.as_ref().map(|master| &master.replica.disk),
            None => self.disk.replica.as_ref(),
        }
    }

    pub(super) fn log(&self) -> Option<&[Entry]> {
        self.durable().map(|disk| disk.log.as_slice())
    }

    /// A fresh board whose word binds nobody.
    pub(super) fn has_promised_nothing(&self) -> bool {
        let record = self.disk.genesis.as_ref();
        self.disk.joined || record.is_none_or(|record| *record == Record::new(record.id))
    }

    /// What an administrator wants is written by the leader.
    pub(super) fn propose(&mut self, payload: Payload) {
        if let Some(master) = self.master_mut() {
            master.replica.append(payload);
        }
    }

    pub(super) fn local(&self, now: u64) -> u64 {
        now * self.rate / 1_000
    }

    fn system(&self, now: u64) -> Timestamp {
        Timestamp(TRUE_START.0 + now as i64 * 1_000 + self.clock_off * 1_000_000)
    }

    pub(super) fn start(&mut self, now: u64, common: &mut Common) {
        let mono = self.local(now);
        let genesis = self.disk.genesis.clone().filter(|_| !self.disk.joined);
        let genesis =
            genesis.map(|record| Genesis::new(record, name(self.index), common.expect, mono));
        let master = self.disk.replica.clone().map(|disk| Master::start(disk, mono, common));
        self.process = Some(Process {
            genesis,
            master,
            time: ClusterTime::new(BUILD, self.disk.high_water, mono),
            last_time: Timestamp::default(),
            asked_to_join_at: None,
        });
    }

    pub(super) fn crash(&mut self, mutant: Mutant) {
        if let Some(process) = self.process.take() {
            self.disk.high_water = process.last_time;
            self.disk.replica = process.master.map(|master| master.replica.disk);
        }
        if let (Mutant::PromiseForgotten, Some(record)) = (mutant, &mut self.disk.genesis) {
            record.promise = None;
        }
    }

    /// Another disk: everything is forgotten but that there is a cluster.
    pub(super) fn wipe(&mut self, random: &mut Random) {
        self.process = None;
        self.disk.number = random.next() | 1;
        self.disk.replica = None;
        self.disk.high_water = Timestamp::default();
        if let Some(record) = &mut self.disk.genesis {
            *record = Record::new(genesis_id(random));
        }
    }

    /// Time passes on this board.
    pub(super) fn tick(&mut self, now: u64, common: &mut Common) -> Outcome {
        let (mono, system) = (self.local(now), self.system(now));
        let (synced, flaps) = (self.synced, self.flaps);
        let Some(process) = &mut self.process else { return Ok(Vec::new()) };
        process.time.read(system, synced, mono);
        let time = process.time.now(mono);
        if time < process.last_time {
            return Err(format!("cluster time of b{} went back", self.index));
        }
        process.last_time = time;
        let mut letters = Vec::new();
        if process.genesis.is_some() {
            letters.extend(self.genesis(genesis::Input::Tick, now, common)?);
        } else if !self.disk.joined {
            let due = process.asked_to_join_at.is_none_or(|at| mono >= at + JOIN_MS);
            if due {
                process.asked_to_join_at = Some(mono);
                letters.extend(self.to_all(common, &Word::Join));
            }
        }
        letters.extend(self.tick_master(mono, flaps, common)?);
        Ok(letters)
    }

    fn tick_master(&mut self, mono: u64, flaps: bool, common: &mut Common) -> Outcome {
        let index = self.index;
        let Some(Process { master: Some(master), time, .. }) = &mut self.process else {
            return Ok(Vec::new());
        };
        let said = time.say(mono);
        let mut out = master.replica.tick(mono, &mut common.random);
        if flaps && master.replica.may_flap(mono) && common.random.percent(8) {
            out.extend(master.replica.campaign(mono, false, &mut common.random));
        }
        let mut letters = master.post(index, out, said, common);
        letters.extend(master.run(index, mono, said, common)?);
        time.voters(Some(master.replica.disk.id), master.replica.members.voters());
        Ok(letters)
    }

    fn to_all(&self, common: &Common, word: &Word) -> Letters {
        let others = (0..common.boards).filter(|to| *to != self.index);
        others.map(|to| Letter { from: self.index, to, word: word.clone() }).collect()
    }

    fn genesis(&mut self, input: genesis::Input, now: u64, common: &mut Common) -> Outcome {
        let mono = self.local(now);
        let mut letters = Vec::new();
        let Some(Process { genesis: Some(genesis), .. }) = &mut self.process else {
            return Ok(letters);
        };
        let mut actions = genesis.take(input, mono);
        let word = genesis.word();
        let stands = word.promise.is_some_and(|promise| promise.to == word.id);
        if common.mutant == Mutant::FoundsWithoutMajority && stands {
            actions.push(genesis::Action::Found);
        }
        let mut found = false;
        for action in actions {
            match action {
                genesis::Action::Save(record) => self.disk.genesis = Some(record),
                genesis::Action::AskAll => {
                    let word = Word::GenesisAsk(word.clone());
                    letters.extend(self.to_all(common, &word));
                }
                genesis::Action::Found => found = true,
                genesis::Action::Join(_) => {
                    if let Some(process) = &mut self.process {
                        process.genesis = None;
                    }
                }
                genesis::Action::Warn(_) => (),
            }
        }
        if found {
            self.found(mono, common)?;
        }
        Ok(letters)
    }

    fn found(&mut self, mono: u64, common: &mut Common) -> Result<(), String> {
        let own = self.disk.genesis.as_ref().map(|record| record.id);
        common.checks.founds(own.ok_or("a board without a record founds")?)?;
        common.checks.made(MemberId(1), self.index)?;
        let members = MembersV1::sole(MemberId(1), name(self.index), [0; 32]);
        let entry = |payload| Entry { term: 0, payload };
        let log = vec![
            entry(Payload::Members(Rc::new(members))),
            entry(Payload::TakeId(1)),
            entry(Payload::Node(self.index)),
        ];
        let disk = Durable { id: MemberId(1), term: 0, voted: None, log };
        self.disk.joined = true;
        if let Some(process) = &mut self.process {
            process.genesis = None;
            process.master = Some(Master::start(disk, mono, common));
        }
        Ok(())
    }

    /// Takes a message.
    pub(super) fn take(
        &mut self,
        from: usize,
        word: Word,
        now: u64,
        common: &mut Common,
    ) -> Outcome {
        let mono = self.local(now);
        if self.process.is_none() {
            return Ok(Vec::new());
        }
        let answer = |word| Ok(vec![Letter { from: self.index, to: from, word }]);
        match word {
            Word::GenesisAsk(word) => {
                if self.disk.joined {
                    let founded = Some(FoundedV1 { pin: [1; 32], leader: None });
                    return answer(Word::GenesisAnswer(GenesisAnswerV1 { word: None, founded }));
                }
                let mut letters = self.genesis(genesis::Input::Asked(word), now, common)?;
                if let Some(Process { genesis: Some(genesis), .. }) = &self.process {
                    let word = Word::GenesisAnswer(genesis.answer());
                    letters.push(Letter { from: self.index, to: from, word });
                }
                Ok(letters)
            }
            Word::GenesisAnswer(answer) => {
                self.genesis(genesis::Input::Answered(answer), now, common)
            }
            Word::Join => self.lets_in(from, mono, common),
            Word::Joined => {
                self.disk.joined = true;
                if let Some(process) = &mut self.process {
                    process.genesis = None;
                }
                Ok(Vec::new())
            }
            Word::Lead { term, sequence } => {
                if !self.disk.joined {
                    return Ok(Vec::new());
                }
                let replica = self.replica().map(|replica| replica.disk.id);
                let (disk, able) = (self.disk.number, self.able);
                answer(Word::Beat { term, sequence, disk, replica, able })
            }
            Word::Beat { term, sequence, disk, replica, able } => {
                let beat = Known { sequence, disk, replica, able, ..Known::default() };
                self.beat(from, term, beat, mono, common)
            }
            Word::Kit { disk, member } => self.kit(disk, member, mono, common),
            Word::Raft { from: sender, to, time, raft } => {
                self.raft(sender, to, time, raft, mono, common)
            }
        }
    }

    pub(super) fn replica(&self) -> Option<&Replica> {
        let process = self.process.as_ref()?;
        process.master.as_ref().map(|master| &master.replica)
    }

    pub(super) fn master(&self) -> Option<&Master> {
        self.process.as_ref()?.master.as_ref()
    }

    fn master_mut(&mut self) -> Option<&mut Master> {
        self.process.as_mut()?.master.as_mut()
    }

    fn lets_in(&mut self, board: usize, mono: u64, common: &mut Common) -> Outcome {
        let index = self.index;
        let Some(master) = self.master_mut().filter(|master| master.replica.may_act(mono)) else {
            return Ok(Vec::new());
        };
        let replica = &mut master.replica;
        if replica.state.nodes >> board & 1 == 1 {
            return Ok(vec![Letter { from: index, to: board, word: Word::Joined }]);
        }
        let pending = &replica.disk.log[replica.applied as usize..];
        if !pending.iter().any(|entry| entry.payload == Payload::Node(board)) {
            common.checks.acts(replica.disk.term)?;
            replica.append(Payload::Node(board));
        }
        Ok(Vec::new())
    }

    fn beat(
        &mut self,
        from: usize,
        term: u64,
        beat: Known,
        mono: u64,
        common: &mut Common,
    ) -> Outcome {
        let index = self.index;
        let Some(process) = &mut self.process else { return Ok(Vec::new()) };
        let said = process.time.say(mono);
        let Some(master) = &mut process.master else { return Ok(Vec::new()) };
        let Master { replica, policy, driver: Some(driver), .. } = master else {
            return Ok(Vec::new());
        };
        if replica.disk.term != term || replica.leads().is_none() {
            return Ok(Vec::new());
        }
        let Some(input) = driver.beat(from, beat, replica, mono) else { return Ok(Vec::new()) };
        let sends = drive(driver, policy, replica, input, mono);
        Ok(master.send(index, sends, said, common))
    }

    fn kit(&mut self, disk: u64, member: MemberId, mono: u64, common: &mut Common) -> Outcome {
        let index = self.index;
        let held = self.replica().map(|replica| replica.disk.id);
        if disk == self.disk.number && held.is_none_or(|held| held < member) {
            common.checks.made(member, index)?;
            let disk = Durable { id: member, term: 0, voted: None, log: Vec::new() };
            let master = Master::start(disk, mono, common);
            if let Some(process) = &mut self.process {
                process.master = Some(master);
            }
        }
        Ok(Vec::new())
    }

    fn raft(
        &mut self,
        from: MemberId,
        to: MemberId,
        said: ClusterTimeV1,
        raft: Raft,
        mono: u64,
        common: &mut Common,
    ) -> Outcome {
        let (index, flaps) = (self.index, self.flaps);
        let Some(Process { master: Some(master), time, .. }) = &mut self.process else {
            return Ok(Vec::new());
        };
        let deaf = flaps && matches!(raft, Raft::Append { .. }) && common.random.percent(80);
        if master.replica.disk.id != to || deaf {
            return Ok(Vec::new());
        }
        time.hear(from, said, mono);
        if matches!(raft, Raft::Append { .. }) {
            time.reach(said.cluster, mono);
        }
        let said = time.say(mono);
        let out = master.replica.take(from, raft, mono, &mut common.random);
        let mut letters = master.post(index, out, said, common);
        letters.extend(master.run(index, mono, said, common)?);
        Ok(letters)
    }
}

pub(super) fn genesis_id(random: &mut Random) -> GenesisId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_be_bytes());
    GenesisId(id)
}

impl Master {
    fn start(disk: Durable, mono: u64, common: &mut Common) -> Self {
        let own = disk.id;
        let replica = Replica::start(disk, mono, common.mutant, &mut common.random);
        let policy = Policy::new(own, MembersV1::default());
        Self { replica, policy, driver: None, announced_at: 0, looked_at: 0, sequence: 0, led: 0 }
    }

    fn post(
        &self,
        index: usize,
        out: Vec<(MemberId, Raft)>,
        time: ClusterTimeV1,
        common: &Common,
    ) -> Letters {
        let from = self.replica.disk.id;
        let address = |id: MemberId| {
            let member = self.replica.config.get(id).or_else(|| self.replica.members.get(id));
            member.map(|member| number(&member.board)).or_else(|| common.board_of(id))
        };
        let posted = out.into_iter().filter_map(|(to, raft)| {
            let word = Word::Raft { from, to, time, raft };
            address(to).map(|board| Letter { from: index, to: board, word })
        });
        posted.filter(|letter| letter.to != index).collect()
    }

    fn send(
        &self,
        index: usize,
        sends: Vec<Send>,
        time: ClusterTimeV1,
        common: &Common,
    ) -> Letters {
        let mut letters = Vec::new();
        for send in sends {
            match send {
                Send::Kit { board, disk, member } => {
                    let word = Word::Kit { disk, member };
                    letters.push(Letter { from: index, to: board, word });
                }
                Send::Raft(to, raft) => {
                    letters.extend(self.post(index, vec![(to, raft)], time, common));
                }
            }
        }
        letters
    }

    /// Everything that follows from what the replica took: apply, begin or end to lead, drive.
    fn run(
        &mut self,
        index: usize,
        mono: u64,
        time: ClusterTimeV1,
        common: &mut Common,
    ) -> Outcome {
        let mut inputs = self.apply(common)?;
        for (by, won) in std::mem::take(&mut self.replica.contests) {
            inputs.push(Input::TermBegan { by, won });
        }
        let mut sends = Vec::new();
        if let Some(driver) = &mut self.driver {
            let (failed, more) = driver.go_on(&mut self.replica, mono);
            sends.extend(more);
            inputs.extend(failed);
        }
        for input in inputs {
            sends.extend(self.tell(input, mono));
        }
        self.check_lead(common)?;
        let ready = self.replica.leads().map(|leader| self.replica.commit >= leader.blank);
        match (ready, self.driver.is_some()) {
            (Some(true), false) => {
                self.driver = Some(Driver::new(common.boards, common.mutant));
                sends.extend(self.tell(Input::Leads(true), mono));
            }
            (None, true) => {
                self.driver = None;
                sends.extend(self.tell(Input::Leads(false), mono));
            }
            _ => (),
        }
        let mut letters = self.send(index, sends, time, common);
        letters.extend(self.lead(index, mono, time, common)?);
        Ok(letters)
    }

    /// One leader a term, with all that was ever committed; and nobody acts after a newer one.
    fn check_lead(&mut self, common: &mut Common) -> Result<(), String> {
        let Replica { disk, .. } = &self.replica;
        if self.replica.leads().is_some() && self.led != disk.term {
            self.led = disk.term;
            common.checks.leads(disk.term, disk.id, &disk.log)?;
        }
        Ok(())
    }

    fn tell(&mut self, input: Input, mono: u64) -> Vec<Send> {
        match &mut self.driver {
            Some(driver) => drive(driver, &mut self.policy, &mut self.replica, input, mono),
            None => {
                self.policy.take(input, mono);
                Vec::new()
            }
        }
    }

    fn apply(&mut self, common: &mut Common) -> Result<Vec<Input>, String> {
        let mut inputs = Vec::new();
        let replica = &mut self.replica;
        while replica.applied < replica.commit {
            replica.applied += 1;
            let entry = &replica.disk.log[replica.applied as usize - 1];
            common.checks.commits(replica.applied, entry)?;
            let state = &mut replica.state;
            match &entry.payload {
                Payload::Blank | Payload::Write(_) => (),
                Payload::Members(members) => {
                    replica.members = members.clone();
                    inputs.push(Input::Changed(members.as_ref().clone()));
                }
                Payload::TakeId(id) => state.next_id += u64::from(state.next_id == *id),
                Payload::Node(board) => state.nodes |= 1 << board,
                Payload::Leave(board) => state.leaving |= 1 << board,
                Payload::Evict(board) => state.evicted |= 1 << board,
            }
        }
        Ok(inputs)
    }

    fn lead(
        &mut self,
        index: usize,
        mono: u64,
        time: ClusterTimeV1,
        common: &mut Common,
    ) -> Outcome {
        let mut letters = Vec::new();
        let Some(driver) = &mut self.driver else { return Ok(letters) };
        if self.replica.may_act(mono) {
            common.checks.acts(self.replica.disk.term)?;
        }
        let mut all = Vec::new();
        let due = self.policy.wake_at().is_some_and(|at| mono >= at);
        if due || mono >= self.looked_at + LOOK_MS {
            self.looked_at = mono;
            let seen = driver.seen(&self.replica, &common.roles, mono);
            let input = Input::Boards(seen);
            all.extend(drive(driver, &mut self.policy, &mut self.replica, input, mono));
        }
        letters.extend(self.send(index, all, time, common));
        if mono >= self.announced_at + ANNOUNCE_MS && self.replica.may_act(mono) {
            self.announced_at = mono;
            self.sequence += 1;
            let (term, sequence) = (self.replica.disk.term, self.sequence);
            self.replica.append(Payload::Write(sequence));
            for to in (0..common.boards).filter(|to| *to != index) {
                let word = Word::Lead { term, sequence };
                letters.push(Letter { from: index, to, word });
            }
        }
        Ok(letters)
    }

    /// Whom the policy would not give a vote at this moment.
    pub(super) fn flapping(&self) -> BTreeSet<String> {
        let flaps = self.policy.warnings().iter().filter_map(|warning| match warning {
            crate::masters::Warning::Flaps { board } => Some(board.clone()),
            _ => None,
        });
        flaps.collect()
    }

    /// Actions that changed the group since the last look.
    pub(super) fn acted(&mut self) -> Vec<Action> {
        self.driver.as_mut().map(|driver| std::mem::take(&mut driver.done)).unwrap_or_default()
    }
}
