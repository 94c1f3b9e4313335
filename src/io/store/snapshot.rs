//! Snapshot files: the whole state at one entry, from which a lost LMDB file is rebuilt.
//!
//! `magic "KQSN" | format u16 | zero u16 | meta (see state) | rows ... | end`, in format 2 with
//! `length u32 | membership` before the rows: a store that belongs to no group writes format 1. A row is
//! `key length u32 | record length u32 | crc32c u32 | key | record`, and the end a row of no lengths
//! whose crc field holds the number of rows. The same entries make the same bytes on every replica. A file is written under a temporary name, synced, read
//! back and verified from the disk, and only then named; segments of the log go after that.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use model::{
    ids::Version,
    limits::{STORE_ENTRY_BYTES_MAX, STORE_KEY_BYTES_MAX},
};

use sha2::{Digest, Sha256};

use super::{
    file::{self, DiskFile, Faults},
    log::Position,
    membership::Membership,
    record::{self, RECORD_HEADER_BYTES},
    state::{self, State},
};

const MAGIC: &[u8; 4] = b"KQSN";
const FORMAT: u16 = 1;
/// With the group.
const FORMAT_GROUP: u16 = 2;
const HEAD_BYTES: usize = 48;
const ROW_HEADER_BYTES: usize = 12;
/// Written at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A list of members is small; more is damage.
const MEMBERSHIP_BYTES_MAX: usize = 16 * 1024;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The entry up to which all is in it.
    pub(super) position: Position,
    /// The group as of there.
    pub(super) membership: Option<Membership>,
}

/// A snapshot that was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// The file.
    pub(super) path: PathBuf,
    /// What it holds.
    pub(super) head: Head,
    /// Its size.
    pub(super) bytes: u64,
    /// Of its bytes, when it may go to other members.
    pub(super) sha256: Option<[u8; 32]>,
}

/// Ends work on a snapshot that nobody wants any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Nobody wants it any more.
    pub(super) fn stop(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the snapshot is not wanted any more")),
            false => Ok(()),
        }
    }
}

/// Writes the state in LMDB to a new snapshot in `dir`.
pub(super) fn write(
    dir: &Path,
    state: &State,
    faults: &Faults,
    stop: &Stop,
) -> io::Result<Written> {
    fs::create_dir_all(dir)?;
    let temporary = dir.join("snapshot.new");
    file::remove(&temporary, faults)?;
    let written = write_file(&temporary, state, faults, stop).and_then(|head| {
        let written = check(&temporary, faults, stop)?;
        let same = written.head == head;
        same.then_some(written).ok_or_else(|| bad("snapshot reads back differently"))
    });
    let named = written.and_then(|written| {
        let path = name(dir, &temporary, written.head.position, faults)?;
        Ok(Written { path, ..written })
    });
    if named.is_err() {
        // It may be as large as the state.
        file::remove(&temporary, faults)?;
    }
    named
}

/// Reads all of a snapshot and checks it; one of a group may go to other members then.
pub(super) fn check(path: &Path, faults: &Faults, stop: &Stop) -> io::Result<Written> {
    faults.pause();
    let is_of_group = head(path)?.membership.is_some();
    let hash = is_of_group.then(Sha256::new);
    let mut file = Hashing { file: fs::File::open(path)?, hash, bytes: 0 };
    let head = load_from(&mut file, |_, _| stop.check())?;
    let Hashing { hash, bytes, .. } = file;
    let sha256 = hash.map(|hash| hash.finalize().into());
    Ok(Written { path: path.to_owned(), head, bytes, sha256 })
}

/// A file whose bytes are counted, and hashed when that is wanted.
struct Hashing {
    file: fs::File,
    hash: Option<Sha256>,
    bytes: u64,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.bytes += count as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        Ok(count)
    }
}

/// What a snapshot says that it holds.
fn head(path: &Path) -> io::Result<Head> {
    read_head(&mut io::BufReader::new(fs::File::open(path)?))
}

/// The snapshots in `dir` that may go to others by what their heads say, newest first. Nothing else of
/// them is read.
pub(super) fn suitable(dir: &Path, suits: impl Fn(&Head) -> bool) -> io::Result<Vec<PathBuf>> {
    let paths = paths(dir)?.into_iter().rev();
    Ok(paths.filter(|path| head(path).is_ok_and(|head| suits(&head))).collect())
}

