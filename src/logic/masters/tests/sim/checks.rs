//! What must always hold, seen from outside: the oracle of the simulation.

use std::collections::BTreeMap;
use std::rc::Rc;

use model::masters::{GenesisId, MemberId, MembersV1};

use super::words::{Entry, Payload};

/// What was seen of the whole cluster so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Entries that some replica has committed: nobody commits another one.
    pub(super) committed: Vec<Entry>,
    leaders: BTreeMap<u64, MemberId>,
    members: Option<Rc<MembersV1>>,
    /// Which board was made which member; twice is once too often.
    made: BTreeMap<MemberId, usize>,
    pub(super) founder: Option<GenesisId>,
    /// The newest reign that has acted.
    acted: u64,
}

impl Checks {
    pub(super) fn founds(&mut self, who: GenesisId) -> Result<(), String> {
        match self.founder.replace(who) {
            Some(other) if other != who => Err(format!("two founders, {other} and {who}")),
            _ => Ok(()),
        }
    }

    pub(super) fn made(&mut self, id: MemberId, board: usize) -> Result<(), String> {
        match self.made.insert(id, board) {
            None => Ok(()),
            Some(other) => Err(format!("member {id} was made on b{other} and again on b{board}")),
        }
    }

    /// On which board a member was made.
    pub(super) fn board_of(&self, id: MemberId) -> Option<usize> {
        self.made.get(&id).copied()
    }

    pub(super) fn leads(&mut self, term: u64, id: MemberId, log: &[Entry]) -> Result<(), String> {
        let known = *self.leaders.entry(term).or_insert(id);
        if known != id {
            return Err(format!("term {term} has two leaders, {known} and {id}"));
        }
        if self.committed.last().is_some_and(|entry| entry.term > term) {
            // It won when a newer term had begun elsewhere: it commits nothing.
            return Ok(());
        }
        let there = self.committed.iter().zip(log).all(|(one, other)| one == other);
        if log.len() < self.committed.len() || !there {
            return Err(format!("leader {id} of term {term} lacks committed entries"));
        }
        Ok(())
    }

    pub(super) fn commits(&mut self, index: u64, entry: &Entry) -> Result<(), String> {
        let at = index as usize - 1;
        match self.committed.get(at) {
            Some(known) if known == entry => Ok(()),
            Some(known) => Err(format!("entry {index} is {known:?} and {entry:?}")),
            None if at > self.committed.len() => Err(format!("entry {index} leaves a gap")),
            None => {
                self.committed.push(entry.clone());
                match &entry.payload {
                    Payload::Members(members) => self.changes(members.clone()),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Voters are odd, and every majority meets one of the configuration before.
    fn changes(&mut self, members: Rc<MembersV1>) -> Result<(), String> {
        members.check().map_err(|error| error.to_string())?;
        let voters = members.voters();
        if !members.is_joint() && voters.len().is_multiple_of(2) {
            return Err(format!("{} voters", voters.len()));
        }
        if let Some(before) = self.members.replace(members.clone()) {
            let (old, new) = (&before.configs, &members.configs);
            let meets = match (old.len(), new.len()) {
                (1, 1) => old == new,
                (1, 2) => old[0] == new[0],
                (2, 1) => old[1] == new[0],
                _ => old == new,
            };
            if !meets {
                return Err(format!("voters went from {old:?} to {new:?} without a joint step"));
            }
        }
        Ok(())
    }

    /// A leader acts: nobody of a newer reign has acted.
    pub(super) fn acts(&mut self, term: u64) -> Result<(), String> {
        if term < self.acted {
            return Err(format!("term {term} acts after term {}", self.acted));
        }
        self.acted = term;
        Ok(())
    }
}
