//! Boards without a token that wait for a person to let them in.
//!
//! In the memory of the leader only: a board asks again every few seconds, so a new leader knows it
//! soon. Nothing is believed of a board that waits but its key, which it has proven to have; the six words
//! that both sides show ([`model::words`]) tell a person that no third party sits between them. They are
//! there once the board has opened its nonce, after it was told this side's.
//! Bounds: so many boards in all and of one address, each for a while; further ones are refused.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::limits::{PENDING_BOARDS_MAX, PENDING_PER_ADDRESS_MAX, PENDING_SECONDS_MAX};
use model::timestamp::Timestamp;
use model::token::TokenRole;
use model::words::{self, Nonce};
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
    /// What it wants to become at most, if it says so.
    pub role: Option<TokenRole>,
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
    /// What it opens is not what it has committed itself to.
    #[error("the board opens another nonce than it has committed itself to")]
    Nonce,
    /// The system's randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
    /// As many as there may be.
    #[error("too many boards wait to be let in: try again in some minutes, or use a token")]
    Full,
    /// None of that name and these words.
    #[error(
        "no board waits as {0} with these words: `kumquat board list` shows those that do; on the \
         board: `kumquat up --join`"
    )]
    Absent(String),
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
    exchange: Exchange,
}

/// The nonces behind the words.
struct Exchange {
    commitment: [u8; 32],
    /// Of this side: made when the commitment came.
    own: Nonce,
    /// The board's, once opened.
    opened: Option<Nonce>,
}

/// What a board says of its nonce.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    pub(super) commitment: [u8; 32],
    pub(super) nonce: Option<Nonce>,
}

/// What comes of an ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    /// The board is new, or has another name than before.
    pub(super) is_new: bool,
    /// This side's nonce.
    pub(super) nonce: Nonce,
}

impl Exchange {
    fn begin(commitment: [u8; 32]) -> Result<Self, PendingError> {
        Ok(Self { commitment, own: nonce()?, opened: None })
    }

    /// A nonce counts only for a commitment that was here before it.
    fn open(&mut self, key: &[u8; 32], nonce: Nonce) -> Result<(), PendingError> {
        if words::commitment(key, &nonce) != self.commitment {
            return Err(PendingError::Nonce);
        }
        self.opened = Some(nonce);
        Ok(())
    }
}

impl Entry {
    /// What both sides show, once both nonces are known.
    fn words(&self, authority: &[u8; 32]) -> Option<String> {
        let Exchange { own, opened, .. } = &self.exchange;
        Some(words::phrase(&self.board.key, authority, [opened.as_ref()?, own]))
    }
}

impl PendingBoards {
    /// None yet, at the cluster whose authority has this pin.
    pub fn new(authority: [u8; 32]) -> Self {
        Self { authority, waiting: Arc::default() }
    }

    /// The boards that wait, the longest waiting first.
    pub fn list(&self) -> Vec<PendingInfo> {
        let waiting = self.lock(Instant::now());
        let shown = waiting.iter().filter_map(|entry| {
            let board = &entry.board;
            Some(PendingInfo {
                name: board.name.clone(),
                address: board.address.to_string(),
                version: board.version.clone(),
                words: entry.words(&self.authority)?,
                since: board.since.to_string(),
            })
        });
        shown.collect()
    }

    /// A board asked.
    pub(super) fn note(&self, board: Pending, said: Said) -> Result<Noted, PendingError> {
        self.note_at(board, said, Instant::now())
    }

    fn note_at(&self, board: Pending, said: Said, now: Instant) -> Result<Noted, PendingError> {
        let mut waiting = self.lock(now);
        let known = waiting.iter_mut().find(|entry| entry.board.key == board.key);
        if let Some(known) = known {
            if known.exchange.commitment != said.commitment {
                known.exchange = Exchange::begin(said.commitment)?;
            } else if let Some(nonce) = said.nonce {
                known.exchange.open(&board.key, nonce)?;
            }
            let since = known.board.since;
            let is_new = known.board.name != board.name;
            known.board = Pending { since, ..board };
            known.asked = now;
            return Ok(Noted { is_new, nonce: known.exchange.own });
        }
        let neighbours =
            waiting.iter().filter(|entry| entry.board.address == board.address).count();
        if waiting.len() >= PENDING_BOARDS_MAX || neighbours >= PENDING_PER_ADDRESS_MAX {
            return Err(PendingError::Full);
        }
        // A nonce that comes with its commitment was opened for somebody else: the board begins anew.
        let exchange = Exchange::begin(said.commitment)?;
        let nonce = exchange.own;
        waiting.push(Entry { board, began: now, asked: now, exchange });
        Ok(Noted { is_new: true, nonce })
    }