/// Takes over a snapshot that another member wrote: checks all of it and that it is the one of
/// `position`, makes it durable, gives it its place in `dir`.
pub(super) fn adopt(
    dir: &Path,
    file: &Path,
    position: Position,
    faults: &Faults,
) -> io::Result<(PathBuf, Head)> {
    fs::create_dir_all(dir)?;
    file::settle(&fs::File::open(file)?)?;
    let head = load(file, |_, _| Ok(()))?;
    if head.position != position {
        return Err(bad("not the snapshot that was announced"));
    }
    let path = name(dir, file, head.position, faults)?;
    Ok((path, head))
}

/// Names a whole and durable file in `dir` after its position, and removes those before it: one behind it
/// is of another member, and was installed meanwhile.
pub(super) fn name(
    dir: &Path,
    file: &Path,
    position: Position,
    faults: &Faults,
) -> io::Result<PathBuf> {
    let named = path(dir, position);
    fs::rename(file, &named)?;
    file::sync_dir(dir, faults)?;
    for old in paths(dir)?.into_iter().filter(|old| *old < named) {
        file::remove(&old, faults)?;
    }
    Ok(named)
}

fn write_file(path: &Path, state: &State, faults: &Faults, stop: &Stop) -> io::Result<Head> {
    let file = DiskFile::create(path, faults)?;
    let Rows { head, .. } = write_rows(&file, state, stop)?;
    file.sync_all()?;
    file::settle(file.inner())?;
    Ok(head)
}

/// What was written to a file.
pub(super) struct Rows {
    /// Of which state.
    pub(super) head: Head,
    /// Its size.
    pub(super) bytes: u64,
    /// How many objects.
    pub(super) rows: u32,
}

/// Writes the state to an empty file, which is not durable by that.
pub(super) fn write_rows(file: &DiskFile, state: &State, stop: &Stop) -> io::Result<Rows> {
    // One transaction for all rows: a snapshot that mixed positions could hold writes of a log's tail
    // that is lost later, whose versions would then be used twice. It ends before the slow part, the
    // sync: while it lives LMDB cannot use pages again.
    let reading = state.read().map_err(io::Error::other)?;
    let position = reading.applied().map_err(io::Error::other)?;
    let position = position.ok_or_else(|| io::Error::other("state has no position"))?;
    let membership = reading.membership().map_err(io::Error::other)?;
    let mut chunk = MAGIC.to_vec();
    let format = if membership.is_some() { FORMAT_GROUP } else { FORMAT };
    chunk.extend_from_slice(&format.to_le_bytes());
    chunk.extend_from_slice(&[0; 2]);
    chunk.extend_from_slice(&state::encode_meta(position));
    if let Some(membership) = &membership {
        let bytes = membership.encode();
        let length = u32::try_from(bytes.len()).expect("a list of members is bounded");
        chunk.extend_from_slice(&length.to_le_bytes());
        chunk.extend_from_slice(&bytes);
    }
    let (mut at, mut rows) = (0u64, 0u32);
    for row in reading.range(std::ops::Bound::Unbounded, b"").map_err(io::Error::other)? {
        let row = row.map_err(io::Error::other)?;
        let header = record::encode_header(row.key, row.version, row.uid, row.body);
        push_row(&mut chunk, row.key, &[&header, row.body]);
        rows += 1;
        if chunk.len() >= CHUNK_BYTES {
            stop.check()?;
            file.write_all_at(&chunk, at)?;
            at += chunk.len() as u64;
            chunk.clear();
        }
    }
    drop(reading);
    for word in [0, 0, rows] {
        chunk.extend_from_slice(&word.to_le_bytes());
    }
    file.write_all_at(&chunk, at)?;
    let bytes = at + chunk.len() as u64;
    Ok(Rows { head: Head { position, membership }, bytes, rows })
}

