//! Who the masters are, for boards that ask: `GET /v1/masters?after=EPOCH.TERM`.
//!
//! The question hangs until a leader of a later reign is known or the list of masters changes, at most
//! [`MASTERS_ASK_SECONDS_MAX`]. A board that keeps one open at a master that does not lead learns of a new
//! leader in the moment in which that master does, even if the old one is frozen.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::leader::SignedRecord;
use model::limits::{MASTERS_ASK_SECONDS_MAX, MASTERS_BYTES_MAX, PEER_REFUSAL_BYTES_MAX};
use model::masters::{MasterAtV1, MastersV1, MembersV1, Part};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::io::peer::{self, Body, Connection};
use crate::io::store::Store;
use crate::master::elector::Book;

/// Where it is asked.
const MASTERS: &str = "/v1/masters";
/// How long an answer may take beyond the time that the question hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a master that does not know the question, or is changing its seat.
const AGAIN: Duration = Duration::from_millis(50);
const NOT_KNOWN: Duration = Duration::from_secs(60);

/// What a master tells of the masters; clones share it.
#[derive(Clone)]
pub(super) struct Roll {
    record: Arc<watch::Sender<Option<SignedRecord>>>,
    book: watch::Receiver<Book>,
    store: Store,
}

impl Roll {
    /// Nobody is known to lead yet. The book says where masters are, the store who of them votes.
    pub(super) fn new(book: watch::Receiver<Book>, store: Store) -> Self {
        Self { record: Arc::default(), book, store }
    }

    /// The newest record.
    pub(super) fn record(&self) -> watch::Receiver<Option<SignedRecord>> {
        self.record.subscribe()
    }

    /// Takes over a record unless a newer one is known.
    pub(super) fn note(&self, record: SignedRecord) {
        self.record.send_if_modified(|known| {
            let is_news = known.as_ref().is_none_or(|known| {
                let (known, new) = (known.record(), record.record());
                known.rank() < new.rank() || (known.rank() == new.rank() && known != new)
            });
            if is_news {
                *known = Some(record);
            }
            is_news
        });
    }

