//! Opening: log, then state, whatever shape a crash or a bad card has left them in.
//!
//! ```text
//! read the vote -> finish an interrupted install -> check log (cut a torn tail, stop on damage)
//! -> finish an interrupted promotion (the log is of a later epoch than the vote)
//! -> open LMDB, check every record
//!   LMDB missing, damaged or older than the log -> rebuild from the newest whole snapshot, or from entry 1
//!   LMDB newer than the log (the card lost the log's tail) -> go on after LMDB in a new epoch
//! -> replay the rest of the log -> idle
//! lead alone: show every object to the hook -> log the start of a term -> tell the hook
//! ```
//! The store of a group's member differs in two places: what its log holds beyond LMDB may not be
//! committed, so it is not replayed; and a log that ends before LMDB, or has no entry although the vote
//! says that it had one, has lost what others count on, so the replica is given up.

use std::{
    fs::{self, File, TryLockError},
    ops::Bound,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use model::{
    ids::{ObjectKey, Uid, Version},
    limits::{STORE_EPOCH_STRIDE, STORE_OVERLAY_FLUSH_BYTES},
};

use super::{
    entry::EntryV1,
    file, install,
    live::{Counts, Latest, Live, Overlay, Shared},
    log::{AppendError, Log, Position, io_error},
    pages, record,
    snapshot::{self, Head, Stop},
    state::{self, FlushError, Put, State},
    types::{Applied, Change, OpenError, Options, Record, StoreError},
    vote::VoteFile,
};

/// How long the lock may be held by somebody who is about to let go of it.
const LOCKED_WITHIN: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where the parts of a store lie.
pub(super) struct Paths {
    /// Segments.
    pub(super) log: PathBuf,
    /// LMDB.
    pub(super) state: PathBuf,
    /// Snapshots.
    pub(super) snapshots: PathBuf,
    /// The vote of a group's member.
    pub(super) vote: PathBuf,
    /// Marks a snapshot that is being installed.
    pub(super) install: PathBuf,
    lock: PathBuf,
}

impl Paths {
    /// In a store's directory.
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            log: dir.join("log"),
            state: dir.join("state"),
            snapshots: dir.join("snapshots"),
            vote: dir.join("vote"),
            install: dir.join("install"),
            lock: dir.join("lock"),
        }
    }

    /// Keeps every other process out until the file is dropped.
    pub(super) fn lock(&self, dir: &Path) -> Result<File, OpenError> {
        fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(io_error("open", &self.lock))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                // A child of this process has it too until it executes its program.
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCKED_WITHIN => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(dir.to_owned())),
                Err(TryLockError::Error(error)) => {
                    return Err(io_error("lock", &self.lock)(error));
                }
            }
        }
    }
}

/// A store that is open and has its state.
pub(super) struct Opened {
    /// The log, ready to append.
    pub(super) log: Log,
    /// What readers see.
    pub(super) live: Live,
    /// The entry up to which the state holds everything.
    pub(super) applied: Position,
    /// The vote of a group's member; `None` when this store is alone.
    pub(super) vote: Option<VoteFile>,
    /// Whether the overlay holds something.
    pub(super) dirty: bool,
    /// Held while open.
    pub(super) lock: File,
}

