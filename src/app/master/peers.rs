//! What a master answers on its port for boards: joining, who leads, the cluster's status, and the
//! tunnels.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::leader::SignedRecord;
use tokio::sync::watch;

use crate::app::status::ClusterStatus;
use crate::io::peer::{self, Answer, Body, Caller, PeerHandler};
use crate::io::tls::BoardPeer;
use crate::master::join::Joining;
use crate::master::keys::Keys;
use crate::master::tunnel::Routes;

/// The cluster's status, as `kumquat status -o json` prints it.
pub(in crate::app) const STATUS: &str = "/v1/status";
/// The signed leader record as text.
pub(in crate::app) const LEADER: &str = "/v1/leader";

/// Answers boards.
pub(super) struct Peers {
    /// Takes boards in.
    pub(super) joining: Arc<Joining>,
    /// Knows which boards belong here.
    pub(super) keys: Keys,
    /// Changes when boards were evicted.
    pub(super) turned_out: watch::Receiver<()>,
    /// The cluster.
    pub(super) status: Arc<ClusterStatus>,
    /// Who leads.
    pub(super) record: watch::Receiver<SignedRecord>,
    /// The tunnels: streams, images, messages too large for the bus.
    pub(super) routes: Routes,
}

impl PeerHandler for Peers {
    fn admits(&self, board: &BoardPeer) -> bool {
        self.keys.is_admitted(board)
    }

    fn judged_anew(&self) -> watch::Receiver<()> {
        self.turned_out.clone()
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let Some(board) = &caller.board else {
                return self.joining.answer(&caller, request).await;
            };
            match (request.method(), path.as_str()) {
                (_, path) if Joining::takes(path) => self.joining.answer(&caller, request).await,
                (&Method::GET, LEADER) => {
                    let record = self.record.borrow().to_string();
                    peer::text(StatusCode::OK, record)
                }
                (&Method::GET, STATUS) => self.status(),
                _ if Routes::takes(&path) => self.routes.answer(board, request).await,
                _ => peer::text(StatusCode::NOT_FOUND, "masters do not know that request"),
            }
        })
    }
}

impl Peers {
    fn status(&self) -> Response<Body> {
        match self.status.value() {
            Ok(status) => peer::text(StatusCode::OK, status.to_string()),
            Err(text) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}
