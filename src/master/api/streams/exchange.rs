//! A duplex stream to a board.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use model::limits::{CHANNEL_FRAME_BYTES_MAX, TUNNEL_BEGIN_SECONDS_MAX, TUNNEL_CHUNKS_MAX};
use model::wire::StreamRequestV1;
use model::wire::channel::{self, BEGUN, ChannelFrames};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::master::api::logs::{LogAnswer, LogSource};

/// How long a board may take to begin: the tunnel's own deadline comes first, with its words.
const BEGIN_WITHIN: Duration = Duration::from_secs(TUNNEL_BEGIN_SECONDS_MAX + 5);

/// Why there is none.
pub(super) enum Refused {
    /// The board cannot be reached.
    Away(String),
    /// The board, or the way to it, says no.
    Board(String),
}

/// Both directions of a stream that the board has begun.
pub(super) struct Exchange {
    pub(super) to_board: ToBoard,
    pub(super) from_board: FromBoard,
}

/// What goes to the board; dropping it tells the board that the client has gone.
#[derive(Clone)]
pub(super) struct ToBoard(mpsc::Sender<Result<Bytes, String>>);

/// What comes from the board.
pub(super) struct FromBoard {
    answer: LogAnswer,
    frames: ChannelFrames,
    ready: VecDeque<(u8, Vec<u8>)>,
}

/// Asks a board, and waits until it begins.
pub(super) async fn begin(
    source: &dyn LogSource,
    node: &str,
    request: &StreamRequestV1,
) -> Result<Exchange, Refused> {
    let (answer, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
    let (to_board, input) = mpsc::channel(TUNNEL_CHUNKS_MAX);
    source.exchange(node, request, answer, input).map_err(Refused::Away)?;
    let (frames, ready) = Default::default();
    let mut from_board = FromBoard { answer: chunks, frames, ready };
    let late = || Refused::Away(format!("board {node:?} did not answer in time"));
    match timeout(BEGIN_WITHIN, from_board.next()).await.map_err(|_| late())? {
        Some(Ok((BEGUN, _))) => Ok(Exchange { to_board: ToBoard(to_board), from_board }),
        Some(Err(text)) => Err(Refused::Board(text)),
        _ => Err(Refused::Away(format!("board {node:?} ended the stream"))),
    }
}

impl ToBoard {
    /// Sends bytes on a channel, as fast as the board takes them; whether it is still there.
    pub(super) async fn send(&self, kind: u8, bytes: &[u8]) -> bool {
        for part in bytes.chunks(CHANNEL_FRAME_BYTES_MAX) {
            if self.0.send(Ok(channel::channel_frame(kind, part).into())).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that no more bytes will come.
    pub(super) async fn close(&self) -> bool {
        self.0.send(Ok(channel::channel_frame(channel::CLOSE, b"").into())).await.is_ok()
    }

    /// Tells the size of the client's terminal.
    pub(super) async fn resize(&self, (columns, rows): (u16, u16)) -> bool {
        self.0.send(Ok(channel::resize_frame(columns, rows).into())).await.is_ok()
    }
}

impl FromBoard {
    /// The next frame; `None` when the board has ended the stream, an error when it broke.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Result<(u8, Vec<u8>), String>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(Ok(frame));
            }
            let bytes = match self.answer.recv().await? {
                Ok(bytes) => bytes,
                Err(text) => return Some(Err(text)),
            };
            match self.frames.take(&bytes) {
                Ok(frames) => self.ready.extend(frames),
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }
}
