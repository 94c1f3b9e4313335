//! What an HTTP/1.1 connection can be upgraded to: WebSocket (RFC 6455) and SPDY/3.1, server side, as
//! far as kubectl and client-go use them.
//!
//! ```text
//!  connection ──read half──> decoder (pure) ──> messages, streams
//!             <──write half── writer task <── bounded queue of encoded frames
//! ```
//! Invariants: a peer that does not read makes the writer wait, and with it whoever fills the queue; a
//! peer whose bytes nobody takes is not read; whatever it sends ends at most its own connection.
//! Deliberately absent: extensions (compression), SPDY's flow control, which neither kubectl's library
//! nor the kubelet's has: each stream's bound is the connection's.

pub mod spdy;
pub mod websocket;

use std::time::Duration;

use model::limits::{API_UPGRADE_FRAMES_MAX, API_UPGRADE_PING_SECONDS};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a peer may take for what waits when nothing more will come.
const FLUSH_WITHIN: Duration = Duration::from_secs(15);

/// Encoded frames on their way to the peer.
pub type Frames = mpsc::Sender<Vec<u8>>;

/// The end of a connection's writing.
#[derive(Debug)]
pub struct Flushing(JoinHandle<()>);

impl Flushing {
    /// Waits until the peer has what was sent, for a while; all senders must be gone.
    pub async fn finish(mut self) {
        if timeout(FLUSH_WITHIN, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

impl Drop for Flushing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes frames as fast as the peer takes them, and `ping` in longer silence: so that routers keep
/// the connection, and a peer that has vanished is noticed.
fn start_writer(
    mut stream: impl AsyncWrite + Send + Unpin + 'static,
    ping: Vec<u8>,
) -> (Frames, Flushing) {
    let (sender, mut frames) = mpsc::channel::<Vec<u8>>(API_UPGRADE_FRAMES_MAX);
    let silence = Duration::from_secs(API_UPGRADE_PING_SECONDS);
    let writing = tokio::spawn(async move {
        loop {
            let written = match timeout(silence, frames.recv()).await {
                Ok(Some(frame)) => stream.write_all(&frame).await,
                Err(_) => stream.write_all(&ping).await,
                Ok(None) => break,
            };
            let flushed = match written {
                Ok(()) if frames.is_empty() => stream.flush().await,
                written => written,
            };
            if flushed.is_err() {
                return;
            }
        }
        // The peer may have closed first.
        let _ = stream.shutdown().await;
    });
    (sender, Flushing(writing))
}
