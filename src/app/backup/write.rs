//! Writing a sealed file, and reading one to its end.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::backup::BackupHeadV1;
use tokio::sync::watch;

use super::content::{read_head, write_head};
use crate::io::backup::{BackupError, Header, Opener, Sealer, Secret, Unfinished};
use crate::io::store::{SnapshotFacts, Store};

/// Copied at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Between two lines of progress.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// How a task is told to stop; clones tell the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// Tells it.
    pub(super) fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was told.
    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when it is told.
    pub(super) fn asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let own = self.clone();
        async move {
            let mut told = own.0.subscribe();
            told.wait_for(|told| *told).await.expect("the sender lives as long as this");
        }
    }
}

/// Long work that a person may watch and stop.
pub(super) struct Task {
    stop: Stop,
    is_seen: bool,
}

impl Task {
    /// Shows progress on a terminal.
    pub(super) fn new() -> Self {
        Self { stop: Stop::default(), is_seen: io::stderr().is_terminal() }
    }

    /// In the background.
    pub(super) fn unseen() -> Self {
        Self { stop: Stop::default(), is_seen: false }
    }

    /// Set to end it.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What is read goes through it.
    pub(super) fn follow<'a, R: Read>(
        &'a self,
        from: R,
        what: &'static str,
        size: u64,
    ) -> Followed<'a, R> {
        Followed { task: self, from, what, size, done: 0, shown: Instant::now() }
    }
}

/// A reader that tells how far it is, and ends when the task does.
pub(super) struct Followed<'a, R> {
    task: &'a Task,
    from: R,
    what: &'static str,
    size: u64,
    done: u64,
    shown: Instant,
}

impl<R: Read> Read for Followed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.task.stop.is_set() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
        }
        let count = self.from.read(buffer)?;
        self.done += count as u64;
        if self.task.is_seen && self.shown.elapsed() > SHOW_EVERY {
            self.shown = Instant::now();
            let megabytes = self.done as f64 / 1e6;
            let percent = (self.done * 100).checked_div(self.size).unwrap_or(100);
            eprint!("\r{} {megabytes:.1} MB  {percent}% ", self.what);
        }
        Ok(count)
    }
}

impl<R> Drop for Followed<'_, R> {
    fn drop(&mut self) {
        if self.task.is_seen {
            eprint!("\r{:40}\r", "");
        }
    }
}

/// A backup that was read to its end.
#[derive(Debug)]
pub(super) struct Verified {
    /// All but the objects.
    pub(super) head: BackupHeadV1,
    /// What the snapshot holds.
    pub(super) facts: SnapshotFacts,
    /// Size of the file.
    pub(super) file_bytes: u64,
}

/// Seals head and snapshot into a file called `path`, which is there when this returns, whole and read back from
/// the disk; after an error whatever was there before still is.
pub(super) fn write(
    path: &Path,
    head: &BackupHeadV1,
    snapshot: &mut impl Read,
    secret: Option<&Secret>,
    task: &Task,
) -> Result<Verified> {
    let secret = secret.cloned();
    let secret = secret.unwrap_or_else(|| Secret::of_cluster(&head.authority_key.0));
    let failed = || format!("cannot write {}", path.display());
    let mut unfinished = Unfinished::create(path).with_context(failed)?;
    let mut sealer = Sealer::new(&mut unfinished, &secret).with_context(failed)?;
    write_head(head, &mut sealer).with_context(failed)?;
    let mut snapshot = task.follow(snapshot, "saving", head.snapshot_bytes);
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = head.snapshot_bytes;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let count = snapshot.read(&mut piece[..wanted]);
        if task.stop.is_set() {
            bail!("stopped");
        }
        let count = count.context("the board stopped in the middle of the backup")?;
        if count == 0 {
            bail!("the board stopped in the middle of the backup");
        }
        sealer.write_all(&piece[..count]).with_context(failed)?;
        left -= count as u64;
    }
    drop(snapshot);
    sealer.finish().with_context(failed)?;
    let again = || format!("what was written to {} does not read back", path.display());
    let file = unfinished.read_back().with_context(failed)?;
    let verified = verify(file, |_| Ok(secret), task).with_context(again)?;
    if verified.head != *head {
        bail!(again());
    }
    unfinished.name().with_context(failed)?;
    Ok(verified)
}

/// Reads a file to its end and checks all of it.
pub(super) fn verify_file(
    path: &Path,
    ask: impl FnOnce(&Header) -> io::Result<Secret>,
    task: &Task,
) -> Result<Verified> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    verify(file, ask, task).with_context(|| path.display().to_string())
}

fn verify(
    file: File,
    ask: impl FnOnce(&Header) -> io::Result<Secret>,
    task: &Task,
) -> Result<Verified> {
    let file_bytes = file.metadata()?.len();
    let mut opener = Opener::new(task.follow(file, "verifying", file_bytes), ask)?;
    let head = read_head(&mut opener)?;
    let mut counted = Counted { from: opener, bytes: 0 };
    let facts = Store::check_snapshot(&mut counted)?;
    check(&head, facts, counted.bytes)?;
    Ok(Verified { head, facts, file_bytes })
}

/// Whether a snapshot is the one that its head announced.
pub(super) fn check(head: &BackupHeadV1, facts: SnapshotFacts, bytes: u64) -> Result<()> {
    let announced = (head.epoch, head.version, head.snapshot_bytes);
    if announced != (facts.epoch, facts.version.0, bytes) {
        let found = format!("epoch {}, version {}, {bytes} bytes", facts.epoch, facts.version);
        return Err(io::Error::from(BackupError::Content(found)).into());
    }
    Ok(())
}

/// Counts what is read.
pub(super) struct Counted<R> {
    /// Where it comes from.
    pub(super) from: R,
    /// How much it was.
    pub(super) bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}