/// Opens or makes the store of `options`.
pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    let dir = &options.dir;
    let paths = Paths::of(dir);
    let lock = paths.lock(dir)?;
    make_durable(&paths, options)?;
    let mut vote = VoteFile::open(&paths.vote, &options.faults)?;
    install::resume(&paths, options)?;
    let mut log = Log::open(&paths.log, &options.faults)?;
    if vote.as_ref().is_some_and(|vote| vote.ballot().epoch < log.position().epoch) {
        // A promotion has begun the new epoch, in which this replica is alone: its last step is left.
        let removed = file::remove(&paths.vote, &options.faults)
            .and_then(|()| file::sync_dir(dir, &options.faults));
        removed.map_err(io_error("remove", &paths.vote))?;
        vote = None;
    }
    options.clock.resume(log.last_time());
    let (state, applied) = usable_state(dir, &paths, &log)?;
    let has_held = vote.as_ref().is_some_and(|vote| vote.ballot().held);
    let ready = (|| {
        if has_held && log.position().index == 0 {
            return Err(OpenError::Lost(dir.clone()));
        }
        if applied.index > log.position().index {
            if vote.is_some() {
                return Err(OpenError::Lost(dir.clone()));
            }
            go_on_after(&state, applied, &mut log, &paths, options)?;
        }
        let mut live = Live::new(state.clone(), Version(0), options);
        let applied = if vote.is_some() {
            live.membership =
                state.read().and_then(|reading| reading.membership()).map_err(state_error(dir))?;
            live.version = last_version(applied);
            applied
        } else {
            live.version = replay(&log, &mut live, &state, applied)?;
            log.position()
        };
        live.counts = count(&state, &live.overlay)?;
        Ok((live, applied))
    })();
    let (mut live, applied) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            state.close();
            return Err(error);
        }
    };
    live.restart_history(live.version);
    live.segments = log.segments().to_vec();
    let dirty = live.overlay_bytes > 0;
    Ok(Opened { log, live, applied, vote, dirty, lock })
}

/// Makes the directories of a new store, so that their names outlive a power cut as its log does.
fn make_durable(paths: &Paths, options: &Options) -> Result<(), OpenError> {
    let dir = &options.dir;
    if paths.log.exists() {
        return Ok(());
    }
    fs::create_dir(&paths.log).map_err(io_error("make", &paths.log))?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    for made in [Some(dir.as_path()), parent].into_iter().flatten() {
        file::sync_dir(made, &options.faults).map_err(io_error("sync", made))?;
    }
    Ok(())
}

/// LMDB when it can be trusted and the log reaches back to it, or else a rebuilt one.
pub(super) fn usable_state(
    dir: &Path,
    paths: &Paths,
    log: &Log,
) -> Result<(State, Position), OpenError> {
    let fresh = log.segments().is_empty() && !state::data_path(&paths.state).exists();
    match open_checked(&paths.state)? {
        Some((state, Some(applied))) if applied.index + 1 >= log.first_index() => {
            return Ok((state, applied));
        }
        Some((state, _)) => state.close(),
        None => {}
    }
    if !fresh {
        tracing::warn!(dir = %dir.display(), "state is lost or damaged: rebuilding it");
    }
    rebuild(dir, paths, log)
}

/// Opens LMDB and reads all of it; `None` when it is damaged.
fn open_checked(dir: &Path) -> Result<Option<(State, Option<Position>)>, OpenError> {
    let data = state::data_path(dir);
    if !data.exists() {
        return Ok(None);
    }
    if let Err(reason) = pages::check(&data).map_err(io_error("read", &data))? {
        tracing::warn!(reason, "state database is damaged");
        return Ok(None);
    }
    let state = match State::open(dir) {
        Ok(state) => state,
        Err(heed::Error::Mdb(error)) => {
            tracing::warn!(%error, "state database is damaged");
            return Ok(None);
        }
        Err(error) => return Err(state_error(dir)(error)),
    };
    match check_records(&state) {
        Ok(applied) => Ok(Some((state, applied))),
        Err(error) => {
            tracing::warn!(%error, "state database is damaged");
            state.close();
            Ok(None)
        }
    }
}

fn check_records(state: &State) -> Result<Option<Position>, StoreError> {
    let reading = state.read()?;
    let applied = reading.applied()?;
    for row in reading.range(Bound::Unbounded, b"")? {
        row?;
    }
    Ok(applied)
}

pub(super) fn state_error<E: std::error::Error + Send + Sync + 'static>(
    dir: &Path,
) -> impl FnOnce(E) -> OpenError {
    let path = dir.to_owned();
    move |source| OpenError::State { path, source: Box::new(source) }
}

fn flush_error(dir: &Path) -> impl FnOnce(FlushError) -> OpenError {
    let path = dir.to_owned();
    move |error| match error {
        FlushError::Full => {
            io_error("write", &path)(std::io::Error::from_raw_os_error(libc::ENOSPC))
        }
        FlushError::Failed(source) => OpenError::State { path, source: Box::new(source) },
    }
}

