//! Descriptors sent over Unix sockets (SCM_RIGHTS, unix(7)), and terminals.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors of one message: input, output, errors.
const DESCRIPTORS_MAX: usize = 3;

/// Writes a small message whole, with descriptors on its first byte.
pub(super) fn send(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Reads once from a socket, with the descriptors that come along.
pub(super) fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Opens the inner end of a terminal; no path is followed that somebody may have changed.
pub(super) fn terminal_peer(terminal: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes a number and returns a new descriptor or -1.
    let fd = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Tells a terminal its size; who runs in it gets SIGWINCH.
pub(super) fn set_terminal_size(
    terminal: BorrowedFd<'_>,
    columns: u16,
    rows: u16,
) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a `winsize`, which `size` is, and keeps no pointer to it.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &size) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_with_the_first_byte() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        let (read, write) = nix::unistd::pipe().expect("pipe");
        send(&ours, b"hello", &[read]).expect("sent");
        send(&ours, b"!", &[]).expect("sent");
        let (count, fds) = receive(theirs.as_raw_fd(), &mut [0; 64]).expect("received");
        assert_eq!((count, fds.len()), (5, 1), "bytes after descriptors wait for the next read");
        nix::unistd::write(&write, b"x").expect("room");
        let mut byte = [0];
        nix::unistd::read(fds[0].as_raw_fd(), &mut byte).expect("the same pipe");
        assert_eq!(&byte, b"x");
    }
}
