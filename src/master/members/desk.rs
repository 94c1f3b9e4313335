//! Boards that may hold the log ask for it: `POST /v1/kit`, answered when the leader wants them.
//!
//! ```text
//! a board that is no member:  ask ─────────── held ───────────▶ 200 kit
//! a member:                   ask with its id ─ held ─────────▶ 410 not a member any more
//! ```
//! That a board asks is what says that it can become a master; boards of the first release do not. One
//! ask per board: a newer one ends the one before with 409. Nothing is kept of a board whose connection
//! has ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::limits::{JOIN_SECONDS_MAX, KIT_ASK_BYTES_MAX};
use model::masters::{KitAskV1, KitV1, MemberId};
use sha2::{Digest, Sha256};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::io::peer::{self, Body};
use crate::io::tls::BoardPeer;

/// Where boards ask.
pub(super) const PATH: &str = "/v1/kit";

/// The asks of all boards; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    asks: Mutex<Asks>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Asks {
    boards: BTreeMap<String, Asking>,
    count: u64,
}

#[derive(Debug)]
struct Asking {
    number: u64,
    candidate: Candidate,
    answer: oneshot::Sender<Word>,
}

#[derive(Debug)]
enum Word {
    Kit(Box<KitV1>),
    Gone,
}

/// A board that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// SHA-256 of its key's SubjectPublicKeyInfo.
    pub key: [u8; 32],
    /// Its public key, as a certificate needs it.
    pub public_key: Vec<u8>,
    /// What it says of itself.
    pub ask: KitAskV1,
}

impl Desk {
    /// Whether a path is answered here.
    pub fn takes(path: &str) -> bool {
        path == PATH
    }

    /// Answers the ask of a board, whenever that may be.
    ///
    /// Cancel safety: a board that hangs up asks no more.
    pub async fn answer(&self, board: &BoardPeer, request: Request<Incoming>) -> Response<Body> {
        let ask = match read(request).await {
            Ok(ask) => ask,
            Err(why) => return peer::text(StatusCode::BAD_REQUEST, why),
        };
        // A certificate is made out for this key: it must be the one that the board has.
        if <[u8; 32]>::from(Sha256::digest(&ask.public_key)) != board.key {
            return peer::text(StatusCode::BAD_REQUEST, "that is another board's key");
        }
        let (answer, answered) = oneshot::channel();
        let public_key = ask.public_key.clone();
        let candidate = Candidate { key: board.key, public_key, ask };
        let _asking = self.enter(&board.name, candidate, answer);
        match answered.await {
            Ok(Word::Kit(kit)) => match serde_json::to_vec(&kit) {
                Ok(body) => Response::new(peer::full(body)),
                Err(error) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            Ok(Word::Gone) => peer::text(StatusCode::GONE, "this board holds the log no more"),
            Err(_) => peer::text(StatusCode::CONFLICT, "this board has asked anew"),
        }
    }

    fn enter(&self, board: &str, candidate: Candidate, answer: oneshot::Sender<Word>) -> Entered {
        let mut asks = self.asks();
        asks.count += 1;
        let number = asks.count;
        asks.boards.insert(board.to_owned(), Asking { number, candidate, answer });
        drop(asks);
        self.0.changed.notify_waiters();
        Entered { desk: self.clone(), board: board.to_owned(), number }
    }

    /// Every board that asks at this moment.
    pub fn candidates(&self) -> BTreeMap<String, Candidate> {
        let asks = self.asks();
        asks.boards.iter().map(|(board, it)| (board.clone(), it.candidate.clone())).collect()
    }

    /// Resolves when a board asks, or asks no more, after this was enabled or polled first.
    pub fn changed(&self) -> Notified<'_> {
        self.0.changed.notified()
    }

    /// Gives a board its kit; whether it was there to take it.
    pub(super) fn give(&self, board: &str, kit: KitV1) -> bool {
        let asking = self.asks().boards.remove(board);
        asking.is_some_and(|asking| asking.answer.send(Word::Kit(Box::new(kit))).is_ok())
    }

    /// Tells a board that it is no member any more, if it still takes itself for this one.
    pub(super) fn dismiss(&self, board: &str, member: MemberId) {
        let mut asks = self.asks();
        let same = |asking: &Asking| asking.candidate.ask.member == Some(member);
        if asks.boards.get(board).is_some_and(same)
            && let Some(asking) = asks.boards.remove(board)
        {
            // An error means that it has hung up.
            let _gone = asking.answer.send(Word::Gone);
        }
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        // Entries change as a whole.
        self.0.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An ask; dropping it takes it off the desk.
struct Entered {
    desk: Desk,
    board: String,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut asks = self.desk.asks();
        if asks.boards.get(&self.board).is_some_and(|asking| asking.number == self.number) {
            asks.boards.remove(&self.board);
            drop(asks);
            self.desk.0.changed.notify_waiters();
        }
    }
}

async fn read(request: Request<Incoming>) -> Result<KitAskV1, String> {
    if request.method() != Method::POST {
        return Err("it must be a POST".to_owned());
    }
    let reading = peer::read(request.into_body(), KIT_ASK_BYTES_MAX);
    let body = timeout(Duration::from_secs(JOIN_SECONDS_MAX), reading).await;
    let body = body.map_err(|_| "it came too slowly".to_owned())??;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(member: Option<u64>) -> Candidate {
        let ask = KitAskV1 { member: member.map(MemberId), ..KitAskV1::default() };
        Candidate { key: [1; 32], public_key: Vec::new(), ask }
    }

    #[tokio::test]
    async fn a_newer_ask_of_a_board_ends_the_one_before() {
        let desk = Desk::default();
        let (first, first_answer) = oneshot::channel();
        let earlier = desk.enter("pi-2", candidate(None), first);
        let (second, second_answer) = oneshot::channel();
        let _later = desk.enter("pi-2", candidate(Some(7)), second);
        assert!(first_answer.await.is_err());
        drop(earlier);
        assert_eq!(desk.candidates().len(), 1, "the later one stays");
        desk.dismiss("pi-2", MemberId(6));
        assert_eq!(desk.candidates().len(), 1, "another member than it is");
        desk.dismiss("pi-2", MemberId(7));
        assert!(matches!(second_answer.await, Ok(Word::Gone)));
        assert!(desk.candidates().is_empty());
    }

    #[tokio::test]
    async fn who_hangs_up_is_no_candidate() {
        let desk = Desk::default();
        let (answer, _answered) = oneshot::channel();
        let asking = desk.enter("pi-2", candidate(None), answer);
        let changed = desk.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        drop(asking);
        changed.await;
        assert!(desk.candidates().is_empty());
    }
}
