//! What a board does on duplex streams: processes of exec and attach, connections into pods.
//!
//! In: a request that the agent has checked, frames of `model::wire::channel`. Out: such frames. Both
//! ways whoever is slow makes the other end wait. A stream ends with its process or connection, with
//! its pod, or when the master has closed its end, which kills the process of an exec.

mod attach;
mod exec;
mod forward;

use std::collections::VecDeque;

use bytes::Bytes;
use model::wire::channel::{self, ChannelFrames};
use serde_json::Value;

use crate::io::link::{StreamAnswer, StreamInput};

pub(crate) use attach::{Attach, attach};
pub(crate) use exec::exec;
pub(crate) use forward::forward;

/// Nobody reads the answer any more.
struct Gone;

/// Says one thing to the master.
async fn say(answer: &StreamAnswer, kind: u8, bytes: &[u8]) -> Result<(), Gone> {
    let frame = Bytes::from(channel::channel_frame(kind, bytes));
    answer.send(Ok(frame)).await.map_err(|_| Gone)
}

/// Says how it ended: the last word.
async fn finish(answer: &StreamAnswer, status: &Value) {
    // A client that has gone needs no status.
    let _ = say(answer, channel::STATUS, status.to_string().as_bytes()).await;
}

/// What the master sends, frame by frame.
struct Frames {
    input: StreamInput,
    frames: ChannelFrames,
    ready: VecDeque<(u8, Vec<u8>)>,
}

impl Frames {
    fn new(input: StreamInput) -> Self {
        Self { input, frames: ChannelFrames::default(), ready: VecDeque::new() }
    }

    /// The next frame; `None` when the client has gone.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let bytes = self.input.recv().await?.ok()?;
            self.ready.extend(self.frames.take(&bytes).ok()?);
        }
    }
}
