//! The few file operations below log and snapshots, each one a place where tests inject failures.
//!
//! Deliberately thin: no retry, no buffering. A failed sync must never be tried again on the same
//! pages (the kernel marks them clean), so callers decide what an error means.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
};

/// Which calls fail; nothing outside of tests.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    #[cfg(test)]
    plan: Option<std::sync::Arc<Plan>>,
    #[cfg(test)]
    unsynced: Option<std::sync::Arc<super::tests::unsynced::Unsynced>>,
    #[cfg(test)]
    stall_ms: std::sync::Arc<std::sync::atomic::AtomicU64>,
    #[cfg(test)]
    full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

#[cfg(test)]
#[derive(Debug)]
pub(super) struct Plan {
    /// Calls until the failure.
    pub(super) left: std::sync::atomic::AtomicI64,
    /// The errno to fail with.
    pub(super) errno: i32,
    /// Whether every later call fails too, as after a power cut.
    pub(super) for_good: bool,
    /// Whether only calls that open a file are failed.
    pub(super) opening: bool,
}

#[cfg(test)]
impl Faults {
    /// The call number `nth` (from 1) fails.
    pub(super) fn at(nth: i64, errno: i32, for_good: bool) -> Self {
        let left = std::sync::atomic::AtomicI64::new(nth);
        let plan = Plan { left, errno, for_good, opening: false };
        Self { plan: Some(std::sync::Arc::new(plan)), ..Self::default() }
    }

    /// Of the calls that open a file, number `nth` (from 1) fails.
    pub(super) fn opening(nth: i64, errno: i32) -> Self {
        let left = std::sync::atomic::AtomicI64::new(nth);
        let plan = Plan { left, errno, for_good: false, opening: true };
        Self { plan: Some(std::sync::Arc::new(plan)), ..Self::default() }
    }

    /// Nothing fails, and what is not synced can be lost.
    pub(super) fn volatile() -> Self {
        Self { unsynced: Some(std::sync::Arc::default()), ..Self::default() }
    }

    /// A power cut, when nobody writes any more; gives how many writes were lost.
    pub(super) fn lose_unsynced(&self) -> usize {
        self.unsynced.as_ref().map_or(0, |unsynced| unsynced.lose())
    }

    /// Every sync takes so long from here on, as on a card that stalls.
    pub(super) fn stall(&self, millis: u64) {
        self.stall_ms.store(millis, std::sync::atomic::Ordering::SeqCst);
    }

    /// No file grows from here on, as on a full disk.
    pub(super) fn fill(&self, full: bool) {
        self.full.store(full, std::sync::atomic::Ordering::SeqCst);
    }

    /// Waits as long as a sync takes.
    pub(super) fn pause(&self) {
        let millis = self.stall_ms.load(std::sync::atomic::Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }

    /// Whether the failure was reached.
    pub(super) fn fired(&self) -> bool {
        let left =
            |plan: &std::sync::Arc<Plan>| plan.left.load(std::sync::atomic::Ordering::SeqCst);
        self.plan.as_ref().is_some_and(|plan| left(plan) <= 0)
    }
}

impl Faults {
    /// Counts one call; an error when this one must fail.
    #[cfg(test)]
    fn check(&self) -> io::Result<()> {
        let Some(plan) = self.plan.as_ref().filter(|plan| !plan.opening) else { return Ok(()) };
        let before = plan.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        match before {
            1 => Err(io::Error::from_raw_os_error(plan.errno)),
            before if before < 1 && plan.for_good => Err(io::Error::from_raw_os_error(plan.errno)),
            _ => Ok(()),
        }
    }

