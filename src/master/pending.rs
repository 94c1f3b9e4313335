//! Boards without a token that wait for a person to let them in.
//!
//! In the memory of the leader only: a board asks again every few seconds, so a new leader knows it
//! soon. Nothing is believed of a board that waits but its key; the six words that both sides show
//! ([`model::words`]) tell a person that no third party sits between them.
//! Bounds: so many boards in all and of one address, each for a while; further ones are refused.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::limits::{PENDING_BOARDS_MAX, PENDING_PER_ADDRESS_MAX, PENDING_SECONDS_MAX};
use model::timestamp::Timestamp;
use model::token::TokenRole;
use model::words;
use serde::Serialize;

/// A board that has not asked again for this long has given up.
const SILENT_AFTER: Duration = Duration::from_secs(30);

/// A board that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The name that it wants.
    pub name: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: [u8; 32],
    /// Where it asks from.
    pub address: IpAddr,
    /// Its version of kumquat.
    pub version: String,
    /// What it may become.
    pub role: TokenRole,
    /// When it first asked, in cluster time.
    pub since: Timestamp,
}

/// The same for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingInfo {
    /// The name that it wants.
    pub name: String,
    /// Where it asks from.
    pub address: String,
    /// Its version of kumquat.
    pub version: String,
    /// What the board shows, too.
    pub words: String,
    /// When it first asked, RFC 3339.
    pub since: String,
}

/// Why a board does not wait, or is not found.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// As many as there may be.
    #[error("too many boards wait to be let in: try again in some minutes, or use a token")]
    Full,
    /// None of that name, or of these words.
    #[error(
        "no board waits as {0}{1}: `kumquat board list` shows those that do; on the board: \
         `kumquat up --join`"
    )]
    Absent(String, &'static str),
    /// Several of that name.
    #[error(
        "{1} boards wait as {0}: say which by the words that it shows, `kumquat board approve {0} \
         --words \"...\"`"
    )]
    Ambiguous(String, usize),
}

/// The boards that wait; clones share them.
#[derive(Clone)]
pub struct PendingBoards {
    authority: [u8; 32],
    waiting: Arc<Mutex<Vec<Entry>>>,
}

struct Entry {
    board: Pending,
    began: Instant,
    asked: Instant,
}

impl PendingBoards {
    /// None yet, at the cluster whose authority has this pin.
    pub fn new(authority: [u8; 32]) -> Self {
        Self { authority, waiting: Arc::default() }
    }

    /// The boards that wait, the longest waiting first.
    pub fn list(&self) -> Vec<PendingInfo> {
        let waiting = self.lock(Instant::now());
        let infos = waiting.iter().map(|Entry { board, .. }| PendingInfo {
            name: board.name.clone(),
            address: board.address.to_string(),
            version: board.version.clone(),
            words: self.phrase(&board.key),
            since: board.since.to_string(),
        });
        infos.collect()
    }

    /// What a board with this key shows.
    pub fn phrase(&self, key: &[u8; 32]) -> String {
        words::phrase(key, &self.authority)
    }

    /// A board asked; whether it is new.
    pub(super) fn note(&self, board: Pending) -> Result<bool, PendingError> {
        self.note_at(board, Instant::now())
    }

    fn note_at(&self, board: Pending, now: Instant) -> Result<bool, PendingError> {
        let mut waiting = self.lock(now);
        let known = waiting.iter_mut().find(|entry| entry.board.key == board.key);
        if let Some(known) = known {
            let since = known.board.since;
            let is_new = known.board.name != board.name;
            known.board = Pending { since, ..board };
            known.asked = now;
            return Ok(is_new);
        }
        let neighbours =
            waiting.iter().filter(|entry| entry.board.address == board.address).count();
        if waiting.len() >= PENDING_BOARDS_MAX || neighbours >= PENDING_PER_ADDRESS_MAX {
            return Err(PendingError::Full);
        }
        waiting.push(Entry { board, began: now, asked: now });
        Ok(true)
    }

