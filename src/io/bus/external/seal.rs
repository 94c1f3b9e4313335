//! Messages sealed for a broker that is not trusted: ChaCha20-Poly1305 (RFC 8439) with a sequence
//! number against replays.
//!
//! ```text
//! [version 1][id 8][sequence 8, little-endian][ciphertext and tag]
//! ```
//! The id says which secret; each direction has a key of its own, derived by HKDF-SHA256 (RFC 5869).
//! The topic is authenticated too, so that a message means nothing elsewhere. The nonce is the
//! sequence: no key ever seals two messages with one.

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

const VERSION: u8 = 1;
const ID_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + ID_BYTES + 8;
/// What a seal adds to a message.
pub const SEAL_BYTES: usize = HEAD_BYTES + 16;
const SALT: &[u8] = b"kumquat sealed bus 1";
/// The sequence of a will, which is sealed before anything is said and sent after everything.
const LAST: u64 = u64::MAX;

/// Which secret.
pub(super) type Id = [u8; ID_BYTES];
/// A secret that keys are made from.
pub(super) type Secret = [u8; 32];

/// Who says something to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A board to its master.
    Up,
    /// The broker in place of a board that vanished.
    Will,
    /// A master to one board.
    Down,
    /// A master to all boards.
    All,
}

impl Direction {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Up => b"up",
            Self::Will => b"will",
            Self::Down => b"down",
            Self::All => b"all",
        }
    }
}

/// Why a sealed message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSeal {
    /// It is of another secret.
    #[error("it is sealed with a key of another session")]
    Other,
    /// It came before, or too late.
    #[error("it was seen before")]
    Replayed,
    /// Nobody with the secret made it, or not for this topic.
    #[error("it is forged or damaged")]
    Forged,
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        CHACHA20_POLY1305.key_len()
    }
}

fn key(secret: &Secret, id: &Id, direction: Direction) -> LessSafeKey {
    let info = [direction.label(), id];
    let pseudo = Salt::new(HKDF_SHA256, SALT).extract(secret);
    let okm = pseudo.expand(&info, KeyLength).expect("32 bytes are within what HKDF gives");
    let mut bytes = [0; 32];
    okm.fill(&mut bytes).expect("the length is the key type's");
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
    LessSafeKey::new(key.expect("the length is the algorithm's"))
}

fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&sequence.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn head(id: &Id, sequence: u64) -> [u8; HEAD_BYTES] {
    let mut head = [VERSION; HEAD_BYTES];
    head[1..=ID_BYTES].copy_from_slice(id);
    head[1 + ID_BYTES..].copy_from_slice(&sequence.to_le_bytes());
    head
}

/// Which secret a sealed message names, whoever made it.
pub(super) fn id_of(sealed: &[u8]) -> Option<Id> {
    let (head, _) = sealed.split_at_checked(HEAD_BYTES)?;
    (head[0] == VERSION).then(|| head[1..=ID_BYTES].try_into().expect("eight bytes"))
}

/// Seals messages of one direction, each with the next sequence number.
pub struct Sealer {
    key: LessSafeKey,
    id: Id,
    sequence: u64,
}

impl Sealer {
    /// Of this secret.
    pub fn new(secret: &Secret, id: Id, direction: Direction) -> Self {
        Self { key: key(secret, &id, direction), id, sequence: 0 }
    }

    /// The sequence number of the last message.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A message for this topic.
    pub fn seal(&mut self, topic: &str, plain: &[u8]) -> Vec<u8> {
        self.sequence += 1;
        self.seal_as(self.sequence, topic, plain)
    }

    /// The one message of a direction that is sent last.
    pub fn seal_last(&self, topic: &str, plain: &[u8]) -> Vec<u8> {
        self.seal_as(LAST, topic, plain)
    }

    fn seal_as(&self, sequence: u64, topic: &str, plain: &[u8]) -> Vec<u8> {
        let head = head(&self.id, sequence);
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES);
        sealed.extend_from_slice(&head);
        sealed.extend_from_slice(plain);
        let aad = Aad::from([&head, topic.as_bytes()].concat());
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(sequence), aad, &mut sealed[HEAD_BYTES..])
            .expect("messages are far smaller than what the algorithm takes");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }
}

/// Opens messages of one direction, each later than the one before.
pub struct Opener {
    key: LessSafeKey,
    id: Id,
    /// The highest sequence number that was seen.
    seen: u64,
}

impl Opener {
    /// Of this secret; messages up to `seen` are not taken.
    pub fn new(secret: &Secret, id: Id, direction: Direction, seen: u64) -> Self {
        Self { key: key(secret, &id, direction), id, seen }
    }