    /// As `check`, for a call that opens a file.
    #[cfg(test)]
    fn check_open(&self) -> io::Result<()> {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.opening) else {
            return self.check();
        };
        match plan.left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) {
            1 => Err(io::Error::from_raw_os_error(plan.errno)),
            _ => Ok(()),
        }
    }

    /// As `check`, for a sync.
    #[cfg(test)]
    fn check_sync(&self) -> io::Result<()> {
        self.pause();
        self.check()
    }

    #[cfg(not(test))]
    #[inline]
    fn check_sync(&self) -> io::Result<()> {
        self.check()
    }

    /// Where the test build waits.
    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the test build waits here")]
    pub(super) fn pause(&self) {}

    /// LMDB syncs by itself: here a trial makes it slow, or fail.
    pub(super) fn commits(&self) -> io::Result<()> {
        injected(Call::Sync)?;
        self.pause();
        Ok(())
    }

    /// Notes what a write covers, in case it is lost.
    #[cfg(test)]
    fn covers(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        let is_full = self.full.load(std::sync::atomic::Ordering::SeqCst);
        if is_full && bytes != u64::MAX && offset + bytes > file.metadata()?.len() {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.unsynced.as_ref().map_or(Ok(()), |unsynced| unsynced.note(file, offset, bytes))
    }

    /// Notes that a file is on the disk.
    #[cfg(test)]
    fn synced(&self, file: &File) -> io::Result<()> {
        self.unsynced.as_ref().map_or(Ok(()), |unsynced| unsynced.synced(file))
    }

    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the test build takes notes here")]
    fn covers(&self, _: &File, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the test build takes notes here")]
    fn synced(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(test))]
    #[inline]
    fn check_open(&self) -> io::Result<()> {
        self.check()
    }

    #[cfg(not(test))]
    #[inline]
    #[expect(clippy::unused_self, reason = "the test build counts calls here")]
    fn check(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What a trial on running boards can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Write,
    Sync,
}

/// Asks the file `faults` in the folder `KUMQUAT_FAULTS` what happens to this call: lines such as
/// `sync eio`, `sync slow 3000` (milliseconds), `write enospc`. No file, no fault.
#[cfg(feature = "fault-injection")]
fn injected(call: Call) -> io::Result<()> {
    let Some(folder) = std::env::var_os("KUMQUAT_FAULTS") else { return Ok(()) };
    let text = fs::read_to_string(Path::new(&folder).join("faults")).unwrap_or_default();
    let name = match call {
        Call::Write => "write",
        Call::Sync => "sync",
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [of, "eio"] if of == name => return Err(io::Error::from_raw_os_error(libc::EIO)),
            [of, "enospc"] if of == name => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            [of, "slow", millis] if of == name => {
                let millis = millis.parse().unwrap_or(0);
                std::thread::sleep(std::time::Duration::from_millis(millis));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(not(feature = "fault-injection"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "a build for trials fails here")]
fn injected(_: Call) -> io::Result<()> {
    Ok(())
}

/// A file that the store writes.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    faults: Faults,
}

impl DiskFile {
    /// Makes a new file; it is durable only after its own sync and [`sync_dir`].
    pub(super) fn create(path: &Path, faults: &Faults) -> io::Result<Self> {
        faults.check_open()?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { file, faults: faults.clone() })
    }

    /// Opens an existing file for writing.
    pub(super) fn open(path: &Path, faults: &Faults) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, faults: faults.clone() })
    }

    /// Writes all bytes; a failure may leave a part of them.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        injected(Call::Write)?;
        self.faults.covers(&self.file, offset, bytes.len() as u64)?;
        if let Err(error) = self.faults.check() {
            let torn = bytes.len() / 2;
            self.file.write_all_at(&bytes[..torn], offset)?;
            return Err(error);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// fdatasync(2): data and the size, not the times.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        injected(Call::Sync)?;
        self.faults.check_sync()?;
        self.file.sync_data()?;
        self.faults.synced(&self.file)
    }

    /// fsync(2).
    pub(super) fn sync_all(&self) -> io::Result<()> {
        injected(Call::Sync)?;
        self.faults.check_sync()?;
        self.file.sync_all()?;
        self.faults.synced(&self.file)
    }

    /// Cuts or extends.
    pub(super) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.faults.check()?;
        self.faults.covers(&self.file, bytes, u64::MAX)?;
        self.file.set_len(bytes)
    }

    /// The file, for reading.
    pub(super) fn inner(&self) -> &File {
        &self.file
    }
}

/// Makes names made, renamed or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path, faults: &Faults) -> io::Result<()> {
    faults.pause();
    faults.check_open()?;
    File::open(dir)?.sync_all()
}

/// Removes a file; absent is fine.
pub(super) fn remove(path: &Path, faults: &Faults) -> io::Result<()> {
    faults.check()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes back what is dirty and drops the file from the page cache, so that the next read shows
/// what the disk holds: after a failed sync the cache keeps pages that never reached it.
pub(super) fn settle(file: &File) -> io::Result<()> {
    file.sync_data()?;
    // SAFETY: posix_fadvise takes a descriptor, which `file` keeps open, and no memory.
    let code = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    match code {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether an error means that no file can be opened at the moment: it passes by itself.
pub(super) fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether an error means a full disk (or quota, or file size limit).
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}
