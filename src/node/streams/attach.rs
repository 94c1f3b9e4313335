//! A running container's own input and output.
//!
//! What it says is read from its log, from the moment of attaching on: a client that is slow or stops
//! reading holds nothing up. What it is sent goes to its console (`io::keeper`).

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use model::limits::CHANNEL_FRAME_BYTES_MAX;
use model::status::{exit_status, stream_failure};
use model::wire::StdioV1;
use model::wire::channel::{self, BEGUN, CLOSE, RESIZE, STDERR, STDIN, STDOUT};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{Frames, finish, say};
use crate::io::keeper::Keeper;
use crate::io::link::{StreamAnswer, StreamInput};
use crate::node::log_stream;

/// What is attached to.
pub(crate) struct Attach {
    /// The container's id.
    pub(crate) id: String,
    /// Its log.
    pub(crate) log: PathBuf,
    /// What the client wants.
    pub(crate) stdio: StdioV1,
    /// Whether its input is held open.
    pub(crate) has_stdin: bool,
    /// Whether it has a terminal.
    pub(crate) has_tty: bool,
}

/// Serves until the container has ended, for which `lives` is asked, or the client has gone.
pub(crate) async fn attach(
    keeper: Keeper,
    attach: Attach,
    lives: impl Fn() -> bool + Send + 'static,
    answer: StreamAnswer,
    input: StreamInput,
) {
    let Attach { id, log, stdio, has_stdin, has_tty } = attach;
    let console = match (stdio.stdin && has_stdin) || has_tty {
        true => keeper.console(&id).ok(),
        false => None,
    };
    if say(&answer, BEGUN, b"").await.is_err() {
        return;
    }
    let output = answer.clone();
    let following = tokio::task::spawn_blocking(move || {
        let take = |stream: &str, text: &[u8]| {
            let (kind, wanted) = match stream {
                // A terminal has one output.
                "stderr" if !has_tty => (STDERR, stdio.stderr),
                _ => (STDOUT, stdio.stdout),
            };
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            for part in text.chunks(CHANNEL_FRAME_BYTES_MAX).filter(|_| wanted) {
                let frame = Bytes::from(channel::channel_frame(kind, part));
                output.blocking_send(Ok(frame)).map_err(gone)?;
            }
            Ok(())
        };
        log_stream::follow_from_now(&log, lives, || output.is_closed(), take)
    });
    // Cancel safety: the thread that follows sees that the answer is closed.
    let followed = tokio::select! {
        followed = following => followed,
        () = feed(Frames::new(input), console, stdio.stdin && has_stdin) => return,
        () = answer.closed() => return,
    };
    let status = match followed {
        Ok(Ok(())) => exit_status(0),
        Ok(Err(error)) => stream_failure(&format!("error attaching to container: {error}")),
        Err(error) => stream_failure(&format!("error attaching to container: {error}")),
    };
    finish(&answer, &status).await;
}

/// Passes on what the client sends; ends when it has gone.
async fn feed(mut frames: Frames, mut console: Option<UnixStream>, stdin: bool) {
    while let Some((kind, bytes)) = frames.next().await {
        let passes = match kind {
            STDIN | CLOSE => stdin,
            RESIZE => true,
            _ => false,
        };
        if passes && let Some(stream) = &mut console {
            let frame = channel::channel_frame(kind, &bytes);
            if stream.write_all(&frame).await.is_err() {
                // The container takes no more.
                console = None;
            }
        }
    }
}
