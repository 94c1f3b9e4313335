//! The desired set on disk: sealed messages, one after the other, rewritten when they grow.
//!
//! Record = length (u32, of what follows the checksum), crc32c (u32), sealed postcard `DesiredV1`.
//! Bytes after the last whole record are cut at open: their revision was never acknowledged. What is
//! lost in the middle is sent again by the master, which sees the old revision in the beats.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use model::limits::{DESIRED_LOG_BYTES_MIN, DESIRED_RECORD_BYTES_MAX};
use model::wire::DesiredV1;

use super::fence::Fence;
use super::seal::Seal;
use super::set::{Changes, DesiredSet, Mismatch};

const HEAD_BYTES: usize = 8;

/// Why a desired set could not be read or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DesiredError {
    /// The message does not fit what the board holds.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The disk said no.
    #[error("{attempt} the desired set of this board")]
    Disk {
        /// Reading or writing.
        attempt: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn disk(attempt: &'static str) -> impl FnOnce(io::Error) -> DesiredError {
    move |source| DesiredError::Disk { attempt, source }
}

/// The durable desired set.
#[derive(Debug)]
pub(crate) struct DesiredLog {
    path: PathBuf,
    file: File,
    seal: Seal,
    bytes: u64,
    /// Bytes after the last rewriting.
    bytes_rewritten: u64,
    set: DesiredSet,
    /// Whom the board obeys.
    pub(crate) fence: Fence,
}

impl DesiredLog {
    /// Opens the log in `dir` and reads the set.
    pub(crate) fn open(dir: &Path) -> Result<Self, DesiredError> {
        fs::create_dir_all(dir).map_err(disk("opening"))?;
        let seal = Seal::open(&dir.join("key")).map_err(disk("opening the key of"))?;
        let fence = Fence::open(dir).map_err(disk("reading the fence of"))?;
        let path = dir.join("desired");
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(disk("opening"))?;
        let (set, bytes) = read(&mut file, &seal).map_err(disk("reading"))?;
        let cut = file.metadata().map_err(disk("reading"))?.len() > bytes;
        if cut {
            file.set_len(bytes).and_then(|()| file.sync_all()).map_err(disk("cutting"))?;
        }
        file.seek(SeekFrom::Start(bytes)).map_err(disk("reading"))?;
        Ok(Self { path, file, seal, bytes, bytes_rewritten: bytes, set, fence })
    }

    /// The set.
    pub(crate) fn set(&self) -> &DesiredSet {
        &self.set
    }

    /// Stores a message durably, then applies it. A message of the revision that is held and that
    /// is no whole set changes nothing and writes nothing.
    pub(crate) fn apply(&mut self, message: DesiredV1) -> Result<Changes, DesiredError> {
        if message.base != 0 && message.revision == self.set.revision {
            return Ok(Changes::default());
        }
        self.set.fits(&message)?;
        if message.base == 0 {
            let changes = self.set.apply(message);
            self.rewrite().map_err(disk("writing"))?;
            return Ok(changes);
        }
        self.append(&message).map_err(disk("writing"))?;
        let changes = self.set.apply(message);
        let rewritten = self.bytes_rewritten.max(DESIRED_LOG_BYTES_MIN);
        if self.bytes > 2 * rewritten {
            self.rewrite().map_err(disk("rewriting"))?;
        }
        Ok(changes)
    }

    fn append(&mut self, message: &DesiredV1) -> io::Result<()> {
        let record = record(&self.seal, message)?;
        let written = self.file.write_all(&record).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // The next record must not follow half of this one.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(error);
        }
        self.bytes += record.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let record = record(&self.seal, &self.set.snapshot())?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&record)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let dir = self.path.parent().expect("the log lies in a directory");
        File::open(dir)?.sync_all()?;
        self.file = file;
        self.bytes = record.len() as u64;
        self.bytes_rewritten = self.bytes;
        Ok(())
    }
}

fn record(seal: &Seal, message: &DesiredV1) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let sealed = seal.seal(body)?;
    let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
    let mut record = Vec::with_capacity(HEAD_BYTES + sealed.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    record.extend_from_slice(&sealed);
    Ok(record)
}