    /// Takes over what `records` says, until `stop`.
    pub(super) async fn follow(
        self,
        mut records: watch::Receiver<Option<SignedRecord>>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let now = records.borrow_and_update().clone();
            if let Some(record) = now {
                self.note(record);
            }
            // Cancel safety: both only wait. An error of either means that the role ends.
            tokio::select! {
                changed = records.changed() => if changed.is_err() {
                    return;
                },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Asks whoever leads, over the connection that `line` shows, so that the record is known as soon
    /// as that leader has signed it; until `stop`.
    pub(super) async fn ask_leader(
        self,
        line: watch::Receiver<Option<Connection>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let asking = async {
            let mut line = line;
            loop {
                let now = line.borrow_and_update().clone();
                let asking = async {
                    match now {
                        Some(connection) => self.ask(&connection).await,
                        None => std::future::pending().await,
                    }
                };
                // Cancel safety: a question is taken back.
                tokio::select! {
                    () = asking => sleep(AGAIN).await,
                    changed = line.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        };
        // Cancel safety: as above. An error means that nobody can ask any more.
        tokio::select! {
            () = asking => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Asks until that fails.
    async fn ask(&self, connection: &Connection) {
        loop {
            let known = self.record.borrow().clone();
            match ask(connection, known.as_ref()).await {
                Ok(masters) => {
                    if let Some(record) = masters.leader {
                        self.note(record);
                    }
                }
                Err(pause) => return sleep(pause).await,
            }
        }
    }

    /// Whether a request is for this module.
    pub(super) fn takes(path: &str) -> bool {
        path == MASTERS
    }

    /// Answers a board.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return peer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET");
        }
        let after = request.uri().query().and_then(|query| query.strip_prefix("after="));
        if let Some((epoch, term)) = after.and_then(|after| after.split_once('.'))
            && let (Ok(epoch), Ok(term)) = (epoch.parse(), term.parse())
        {
            self.news((epoch, term)).await;
        }
        let leader = self.record.borrow().clone();
        let known = self.book.borrow().clone();
        let masters = MastersV1 { leader, masters: with_parts(&known, self.store.members()) };
        match serde_json::to_vec(&masters) {
            Ok(json) => peer::text(StatusCode::OK, json),
            Err(error) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// Waits for a leader of a later reign, another list of masters, or the end of patience.
    async fn news(&self, after: (u64, u64)) {
        let (mut record, mut book) = (self.record.subscribe(), self.book.clone());
        book.mark_unchanged();
        let later = |record: &Option<SignedRecord>| {
            record.as_ref().is_some_and(|record| record.record().rank() > after)
        };
        // Cancel safety: all of them only wait.
        tokio::select! {
            _ = record.wait_for(later) => {}
            _ = book.changed() => {}
            () = sleep(Duration::from_secs(MASTERS_ASK_SECONDS_MAX)) => {}
        }
    }
}

/// The masters, each with its part in the group: rows of the book do not say it.
fn with_parts(book: &[MasterAtV1], group: Option<MembersV1>) -> Vec<MasterAtV1> {
    let votes = |at: &MasterAtV1| {
        group.as_ref().is_some_and(|group| {
            let member = group.get(at.member);
            member.is_some_and(|member| member.key == at.key && group.is_voter(at.member))
        })
    };
    let part = |at: &MasterAtV1| if votes(at) { Part::Voter } else { Part::Learner };
    book.iter().map(|at| MasterAtV1 { part: part(at), ..at.clone() }).collect()
}

/// Asks a master once: at once for what it knows, or, when a record is known, for what comes after it.
///
/// # Errors
/// How long to wait before it is asked again.
pub(super) async fn ask(
    connection: &Connection,
    known: Option<&SignedRecord>,
) -> Result<MastersV1, Duration> {
    let path = match known.map(|known| known.record().rank()) {
        Some((epoch, term)) => format!("{MASTERS}?after={epoch}.{term}"),
        None => MASTERS.to_owned(),
    };
    let request = Request::get(path).body(peer::empty()).map_err(|_| NOT_KNOWN)?;
    let within = Duration::from_secs(MASTERS_ASK_SECONDS_MAX) + ANSWER_WITHIN;
    let answered = timeout(within, connection.send(request)).await;
    let answer = answered.map_err(|_| AGAIN)?.map_err(|_| AGAIN)?;
    let (status, body) = (answer.status(), answer.into_body());
    if status != StatusCode::OK {
        let _words = timeout(ANSWER_WITHIN, peer::read(body, PEER_REFUSAL_BYTES_MAX)).await;
        let passes = status == StatusCode::SERVICE_UNAVAILABLE;
        return Err(if passes { AGAIN } else { NOT_KNOWN });
    }
    let body = timeout(ANSWER_WITHIN, peer::read(body, MASTERS_BYTES_MAX)).await;
    let body = body.map_err(|_| AGAIN)?.map_err(|_| AGAIN)?;
    serde_json::from_slice(&body).map_err(|_| NOT_KNOWN)
}

#[cfg(test)]
mod tests {
    use model::masters::MemberId;

    use super::*;

    #[test]
    fn who_votes_is_told_with_where_they_are() {
        let at = |id: u64, board: &str, key: u8| MasterAtV1 {
            member: MemberId(id),
            board: board.into(),
            key: [key; 32],
            addresses: Vec::new(),
            api_port: 0,
            mqtt_port: 0,
            peer_port: 0,
            part: Part::Learner,
        };
        let book = [at(1, "a", 1), at(2, "b", 2), at(3, "c", 3), at(4, "d", 4)];
        let member = |id: u64, board: &str, key: u8| (MemberId(id), board.to_owned(), [key; 32]);
        // d is another board than the member of that number.
        let members = [member(1, "a", 1), member(2, "b", 2), member(3, "c", 3), member(4, "x", 9)];
        let voters = [1, 3, 4].map(MemberId).into();
        let group = MembersV1::of([voters], members).expect("a group");
        let parts = |group| with_parts(&book, group).iter().map(|at| at.part).collect::<Vec<_>>();
        use Part::{Learner, Voter};
        assert_eq!(parts(Some(group)), [Voter, Learner, Voter, Learner]);
        assert_eq!(parts(None), [Learner; 4]);
    }
}