    /// The board of that name and these words, with the words. Without words it would be whoever waits
    /// under the name at this moment, and anybody may.
    pub(super) fn find(&self, name: &str, words: &str) -> Result<(Pending, String), PendingError> {
        let wanted = normal(words);
        let waiting = self.lock(Instant::now());
        let named = waiting.iter().filter(|entry| entry.board.name == name);
        let mut shown =
            named.filter_map(|entry| Some((&entry.board, entry.words(&self.authority)?)));
        let found = shown.find(|(_, shown)| normal(shown) == wanted);
        let (board, shown) = found.ok_or_else(|| PendingError::Absent(name.into()))?;
        Ok((board.clone(), shown))
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

/// A fresh one.
pub(super) fn nonce() -> Result<Nonce, PendingError> {
    let mut own = [0; 32];
    getrandom::fill(&mut own).map_err(PendingError::Random)?;
    Ok(own)
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
            role: None,
            since: Timestamp(0),
        }
    }

    /// What a board with this nonce says, first and then.
    fn said(key: u8, nonce: u8, opens: bool) -> Said {
        let commitment = words::commitment(&[key; 32], &[nonce; 32]);
        Said { commitment, nonce: opens.then_some([nonce; 32]) }
    }

    /// Both steps of a board; what it shows then.
    fn waits(waiting: &PendingBoards, board: Pending, nonce: u8) -> String {
        let key = board.key;
        let first = waiting.note(board.clone(), said(key[0], nonce, false)).unwrap();
        let second = waiting.note(board, said(key[0], nonce, true)).unwrap();
        assert_eq!(first.nonce, second.nonce);
        words::phrase(&key, &[9; 32], [&[nonce; 32], &first.nonce])
    }

    #[test]
    fn boards_of_one_name_are_told_apart_by_their_words() {
        let waiting = PendingBoards::new([9; 32]);
        let first = waits(&waiting, board("pi-4", 1, [10, 0, 0, 1]), 5);
        assert_eq!(waiting.find("pi-4", &first).unwrap().0.key, [1; 32]);
        let second = waits(&waiting, board("pi-4", 2, [10, 0, 0, 2]), 5);
        assert_ne!(first, second);
        let words = second.to_uppercase().replace(' ', "-");
        assert_eq!(waiting.find("pi-4", &words).unwrap().0.key, [2; 32]);
        for (name, words) in [("pi-4", "a b"), ("pi-4", ""), ("pi-5", &*first)] {
            assert!(matches!(waiting.find(name, words), Err(PendingError::Absent(..))), "{words}");
        }
        assert_eq!(waiting.list().len(), 2);
        assert_eq!(waiting.list()[0].words, first);
        waiting.forget(&[2; 32]);
        // The one that is left under the name is not the one whose words were compared.
        assert!(waiting.find("pi-4", &second).is_err());
        assert_eq!(waiting.find("pi-4", &first).unwrap().0.key, [1; 32]);
    }

    #[test]
    fn a_nonce_counts_only_after_its_commitment() {
        let waiting = PendingBoards::new([9; 32]);
        let pi = || board("pi-4", 1, [10, 0, 0, 1]);
        // Opened at once: it knows what the other side's would be only when it is too late for it.
        let at_once = waiting.note(pi(), said(1, 5, true)).unwrap();
        assert!(waiting.list().is_empty() && waiting.find("pi-4", "").is_err());
        let other = Said { nonce: Some([6; 32]), ..said(1, 5, false) };
        assert!(matches!(waiting.note(pi(), other), Err(PendingError::Nonce)));
        assert!(waiting.list().is_empty());
        // Another commitment has another answer, and what was opened before is forgotten.
        waiting.note(pi(), said(1, 5, true)).unwrap();
        assert_eq!(waiting.list().len(), 1);
        let anew = waiting.note(pi(), said(1, 7, true)).unwrap();
        assert_ne!(anew.nonce, at_once.nonce);
        assert!(waiting.list().is_empty());
        assert!(!anew.is_new, "it is the same board");
    }

    #[test]
    fn so_many_and_for_so_long() {
        let waiting = PendingBoards::new([9; 32]);
        let now = Instant::now();
        let crowd = 2 * PENDING_BOARDS_MAX;
        let taken = (0..crowd).filter(|n| {
            let address = [10, 0, 0, (n / (PENDING_PER_ADDRESS_MAX + 2)) as u8];
            waiting.note_at(board("x", *n as u8, address), said(1, 1, false), now).is_ok()
        });
        assert_eq!(taken.count(), PENDING_BOARDS_MAX);
        assert!(waiting.note_at(board("y", 200, [10, 9, 0, 1]), said(1, 1, false), now).is_err());
        let later = now + SILENT_AFTER;
        assert!(
            waiting
                .note_at(board("y", 200, [10, 9, 0, 1]), said(1, 1, false), later)
                .unwrap()
                .is_new
        );
        let mut at = later;
        while at < later + Duration::from_secs(PENDING_SECONDS_MAX) {
            assert!(waiting.lock(at).iter().any(|entry| entry.board.name == "y"), "{at:?}");
            let _known = waiting.note_at(board("y", 200, [10, 9, 0, 1]), said(1, 1, false), at);
            at += SILENT_AFTER / 2;
        }
        assert_eq!(waiting.lock(at).len(), 0, "a board that waits for too long");
    }
}
