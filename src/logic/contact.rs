//! Which boards are heard and which are lost: the judgement on silence.
//!
//! ```text
//!              heard                     session over and not back, or silent too long
//!  Unjudged ----------> Heard ------------------------------------------------------> Lost
//!      \                   ^------------------------- heard ----------------------------/ ^
//!       \----------------------- never heard within the grace period -------------------/
//! ```
//! Input: what the bus tells (heard, connected, gone), which Nodes exist, and monotonic milliseconds.
//! Output: a [`Contact`] per board, the next deadline, and whether so many are silent that the fault
//! is more likely here ([`ContactBook::mass_silence`]): then nobody is evicted. Invariants: a new book
//! judges nobody before it was heard or had a full grace period; a judge that overslept (a frozen or
//! starved process) gives everybody a fresh period, because it did not listen either. Nothing here is
//! stored: a new leader begins with an empty book.

use std::collections::BTreeMap;

use model::limits::{
    CONTACT_BOARDS_MAX, CONTACT_CONFIRM_MILLIS, CONTACT_GONE_MILLIS, CONTACT_GRACE_MILLIS,
    CONTACT_LATE_MILLIS, CONTACT_SILENCE_MILLIS,
};

/// What is known of a board's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Contact {
    /// Not heard yet, and its grace period is not over: what is stored of it holds.
    #[default]
    Unjudged,
    /// It speaks.
    Heard,
    /// It is silent or cut off.
    Lost,
}

/// How long silence is borne; the defaults are those of `model::limits`.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the end of a session to the judgement, unless the board is back.
    pub gone_millis: u64,
    /// From the last message to the suspicion.
    pub silence_millis: u64,
    /// From the first look at a board that was never heard.
    pub grace_millis: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            gone_millis: CONTACT_GONE_MILLIS,
            silence_millis: CONTACT_SILENCE_MILLIS,
            grace_millis: CONTACT_GRACE_MILLIS,
        }
    }
}

/// One board, as `kumquat status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The judgement.
    pub contact: Contact,
    /// Since it was heard last, or first waited for.
    pub silent_millis: u64,
}

/// All boards.
#[derive(Debug)]
pub struct ContactBook {
    patience: Patience,
    boards: BTreeMap<Box<str>, Board>,
    /// What [`Self::deadline`] last said: a judgement much later than that overslept.
    planned: Option<u64>,
}

#[derive(Debug)]
struct Board {
    /// A Node of this name exists.
    is_node: bool,
    contact: Contact,
    /// When it was heard last, or when waiting for it began.
    since: u64,
    /// When its session ended.
    gone: Option<u64>,
    /// When its silence was first found too long: messages under way may still save it.
    suspect: Option<u64>,
}

impl Board {
    fn new(now: u64) -> Self {
        Self { is_node: false, contact: Contact::Unjudged, since: now, gone: None, suspect: None }
    }

    /// When it is to be looked at again, if nothing happens.
    fn deadline(&self, patience: &Patience) -> Option<u64> {
        let silent = |limit: u64| match self.suspect {
            Some(suspect) => suspect + CONTACT_CONFIRM_MILLIS,
            None => self.since + limit,
        };
        match self.contact {
            Contact::Lost => None,
            Contact::Unjudged => Some(silent(patience.grace_millis)),
            Contact::Heard => {
                let silent = silent(patience.silence_millis);
                Some(self.gone.map_or(silent, |gone| silent.min(gone + patience.gone_millis)))
            }
        }
    }

    /// Whether it is lost, at a time past its deadline.
    fn judge(&mut self, patience: &Patience, now: u64) -> bool {
        let cut = self.gone.is_some_and(|gone| now >= gone + patience.gone_millis);
        if !(cut && self.contact == Contact::Heard) && self.suspect.is_none() {
            self.suspect = Some(now);
            return false;
        }
        self.contact = Contact::Lost;
        self.suspect = None;
        true
    }
}

impl ContactBook {
    /// An empty book.
    pub fn new(patience: Patience) -> Self {
        Self { patience, boards: BTreeMap::new(), planned: None }
    }

