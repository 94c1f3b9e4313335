//! Which of several identical fresh boards founds the cluster: at most one, without any cluster.
//!
//! Each board has a random id and one bootstrap token, and expects N boards. The smallest id that is
//! heard both ways stands for founder, the others promise it, durably; who has the promises of a
//! majority founds.
//!
//! ```text
//!          majority heard, a smaller one stands         it says that it gave up
//!  Listening ------------------------------> Promised ---------------------------.
//!      |  majority heard, own id is smallest     ^                               |
//!      |-----------------> Gathering ------------' a smaller one is heard        v
//!      |                       | majority promised   (a new round)           Listening
//!      |                       v
//!      |                   Founding
//!      '--any state but Founding: a cluster under this token is heard--> Joining
//! ```
//!
//! Why there are not two founders: a promise names a candidate and its round, and is given up only
//! when that candidate itself says a later round; it enters one only when it has not founded, and
//! counts promises of its present round only. So no board's promise ever counts for two founders, and
//! two majorities of N share a board. More boards than expected take part: then the majority is of
//! those who are known. Whoever wipes a disk makes a new board: its promise is forgotten, which is
//! the one way to two founders, and only while the first is not heard.
//!
//! In: authenticated words of others (the shell proves the token on each connection). Out: data, in
//! an order that must be kept: what is to be saved is durable before anything is said.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::{GENESIS_ASK_MS, GENESIS_LISTEN_MS, GENESIS_PEERS_MAX, GENESIS_SILENCE_MS};
use model::masters::{FoundedV1, GenesisAnswerV1, GenesisId, GenesisWordV1, PromiseV1};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// A board that was not heard in any way for so long is not counted as one that has the token.
const KNOWN_MS: u64 = 60_000;

/// What lies on the disk of a fresh board (`genesis.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// This board.
    pub id: GenesisId,
    /// Grows whenever it gives up to stand for founder.
    pub round: u64,
    /// Whom it has promised.
    pub promise: Option<PromiseV1>,
    /// Whether it has begun to found: nothing takes that back.
    pub founding: bool,
}

impl Record {
    /// Of a board that was never started.
    pub fn new(id: GenesisId) -> Self {
        Self { id, round: 0, promise: None, founding: false }
    }
}

/// What happens; what others say is authenticated before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passes.
    Tick,
    /// A board asked; [`Genesis::answer`] goes back when the actions are done.
    Asked(GenesisWordV1),
    /// A board answered.
    Answered(GenesisAnswerV1),
    /// A cluster that this token lets in to was found in another way.
    Cluster(FoundedV1),
    /// Joining did not succeed.
    JoinFailed,
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write it durably, before anything that follows and before anything is said or answered.
    Save(Record),
    /// Ask every board that is known by address.
    AskAll,
    /// Found the cluster; comes again after a crash.
    Found,
    /// Join this cluster.
    Join(FoundedV1),
    /// Tell the user, once.
    Warn(Warning),
}

/// What the user should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// A board has the same token and expects another number of boards: it is not counted.
    Expects {
        /// Its name.
        name: String,
        /// How many it expects.
        boards: u8,
    },
    /// The board that was promised is silent; only it can found, or take its word back.
    Waits {
        /// Its name, as far as it was heard since the start.
        name: String,
    },
    /// More boards than expected have the token.
    More {
        /// How many are known.
        boards: usize,
    },
}

/// A fresh board on its way to a cluster.
#[derive(Clone, Debug)]
pub struct Genesis {
    record: Record,
    name: String,
    expect: u8,
    began: u64,
    peers: BTreeMap<GenesisId, Peer>,
    joining: bool,
    asked_at: Option<u64>,
    promised_at: u64,
    /// Since when a smaller board has not made up its mind.
    waits_since: Option<u64>,
    warned: BTreeSet<Warning>,
}

#[derive(Clone, Debug)]
struct Peer {
    word: GenesisWordV1,
    /// When it asked, and when it answered: both mean that it is heard both ways.
    asked: Option<u64>,
    answered: Option<u64>,
}

