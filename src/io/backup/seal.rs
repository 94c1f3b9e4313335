//! Writing a sealed stream.

use std::io::{self, Write};
use std::num::NonZeroU32;

use model::limits::{BACKUP_KEY_ROUNDS, BACKUP_RECORD_BYTES};
use ring::aead::{Aad, LessSafeKey};

use super::key::Secret;
use super::open::{CHECK_AT, HEAD_BYTES, Header, Nth, nonce};

/// Seals what is written to it.
pub struct Sealer<W> {
    to: W,
    key: LessSafeKey,
    head: [u8; HEAD_BYTES],
    record: Vec<u8>,
    number: u64,
}

impl<W: Write> Sealer<W> {
    /// Writes the head of a stream that opens with `secret`. Takes a second or more for a passphrase.
    ///
    /// # Errors
    /// Those of `to`, or the kernel gives no randomness.
    pub fn new(mut to: W, secret: &Secret) -> io::Result<Self> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
        let rounds = match secret {
            Secret::Passphrase(_) => BACKUP_KEY_ROUNDS,
            Secret::Recovery(_) => 0,
        };
        let header = Header { is_recovery: rounds == 0, rounds, salt, id: secret.id() };
        let key = secret.file_key(&salt, NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN));
        let mut head = header.encode();
        let check = seal(&key, nonce(Nth::Check), &head[..CHECK_AT], &mut [])?;
        head[CHECK_AT..CHECK_AT + check.len()].copy_from_slice(&check);
        let crc = crc32c::crc32c(&head[..HEAD_BYTES - 4]);
        head[HEAD_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        to.write_all(&head)?;
        let record = Vec::with_capacity(BACKUP_RECORD_BYTES + 16);
        Ok(Self { to, key, head, record, number: 0 })
    }

    /// Writes what is left and the mark of the end; gives back what it wrote to.
    ///
    /// # Errors
    /// Those of what it writes to.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_record(Nth::Last(self.number))?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn write_record(&mut self, nth: Nth) -> io::Result<()> {
        let tag = seal(&self.key, nonce(nth), &self.head, &mut self.record)?;
        self.record.extend_from_slice(&tag);
        self.to.write_all(&self.record)?;
        self.record.clear();
        self.number += 1;
        Ok(())
    }
}

fn seal(
    key: &LessSafeKey,
    nonce: ring::aead::Nonce,
    head: &[u8],
    record: &mut [u8],
) -> io::Result<Vec<u8>> {
    let sealed = key.seal_in_place_separate_tag(nonce, Aad::from(head), record);
    sealed.map(|tag| tag.as_ref().to_vec()).map_err(|_| io::Error::other("cannot seal a record"))
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The last record may be a full one: it goes when it is known that more comes.
        if self.record.len() == BACKUP_RECORD_BYTES && !bytes.is_empty() {
            self.write_record(Nth::Inner(self.number))?;
        }
        let taken = bytes.len().min(BACKUP_RECORD_BYTES - self.record.len());
        self.record.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// Nothing: a record goes when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
