//! Between bodies that come in pieces and code that reads or writes without async (archives).

use std::future::Future;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use model::limits::{CONTROL_BODY_IDLE_SECONDS_MAX, CONTROL_PIECES_MAX};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Writes into the body of a request or answer; blocks while the other side is slow.
pub struct PieceWriter(mpsc::Sender<io::Result<Bytes>>);

impl PieceWriter {
    /// A writer and the pieces for [`super::stream_body`].
    pub fn new() -> (Self, mpsc::Receiver<io::Result<Bytes>>) {
        let (sender, pieces) = mpsc::channel(CONTROL_PIECES_MAX);
        (Self(sender), pieces)
    }

    /// Ends the body with an error, so that the other side does not take it for whole.
    pub fn fail(self, error: io::Error) {
        // The other side may be gone already; then there is nobody to tell.
        let _gone = self.0.blocking_send(Err(error));
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(piece)).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the body of a request in a thread that may block.
pub struct PieceReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl PieceReader {
    /// Starts to read `body`; at most a few pieces wait in memory. A body that falls silent ends with
    /// an error, so that whoever reads it lets go of what it holds.
    pub fn new(body: Incoming) -> Self {
        Self::until(body, std::future::pending())
    }

    /// The same; the reading ends with an error once `stop` does, also while nothing comes.
    pub fn until(mut body: Incoming, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel(CONTROL_PIECES_MAX);
        tokio::spawn(async move {
            let idle = Duration::from_secs(CONTROL_BODY_IDLE_SECONDS_MAX);
            tokio::pin!(stop);
            loop {
                // Cancel safety: after a timeout or the stop nobody asks for another frame.
                let heard = tokio::select! {
                    heard = timeout(idle, body.frame()) => heard.map_err(io::Error::from),
                    () = &mut stop => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped")),
                };
                let piece = match heard {
                    Ok(None) => break,
                    Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
                    Ok(Some(Err(error))) => Err(io::Error::other(error)),
                    Err(ended) => Err(ended),
                };
                let broken = piece.is_err();
                // When nobody reads any more the rest is taken off the wire all the same: a client
                // that still writes would find the connection closed before it sees the answer.
                let _unread = sender.send(piece).await;
                if broken {
                    break;
                }
            }
        });
        Self { pieces, rest: Bytes::new() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