/// The set and the bytes up to the last good record.
fn read(file: &mut File, seal: &Seal) -> io::Result<(DesiredSet, u64)> {
    let mut set = DesiredSet::default();
    let mut good = 0;
    loop {
        let mut head = [0; HEAD_BYTES];
        match file.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((set, good)),
            Err(error) => return Err(error),
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]);
        if u64::from(length) > DESIRED_RECORD_BYTES_MAX {
            return Ok((set, good));
        }
        let mut sealed = Vec::new();
        file.take(u64::from(length)).read_to_end(&mut sealed)?;
        let whole = sealed.len() as u64 == u64::from(length)
            && crc32c::crc32c(&sealed) == u32::from_le_bytes([e, f, g, h]);
        let message = whole.then(|| seal.open_sealed(&sealed)).flatten();
        let message: Option<DesiredV1> = message.and_then(|m| postcard::from_bytes(&m).ok());
        match message {
            Some(message) if set.fits(&message).is_ok() => drop(set.apply(message)),
            _ => return Ok((set, good)),
        }
        good += HEAD_BYTES as u64 + u64::from(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use model::ids::Uid;
    use model::wire::{DesiredPodV1, ObjectV1};

    fn message(revision: u64, base: u64, pods: &[u8], gone: &[u8]) -> DesiredV1 {
        let uid = |number: &u8| Uid([*number; 16]);
        let pod = |number: &u8| DesiredPodV1 {
            uid: uid(number),
            version: revision,
            pod: Bytes::from(format!("{{\"r\":{revision}}}")),
        };
        let object = ObjectV1 {
            key: "secrets n/s".to_owned(),
            version: 1,
            object: Bytes::from_static(b"hush"),
        };
        DesiredV1 {
            revision,
            base,
            pods: pods.iter().map(pod).collect(),
            pods_gone: gone.iter().map(uid).collect(),
            objects: vec![object],
            objects_gone: Vec::new(),
        }
    }

    fn dir(name: &str) -> PathBuf {
        let dir =
            std::env::temp_dir().join(format!("kumquat-desired-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_was_stored_comes_back() {
        let dir = dir("back");
        let mut log = DesiredLog::open(&dir).expect("new");
        let changes = log.apply(message(5, 0, &[1, 2], &[])).expect("whole");
        assert_eq!(changes.pods.len(), 2);
        let changes = log.apply(message(6, 5, &[3], &[1])).expect("difference");
        assert_eq!((changes.pods.len(), changes.pods_gone.len()), (1, 1));
        assert!(changes.objects.is_empty(), "the object is the same");
        assert!(matches!(log.apply(message(9, 8, &[], &[])), Err(DesiredError::Mismatch(_))));
        drop(log);
        let log = DesiredLog::open(&dir).expect("again");
        assert_eq!(log.set().revision, 6);
        assert_eq!(log.set().pods.keys().map(|uid| uid.0[0]).collect::<Vec<_>>(), [2, 3]);
        let disk = fs::read(dir.join("desired")).expect("readable");
        assert!(!disk.windows(4).any(|window| window == b"hush"), "secrets are sealed");
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn a_torn_tail_is_cut() {
        let dir = dir("torn");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        let good = log.bytes;
        log.apply(message(2, 1, &[2], &[])).expect("difference");
        drop(log);
        let path = dir.join("desired");
        for cut in good + 1..fs::metadata(&path).expect("there").len() {
            let copy = dir.join("copy");
            fs::create_dir_all(&copy).expect("made");
            fs::copy(dir.join("key"), copy.join("key")).expect("copied");
            fs::copy(&path, copy.join("desired")).expect("copied");
            let file = OpenOptions::new().write(true).open(copy.join("desired")).expect("there");
            file.set_len(cut).expect("cut");
            let mut log = DesiredLog::open(&copy).expect("opens");
            assert_eq!(log.set().revision, 1, "cut at {cut}");
            log.apply(message(2, 1, &[2], &[])).expect("goes on");
            drop(log);
            assert_eq!(DesiredLog::open(&copy).expect("opens").set().revision, 2);
        }
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn the_log_does_not_grow_for_ever() {
        let dir = dir("grow");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        for revision in 2..1_200 {
            log.apply(message(revision, revision - 1, &[1], &[])).expect("difference");
        }
        assert!(log.bytes <= 2 * DESIRED_LOG_BYTES_MIN + 1_024, "{} bytes", log.bytes);
        fs::remove_dir_all(dir).expect("removable");
    }
}
