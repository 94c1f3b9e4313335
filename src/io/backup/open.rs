//! Reading a sealed stream.
//!
//! ```text
//! "KQBK" | format u16 | kind u8 | zero u8 | rounds u32 | salt 16 | id of the recovery key 8 | zeros 8 | check 16 | crc32c u32
//! ```
//! Little endian. `check` is the tag of nothing under the key: a wrong key is known before any record. The
//! whole head is authenticated with each record. Invariant: no byte is given out that was not
//! authenticated, and the end is an error unless it is the one that was sealed.

use std::io::{self, Read};
use std::num::NonZeroU32;

use model::limits::{BACKUP_KEY_ROUNDS_MAX, BACKUP_RECORD_BYTES};
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::BackupError;
use super::key::Secret;

const MAGIC: &[u8; 4] = b"KQBK";
const FORMAT: u16 = 1;
const PASSPHRASE: u8 = 1;
const RECOVERY: u8 = 2;
/// Bytes of the head.
pub(super) const HEAD_BYTES: usize = 64;
/// Where its check is.
pub(super) const CHECK_AT: usize = 44;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = BACKUP_RECORD_BYTES + TAG_BYTES;

/// Which record of a stream.
#[derive(Clone, Copy)]
pub(super) enum Nth {
    /// More follow.
    Inner(u64),
    /// It is the last.
    Last(u64),
    /// None: the check of the key.
    Check,
}

/// Each is used once under a file's key.
pub(super) fn nonce(nth: Nth) -> Nonce {
    let (number, sort) = match nth {
        Nth::Inner(number) => (number, 0_u32),
        Nth::Last(number) => (number, 1),
        Nth::Check => (0, 2),
    };
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&sort.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// What can be seen of a backup without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the cluster's recovery key opens it, and not a passphrase.
    pub is_recovery: bool,
    pub(super) rounds: u32,
    pub(super) salt: [u8; 16],
    pub(super) id: [u8; 8],
}

impl Header {
    /// Without check and sum, which need the key.
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[6] = if self.is_recovery { RECOVERY } else { PASSPHRASE };
        bytes[8..12].copy_from_slice(&self.rounds.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.salt);
        bytes[28..36].copy_from_slice(&self.id);
        bytes
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, BackupError> {
        let format = u16::from_le_bytes([bytes[4], bytes[5]]);
        if &bytes[..4] != MAGIC {
            return Err(BackupError::NoBackup);
        }
        let (covered, crc) = bytes.split_at(HEAD_BYTES - 4);
        let is_whole = crc32c::crc32c(covered).to_le_bytes() == crc;
        if !is_whole {
            return Err(BackupError::Head);
        }
        if format != FORMAT {
            return Err(BackupError::Format(format));
        }
        let rounds = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        let is_recovery = match (bytes[6], rounds) {
            (RECOVERY, 0) => true,
            (PASSPHRASE, 1..=BACKUP_KEY_ROUNDS_MAX) => false,
            _ => return Err(BackupError::Head),
        };
        let salt = bytes[12..28].try_into().expect("sixteen bytes");
        let id = bytes[28..36].try_into().expect("eight bytes");
        Ok(Self { is_recovery, rounds, salt, id })
    }

    /// What opens it, in words.
    pub fn wanted(&self) -> &'static str {
        if self.is_recovery { "recovery key" } else { "passphrase" }
    }

    /// Names the recovery key.
    pub fn key_id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Opens what it reads.
pub struct Opener<R> {
    from: R,
    key: LessSafeKey,
    head: [u8; HEAD_BYTES],
    /// As it is in the file: the next record, and the one after it as far as it is known.
    next: Vec<u8>,
    record: Vec<u8>,
    /// What of the record was given out.
    given: usize,
    number: u64,
    is_over: bool,
}

/// The head of a stream, of which the records come next.
pub(super) struct Begun<R> {
    pub(super) header: Header,
    head: [u8; HEAD_BYTES],
    from: R,
}