impl Genesis {
    /// A board that starts, for the first time or again.
    pub fn new(record: Record, name: String, expect: u8, now: u64) -> Self {
        Self {
            record,
            name,
            expect: expect.max(1),
            began: now,
            peers: BTreeMap::new(),
            joining: false,
            asked_at: None,
            promised_at: now,
            waits_since: None,
            warned: BTreeSet::new(),
        }
    }

    /// Takes what happened.
    pub fn take(&mut self, input: Input, now: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.record.founding {
            // Found is repeated until the shell is done with genesis; others are answered meanwhile.
            return match input {
                Input::Tick if self.is_due(now) => {
                    self.asked_at = Some(now);
                    vec![Action::Found]
                }
                _ => actions,
            };
        }
        match input {
            Input::Tick | Input::JoinFailed => self.joining &= input == Input::Tick,
            Input::Asked(word) => self.heard(word, now, true, &mut actions),
            Input::Answered(GenesisAnswerV1 { founded: Some(founded), .. })
            | Input::Cluster(founded) => {
                if !self.joining {
                    self.joining = true;
                    actions.push(Action::Join(founded));
                }
            }
            Input::Answered(GenesisAnswerV1 { word: Some(word), .. }) => {
                self.heard(word, now, false, &mut actions);
            }
            Input::Answered(GenesisAnswerV1 { word: None, founded: None }) => (),
        }
        if !self.joining {
            self.decide(now, &mut actions);
        }
        if self.is_due(now) && !self.record.founding {
            self.asked_at = Some(now);
            actions.push(Action::AskAll);
        }
        actions
    }

    /// How this board stands; said only when all that was to be saved is.
    pub fn word(&self) -> GenesisWordV1 {
        let Record { id, round, promise, .. } = self.record;
        GenesisWordV1 { id, name: self.name.clone(), expect: self.expect, round, promise }
    }

    /// What a board is answered that asked.
    pub fn answer(&self) -> GenesisAnswerV1 {
        GenesisAnswerV1 { word: Some(self.word()), founded: None }
    }

    /// When [`Input::Tick`] is due.
    pub fn wake_at(&self) -> u64 {
        self.asked_at.map_or(self.began, |at| at + GENESIS_ASK_MS)
    }

    fn is_due(&self, now: u64) -> bool {
        now >= self.wake_at()
    }

    fn heard(&mut self, word: GenesisWordV1, now: u64, asked: bool, actions: &mut Vec<Action>) {
        let id = word.id;
        if id == self.record.id {
            return;
        }
        if word.expect != self.expect {
            let warning = Warning::Expects { name: word.name, boards: word.expect };
            self.warn(warning, actions);
            return;
        }
        // A word that was on its way for long says nothing about the present.
        if self.peers.get(&id).is_some_and(|peer| peer.word.round > word.round) {
            return;
        }
        if !self.peers.contains_key(&id) && self.peers.len() >= GENESIS_PEERS_MAX {
            return;
        }
        let to_me = PromiseV1 { to: self.record.id, round: self.record.round };
        // A promise that nobody will gather is handed back: else its giver waits for ever.
        let elsewhere = self.record.promise.is_some_and(|promise| promise.to != self.record.id);
        if word.promise == Some(to_me) && elsewhere {
            self.record.round += 1;
            actions.push(Action::Save(self.record.clone()));
        }
        let peer = self.peers.entry(id).or_insert(Peer {
            word: word.clone(),
            asked: None,
            answered: None,
        });
        peer.word = word;
        *(if asked { &mut peer.asked } else { &mut peer.answered }) = Some(now);
    }

    fn decide(&mut self, now: u64, actions: &mut Vec<Action>) {
        let more = self.known(now);
        if more > usize::from(self.expect) {
            self.warn(Warning::More { boards: more }, actions);
        }
        self.release(actions);
        let own = self.record.id;
        let there = self.both_ways(now);
        let all = there.len() + 1 >= usize::from(self.expect);
        let is_over = all || now >= self.began + GENESIS_LISTEN_MS;
        if !is_over || !self.is_majority(there.len() + 1, now) {
            return self.warn_of_waiting(now, &there, actions);
        }
        let Some(best) = self.best(&there, now) else { return };
        match self.record.promise {
            Some(promise) if promise.to != own => self.warn_of_waiting(now, &there, actions),
            Some(_) if best == own => self.gather(now, actions),
            // It stands, and a smaller one is there: promises to it are void from here on.
            Some(_) => self.promise(best, self.record.round + 1, now, actions),
            None => {
                self.promise(best, self.record.round, now, actions);
                if best == own {
                    self.gather(now, actions);
                }
            }
        }
    }