    /// The one board of that name, and of these words if they are given.
    pub(super) fn find(&self, name: &str, words: Option<&str>) -> Result<Pending, PendingError> {
        let wanted = words.map(normal);
        let waiting = self.lock(Instant::now());
        let named = waiting.iter().map(|entry| &entry.board).filter(|board| {
            let shown = || normal(&self.phrase(&board.key));
            board.name == name && wanted.as_ref().is_none_or(|wanted| *wanted == shown())
        });
        let found: Vec<&Pending> = named.collect();
        match found[..] {
            [board] => Ok(board.clone()),
            [] => {
                let which = words.map_or("", |_| " with these words");
                Err(PendingError::Absent(name.into(), which))
            }
            _ => Err(PendingError::Ambiguous(name.into(), found.len())),
        }
    }

    /// A board is in.
    pub(super) fn forget(&self, key: &[u8; 32]) {
        self.lock(Instant::now()).retain(|entry| entry.board.key != *key);
    }

    /// Those that still wait.
    fn lock(&self, now: Instant) -> MutexGuard<'_, Vec<Entry>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = Duration::from_secs(PENDING_SECONDS_MAX);
        waiting.retain(|entry| {
            now.saturating_duration_since(entry.asked) < SILENT_AFTER
                && now.saturating_duration_since(entry.began) < patience
        });
        waiting
    }
}

/// However a person writes the words: as many spaces, dashes and capitals as they like.
fn normal(words: &str) -> Vec<String> {
    let parts = words.split(|c: char| !c.is_ascii_alphabetic()).filter(|part| !part.is_empty());
    parts.map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(name: &str, key: u8, address: [u8; 4]) -> Pending {
        Pending {
            name: name.into(),
            key: [key; 32],
            address: address.into(),
            version: "0.3.0".into(),
            role: TokenRole::Auto,
            since: Timestamp(0),
        }
    }

    #[test]
    fn boards_of_one_name_are_told_apart_by_their_words() {
        let waiting = PendingBoards::new([9; 32]);
        assert!(waiting.note(board("pi-4", 1, [10, 0, 0, 1])).unwrap());
        assert!(!waiting.note(board("pi-4", 1, [10, 0, 0, 1])).unwrap(), "it asks again");
        assert_eq!(waiting.find("pi-4", None).unwrap().key, [1; 32]);
        assert!(waiting.note(board("pi-4", 2, [10, 0, 0, 2])).unwrap(), "somebody else");
        assert!(matches!(waiting.find("pi-4", None), Err(PendingError::Ambiguous(_, 2))));
        let words = waiting.phrase(&[2; 32]).to_uppercase().replace(' ', "-");
        assert_eq!(waiting.find("pi-4", Some(&words)).unwrap().key, [2; 32]);
        assert!(matches!(waiting.find("pi-4", Some("a b")), Err(PendingError::Absent(..))));
        assert!(matches!(waiting.find("pi-5", None), Err(PendingError::Absent(..))));
        assert_eq!(waiting.list().len(), 2);
        assert_eq!(waiting.list()[0].words, waiting.phrase(&[1; 32]));
        waiting.forget(&[2; 32]);
        assert_eq!(waiting.find("pi-4", None).unwrap().key, [1; 32]);
    }

    #[test]
    fn so_many_and_for_so_long() {
        let waiting = PendingBoards::new([9; 32]);
        let now = Instant::now();
        let crowd = 2 * PENDING_BOARDS_MAX;
        let taken = (0..crowd).filter(|n| {
            let address = [10, 0, 0, (n / (PENDING_PER_ADDRESS_MAX + 2)) as u8];
            waiting.note_at(board("x", *n as u8, address), now).is_ok()
        });
        assert_eq!(taken.count(), PENDING_BOARDS_MAX);
        assert!(waiting.note_at(board("y", 200, [10, 9, 0, 1]), now).is_err());
        let later = now + SILENT_AFTER;
        assert!(waiting.note_at(board("y", 200, [10, 9, 0, 1]), later).unwrap());
        let mut at = later;
        while at < later + Duration::from_secs(PENDING_SECONDS_MAX) {
            assert!(waiting.lock(at).iter().any(|entry| entry.board.name == "y"), "{at:?}");
            let _known = waiting.note_at(board("y", 200, [10, 9, 0, 1]), at);
            at += SILENT_AFTER / 2;
        }
        assert_eq!(waiting.lock(at).len(), 0, "a board that waits for too long");
    }
}