/// Makes the state anew. Its position is written last: a crash on the way repeats all of it.
fn rebuild(dir: &Path, paths: &Paths, log: &Log) -> Result<(State, Position), OpenError> {
    let found = snapshot::newest(&paths.snapshots).map_err(io_error("read", &paths.snapshots))?;
    let first_index = log.first_index();
    let found = found.filter(|(_, head)| head.position.index + 1 >= first_index);
    if found.is_none() && first_index > 1 {
        return Err(OpenError::Unrecoverable { dir: dir.to_owned(), first_index });
    }
    state::remove(&paths.state)?;
    // A full disk is told as such, here as well.
    let state = State::open(&paths.state)
        .map_err(|error| flush_error(&paths.state)(FlushError::from(error)))?;
    let filled = fill(&state, found, paths);
    match filled {
        Ok(position) => Ok((state, position)),
        Err(error) => {
            state.close();
            Err(error)
        }
    }
}

pub(super) fn fill(
    state: &State,
    found: Option<(PathBuf, Head)>,
    paths: &Paths,
) -> Result<Position, OpenError> {
    let Some((path, head)) = found else {
        let start = Some(Position::START);
        flush_nothing(state, start).map_err(flush_error(&paths.state))?;
        return Ok(Position::START);
    };
    let mut rows: Vec<(Vec<u8>, Latest)> = Vec::new();
    let mut bytes = 0;
    let flush = |rows: &[(Vec<u8>, Latest)], end: Option<&Head>| {
        let puts = rows.iter().map(|(key, row)| Put {
            key,
            version: row.version,
            uid: row.uid,
            body: row.body.as_deref(),
        });
        let membership = end.and_then(|head| head.membership.as_ref());
        state.flush(puts, end.map(|head| head.position), membership)
    };
    snapshot::load(&path, |key, row| {
        let body = Some(Bytes::copy_from_slice(row.body));
        bytes += row.body.len();
        rows.push((key.to_vec(), Latest { version: row.version, uid: row.uid, body }));
        if bytes > STORE_OVERLAY_FLUSH_BYTES {
            flush(&rows, None).map_err(|error| std::io::Error::other(format!("{error:?}")))?;
            rows.clear();
            bytes = 0;
        }
        Ok(())
    })
    .map_err(io_error("load", &path))?;
    flush(&rows, Some(&head)).map_err(flush_error(&paths.state))?;
    Ok(head.position)
}

fn flush_nothing(state: &State, position: Option<Position>) -> Result<(), FlushError> {
    state.flush(std::iter::empty(), position, None)
}

/// The card lost the log's tail but not the state: nothing that the state holds is lost, but
/// versions after it may have been given out, so they go on in a new epoch.
fn go_on_after(
    state: &State,
    applied: Position,
    log: &mut Log,
    paths: &Paths,
    options: &Options,
) -> Result<(), OpenError> {
    tracing::error!(
        applied = applied.index,
        logged = log.position().index,
        "the disk lost the end of the log: going on after the state, watch history is lost"
    );
    snapshot::write(&paths.snapshots, state, &options.faults, &Stop::default())
        .map_err(io_error("write a snapshot in", &paths.snapshots))?;
    log.restart_after(raised(applied))
}

/// The same place in the next epoch, with versions above all that the old one can have used.
pub(super) fn raised(position: Position) -> Position {
    raised_above(position, position.epoch)
}

/// The same in the epoch after both that of `position` and `epoch`.
pub(super) fn raised_above(position: Position, epoch: u64) -> Position {
    let epoch = epoch.max(position.epoch).saturating_add(1);
    let raise = STORE_EPOCH_STRIDE.saturating_mul(epoch - position.epoch);
    Position { epoch, base: position.base.saturating_add(raise), ..position }
}

/// The last version that an entry at `position` can have.
pub(super) fn last_version(position: Position) -> Version {
    match position.index {
        0 => Version(0),
        index => Version(Version::of_entry(position.base + index + 1, 0).0 - 1),
    }
}

