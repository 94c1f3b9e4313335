//! The link between master and board on the same board: two bounded queues of encoded messages.
//!
//! It carries the very bytes that the bus carries between boards, so that one board and ten run the
//! same code. Streams (logs, exec) open a queue of raw chunks each, or one each way, as the tunnel does
//! between boards.

use bytes::Bytes;
use model::limits::LINK_FRAMES_MAX;
use tokio::sync::mpsc;

/// The other end is gone.
#[derive(Debug, thiserror::Error)]
#[error("the link is closed")]
pub struct Closed;

/// Where the chunks of a stream go; an error ends the stream and is what the client is told.
pub type StreamAnswer = mpsc::Sender<Result<Bytes, String>>;

/// What the master sends on a duplex stream; its end means that nobody reads the answer any more.
pub type StreamInput = mpsc::Receiver<Result<Bytes, String>>;

/// A stream that the master opens: the encoded request, and where the answer goes.
#[derive(Debug)]
pub struct StreamOpen {
    /// An encoded `wire::StreamRequestV1` message.
    pub request: Bytes,
    /// Chunks of the answer.
    pub answer: StreamAnswer,
    /// What comes from the master meanwhile; `None` for requests that are answered only.
    pub input: Option<StreamInput>,
}

/// The master's end.
#[derive(Debug)]
pub struct MasterEnd {
    /// Messages to the board.
    pub down: mpsc::Sender<Bytes>,
    /// Messages from the board.
    pub up: mpsc::Receiver<Bytes>,
    /// Opens streams.
    pub streams: mpsc::Sender<StreamOpen>,
}

/// The board's end.
#[derive(Debug)]
pub struct BoardEnd {
    /// Messages from the master.
    pub down: mpsc::Receiver<Bytes>,
    /// Messages to the master.
    pub up: mpsc::Sender<Bytes>,
    /// Streams that the master opened.
    pub streams: mpsc::Receiver<StreamOpen>,
}

/// A connected pair.
pub fn pair() -> (MasterEnd, BoardEnd) {
    let (down_sender, down_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    let (up_sender, up_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    let (stream_sender, stream_receiver) = mpsc::channel(LINK_FRAMES_MAX);
    (
        MasterEnd { down: down_sender, up: up_receiver, streams: stream_sender },
        BoardEnd { down: down_receiver, up: up_sender, streams: stream_receiver },
    )
}
