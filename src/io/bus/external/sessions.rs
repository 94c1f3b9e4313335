//! The master's keys: one session per board, and one secret that all boards share.
//!
//! A board asks for a session over the tunnel, which knows who it is; a new one counts from its first
//! message on, and then the one before does not. What is said to all is sealed with the shared secret
//! and signed, because every board has that secret. It is made anew when a board is evicted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::limits::BUS_CONNECTIONS_MAX;
use serde::{Deserialize, Serialize};

use super::seal::{Direction, Id, Opener, Sealer, Secret, id_of};

/// What a board is given for one session.
#[derive(Serialize, Deserialize)]
pub struct SessionGrant {
    /// Which session.
    pub id: Id,
    /// Of it.
    pub secret: Secret,
    /// What all boards share.
    pub shared: SharedGrant,
}

/// What all boards are given.
#[derive(Clone, Serialize, Deserialize)]
pub struct SharedGrant {
    /// Which secret.
    pub id: Id,
    /// The secret.
    pub secret: Secret,
    /// Messages up to this number were before.
    pub sequence: u64,
}

/// What a message of a board is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Nothing that can be believed.
    Nothing,
    /// Said in a session; the number of the session when this is its first message.
    Said { came: Option<u64>, payload: Bytes },
    /// The session is over.
    Went,
}

/// The keys of all boards; clones share them.
#[derive(Clone)]
pub struct Sessions(Arc<Mutex<State>>);

