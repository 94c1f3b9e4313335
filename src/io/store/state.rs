//! The applied state in LMDB: every object of the log up to the applied index.
//!
//! Written only by whole synced transactions (never NO_SYNC), read by short transactions that copy
//! out. Two tables: `objects` (see `record`) and `meta`. An owner index is deliberately absent: the
//! controllers' views hold it in memory, and nobody asks the disk for it.

use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use heed::{
    Database, Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls, types::Bytes as Raw,
};
use model::{
    ids::{Uid, Version},
    limits::{STORE_MAP_BYTES_32, STORE_MAP_BYTES_64},
};

use super::{
    log::Position,
    membership::Membership,
    record,
    types::{OpenError, StoreError},
};

/// Reads that may be in flight at once.
const READERS_MAX: u32 = 256;
const META_KEY: &[u8] = b"applied";
const MEMBERS_KEY: &[u8] = b"members";
const META_BYTES: usize = 40;
const FORMAT: u8 = 1;

/// The open database.
#[derive(Clone)]
pub(super) struct State {
    env: Env<WithoutTls>,
    objects: Database<Raw, Raw>,
    meta: Database<Raw, Raw>,
}

/// One write of a flush.
pub(super) struct Put<'a> {
    /// Encoded key.
    pub(super) key: &'a [u8],
    /// New version.
    pub(super) version: Version,
    /// Uid.
    pub(super) uid: Uid,
    /// Bytes, or deleted.
    pub(super) body: Option<&'a [u8]>,
}

/// Why a flush failed; the state on disk is as before.
#[derive(Debug)]
pub(super) enum FlushError {
    /// Disk or map are full.
    Full,
    /// Anything else.
    Failed(heed::Error),
}

impl From<heed::Error> for FlushError {
    fn from(error: heed::Error) -> Self {
        match &error {
            heed::Error::Mdb(MdbError::MapFull) => Self::Full,
            heed::Error::Io(io) if super::file::is_full(io) => Self::Full,
            _ => Self::Failed(error),
        }
    }
}

impl State {
    /// Opens the database in `dir`, made when missing.
    ///
    /// # Errors
    /// Whatever LMDB says; the caller treats that as damage. `verify` must have accepted an
    /// existing file before: LMDB trusts its pages.
    pub(super) fn open(dir: &Path) -> Result<Self, heed::Error> {
        fs::create_dir_all(dir)?;
        let map_bytes = usize::try_from(STORE_MAP_BYTES_64).unwrap_or(STORE_MAP_BYTES_32);
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_bytes).max_dbs(4).max_readers(READERS_MAX);
        // SAFETY: the map is undefined when the file changes under it: the store's lock file keeps
        // other processes out, and this process opens it here only.
        let env = unsafe { options.open(dir)? };
        let opened = (|| {
            let mut txn = env.write_txn()?;
            let objects = env.create_database(&mut txn, Some("objects"))?;
            let meta = env.create_database(&mut txn, Some("meta"))?;
            txn.commit()?;
            Ok(Self { env: env.clone(), objects, meta })
        })();
        if opened.is_err() {
            env.prepare_for_closing().wait();
        }
        opened
    }

    /// Closes the database; waits for readers of this process, which are short.
    pub(super) fn close(self) {
        let closing = self.env.prepare_for_closing();
        if !closing.wait_timeout(Duration::from_secs(10)) {
            tracing::warn!("a reader still holds the store's state");
        }
    }

    /// Applies `puts` and moves to `position`, with the group as of there, in one synced transaction.
    pub(super) fn flush<'a>(
        &self,
        puts: impl Iterator<Item = Put<'a>>,
        position: Option<Position>,
        membership: Option<&Membership>,
    ) -> Result<(), FlushError> {
        let mut txn = self.env.write_txn()?;
        for put in puts {
            self.put(&mut txn, &put)?;
        }
        if let Some(position) = position {
            self.meta.put(&mut txn, META_KEY, &encode_meta(position))?;
        }
        if let Some(membership) = membership {
            self.meta.put(&mut txn, MEMBERS_KEY, &membership.encode())?;
        }
        txn.commit()?;
        Ok(())
    }

    fn put(&self, txn: &mut RwTxn<'_>, put: &Put<'_>) -> Result<(), heed::Error> {
        let Some(body) = put.body else {
            return self.objects.delete(txn, put.key).map(|_| ());
        };
        let header = record::encode_header(put.key, put.version, put.uid, body);
        self.objects.put_reserved(txn, put.key, header.len() + body.len(), |space| {
            use std::io::Write;
            space.write_all(&header)?;
            space.write_all(body)
        })
    }

    /// A short read.
    pub(super) fn read(&self) -> Result<Reading<'_>, StoreError> {
        let txn = self.env.read_txn().map_err(failed)?;
        Ok(Reading { txn, objects: self.objects, meta: self.meta })
    }
}