    /// Boards that asked and answered lately.
    fn both_ways(&self, now: u64) -> Vec<GenesisId> {
        let fresh = |at: Option<u64>| at.is_some_and(|at| at + GENESIS_SILENCE_MS >= now);
        let heard = |peer: &Peer| fresh(peer.asked) && fresh(peer.answered);
        self.peers.iter().filter(|(_, peer)| heard(peer)).map(|(id, _)| *id).collect()
    }

    /// Whom to promise: the smallest that stands. A smaller one that has not made up its mind is
    /// waited for, but not for ever; nobody else is promised before it stands, so whoever does not
    /// may be wiped without harm.
    fn best(&mut self, there: &[GenesisId], now: u64) -> Option<GenesisId> {
        let own = self.record.id;
        let promise = |id: &GenesisId| self.peers.get(id).and_then(|peer| peer.word.promise);
        let free = there.iter().filter(|id| promise(id).is_none()).min();
        let standing = there.iter().filter(|id| promise(id).is_some_and(|p| p.to == **id)).min();
        let best = standing.copied().unwrap_or(own).min(own);
        if free.is_none_or(|free| *free > best) || self.record.promise.is_some() {
            self.waits_since = None;
            return Some(best);
        }
        let since = *self.waits_since.get_or_insert(now);
        (now >= since + GENESIS_LISTEN_MS).then_some(best)
    }

    /// Whether so many are a majority, of the boards that are expected or of those that are known.
    fn is_majority(&self, count: usize, now: u64) -> bool {
        2 * count > usize::from(self.expect).max(self.known(now))
    }

    /// Boards that were heard in any way lately, this one included.
    fn known(&self, now: u64) -> usize {
        let lately =
            |peer: &&Peer| peer.asked.max(peer.answered).is_some_and(|at| at + KNOWN_MS >= now);
        self.peers.values().filter(lately).count() + 1
    }

    /// Takes a promise back whose candidate says that it has given up.
    fn release(&mut self, actions: &mut Vec<Action>) {
        let Some(promise) = self.record.promise.filter(|promise| promise.to != self.record.id)
        else {
            return;
        };
        let said = self.peers.get(&promise.to).map(|peer| peer.word.round);
        if said.is_some_and(|round| round > promise.round) {
            self.record.promise = None;
            actions.push(Action::Save(self.record.clone()));
        }
    }

    fn promise(&mut self, to: GenesisId, round: u64, now: u64, actions: &mut Vec<Action>) {
        self.record.round = round;
        let of = match self.peers.get(&to) {
            Some(peer) => peer.word.round,
            None => round,
        };
        self.record.promise = Some(PromiseV1 { to, round: of });
        self.promised_at = now;
        // The candidate is told at once.
        self.asked_at = None;
        actions.push(Action::Save(self.record.clone()));
    }

    fn gather(&mut self, now: u64, actions: &mut Vec<Action>) {
        let mine = Some(PromiseV1 { to: self.record.id, round: self.record.round });
        let given = self.peers.values().filter(|peer| peer.word.promise == mine).count();
        if self.is_majority(given + 1, now) {
            self.record.founding = true;
            actions.push(Action::Save(self.record.clone()));
            actions.push(Action::Found);
        }
    }

    fn warn_of_waiting(&mut self, now: u64, there: &[GenesisId], actions: &mut Vec<Action>) {
        let Some(promise) = self.record.promise.filter(|promise| promise.to != self.record.id)
        else {
            return;
        };
        if there.contains(&promise.to) || now < self.promised_at + GENESIS_SILENCE_MS {
            return;
        }
        let name = self.peers.get(&promise.to).map(|peer| peer.word.name.clone());
        self.warn(Warning::Waits { name: name.unwrap_or_default() }, actions);
    }

    fn warn(&mut self, warning: Warning, actions: &mut Vec<Action>) {
        if self.warned.len() < GENESIS_PEERS_MAX && self.warned.insert(warning.clone()) {
            actions.push(Action::Warn(warning));
        }
    }
}