    /// A message of this board came in. `true` when that changes the judgement.
    pub fn heard(&mut self, board: &str, now: u64) -> bool {
        let Some(entry) = self.entry(board, now) else { return false };
        entry.since = now;
        entry.suspect = None;
        let changed = entry.contact != Contact::Heard;
        if changed {
            // Only then: a message that was under way when the session ended is no sign of life.
            entry.gone = None;
        }
        entry.contact = Contact::Heard;
        changed
    }

    /// A session of this board began. It is heard when it says something.
    pub fn connected(&mut self, board: &str) {
        if let Some(entry) = self.boards.get_mut(board) {
            entry.gone = None;
        }
    }

    /// The session of this board ended.
    pub fn gone(&mut self, board: &str, now: u64) {
        if let Some(entry) = self.boards.get_mut(board) {
            entry.gone.get_or_insert(now);
        }
    }

    /// A Node of this name exists.
    pub fn node_exists(&mut self, board: &str, now: u64) {
        let new = || Board::new(now);
        self.boards.entry(board.into()).or_insert_with(new).is_node = true;
    }

    /// The Node of this name is gone.
    pub fn node_gone(&mut self, board: &str) {
        if let Some(entry) = self.boards.get_mut(board) {
            entry.is_node = false;
            if entry.contact != Contact::Heard {
                self.boards.remove(board);
            }
        }
    }

    /// Judges whoever is over the time; gives the names of those that became lost.
    pub fn judge(&mut self, now: u64) -> Vec<Box<str>> {
        if self.planned.take().is_some_and(|planned| now > planned + CONTACT_LATE_MILLIS) {
            self.start_over(now);
        }
        let mut lost = Vec::new();
        for (name, board) in &mut self.boards {
            let due = board.deadline(&self.patience).is_some_and(|deadline| deadline <= now);
            if due && board.judge(&self.patience, now) {
                lost.push(name.clone());
            }
        }
        self.boards.retain(|_, board| board.is_node || board.contact != Contact::Lost);
        lost
    }

    /// When [`Self::judge`] is to be called next, if nothing happens before.
    pub fn deadline(&mut self) -> Option<u64> {
        let patience = self.patience;
        self.planned = self.boards.values().filter_map(|board| board.deadline(&patience)).min();
        self.planned
    }

    /// The judgement on a board.
    pub fn contact(&self, board: &str) -> Contact {
        self.boards.get(board).map(|board| board.contact).unwrap_or_default()
    }

    /// Whether more than half of the boards that have a Node are lost.
    pub fn mass_silence(&self) -> bool {
        let (lost, all) = self.lost_of();
        lost * 2 > all
    }

    /// Boards with a Node that are lost, and all of them.
    pub fn lost_of(&self) -> (usize, usize) {
        let nodes = self.boards.values().filter(|board| board.is_node);
        nodes.fold((0, 0), |(lost, all), board| {
            (lost + usize::from(board.contact == Contact::Lost), all + 1)
        })
    }

    /// The boards that are lost, by name.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        let boards = self.boards.iter();
        boards.filter(|(_, board)| board.contact == Contact::Lost).map(|(name, _)| &**name)
    }

    /// Every board and how it was seen.
    pub fn seen(&self, now: u64) -> impl Iterator<Item = (&str, Seen)> {
        self.boards.iter().map(move |(name, board)| {
            let silent_millis = now.saturating_sub(board.since);
            (&**name, Seen { contact: board.contact, silent_millis })
        })
    }

    /// Nobody was listened to for a while: everybody gets a fresh period.
    fn start_over(&mut self, now: u64) {
        for board in self.boards.values_mut() {
            board.since = now;
            board.suspect = None;
            board.gone = board.gone.map(|_| now);
        }
    }

    /// The board, if there is room to remember one without a Node.
    fn entry(&mut self, board: &str, now: u64) -> Option<&mut Board> {
        let full = self.boards.len() >= CONTACT_BOARDS_MAX;
        if full && !self.boards.contains_key(board) {
            return None;
        }
        Some(self.boards.entry(board.into()).or_insert_with(|| Board::new(now)))
    }
}

#[cfg(test)]
mod tests;
