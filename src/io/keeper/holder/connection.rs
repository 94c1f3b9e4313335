//! A client's connection while its request is being read: no byte beyond the request is taken, since
//! what follows is for the worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use model::limits::{KEEPER_REQUEST_BYTES_MAX, KEPT_DESCRIPTORS_MAX};

use crate::io::keeper::descriptors;
use crate::io::keeper::wire::{self, FRAME_HEADER_BYTES, RequestV1};

/// How long a client may take to send its request, and a worker to read what follows it.
pub(super) const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// A connection whose request is not complete.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    header: [u8; FRAME_HEADER_BYTES],
    body: Option<Vec<u8>>,
    filled: usize,
    /// What came with the bytes so far.
    fds: Vec<OwnedFd>,
    until: Instant,
}

/// How far a connection is.
pub(super) enum Progress {
    /// More must come.
    Partial(Connection),
    /// A request and the descriptors that came with it; the stream blocks again, with time limits.
    Complete(RequestV1, UnixStream, Vec<OwnedFd>),
    /// Not a request of ours; the stream is for telling so.
    Garbage(io::Error, UnixStream),
    /// The client went away.
    Gone,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let until = Instant::now() + REQUEST_WAIT;
        let (header, fds) = ([0; FRAME_HEADER_BYTES], Vec::new());
        Ok(Self { stream, header, body: None, filled: 0, fds, until })
    }

    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Reads what is there.
    pub(super) fn advance(mut self) -> Progress {
        loop {
            let target = match &mut self.body {
                None => &mut self.header[self.filled..],
                Some(body) => &mut body[self.filled..],
            };
            if target.is_empty() {
                match self.complete() {
                    Ok(None) => continue,
                    Ok(Some(request)) => return self.hand_over(request),
                    Err(error) => return Progress::Garbage(error, self.stream),
                }
            }
            match descriptors::receive(self.stream.as_raw_fd(), target) {
                Ok((0, _)) => return Progress::Gone,
                Ok((count, fds)) => {
                    self.filled += count;
                    self.fds.extend(fds);
                    if self.fds.len() > KEPT_DESCRIPTORS_MAX {
                        return Progress::Gone;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Progress::Partial(self);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Gone,
            }
        }
    }

    /// The header is full: makes room for the body. The body is full: decodes it.
    fn complete(&mut self) -> io::Result<Option<RequestV1>> {
        if let Some(body) = &self.body {
            return wire::decode(body).map(Some);
        }
        let bytes = wire::body_bytes(&self.header, KEEPER_REQUEST_BYTES_MAX)?;
        self.body = Some(vec![0; bytes]);
        self.filled = 0;
        Ok(None)
    }

    fn hand_over(self, request: RequestV1) -> Progress {
        match make_blocking(&self.stream) {
            Ok(()) => Progress::Complete(request, self.stream, self.fds),
            Err(_) => Progress::Gone,
        }
    }
}

/// Back to blocking calls, none of which lasts for ever.
pub(super) fn make_blocking(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_WAIT))?;
    stream.set_write_timeout(Some(REQUEST_WAIT))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn begin() -> (UnixStream, Connection) {
        let (client, server) = UnixStream::pair().expect("pair");
        (client, Connection::new(server).expect("fresh"))
    }

    #[test]
    fn requests_come_in_any_pieces_and_nothing_more_is_taken() {
        let request = RequestV1::Signal { id: "abc".into(), signo: 9 };
        let bytes = wire::frame(&request).expect("small");
        for split in 1..bytes.len() {
            let (mut client, connection) = begin();
            client.write_all(&bytes[..split]).expect("room");
            let Progress::Partial(connection) = connection.advance() else {
                panic!("complete after {split} bytes");
            };
            client.write_all(&bytes[split..]).expect("room");
            client.write_all(b"rest").expect("room");
            let Progress::Complete(found, mut stream, _) = connection.advance() else {
                panic!("not complete, split at {split}");
            };
            assert_eq!(found, request);
            let mut rest = [0; 4];
            stream.read_exact(&mut rest).expect("left alone");
            assert_eq!(&rest, b"rest");
        }
    }

    #[test]
    fn garbage_is_told_from_silence() {
        let (mut client, connection) = begin();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("room");
        assert!(matches!(connection.advance(), Progress::Garbage(..)));
        let (client, connection) = begin();
        drop(client);
        assert!(matches!(connection.advance(), Progress::Gone));
        let (mut client, connection) = begin();
        client.write_all(&[3, 0, 0, 0, 1, 0, 200]).expect("room");
        assert!(matches!(connection.advance(), Progress::Garbage(..)));
    }
}
