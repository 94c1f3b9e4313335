//! The agent's side of a session: a process in a container, its streams, its end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;

use model::limits::KEEPER_FRAME_BYTES_MAX;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use super::client::KeeperError;
use super::descriptors;
use super::wire::{self, ExecResultV1, FRAME_HEADER_BYTES, ResponseV1, SessionV1};

/// One end of a stream of a process: a pipe, or the process's terminal.
#[derive(Debug)]
pub struct Pipe(AsyncFd<std::fs::File>);

impl Pipe {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(fd.as_raw_fd(), FcntlArg::F_GETFL)?);
        fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let writes = flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR);
        let interest = match flags.contains(OFlag::O_WRONLY) {
            true => Interest::WRITABLE,
            false if writes => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        // SAFETY: the file owns its descriptor, and nothing replaces it for as long as it lives.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd.into(), interest) }?))
    }

    /// Another handle on the same stream.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Self::new(self.0.get_ref().as_fd().try_clone_to_owned()?)
    }

    /// Reads what is there; 0 when nobody writes any more.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(Interest::READABLE, |mut file| file.read(buffer)).await;
        ended(read)
    }

    /// Reads what is there, and `None` when there is nothing at the moment.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match ended(self.0.get_ref().read(buffer)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes all of it, as fast as the process reads.
    ///
    /// # Errors
    /// The process reads no more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.0.async_io(Interest::WRITABLE, |mut file| file.write(bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Tells the terminal its size.
    ///
    /// # Errors
    /// It is none, or gone.
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        descriptors::set_terminal_size(self.0.get_ref().as_fd(), columns, rows)
    }
}

/// A terminal whose other end is closed says EIO.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        read => read,
    }
}

/// A process that runs; dropping this kills it.
#[derive(Debug)]
pub struct Session {
    /// Its input.
    pub stdin: Option<Pipe>,
    /// Its output.
    pub stdout: Option<Pipe>,
    /// Its errors.
    pub stderr: Option<Pipe>,
    /// Its end comes over this.
    pub end: SessionEnd,
}

/// How a session ends.
#[derive(Debug)]
pub struct SessionEnd(UnixStream);

impl SessionEnd {
    /// Waits for the process.
    ///
    /// # Errors
    /// Nothing is known of its end: the keeper's worker was killed.
    ///
    /// # Cancel safety
    /// Not to be called again after it was dropped in the middle.
    pub async fn wait(&mut self) -> Result<ExecResultV1, KeeperError> {
        match read_message(&mut self.0).await.map_err(KeeperError::Interrupted)? {
            ResponseV1::Executed(result) => Ok(result),
            ResponseV1::Failed { refusal, text } => Err(KeeperError::Refused { refusal, text }),
            _ => Err(KeeperError::Unexpected),
        }
    }
}

/// Reads what answers a request for a session.
pub(super) async fn begin(
    mut stream: UnixStream,
    session: &SessionV1,
) -> Result<Session, KeeperError> {
    let cut = KeeperError::Interrupted;
    let (mut header, mut fds) = (Vec::new(), Vec::new());
    while header.len() < FRAME_HEADER_BYTES {
        let mut buffer = [0; FRAME_HEADER_BYTES];
        let wanted = FRAME_HEADER_BYTES - header.len();
        let read = || descriptors::receive(stream.as_raw_fd(), &mut buffer[..wanted]);
        let (count, more) = stream.async_io(Interest::READABLE, read).await.map_err(cut)?;
        if count == 0 {
            return Err(cut(io::ErrorKind::UnexpectedEof.into()));
        }
        header.extend_from_slice(&buffer[..count]);
        fds.extend(more);
    }
    match read_body(&mut stream, &header).await.map_err(cut)? {
        ResponseV1::Begun => {}
        ResponseV1::Failed { refusal, text } => {
            return Err(KeeperError::Refused { refusal, text });
        }
        _ => return Err(KeeperError::Unexpected),
    }
    let mut fds = fds.into_iter();
    let mut take = |wanted: bool| -> Result<Option<Pipe>, KeeperError> {
        if !wanted {
            return Ok(None);
        }
        fds.next().map(Pipe::new).transpose().map_err(cut)?.map(Some).ok_or(KeeperError::Unexpected)
    };
    let end = SessionEnd(stream);
    if session.tty {
        let terminal = take(true)?.ok_or(KeeperError::Unexpected)?;
        let stdin = Some(terminal.try_clone().map_err(cut)?);
        return Ok(Session { stdin, stdout: Some(terminal), stderr: None, end });
    }
    let stdin = take(session.stdin)?;
    let stdout = take(session.stdout)?;
    Ok(Session { stdin, stdout, stderr: take(session.stderr)?, end })
}

async fn read_message(stream: &mut UnixStream) -> io::Result<ResponseV1> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    read_body(stream, &header).await
}

async fn read_body(stream: &mut UnixStream, header: &[u8]) -> io::Result<ResponseV1> {
    let header = header.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; wire::body_bytes(header, KEEPER_FRAME_BYTES_MAX)?];
    stream.read_exact(&mut body).await?;
    wire::decode(&body)
}

/// Connects to a socket in a directory whose path may be too long for one.
pub(super) fn connect_in(dir: &Path, name: &str) -> io::Result<UnixStream> {
    let dir = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let stream = BlockingStream::connect(path)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
