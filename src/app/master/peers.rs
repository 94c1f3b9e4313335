//! What a leader answers on its port for boards: joining, who leads, the cluster's status, and the
//! tunnels.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::leader::SignedRecord;
use tokio::sync::watch;

use crate::app::authority;
use crate::app::control::{Commands, let_go, takes_leave};
use crate::app::status::ClusterStatus;
use crate::app::upgrade::{self, Rollout};
use crate::io::peer::{self, Body, Caller};
use crate::master::join::Joining;
use crate::master::leave::Leaver;
use crate::master::members::Desk;
use crate::master::tunnel::Routes;

/// The cluster's status, as `kumquat status -o json` prints it.
pub(in crate::app) const STATUS: &str = "/v1/status";
/// The signed leader record as text.
pub(in crate::app) const LEADER: &str = "/v1/leader";

/// Answers boards.
pub(super) struct Peers {
    /// What other masters may have done, joining among it.
    pub(super) commands: Commands,
    /// The cluster.
    pub(super) status: Arc<ClusterStatus>,
    /// Who leads.
    pub(super) record: watch::Receiver<SignedRecord>,
    /// Boards that may hold the log.
    pub(super) desk: Desk,
    /// The tunnels: streams, images, messages too large for the bus.
    pub(super) routes: Routes,
    /// Gives boards certificates of another authority.
    pub(super) authority: Arc<authority::Desk>,
    /// Gives boards another binary, as another master asks.
    pub(super) rollout: Rollout,
    /// Lets boards go that wish so.
    pub(super) leaver: Leaver,
}

impl Peers {
    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        caller: Arc<Caller>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let Some(board) = &caller.board else {
            return self.commands.joining.answer(&caller, request).await;
        };
        match (request.method(), path.as_str()) {
            (_, path) if Joining::takes(path) => {
                self.commands.joining.answer(&caller, request).await
            }
            (&Method::GET, LEADER) => {
                let record = self.record.borrow().to_string();
                peer::text(StatusCode::OK, record)
            }
            (&Method::GET, STATUS) => self.status(),
            (_, path) if upgrade::takes(path) => {
                upgrade::from_master(&self.rollout, board, request).await
            }
            (&Method::POST, path) if takes_leave(path) => {
                let_go(&self.leaver, board, &request).await
            }
            _ if Commands::takes(&path) => self.commands.answer(board, request).await,
            (_, path) if authority::Desk::certifies(path) => {
                self.authority.certify(board, request).await
            }
            _ if Desk::takes(&path) => self.desk.answer(board, request).await,
            _ if Routes::takes(&path) => self.routes.answer(board, request).await,
            _ => peer::text(StatusCode::NOT_FOUND, "masters do not know that request"),
        }
    }

    fn status(&self) -> Response<Body> {
        match self.status.value() {
            Ok(status) => peer::text(StatusCode::OK, status.to_string()),
            Err(text) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}