    /// Opens a message that came by this topic; gives its sequence number and what it says.
    ///
    /// # Errors
    /// [`BadSeal`]; nothing of it may be believed then.
    pub fn open(&mut self, topic: &str, sealed: &[u8]) -> Result<(u64, Bytes), BadSeal> {
        let opened = self.look(topic, sealed)?;
        self.accept(opened.0);
        Ok(opened)
    }

    /// The message with this number is believed: those up to it count as seen.
    pub fn accept(&mut self, sequence: u64) {
        self.seen = self.seen.max(sequence);
    }

    /// As [`Self::open`], without taking it for seen: there is more to be judged.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look(&self, topic: &str, sealed: &[u8]) -> Result<(u64, Bytes), BadSeal> {
        if id_of(sealed) != Some(self.id) {
            return Err(BadSeal::Other);
        }
        let (head, body) = sealed.split_at(HEAD_BYTES);
        let sequence =
            u64::from_le_bytes(head[1 + ID_BYTES..].try_into().expect("eight bytes are left"));
        if sequence <= self.seen {
            return Err(BadSeal::Replayed);
        }
        let aad = Aad::from([head, topic.as_bytes()].concat());
        let mut body = body.to_vec();
        let plain = self.key.open_in_place(nonce(sequence), aad, &mut body);
        let bytes = plain.map_err(|_| BadSeal::Forged)?.len();
        body.truncate(bytes);
        Ok((sequence, body.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Secret = [7; 32];
    const ID: Id = *b"session1";
    const TOPIC: &str = "kumquat/home/nodes/pi-1/up/beat";

    fn ends() -> (Sealer, Opener) {
        let opener = Opener::new(&SECRET, ID, Direction::Up, 0);
        (Sealer::new(&SECRET, ID, Direction::Up), opener)
    }

    #[test]
    fn what_is_sealed_comes_back_once() {
        let (mut sealer, mut opener) = ends();
        let first = sealer.seal(TOPIC, b"one");
        let second = sealer.seal(TOPIC, b"");
        assert_eq!(first.len(), 3 + SEAL_BYTES);
        assert!(!first.windows(3).any(|part| part == b"one"), "it cannot be read");
        assert_eq!(opener.open(TOPIC, &first), Ok((1, Bytes::from_static(b"one"))));
        assert_eq!(opener.open(TOPIC, &first), Err(BadSeal::Replayed));
        assert_eq!(opener.open(TOPIC, &second), Ok((2, Bytes::new())));
        assert_eq!(opener.open(TOPIC, &first), Err(BadSeal::Replayed), "and stays so");
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let sealed = ends().0.seal(TOPIC, b"status");
        for at in 0..sealed.len() * 8 {
            let mut forged = sealed.clone();
            forged[at / 8] ^= 1 << (at % 8);
            assert!(ends().1.open(TOPIC, &forged).is_err(), "bit {at}");
        }
        for short in 0..sealed.len() {
            assert!(ends().1.open(TOPIC, &sealed[..short]).is_err(), "{short} bytes");
        }
        assert!(ends().1.open(TOPIC, &sealed).is_ok());
    }

    #[test]
    fn a_message_counts_in_its_place_only() {
        let sealed = ends().0.seal(TOPIC, b"x");
        let other_topic = TOPIC.replace("pi-1", "pi-2");
        assert_eq!(ends().1.open(&other_topic, &sealed), Err(BadSeal::Forged));
        let mut down = Opener::new(&SECRET, ID, Direction::Down, 0);
        assert_eq!(down.open(TOPIC, &sealed), Err(BadSeal::Forged));
        let mut later = Opener::new(&SECRET, *b"session2", Direction::Up, 0);
        assert_eq!(later.open(TOPIC, &sealed), Err(BadSeal::Other));
        let mut stranger = Opener::new(&[8; 32], ID, Direction::Up, 0);
        assert_eq!(stranger.open(TOPIC, &sealed), Err(BadSeal::Forged));
        let mut late = Opener::new(&SECRET, ID, Direction::Up, 1);
        assert_eq!(late.open(TOPIC, &sealed), Err(BadSeal::Replayed), "before it joined");
    }

    #[test]
    fn a_will_is_the_last_word() {
        let sealer = Sealer::new(&SECRET, ID, Direction::Will);
        let will = sealer.seal_last(TOPIC, b"");
        let mut opener = Opener::new(&SECRET, ID, Direction::Will, 0);
        assert_eq!(opener.open(TOPIC, &will), Ok((u64::MAX, Bytes::new())));
        assert_eq!(opener.open(TOPIC, &will), Err(BadSeal::Replayed));
    }
}
