//! The way to whoever leads, for those who pass requests on.

use std::future::Future;
use std::pin::Pin;

use http::{Request, Response};
use hyper::body::Incoming;
use model::leader::LeaderRecord;
use tokio::sync::watch;

use super::Body;

/// An answer of the leader on its way.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Away>> + Send + 'a>>;

/// Knows who leads, and has a connection to it.
pub trait Leaderward: Send + Sync + 'static {
    /// Who leads, as far as this board knows.
    fn leader(&self) -> watch::Receiver<Option<LeaderRecord>>;

    /// Sends a request, of which only the path of the URI counts, over the connection to the leader,
    /// and waits for the answer's head. Whoever waits sets a deadline.
    ///
    /// Cancel safety: the request is then reset at the leader.
    fn ask(&self, request: Request<Body>) -> Asked<'_>;
}

/// Why the leader gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// There is no connection to anybody who leads; nothing was sent.
    #[error("no master leads, or it cannot be reached")]
    NoLeader,
    /// It was surely not sent: it may be tried again.
    #[error("the leader was not asked: {0}")]
    NotSent(String),
    /// It may have arrived: whether it was carried out is not known.
    #[error("the connection to the leader broke: {0}")]
    Unknown(String),
}
