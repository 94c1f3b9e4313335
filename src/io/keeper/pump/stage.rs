//! The chunk that the pump has in hand: a FIFO with its bytes and a small file that says whose.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::cri::Output;
use crate::io::keeper::paths::Layout;

/// Whose bytes the stage holds, and where in the log they begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) log_path: PathBuf,
    pub(super) output: Output,
    /// Offset in the log; the largest number when the log could not be opened.
    pub(super) offset: u64,
    /// Nothing comes after it.
    pub(super) last: bool,
}

/// The stage pipe and its note.
#[derive(Debug)]
pub(super) struct Stage {
    pipe: File,
    note: File,
}

/// The stage FIFO, open in both directions so that its bytes live as long as this descriptor.
pub(in crate::io::keeper) fn hold(layout: &Layout) -> io::Result<File> {
    open_fifo(&layout.file("stage"))
}

fn open_fifo(path: &Path) -> io::Result<File> {
    match nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    File::options().read(true).write(true).custom_flags(flags).open(path)
}

impl Stage {
    pub(super) fn open(layout: &Layout) -> io::Result<Self> {
        let note = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(layout.file("pump.state"))?;
        Ok(Self { pipe: hold(layout)?, note })
    }

    /// Says whose bytes come next; to be called while the pipe is empty.
    pub(super) fn note(&self, note: &Note) -> io::Result<()> {
        // Trailing bytes of a longer earlier note are ignored by the decoder.
        let bytes = postcard::to_stdvec(note).map_err(io::Error::other)?;
        self.note.write_all_at(&bytes, 0)
    }

    /// The note of whoever filled the pipe.
    pub(super) fn read_note(&self) -> Option<Note> {
        let length = self.note.metadata().ok()?.len().min(8192);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.note.read_exact_at(&mut bytes, 0).ok()?;
        postcard::take_from_bytes(&bytes).ok().map(|(note, _)| note)
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
