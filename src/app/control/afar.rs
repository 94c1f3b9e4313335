//! Commands that a person gives on a master which does not lead: the leader carries them out.
//!
//! Such a board is one that holds the log and the authority's key; no other's word is taken.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::limits::CONTROL_ANSWER_BYTES_MAX;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{boards, refusal, tokens};
use crate::io::control::{Body, bytes_body};
use crate::io::peer::{self, Connection};
use crate::io::tls::BoardPeer;
use crate::master::evict::Evictor;
use crate::master::join::Joining;
use crate::master::keys::Keys;
use crate::master::tokens::Tokens;

/// What stands before the path of a command between masters.
const PATH: &str = "/v1/control";
/// How long the leader may take for one.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What a leader carries out for other masters.
pub(in crate::app) struct Commands {
    /// Knows the masters.
    pub(in crate::app) keys: Keys,
    /// What boards join with.
    pub(in crate::app) tokens: Tokens,
    /// Takes boards in.
    pub(in crate::app) joining: Arc<Joining>,
    /// Throws boards out.
    pub(in crate::app) evictor: Evictor,
}

impl Commands {
    /// Whether a request of another board is a command.
    pub(in crate::app) fn takes(path: &str) -> bool {
        path.strip_prefix(PATH).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Carries it out.
    pub(in crate::app) async fn answer(
        &self,
        board: &BoardPeer,
        mut request: Request<Incoming>,
    ) -> Response<peer::Body> {
        if !self.keys.is_member(board) {
            return peer::text(StatusCode::FORBIDDEN, "only masters pass commands on");
        }
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let path = path.strip_prefix(PATH).and_then(|path| path.parse().ok());
        let Some(path) = path else {
            return peer::text(StatusCode::BAD_REQUEST, "that is no path");
        };
        *request.uri_mut() = path;
        let answer = match (request.method(), request.uri().path()) {
            (_, "/v1/tokens") => tokens::handle(&self.tokens, request).await,
            (&Method::POST, "/v1/boards/approve" | "/v1/boards/evict") => {
                boards::handle(&self.joining, &self.evictor, &request).await
            }
            _ => refusal(StatusCode::NOT_FOUND, "the leader does not know that command"),
        };
        answer.map(|body| body.map_err(Into::into).boxed_unsync())
    }
}

/// Has the leader carry a command out; its words are all in the path and the query.
pub(super) async fn forward(
    line: &watch::Receiver<Option<Connection>>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let connection = line.borrow().clone();
    let Some(connection) = connection else {
        let text = "no master leads at the moment, or it cannot be reached: try again in a second";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let made = Request::builder().method(request.method()).uri(format!("{PATH}{path}"));
    let asked = async {
        let request = made.body(peer::empty()).map_err(|error| error.to_string())?;
        let answer = connection.send(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = peer::read(answer.into_body(), CONTROL_ANSWER_BYTES_MAX).await?;
        Ok::<_, String>((status, body))
    };
    let why = match timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok((status, body))) if !body.starts_with(b"{") && !body.starts_with(b"[") => {
            format!("it says {status}: {}", String::from_utf8_lossy(&body))
        }
        Ok(Ok((status, body))) => {
            let mut answer = Response::new(bytes_body(body));
            *answer.status_mut() = status;
            return answer;
        }
        Ok(Err(why)) => why,
        Err(_) => "no answer in time".to_owned(),
    };
    let text = format!("the leader may or may not have done it, look before you try again: {why}");
    refusal(StatusCode::BAD_GATEWAY, &text)
}
