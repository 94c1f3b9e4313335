//! The desired set on disk: messages, one after the other, rewritten when they grow.
//!
//! A torn tail is cut at open: its revision was never acknowledged. Any other damage (a lost key, rot,
//! a format of another build) makes the set *unknown*: the file is kept aside for a person, the board
//! reports revision 0, and until the master has sent a whole set nobody may conclude from this empty
//! set that a pod is not wanted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use model::limits::DESIRED_LOG_BYTES_MIN;
use model::wire::DesiredV1;

use super::fence::Fence;
use super::record::{self, Ending, FILE_HEAD, record};
use super::seal::Seal;
use super::set::{Changes, DesiredSet, Mismatch};

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
    /// None before the first whole set.
    file: Option<File>,
    seal: Seal,
    bytes: u64,
    /// Bytes after the last rewriting.
    bytes_rewritten: u64,
    set: DesiredSet,
    /// The set is what a master wanted, not what is left after damage or before the first message.
    known: bool,
    /// What a power cut would leave is not sure: only a whole set helps.
    needs_whole: bool,
    /// Whom the board obeys.
    pub(crate) fence: Fence,
}

impl DesiredLog {
    /// Opens the log in `dir` and reads the set.
    pub(crate) fn open(dir: &Path) -> Result<Self, DesiredError> {
        fs::create_dir_all(dir).map_err(disk("opening"))?;
        let seal = Seal::open(&dir.join("key")).map_err(disk("opening the key of"))?;
        let fence = Fence::open(dir).map_err(disk("reading the fence of"))?;
        let mut log = Self {
            path: dir.join("desired"),
            file: None,
            seal,
            bytes: 0,
            bytes_rewritten: 0,
            set: DesiredSet::default(),
            known: false,
            needs_whole: false,
            fence,
        };
        let mut file = match OpenOptions::new().read(true).write(true).open(&log.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(log),
            Err(error) => return Err(disk("opening")(error)),
        };
        let contents = record::read(&mut file, &log.seal);
        match contents.ending {
            Ending::Damaged(part) => log.keep_aside(part).map_err(disk("keeping aside"))?,
            Ending::Torn | Ending::Whole => {
                let cut = |bytes| file.set_len(bytes).and_then(|()| file.sync_all());
                if contents.ending == Ending::Torn {
                    cut(contents.bytes).map_err(disk("cutting"))?;
                }
                file.seek(SeekFrom::Start(contents.bytes)).map_err(disk("reading"))?;
                log.known = contents.set.revision > 0;
                (log.set, log.file) = (contents.set, Some(file));
                (log.bytes, log.bytes_rewritten) = (contents.bytes, contents.bytes);
            }
        }
        Ok(log)
    }

    fn keep_aside(&self, part: &str) -> io::Result<()> {
        let aside = self.path.with_extension("unreadable");
        tracing::error!(
            part,
            kept = %aside.display(),
            "desired set of this board is damaged: pods are left as they are until the master \
             sends it again"
        );
        fs::rename(&self.path, aside)
    }

    /// The set.
    pub(crate) fn set(&self) -> &DesiredSet {
        &self.set
    }

    /// Whether a pod that the set does not list is unwanted.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// The revision that is durable for sure; 0 asks for a whole set.
    pub(crate) fn revision(&self) -> u64 {
        if self.needs_whole { 0 } else { self.set.revision }
    }

    /// Stores a message durably, then applies it. A difference of the revision that is held changes
    /// nothing and writes nothing, nor does a whole set that is not newer than what is held: masters
    /// give each set a revision above the one that the board said it has, so it came late.
    ///
    /// # Errors
    /// The set is as before then.
    pub(crate) fn apply(&mut self, message: DesiredV1) -> Result<Changes, DesiredError> {
        if message.base == 0 {
            if self.known && message.revision <= self.revision() {
                return Ok(Changes::default());
            }
            let mut set = self.set.clone();
            let changes = set.apply(message);
            self.rewrite(&set).map_err(disk("writing"))?;
            (self.set, self.known) = (set, true);
            return Ok(changes);
        }
        if self.needs_whole {
            return Err(Mismatch { base: message.base, held: 0 }.into());
        }
        if message.revision == self.set.revision {
            return Ok(Changes::default());
        }
        self.set.fits(&message)?;
        self.append(&message).map_err(disk("writing"))?;
        let changes = self.set.apply(message);
        if self.bytes > 2 * self.bytes_rewritten.max(DESIRED_LOG_BYTES_MIN) {
            let set = self.set.clone();
            if let Err(error) = self.rewrite(&set) {
                // What was asked for is durable all the same; the next try is at twice the size.
                tracing::warn!(%error, "desired set is not compacted");
                self.bytes_rewritten = self.bytes;
            }
        }
        Ok(changes)
    }

