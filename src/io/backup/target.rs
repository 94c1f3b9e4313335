//! A file that gets its name when it is whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::os::fd::AsRawFd;

use crate::io::durable::SECRET;

/// What the name of a file ends in until it is whole.
pub const UNFINISHED: &str = ".new";

/// A file that is being written under `<name>.new`, and locked meanwhile; it goes when this is dropped before
/// [`Unfinished::name`].
pub struct Unfinished {
    path: PathBuf,
    fresh: PathBuf,
    file: File,
    is_named: bool,
}

impl Unfinished {
    /// Begins a file that shall be called `path`.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut fresh = OsString::from(path);
        fresh.push(UNFINISHED);
        let fresh = PathBuf::from(fresh);
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(SECRET);
        let file = options.open(&fresh)?;
        // On a file system without locks nobody can tell that it is abandoned, and it stays.
        let _locked = file.try_lock();
        Ok(Self { path: path.to_owned(), fresh, file, is_named: false })
    }

    /// Makes what was written durable, and gives the file to be read from the disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn read_back(&mut self) -> io::Result<File> {
        settle(&self.file)?;
        File::open(&self.fresh)
    }

    /// Gives it its name, durably; what had that name is replaced.
    ///
    /// # Errors
    /// The disk's.
    pub fn name(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.fresh, &self.path)?;
        self.is_named = true;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match File::open(folder.unwrap_or(Path::new(".")))?.sync_all() {
            // Some file systems of USB sticks cannot sync a folder.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_named {
            // A stick that was pulled takes it along; the next backup to that folder removes it.
            let _gone = fs::remove_file(&self.fresh);
        }
    }
}

/// Removes an unfinished file, unless somebody writes it at this moment.
pub fn remove_abandoned(fresh: &Path) {
    // For writing: NFS locks no other for one alone.
    let file = OpenOptions::new().write(true).open(fresh);
    let is_abandoned = file.is_ok_and(|file| file.try_lock().is_ok());
    if is_abandoned {
        // What cannot be removed is in the way of nothing but space.
        let _gone = fs::remove_file(fresh);
    }
}

/// Writes back what is dirty and drops the file from the page cache, so that the next read shows
/// what the disk holds.
///
/// # Errors
/// The disk's.
pub fn settle(file: &File) -> io::Result<()> {
    file.sync_all()?;
    let dropped = posix_fadvise(file.as_raw_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    dropped.map_err(io::Error::from)
}

/// Whether two folders lie on one file system, and so are lost together.
///
/// # Errors
/// One of them cannot be looked at.
pub fn on_same_disk(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(fs::metadata(one)?.dev() == fs::metadata(other)?.dev())
}
