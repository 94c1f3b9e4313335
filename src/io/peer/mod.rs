//! HTTP/2 between boards over mutual TLS, on port 7443: the server of a master and its clients.
//!
//! In: a TLS configuration of [`crate::io::tls::Credentials`] and a handler. Out: requests with who
//! sent them. Both ends know the connection's exporter, so that a secret can be proven for this very
//! connection (RFC 5705, RFC 8446 section 7.5).
//! Invariants: whatever a peer sends ends at most its own connection; peers without a certificate have
//! few places, few seconds and four paths; a board keeps a connection only while it is admitted, and at
//! most [`model::limits::PEER_BOARD_CONNECTIONS_MAX`] of them.
//! Deliberately absent: HTTP/2 pings. Boards keep a stream open all the time, so that they would be
//! sent for ever; a dead link is noticed by TCP, and a frozen peer by the beats on the bus.

mod chunks;
mod client;
mod leaderward;
mod server;
mod socket;

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use model::limits::{PEER_API_HEAD_BYTES_MAX, PEER_HEAD_BYTES_MAX};
use tokio::sync::watch;

use crate::io::tls::BoardPeer;

pub use chunks::{ERROR, chunks, chunks_until, error_of, error_value, forward, pass_on, until};
pub use client::{Connection, PeerError};
pub use leaderward::{Asked, Away, Leaderward};
pub use server::serve;
pub use socket::tune;

/// What both ends offer in TLS.
pub const ALPN: &[&[u8]] = &[b"h2"];
/// Answered with 204 to everyone: whether this connection is accepted.
pub const PING: &str = "/v1/ping";
/// Where a board joins.
pub const JOIN: &str = "/v1/join";
/// Where boards with one bootstrap token find each other, and their cluster.
pub const GENESIS: &str = "/v1/genesis";
/// Where a board without a token waits to be let in.
pub const PENDING: &str = "/v1/pending";
/// What those may ask who show no certificate.
const OPEN: [&str; 4] = [PING, JOIN, GENESIS, PENDING];
/// What the connection's exporter is for.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-kumquat-join";

/// Body of a request or answer that we make.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;
/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Who is at the other end of one connection to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The board; `None` without a certificate.
    pub board: Option<BoardPeer>,
    /// Known to both ends of this connection and to nobody else.
    pub exporter: [u8; 32],
    /// Where it connects from.
    pub address: SocketAddr,
}

/// What answers requests of boards.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether this board, whose certificate is good, belongs here. Asked at every request, so it must
    /// be quick.
    fn admits(&self, board: &BoardPeer) -> bool;

    /// Whether [`PeerHandler::admits`] can tell at this moment; a board that is not admitted is asked to
    /// come back where it cannot.
    fn can_judge(&self) -> bool {
        true
    }

    /// Changes when boards that have a connection may not be admitted any more: all are asked about
    /// anew, and those that are not admitted are cut off with all their requests.
    fn judged_anew(&self) -> watch::Receiver<()> {
        // Its sender is gone: never.
        watch::channel(()).1
    }

    /// Answers a request. Without a certificate only [`JOIN`], [`GENESIS`] and [`PENDING`] get here.
    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer;

    /// The connection ended; its handler futures are dropped.
    fn gone(&self, _caller: &Caller) {}
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// An answer of one status and a line of text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer
}

/// The whole body, if it has at most `bytes_max`; otherwise why not. Whoever waits sets a deadline.
///
/// # Errors
/// A longer body, or one that broke off.
pub async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, String> {
    let collected = Limited::new(body, bytes_max).collect().await;
    Ok(collected.map_err(|error| error.to_string())?.to_bytes())
}

/// Bound of a head as HTTP/2 counts it: those of API clients travel between masters.
fn head_bytes_max(is_admitted: bool) -> u32 {
    let bytes = if is_admitted { PEER_API_HEAD_BYTES_MAX } else { PEER_HEAD_BYTES_MAX };
    u32::try_from(bytes).expect("a small constant")
}

#[cfg(test)]
mod tests;