fn push_row(chunk: &mut Vec<u8>, key: &[u8], record: &[&[u8]]) {
    let record_bytes: usize = record.iter().map(|part| part.len()).sum();
    let crc = record.iter().fold(crc32c::crc32c(key), |crc, part| crc32c::crc32c_append(crc, part));
    for length in [key.len(), record_bytes] {
        let length = u32::try_from(length).expect("keys and records are bounded");
        chunk.extend_from_slice(&length.to_le_bytes());
    }
    chunk.extend_from_slice(&crc.to_le_bytes());
    chunk.extend_from_slice(key);
    record.iter().for_each(|part| chunk.extend_from_slice(part));
}

/// A row of a snapshot, checked.
pub(super) struct SnapshotRow<'a> {
    /// Version.
    pub(super) version: Version,
    /// Uid.
    pub(super) uid: model::ids::Uid,
    /// Bytes.
    pub(super) body: &'a [u8],
}

/// Reads a snapshot and checks all of it; rows come before the check is complete.
pub(super) fn load(
    path: &Path,
    visit: impl FnMut(&[u8], SnapshotRow<'_>) -> io::Result<()>,
) -> io::Result<Head> {
    load_from(fs::File::open(path)?, visit)
}

/// As [`load`], from wherever it comes; reads to the end.
pub(super) fn load_from(
    from: impl Read,
    mut visit: impl FnMut(&[u8], SnapshotRow<'_>) -> io::Result<()>,
) -> io::Result<Head> {
    let mut file = io::BufReader::with_capacity(CHUNK_BYTES, from);
    let head = read_head(&mut file)?;
    let (mut rows, mut buffer) = (0u32, Vec::new());
    loop {
        let mut header = [0; ROW_HEADER_BYTES];
        file.read_exact(&mut header)?;
        let word = |at: usize| {
            u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes of the header"))
        };
        let (key_bytes, record_bytes, crc) = (word(0) as usize, word(4) as usize, word(8));
        if key_bytes == 0 {
            let complete = record_bytes == 0 && crc == rows && file.read(&mut [0])? == 0;
            return complete.then_some(head).ok_or_else(|| bad("bad end"));
        }
        if key_bytes > STORE_KEY_BYTES_MAX
            || !(RECORD_HEADER_BYTES..=STORE_ENTRY_BYTES_MAX).contains(&record_bytes)
        {
            return Err(bad("bad lengths"));
        }
        buffer.resize(key_bytes + record_bytes, 0);
        file.read_exact(&mut buffer)?;
        let (key, raw) = buffer.split_at(key_bytes);
        if crc32c::crc32c(&buffer) != crc {
            return Err(bad("bad row"));
        }
        let (version, uid, body) = record::decode(key, raw).ok_or_else(|| bad("bad record"))?;
        visit(key, SnapshotRow { version, uid, body })?;
        rows += 1;
    }
}

fn read_head(file: &mut impl Read) -> io::Result<Head> {
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head)?;
    let format = u16::from_le_bytes([head[4], head[5]]);
    if &head[..4] != MAGIC || ![FORMAT, FORMAT_GROUP].contains(&format) {
        return Err(bad("not a snapshot of a known format"));
    }
    let position = state::decode_meta(&head[8..]).ok_or_else(|| bad("bad position"))?;
    if format == FORMAT {
        return Ok(Head { position, membership: None });
    }
    let mut length = [0; 4];
    file.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MEMBERSHIP_BYTES_MAX {
        return Err(bad("bad length of the group"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    let membership = Membership::decode(&bytes).ok_or_else(|| bad("bad group"))?;
    Ok(Head { position, membership: Some(membership) })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The newest snapshot in `dir` that is whole, and what it holds.
pub(super) fn newest(dir: &Path) -> io::Result<Option<(PathBuf, Head)>> {
    for path in paths(dir)?.into_iter().rev() {
        match load(&path, |_, _| Ok(())) {
            Ok(head) => return Ok(Some((path, head))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "snapshot is damaged");
            }
        }
    }
    Ok(None)
}

/// The snapshots in `dir`, oldest first.
fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "snapshot") {
                    paths.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    paths.sort();
    Ok(paths)
}

fn path(dir: &Path, position: Position) -> PathBuf {
    dir.join(format!("{:016x}.snapshot", position.index))
}