/// Applies what LMDB does not hold; gives the last version.
fn replay(
    log: &Log,
    live: &mut Live,
    state: &State,
    applied: Position,
) -> Result<Version, OpenError> {
    let mut last = last_version(applied);
    log.replay(applied.index + 1, |at, entry| {
        let position = at.place();
        last = entry.last_version(position);
        for change in entry.changes(position) {
            if let Some(key) = record::encode_key(&change.key) {
                let Change { version, uid, body, .. } = change;
                live.overlay_put(key, Latest { version, uid, body });
            }
        }
        if live.overlay_bytes >= STORE_OVERLAY_FLUSH_BYTES {
            flush_replayed(live, state, at);
        }
        Ok(())
    })?;
    Ok(last)
}

/// A full disk is no reason not to start: the rest stays in memory.
fn flush_replayed(live: &mut Live, state: &State, at: Position) {
    let puts = live.overlay.iter().map(|(key, latest)| Put {
        key,
        version: latest.version,
        uid: latest.uid,
        body: latest.body.as_deref(),
    });
    match state.flush(puts, Some(at), None) {
        Ok(()) => live.overlay_clear(),
        Err(error) => tracing::warn!(?error, "state cannot be flushed"),
    }
}

/// Counts every object.
pub(super) fn count(state: &State, overlay: &Overlay) -> Result<Counts, OpenError> {
    let mut counts = Counts::default();
    let reading = state.read().map_err(unreadable)?;
    for row in reading.range(Bound::Unbounded, b"").map_err(unreadable)? {
        let row = row.map_err(unreadable)?;
        if !overlay.contains_key(row.key)
            && let Some(key) = record::decode_key(row.key)
        {
            counts.change(&key, false, true);
        }
    }
    let overlaid = overlay.iter().filter(|(_, latest)| latest.body.is_some());
    for key in overlaid.filter_map(|(key, _)| record::decode_key(key)) {
        counts.change(&key, false, true);
    }
    Ok(counts)
}

/// Shows every object to the hook. Only the store's thread changes what is shown here.
pub(super) fn show(shared: &Shared, hook: &mut dyn Applied) -> Result<(), OpenError> {
    let (state, overlay, memory) = {
        let live = shared.read();
        let state = live.state().map_err(unreadable)?.clone();
        (state, live.overlay.clone(), live.memory.all().collect::<Vec<_>>())
    };
    let reading = state.read().map_err(unreadable)?;
    for row in reading.range(Bound::Unbounded, b"").map_err(unreadable)? {
        let row = row.map_err(unreadable)?;
        if !overlay.contains_key(row.key)
            && let Some(key) = record::decode_key(row.key)
        {
            hook.applied(&put(key, row.version, row.uid, Bytes::copy_from_slice(row.body)));
        }
    }
    for (key, latest) in overlay.iter() {
        if let (Some(body), Some(key)) = (latest.body.clone(), record::decode_key(key)) {
            hook.applied(&put(key, latest.version, latest.uid, body));
        }
    }
    for Record { key, version, uid, body } in memory {
        hook.applied(&put(key, version, uid, body));
    }
    Ok(())
}

fn unreadable(error: StoreError) -> OpenError {
    OpenError::State { path: PathBuf::from("state"), source: Box::new(error) }
}

fn put(key: ObjectKey, version: Version, uid: Uid, body: Bytes) -> Change {
    Change { version, key, uid, body: Some(body), old: None, created: true }
}

/// Logs that a term begins; `None` when the disk is full: the first write does it then.
pub(super) fn start_term(log: &mut Log, options: &Options) -> Result<Option<Version>, OpenError> {
    log.begin_term();
    let mut group = log.group();
    let position = log.add(&mut group, &EntryV1::At(options.clock.now(), Vec::new()).encode());
    match log.append(&group) {
        Ok(()) => Ok(Some(Version::of_entry(position.place(), 0))),
        Err(AppendError::Full) => {
            tracing::warn!("disk is full: writes are refused until there is space");
            Ok(None)
        }
        Err(AppendError::Descriptors) => {
            tracing::warn!("too many files are open: the first write begins the term");
            Ok(None)
        }
        Err(AppendError::Failed(source)) => {
            Err(OpenError::Io { action: "write", path: log.dir().to_owned(), source })
        }
    }
}
