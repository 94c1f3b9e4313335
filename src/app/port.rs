//! Port 7443 of a master: one server for as long as the board holds the log, whoever leads.
//!
//! ```text
//! /v1/raft/...   the other masters, whatever this board is in its seat
//! /v1/api/...    clients of the API that came to another master
//! /v1/masters    boards that wait for another leader
//! /v1/authority/...   masters that take another authority over
//! all else       whoever sits: the leader itself, or a follower that names the leader
//! ```
//! Requests of an earlier seat end with it, and so do the bodies of their answers: a board whose tunnel
//! led to a leader that leads no more finds out at once. Connections stay.

use std::sync::{Arc, PoisonError, RwLock};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::authority;
use super::roll::Roll;
use crate::io::peer::{self, Answer, Body, Caller, PeerHandler};
use crate::io::tls::BoardPeer;
use crate::master::api::Gateway;
use crate::master::elector::Elector;
use crate::master::keys::Keys;
use crate::master::members::Engine;

/// Answers requests of boards for as long as its seat is taken.
pub(super) type Sitting =
    Arc<dyn Fn(Arc<Caller>, Request<Incoming>) -> Answer + Send + Sync + 'static>;

/// The handler of the port.
pub(super) struct Port {
    keys: Keys,
    turned_out: watch::Sender<()>,
    seat: RwLock<Option<Seated>>,
    engine: watch::Receiver<Option<Engine>>,
    gateway: Gateway,
    roll: Roll,
    authority: Arc<authority::Desk>,
}

#[derive(Clone)]
struct Seated {
    sitting: Sitting,
    /// Its sender is dropped when the seat is given up.
    over: watch::Receiver<()>,
}

/// A seat on the port; dropping it ends what it answers.
pub(super) struct Place {
    port: Arc<Port>,
    over: watch::Sender<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seat = self.port.seat.write().unwrap_or_else(PoisonError::into_inner);
        // Another one may sit there by now.
        if seat.as_ref().is_some_and(|seated| seated.over.same_channel(&self.over.subscribe())) {
            *seat = None;
        }
    }
}

impl Port {
    /// Nobody sits yet.
    pub(super) fn new(
        keys: Keys,
        engine: watch::Receiver<Option<Engine>>,
        gateway: Gateway,
        roll: Roll,
        authority: Arc<authority::Desk>,
    ) -> Arc<Self> {
        let (turned_out, seat) = (watch::Sender::new(()), RwLock::default());
        Arc::new(Self { keys, turned_out, seat, engine, gateway, roll, authority })
    }

    /// To be told when boards were evicted.
    pub(super) fn turned_out(&self) -> watch::Sender<()> {
        self.turned_out.clone()
    }

    /// Gives boards certificates.
    pub(super) fn authority(&self) -> Arc<authority::Desk> {
        Arc::clone(&self.authority)
    }

    /// Whoever sits from here on.
    pub(super) fn sit(self: &Arc<Self>, sitting: Sitting) -> Place {
        let place = Place { port: Arc::clone(self), over: watch::Sender::new(()) };
        let seated = Seated { sitting, over: place.over.subscribe() };
        *self.seat.write().unwrap_or_else(PoisonError::into_inner) = Some(seated);
        place
    }
}

impl PeerHandler for Port {
    fn admits(&self, board: &BoardPeer) -> bool {
        self.keys.is_admitted(board)
    }

    fn can_judge(&self) -> bool {
        self.keys.can_judge()
    }

    fn judged_anew(&self) -> watch::Receiver<()> {
        self.turned_out.subscribe()
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        if Elector::takes(request.uri().path()) {
            let engine = self.engine.borrow().clone();
            return Box::pin(async move { of_masters(engine, &caller, request).await });
        }
        if Roll::takes(request.uri().path()) && caller.board.is_some() {
            return Box::pin(async move { self.roll.answer(request).await });
        }
        if let Some(board) = &caller.board
            && authority::Desk::takes(request.uri().path())
        {
            let answer = self.authority.of_master(board, &request);
            return Box::pin(std::future::ready(answer));
        }
        if Gateway::takes(request.uri().path()) {
            return Box::pin(async move {
                match &caller.board {
                    Some(board) => self.gateway.answer_master(board, request).await,
                    None => peer::text(StatusCode::FORBIDDEN, "only masters pass requests on"),
                }
            });
        }
        let seat = self.seat.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let nobody = || {
                let text = "this master is changing its seat: ask again";
                peer::text(StatusCode::SERVICE_UNAVAILABLE, text)
            };
            let Some(Seated { sitting, over }) = seat else { return nobody() };
            // Cancel safety: a request of a seat that was given up is answered by nobody.
            let answer = tokio::select! {
                answer = sitting(caller, request) => answer,
                () = is_over(over.clone()) => return nobody(),
            };
            answer.map(|body| peer::until(body, is_over(over)))
        })
    }
}

/// What other masters ask, whoever sits.
async fn of_masters(
    engine: Option<Engine>,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Body> {
    match (engine, &caller.board) {
        (Some(engine), Some(board)) => engine.elector.answer(board, caller.address, request).await,
        (None, Some(_)) => peer::text(StatusCode::SERVICE_UNAVAILABLE, "there is no group here"),
        (_, None) => peer::text(StatusCode::FORBIDDEN, "only masters hold the log"),
    }
}

/// Resolves when the seat is given up.
async fn is_over(mut over: watch::Receiver<()>) {
    // Nothing is ever sent: the error says that the place was dropped.
    while over.changed().await.is_ok() {}
}
