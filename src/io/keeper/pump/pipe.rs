//! Moving bytes between pipes without ever having them only in this process's memory.
//!
//! `peek` duplicates what waits in a pipe (tee(2)) without consuming it; `shift` moves it to another
//! pipe inside the kernel (splice(2)), so a kill leaves every byte in one of the two.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use model::limits::LOG_CHUNK_BYTES_MAX;
use nix::fcntl::OFlag;

/// What a look into a pipe found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peek {
    /// This many bytes are in the buffer, and still in the pipe.
    Bytes(usize),
    /// Nothing yet.
    Empty,
    /// Nothing, and no writer is left.
    Closed,
}

/// A scratch pipe to look through.
#[derive(Debug)]
pub(super) struct Lens {
    read: OwnedFd,
    write: OwnedFd,
}

impl Lens {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { read, write })
    }

    /// Copies what waits in `pipe` to the front of `buffer`.
    pub(super) fn peek(
        &self,
        pipe: BorrowedFd<'_>,
        buffer: &mut [u8; LOG_CHUNK_BYTES_MAX],
    ) -> io::Result<Peek> {
        // SAFETY: tee works on two descriptors that are open for the whole call and on no memory.
        let copied = unsafe {
            libc::tee(
                pipe.as_raw_fd(),
                self.write.as_raw_fd(),
                LOG_CHUNK_BYTES_MAX,
                libc::SPLICE_F_NONBLOCK,
            )
        };
        match usize::try_from(copied) {
            Ok(0) => Ok(Peek::Closed),
            Ok(copied) => {
                let mut filled = 0;
                while filled < copied {
                    let read =
                        nix::unistd::read(self.read.as_raw_fd(), &mut buffer[filled..copied])?;
                    filled += read;
                }
                Ok(Peek::Bytes(copied))
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(Peek::Empty),
                error => Err(error),
            },
        }
    }
}

/// Moves up to `bytes` from one pipe to another, as far as they fit; returns how many.
pub(super) fn shift(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let null = std::ptr::null_mut();
    // SAFETY: both descriptors are open for the whole call; offsets are null, as pipes require.
    let moved = unsafe {
        libc::splice(from.as_raw_fd(), null, to.as_raw_fd(), null, bytes, libc::SPLICE_F_NONBLOCK)
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Throws away everything that waits in `pipe`, in one system call that a kill cannot split.
pub(super) fn discard(
    pipe: BorrowedFd<'_>,
    buffer: &mut [u8; LOG_CHUNK_BYTES_MAX],
) -> io::Result<()> {
    match nix::unistd::read(pipe.as_raw_fd(), buffer) {
        Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn bytes_are_in_one_pipe_or_the_other() {
        let mut buffer = Box::new([0; LOG_CHUNK_BYTES_MAX]);
        let lens = Lens::new().expect("pipe");
        let (a, b) = (Lens::new().expect("pipe"), Lens::new().expect("pipe"));
        let peek =
            |buffer: &mut _, pipe: &Lens| lens.peek(pipe.read.as_fd(), buffer).expect("peek");
        assert_eq!(peek(&mut buffer, &a), Peek::Empty);
        for text in ["one\n", "two\n", "thr"] {
            nix::unistd::write(&a.write, text.as_bytes()).expect("room");
        }
        assert_eq!(peek(&mut buffer, &a), Peek::Bytes(11));
        assert_eq!(&buffer[..11], b"one\ntwo\nthr");
        assert_eq!(shift(a.read.as_fd(), b.write.as_fd(), 8).expect("room"), 8);
        nix::unistd::write(&a.write, b"ee\n").expect("room");
        assert_eq!(peek(&mut buffer, &a), Peek::Bytes(6));
        assert_eq!(&buffer[..6], b"three\n");
        assert_eq!(peek(&mut buffer, &b), Peek::Bytes(8));
        assert_eq!(&buffer[..8], b"one\ntwo\n");
        discard(b.read.as_fd(), &mut buffer).expect("read");
        assert_eq!(peek(&mut buffer, &b), Peek::Empty);
        let Lens { read, write } = a;
        drop(write);
        assert_eq!(lens.peek(read.as_fd(), &mut buffer).expect("peek"), Peek::Bytes(6));
        discard(read.as_fd(), &mut buffer).expect("read");
        assert_eq!(lens.peek(read.as_fd(), &mut buffer).expect("peek"), Peek::Closed);
    }
}