    fn append(&mut self, message: &DesiredV1) -> io::Result<()> {
        let record = record(&self.seal, message)?;
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let written = file.write_all(&record).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // The next record must not follow half of this one.
            let cut = file.set_len(self.bytes);
            let back = cut.and_then(|()| file.seek(SeekFrom::Start(self.bytes)));
            self.needs_whole = back.is_err();
            return Err(error);
        }
        self.bytes += record.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, set: &DesiredSet) -> io::Result<()> {
        let record = record(&self.seal, &set.snapshot())?;
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(FILE_HEAD)?;
        file.write_all(&record)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.file = Some(file);
        self.bytes = (FILE_HEAD.len() + record.len()) as u64;
        self.bytes_rewritten = self.bytes;
        // Until the directory is durable a power cut may bring either file back.
        self.needs_whole = true;
        let dir = self.path.parent().expect("the log lies in a directory");
        File::open(dir)?.sync_all()?;
        self.needs_whole = false;
        Ok(())
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
        for revision in 2..2_400 {
            log.apply(message(revision, revision - 1, &[1], &[])).expect("difference");
        }
        assert!(log.bytes <= 2 * DESIRED_LOG_BYTES_MIN + 1_024, "{} bytes", log.bytes);
        fs::remove_dir_all(dir).expect("removable");
    }

    fn reopened(dir: &Path) -> DesiredLog {
        DesiredLog::open(dir).expect("opens")
    }

    #[test]
    fn damage_is_no_empty_set() {
        let dir = dir("damage");
        let mut log = DesiredLog::open(&dir).expect("new");
        assert!(!log.is_known(), "a board that was never told anything knows nothing");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        let first = log.bytes;
        log.apply(message(2, 1, &[2], &[])).expect("difference");
        log.apply(message(3, 2, &[3], &[])).expect("difference");
        assert!(log.is_known());
        drop(log);
        let path = dir.join("desired");
        let sound = fs::read(&path).expect("readable");
        // A bit anywhere, also in a length, which must not pass for a torn tail.
        for at in (0..sound.len()).filter(|at| *at < 40 || at % 7 == 0) {
            let mut rotten = sound.clone();
            rotten[at] ^= 1 << (at % 8);
            fs::write(&path, &rotten).expect("written");
            let log = reopened(&dir);
            assert!(!log.is_known() && log.revision() == 0, "bit at {at}");
            assert!(log.set().pods.is_empty());
            assert_eq!(fs::read(path.with_extension("unreadable")).expect("kept"), rotten);
        }
        for cut in 0..first {
            fs::write(&path, &sound[..usize::try_from(cut).expect("short")]).expect("written");
            assert!(!reopened(&dir).is_known(), "the first record is never torn: {cut}");
        }
        fs::write(&path, &sound).expect("written");
        fs::remove_file(dir.join("key")).expect("lost");
        let mut log = reopened(&dir);
        assert!(!log.is_known(), "without its key nothing is known");
        assert!(matches!(log.apply(message(4, 3, &[4], &[])), Err(DesiredError::Mismatch(_))));
        log.apply(message(5, 0, &[3, 4], &[])).expect("whole");
        assert!(log.is_known());
        drop(log);
        assert_eq!(reopened(&dir).revision(), 5);
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn a_file_that_grew_before_its_bytes_came_is_torn() {
        let dir = dir("grew");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        drop(log);
        let file = OpenOptions::new().write(true).open(dir.join("desired")).expect("there");
        let bytes = file.metadata().expect("there").len();
        file.set_len(bytes + 9_000).expect("grown");
        let log = reopened(&dir);
        assert!(log.is_known() && log.revision() == 1);
        assert_eq!(fs::metadata(dir.join("desired")).expect("there").len(), bytes);
        fs::remove_dir_all(dir).expect("removable");
    }

    /// On a wire that delays, a whole set may come after what was added to it.
    #[test]
    fn a_whole_set_that_comes_late_takes_nothing_away() {
        let dir = dir("late");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        log.apply(message(2, 1, &[2], &[])).expect("difference");
        for late in [1, 2] {
            let changes = log.apply(message(late, 0, &[1], &[])).expect("late");
            assert!(changes.pods.is_empty() && changes.pods_gone.is_empty(), "{changes:?}");
            assert_eq!((log.revision(), log.set().pods.len()), (2, 2));
        }
        log.apply(message(3, 0, &[1], &[])).expect("newer");
        assert_eq!(log.set().pods.len(), 1);
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn what_is_not_on_disk_is_not_held() {
        let dir = dir("disk");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        let obstacle = dir.join("desired.new");
        fs::create_dir(&obstacle).expect("made");
        assert!(matches!(log.apply(message(2, 0, &[2], &[])), Err(DesiredError::Disk { .. })));
        assert_eq!(log.revision(), 1);
        assert!(log.set().pods.keys().all(|uid| uid.0[0] == 1));
        assert_eq!(reopened(&dir).revision(), 1);
        // The same message again is no news that was already applied.
        fs::remove_dir(&obstacle).expect("removed");
        let changes = log.apply(message(2, 0, &[2], &[])).expect("whole");
        assert_eq!((changes.pods.len(), changes.pods_gone.len()), (1, 1));
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn a_compaction_that_fails_loses_no_changes() {
        let dir = dir("compaction");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        fs::create_dir(dir.join("desired.new")).expect("made");
        for revision in 2..2_400 {
            let changes = log.apply(message(revision, revision - 1, &[1], &[])).expect("stored");
            assert_eq!(changes.pods.len(), 1, "revision {revision}");
        }
        assert!(log.bytes > 2 * DESIRED_LOG_BYTES_MIN, "it could not be compacted");
        assert_eq!(reopened(&dir).revision(), 2_399);
        fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn after_half_a_record_only_a_whole_set_is_taken() {
        let dir = dir("half");
        let mut log = DesiredLog::open(&dir).expect("new");
        log.apply(message(1, 0, &[1], &[])).expect("whole");
        log.file = Some(File::open(dir.join("desired")).expect("for reading only"));
        assert!(matches!(log.apply(message(2, 1, &[2], &[])), Err(DesiredError::Disk { .. })));
        assert_eq!(log.revision(), 0, "asks for a whole set");
        assert!(matches!(log.apply(message(2, 1, &[2], &[])), Err(DesiredError::Mismatch(_))));
        log.apply(message(2, 0, &[1, 2], &[])).expect("whole");
        log.apply(message(3, 2, &[3], &[])).expect("difference");
        drop(log);
        assert_eq!(reopened(&dir).set().pods.len(), 3);
        fs::remove_dir_all(dir).expect("removable");
    }
}