impl<R: Read> Opener<R> {
    /// Reads the head, asks for what opens it, and tries that.
    ///
    /// # Errors
    /// Those of `from` and `ask`; a [`BackupError`] inside for all that is wrong with the stream or the key.
    pub fn new(from: R, ask: impl FnOnce(&Header) -> io::Result<Secret>) -> io::Result<Self> {
        let begun = begin(from)?;
        let secret = ask(&begun.header)?;
        begun.open(&secret)
    }

    /// Opens the record that was read last and reads the one after it.
    fn turn(&mut self) -> io::Result<()> {
        let at = HEAD_BYTES as u64 + self.number * SEALED_BYTES as u64;
        let mut after = Vec::with_capacity(SEALED_BYTES);
        if self.next.len() == SEALED_BYTES {
            read_record(&mut self.from, &mut after)?;
        }
        let is_last = after.is_empty();
        let nth = if is_last { Nth::Last(self.number) } else { Nth::Inner(self.number) };
        self.record = std::mem::replace(&mut self.next, after);
        let sealed = is_last.then(|| self.record.clone());
        if !self.open_record(nth) {
            // Was it cut off where a record ends?
            self.record = sealed.unwrap_or_default();
            let is_cut = is_last
                && (self.record.len() < TAG_BYTES || self.open_record(Nth::Inner(self.number)));
            self.record.clear();
            return Err(if is_cut { BackupError::Short } else { BackupError::Damaged(at) }.into());
        }
        self.given = 0;
        self.number += 1;
        self.is_over = is_last;
        Ok(())
    }

    fn open_record(&mut self, nth: Nth) -> bool {
        let opened = self.key.open_in_place(nonce(nth), Aad::from(&self.head), &mut self.record);
        let Ok(length) = opened.map(|plain| plain.len()) else { return false };
        self.record.truncate(length);
        true
    }
}

pub(super) fn begin<R: Read>(mut from: R) -> io::Result<Begun<R>> {
    let mut head = [0; HEAD_BYTES];
    from.read_exact(&mut head).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::NoBackup.into(),
        _ => error,
    })?;
    Ok(Begun { header: Header::decode(&head)?, head, from })
}

impl<R: Read> Begun<R> {
    fn open(self, secret: &Secret) -> io::Result<Opener<R>> {
        let Self { header, head, mut from } = self;
        let fits = header.is_recovery == matches!(secret, Secret::Recovery(_));
        if !fits {
            let (wanted, given) = (header.wanted(), secret.name());
            return Err(BackupError::Kind { wanted, given }.into());
        }
        let rounds = NonZeroU32::new(header.rounds).unwrap_or(NonZeroU32::MIN);
        let key = secret.file_key(&header.salt, rounds);
        let mut check = head[CHECK_AT..CHECK_AT + TAG_BYTES].to_vec();
        let aad = Aad::from(&head[..CHECK_AT]);
        if key.open_in_place(nonce(Nth::Check), aad, &mut check).is_err() {
            return Err(match secret {
                Secret::Passphrase(_) => BackupError::Passphrase,
                Secret::Recovery(_) => BackupError::RecoveryKey(header.key_id()),
            }
            .into());
        }
        let mut next = Vec::with_capacity(SEALED_BYTES);
        read_record(&mut from, &mut next)?;
        let record = Vec::new();
        Ok(Opener { from, key, head, next, record, given: 0, number: 0, is_over: false })
    }
}

/// The next record as it is in the file; less than a whole one at its end.
fn read_record(from: &mut impl Read, record: &mut Vec<u8>) -> io::Result<()> {
    from.take(SEALED_BYTES as u64).read_to_end(record).map(drop)
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.record.len() && !self.is_over {
            self.turn()?;
        }
        let left = &self.record[self.given..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.given += count;
        Ok(count)
    }
}
