//! What a backup takes from a store, and how a store is made from one.
//!
//! A capture is a snapshot that nobody else sees: its file has no name, so that a crash leaves nothing, and the
//! state's database is held no longer than it takes to write it. What is restored is a store whose
//! others are gone, as after a promotion: versions go on in a new epoch.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use model::{
    ids::Version,
    limits::{BACKUP_CAPTURES_MAX, BACKUP_EPOCHS_MAX},
};
use tokio::sync::oneshot;

use super::{
    Store,
    file::{self, DiskFile, Faults},
    log::{Log, Position, io_error},
    open::{self, Paths, last_version, raised},
    requests::Request,
    snapshot::{self, Stop},
    state::State,
    types::OpenError,
    writer::Writer,
};

/// The whole state at one entry.
#[derive(Debug)]
pub struct Capture {
    /// A snapshot, from its beginning; it is gone when this is dropped.
    pub file: fs::File,
    /// Its size.
    pub bytes: u64,
    /// What it holds.
    pub facts: SnapshotFacts,
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Epoch of the store.
    pub epoch: u64,
    /// The newest version.
    pub version: Version,
    /// How many objects.
    pub objects: u64,
}

impl SnapshotFacts {
    fn of(position: Position, objects: u64) -> Self {
        Self { epoch: position.epoch, version: last_version(position), objects }
    }
}

/// State that holds everything that was applied, where snapshots go, and what ends the capture when another
/// state takes its place.
pub(super) type Flushed = (State, PathBuf, Stop);

impl Writer {
    /// Moves the state to the last applied entry, for a capture.
    pub(super) fn flush_for_capture(&mut self) -> io::Result<Flushed> {
        self.flush_all()?;
        let state = self.shared.read().state.clone();
        let state = state.ok_or_else(|| io::Error::other("the state is being replaced"))?;
        Ok((state, self.paths.snapshots.clone(), self.captures.clone()))
    }
}

impl Store {
    /// All that is applied at this moment, memory-only kinds apart.
    ///
    /// # Errors
    /// The disk refuses: it needs the space of a snapshot meanwhile. Too many do so at once.
    pub async fn capture(&self) -> io::Result<Capture> {
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "store is closed");
        let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "other backups are under way");
        let place = self.captures.clone().try_acquire_owned().map_err(|_| busy())?;
        let (answer, flushed) = oneshot::channel();
        self.requests.send(Request::Flushed(answer)).map_err(|_| closed())?;
        let (state, dir, stop) = flushed.await.map_err(|_| closed())??;
        let writing = tokio::task::spawn_blocking(move || {
            let captured = capture(&dir, &state, &stop);
            drop(place);
            captured
        });
        writing.await.map_err(io::Error::other)?
    }

    /// Makes a store in the empty folder `dir` from a snapshot, so many epochs after the one it was taken in.
    ///
    /// # Errors
    /// It is no whole snapshot, or the disk refuses; what was written is the caller's to remove.
    pub fn restore(
        dir: &Path,
        from: &mut dyn Read,
        epochs: u64,
    ) -> Result<SnapshotFacts, OpenError> {
        restore(dir, from, epochs.clamp(1, BACKUP_EPOCHS_MAX))
    }

    /// Reads a snapshot to its end and checks all of it.
    ///
    /// # Errors
    /// Those of `from`, or it is no whole snapshot.
    pub fn check_snapshot(from: impl Read) -> io::Result<SnapshotFacts> {
        let mut objects = 0;
        let head = snapshot::load_from(from, |_, _| {
            objects += 1;
            Ok(())
        })?;
        Ok(SnapshotFacts::of(head.position, objects))
    }
}

/// Places for captures.
pub(super) fn places() -> std::sync::Arc<tokio::sync::Semaphore> {
    std::sync::Arc::new(tokio::sync::Semaphore::new(BACKUP_CAPTURES_MAX))
}

fn capture(dir: &Path, state: &State, stop: &Stop) -> io::Result<Capture> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    fs::create_dir_all(dir)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = dir.join(format!("capture-{}-{number}.new", std::process::id()));
    let faults = Faults::default();
    file::remove(&name, &faults)?;
    let file = DiskFile::create(&name, &faults)?;
    file::remove(&name, &faults)?;
    let written = snapshot::write_rows(&file, state, stop)?;
    let file = file.inner().try_clone()?;
    let facts = SnapshotFacts::of(written.head.position, u64::from(written.rows));
    Ok(Capture { file, bytes: written.bytes, facts })
}

fn restore(dir: &Path, from: &mut dyn Read, epochs: u64) -> Result<SnapshotFacts, OpenError> {
    let paths = Paths::of(dir);
    let _lock = paths.lock(dir)?;
    let faults = Faults::default();
    for made in [&paths.log, &paths.snapshots] {
        fs::create_dir_all(made).map_err(io_error("make", made))?;
    }
    let new = paths.snapshots.join("snapshot.new");
    let mut objects = 0;
    let copied = (|| {
        let mut file = fs::File::create_new(&new)?;
        io::copy(from, &mut file)?;
        file::settle(&file)?;
        let head = snapshot::load(&new, |_, _| {
            objects += 1;
            Ok(())
        })?;
        snapshot::name(&paths.snapshots, &new, head.position, &faults)?;
        Ok(head.position)
    })();
    let position = copied.map_err(io_error("take over the snapshot in", &paths.snapshots))?;
    let mut log = Log::open(&paths.log, &faults)?;
    let (state, applied) = open::usable_state(dir, &paths, &log)?;
    let next = (0..epochs).fold(applied, |position, _| raised(position));
    let begun = log.begin_after(next);
    state.close();
    begun?;
    for changed in [&paths.log, &paths.state, dir] {
        file::sync_dir(changed, &faults).map_err(io_error("sync", changed))?;
    }
    Ok(SnapshotFacts::of(position, objects))
}