impl std::fmt::Debug for Sessions {
    /// Without any secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

struct State {
    boards: HashMap<String, Board>,
    shared: Shared,
    count: u64,
}

#[derive(Default)]
struct Board {
    current: Option<Session>,
    /// Granted, and nothing was said in it yet.
    next: Option<Session>,
}

struct Session {
    number: u64,
    /// The key that the board has shown.
    key: [u8; 32],
    id: Id,
    up: Opener,
    will: Opener,
    down: Sealer,
}

struct Shared {
    id: Id,
    secret: Secret,
    sealer: Sealer,
}

/// The system gives no random bytes, so there can be no keys.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

impl Shared {
    fn new() -> Result<Self, NoRandomness> {
        let (id, secret) = (random()?, random()?);
        Ok(Self { id, secret, sealer: Sealer::new(&secret, id, Direction::All) })
    }
}

impl Sessions {
    /// No board has any.
    ///
    /// # Errors
    /// There is no randomness to make keys of.
    pub fn new() -> Result<Self, NoRandomness> {
        let state = State { boards: HashMap::new(), shared: Shared::new()?, count: 0 };
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// A new session for a board that has shown this key; `None` when there are too many boards, or no
    /// randomness.
    pub fn grant(&self, board: &str, key: [u8; 32]) -> Option<SessionGrant> {
        let (id, secret): (Id, Secret) = (random().ok()?, random().ok()?);
        let mut state = self.state();
        state.count += 1;
        let next = Session {
            number: state.count,
            key,
            id,
            up: Opener::new(&secret, id, Direction::Up, 0),
            will: Opener::new(&secret, id, Direction::Will, 0),
            down: Sealer::new(&secret, id, Direction::Down),
        };
        let is_full = state.boards.len() >= BUS_CONNECTIONS_MAX;
        match state.boards.entry(board.to_owned()) {
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(entry) => entry.insert(Board::default()).next = Some(next),
            Entry::Occupied(mut entry) => entry.get_mut().next = Some(next),
        }
        Some(SessionGrant { id, secret, shared: state.shared.grant() })
    }

    /// What all boards share at this moment.
    pub fn shared(&self) -> SharedGrant {
        self.state().shared.grant()
    }

    /// Makes what all boards share anew; boards notice and ask.
    pub(super) fn renew_shared(&self) {
        match Shared::new() {
            Ok(shared) => self.state().shared = shared,
            Err(error) => tracing::error!(%error, "the key of the bus is not made anew"),
        }
    }

    /// Ends whatever a board has; whether it had a session.
    pub(super) fn forget(&self, board: &str) -> bool {
        self.state().boards.remove(board).is_some_and(|known| known.current.is_some())
    }

    /// The key that the board of the present session has shown.
    pub(super) fn key_of(&self, board: &str) -> Option<[u8; 32]> {
        Some(self.state().boards.get(board)?.current.as_ref()?.key)
    }

    /// Opens what came from a board by this topic.
    pub(super) fn open(&self, board: &str, is_will: bool, topic: &str, sealed: &[u8]) -> Opened {
        let mut state = self.state();
        let Some(known) = state.boards.get_mut(board) else { return Opened::Nothing };
        let id = id_of(sealed);
        if is_will {
            let opened = known.current.as_mut().map(|current| current.will.open(topic, sealed));
            if !matches!(opened, Some(Ok(_))) {
                return Opened::Nothing;
            }
            known.current = None;
            return Opened::Went;
        }
        if let Some(next) = known.next.as_mut().filter(|next| id == Some(next.id)) {
            let Ok((_, payload)) = next.up.open(topic, sealed) else { return Opened::Nothing };
            let came = Some(next.number);
            known.current = known.next.take();
            return Opened::Said { came, payload };
        }
        match known.current.as_mut().map(|current| current.up.open(topic, sealed)) {
            Some(Ok((_, payload))) => Opened::Said { came: None, payload },
            _ => Opened::Nothing,
        }
    }

    /// Seals a message for a board; `None` without a session.
    pub(super) fn seal(&self, board: &str, topic: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.state();
        Some(state.boards.get_mut(board)?.current.as_mut()?.down.seal(topic, plain))
    }

    /// Signs and seals a message for all boards.
    pub(super) fn seal_for_all(
        &self,
        topic: &str,
        plain: &[u8],
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut state = self.state();
        let Shared { id, sealer, .. } = &mut state.shared;
        let signature = sign(&signed_bytes(id, sealer.sequence() + 1, topic, plain));
        let length = u8::try_from(signature.len()).expect("signatures are short");
        let signed = [&[length], signature.as_slice(), plain].concat();
        sealer.seal(topic, &signed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic stands between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn grant(&self) -> SharedGrant {
        SharedGrant { id: self.id, secret: self.secret, sequence: self.sealer.sequence() }
    }
}

/// What a leader signs of a message for all boards: it, its place and its number.
fn signed_bytes(id: &Id, sequence: u64, topic: &str, plain: &[u8]) -> Vec<u8> {
    let length = (topic.len() as u64).to_le_bytes();
    let sequence = sequence.to_le_bytes();
    [b"bus 1\0".as_slice(), id, &sequence, &length, topic.as_bytes(), plain].concat()
}

/// Opens messages for all boards; the counterpart of [`Sessions::seal_for_all`].
pub struct SharedOpener {
    id: Id,
    opener: Opener,
}

impl SharedOpener {
    /// With what the leader has given.
    pub fn new(grant: &SharedGrant) -> Self {
        let opener = Opener::new(&grant.secret, grant.id, Direction::All, grant.sequence);
        Self { id: grant.id, opener }
    }

    /// Whether the message is sealed with another secret than this one.
    pub fn is_of_another(&self, sealed: &[u8]) -> bool {
        id_of(sealed).is_some_and(|id| id != self.id)
    }

    /// What the leader said; `None` when it did not say that.
    pub fn open(
        &mut self,
        topic: &str,
        sealed: &[u8],
        is_leaders: impl FnOnce(&[u8], &[u8]) -> bool,
    ) -> Option<Bytes> {
        // Every board could make a message with a high number: only the leader's counts.
        let (sequence, signed) = self.opener.look(topic, sealed).ok()?;
        let length = usize::from(*signed.first()?);
        let (signature, plain) = signed.get(1..)?.split_at_checked(length)?;
        let bytes = signed_bytes(&self.id, sequence, topic, plain);
        if !is_leaders(&bytes, signature) {
            return None;
        }
        self.opener.accept(sequence);
        Some(signed.slice(1 + length..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "kumquat/home/nodes/pi-1/up/hello";
    const KEY: [u8; 32] = [1; 32];

    fn up(grant: &SessionGrant) -> Sealer {
        Sealer::new(&grant.secret, grant.id, Direction::Up)
    }

    #[test]
    fn a_session_counts_from_its_first_message() {
        let sessions = Sessions::new().expect("randomness");
        let first = sessions.grant("pi-1", KEY).expect("room");
        let mut old = up(&first);
        assert_eq!(sessions.seal("pi-1", "t", b"x"), None, "nothing was said in it");
        let said = |sealed: &[u8]| sessions.open("pi-1", false, TOPIC, sealed);
        let hello = old.seal(TOPIC, b"hello");
        let payload = Bytes::from_static(b"hello");
        assert_eq!(said(&hello), Opened::Said { came: Some(1), payload: payload.clone() });
        assert_eq!(said(&hello), Opened::Nothing, "replayed");
        assert_eq!(sessions.key_of("pi-1"), Some(KEY));
        let second = sessions.grant("pi-1", KEY).expect("room");
        let beat = old.seal(TOPIC, b"hello");
        assert_eq!(said(&beat), Opened::Said { came: None, payload: payload.clone() });
        let again = up(&second).seal(TOPIC, b"hello");
        assert_eq!(said(&again), Opened::Said { came: Some(2), payload });
        assert_eq!(said(&old.seal(TOPIC, b"hello")), Opened::Nothing, "the old one is over");
        let sealed = sessions.seal("pi-1", "down", b"pods").expect("a session");
        let mut down = Opener::new(&second.secret, second.id, Direction::Down, 0);
        assert_eq!(down.open("down", &sealed).expect("ours").1, Bytes::from_static(b"pods"));
        assert_eq!(sessions.open("pi-2", false, TOPIC, &hello), Opened::Nothing);
    }

    #[test]
    fn only_its_own_will_ends_a_session() {
        let sessions = Sessions::new().expect("randomness");
        let grant = sessions.grant("pi-1", KEY).expect("room");
        sessions.open("pi-1", false, TOPIC, &up(&grant).seal(TOPIC, b""));
        let will = |grant: &SessionGrant| {
            Sealer::new(&grant.secret, grant.id, Direction::Will).seal_last("will", b"")
        };
        let later = sessions.grant("pi-1", KEY).expect("room");
        assert_eq!(sessions.open("pi-1", true, "will", b"gone"), Opened::Nothing);
        assert_eq!(sessions.open("pi-1", true, "will", &will(&later)), Opened::Nothing);
        assert_eq!(sessions.open("pi-1", true, "will", &will(&grant)), Opened::Went);
        assert_eq!(sessions.open("pi-1", true, "will", &will(&grant)), Opened::Nothing);
        assert!(!sessions.forget("pi-1"), "it is over already");
    }

    #[test]
    fn only_the_leader_speaks_to_all() {
        let sessions = Sessions::new().expect("randomness");
        let sign = |bytes: &[u8]| bytes.iter().rev().take(8).copied().collect::<Vec<u8>>();
        let is_leaders = |bytes: &[u8], signature: &[u8]| sign(bytes) == signature;
        let before = sessions.seal_for_all("all/net", b"earlier", sign);
        let grant = sessions.shared();
        let mut board = SharedOpener::new(&grant);
        assert_eq!(board.open("all/net", &before, is_leaders), None, "before it asked");
        let sealed = sessions.seal_for_all("all/net", b"services", sign);
        let forged = Sealer::new(&grant.secret, grant.id, Direction::All);
        let by_a_board = forged.seal_last("all/net", &[&[2_u8, 0, 0][..], b"services"].concat());
        assert_eq!(board.open("all/net", &by_a_board, is_leaders), None);
        let said = Some(Bytes::from_static(b"services"));
        assert_eq!(board.open("all/net", &sealed, is_leaders), said);
        assert_eq!(board.open("all/net", &sealed, is_leaders), None, "replayed");
        sessions.renew_shared();
        let after = sessions.seal_for_all("all/net", b"services", sign);
        assert!(board.is_of_another(&after) && !board.is_of_another(&sealed));
        assert_eq!(board.open("all/net", &after, is_leaders), None);
        let mut renewed = SharedOpener::new(&SharedGrant { sequence: 0, ..sessions.shared() });
        assert_eq!(renewed.open("all/net", &after, is_leaders), said);
    }
}