/// One short read transaction.
pub(super) struct Reading<'e> {
    txn: RoTxn<'e, WithoutTls>,
    objects: Database<Raw, Raw>,
    meta: Database<Raw, Raw>,
}

/// Version, uid and bytes under a key.
pub(super) type Found = (Version, Uid, Bytes);

impl Reading<'_> {
    /// Up to where the log is applied in what this transaction sees.
    pub(super) fn applied(&self) -> Result<Option<Position>, StoreError> {
        Ok(self.meta.get(&self.txn, META_KEY).map_err(failed)?.and_then(decode_meta))
    }

    /// The group as of there; `None` when there never was one, or when its record is damaged.
    pub(super) fn membership(&self) -> Result<Option<Membership>, StoreError> {
        let found = self.meta.get(&self.txn, MEMBERS_KEY).map_err(failed)?;
        Ok(found.and_then(Membership::decode))
    }

    /// One object, copied out.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Found>, StoreError> {
        let Some(raw) = self.objects.get(&self.txn, key).map_err(failed)? else {
            return Ok(None);
        };
        let (version, uid, body) = record::decode(key, raw).ok_or_else(|| damaged(key))?;
        Ok(Some((version, uid, Bytes::copy_from_slice(body))))
    }

    /// Version of one object.
    pub(super) fn version(&self, key: &[u8]) -> Result<Option<Version>, StoreError> {
        let Some(raw) = self.objects.get(&self.txn, key).map_err(failed)? else {
            return Ok(None);
        };
        let (version, ..) = record::decode(key, raw).ok_or_else(|| damaged(key))?;
        Ok(Some(version))
    }

    /// Keys and checked records from `start` on, while they begin with `prefix`.
    pub(super) fn range<'t>(
        &'t self,
        start: Bound<&'t [u8]>,
        prefix: &'t [u8],
    ) -> Result<impl Iterator<Item = Result<Row<'t>, StoreError>>, StoreError> {
        let rows = self.objects.range(&self.txn, &(start, Bound::Unbounded)).map_err(failed)?;
        let inside = move |row: &Result<(&[u8], &[u8]), heed::Error>| {
            row.as_ref().map_or(true, |(key, _)| key.starts_with(prefix))
        };
        Ok(rows.take_while(inside).map(|row| {
            let (key, raw) = row.map_err(failed)?;
            let (version, uid, body) = record::decode(key, raw).ok_or_else(|| damaged(key))?;
            Ok(Row { key, version, uid, body })
        }))
    }
}

/// A record inside a read transaction.
pub(super) struct Row<'t> {
    /// Encoded key.
    pub(super) key: &'t [u8],
    /// Version.
    pub(super) version: Version,
    /// Uid.
    pub(super) uid: Uid,
    /// Bytes.
    pub(super) body: &'t [u8],
}

fn failed(error: heed::Error) -> StoreError {
    StoreError::State(Box::new(error))
}

fn damaged(key: &[u8]) -> StoreError {
    let name = record::decode_key(key).map(|key| key.to_string());
    StoreError::Damaged(name.unwrap_or_else(|| String::from_utf8_lossy(key).into_owned()))
}

/// `format u8 | 3 zeros | crc32c of the rest u32 | epoch | base | term | index`, little endian.
pub(super) fn encode_meta(position: Position) -> [u8; META_BYTES] {
    let mut bytes = [0; META_BYTES];
    bytes[0] = FORMAT;
    let words = [position.epoch, position.base, position.term, position.index];
    for (word, at) in words.into_iter().zip((8..).step_by(8)) {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads [`encode_meta`].
pub(super) fn decode_meta(bytes: &[u8]) -> Option<Position> {
    let crc = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    if bytes.len() != META_BYTES || bytes[0] != FORMAT || crc != crc32c::crc32c(&bytes[8..]) {
        return None;
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    Some(Position { epoch: word(8), base: word(16), term: word(24), index: word(32) })
}

/// Removes a state that cannot be trusted.
pub(super) fn remove(dir: &Path) -> Result<(), OpenError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(super::log::io_error("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

/// The database file in a state directory.
pub(super) fn data_path(dir: &Path) -> PathBuf {
    dir.join("data.mdb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_the_meta_record() {
        let position = Position { epoch: 1, base: 2, term: 3, index: 260 };
        let bytes = encode_meta(position);
        let mut golden = vec![1, 0, 0, 0, 0, 0, 0, 0];
        for word in [1u64, 2, 3, 260] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden[4..8].copy_from_slice(&bytes[4..8]);
        assert_eq!(bytes.as_slice(), golden);
        assert_eq!(decode_meta(&bytes), Some(position));
        let mut bad = bytes;
        bad[30] ^= 1;
        assert_eq!(decode_meta(&bad), None);
    }
}
