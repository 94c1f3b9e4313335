//! One request that another master answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use model::access::UserInfo;
use model::limits::{API_REQUEST_SECONDS_MAX, PEER_REFUSAL_BYTES_MAX};
use model::masters::{ApiCallV1, CallerV1, UpgradeV1};
use model::status::ApiError;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{Asked, Gateway, SILENT, WAIT, upgrade};
use crate::io::peer::{self, Connection};
use crate::master::api::answer::{Answer, AnswerBody, Chunks};
use crate::master::api::auth::Caller;
use crate::master::api::body::{self, Sent};
use crate::master::api::negotiate;
use crate::master::api::path;
use crate::master::api::query::Query;
use crate::master::api::route::{self, failure, generic, too_many};
use crate::master::api::serve::Working;

/// Pause after a master did not take a request: it is about to lead, or to know who does.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the words of a refusal may take.
const WORDS_WITHIN: Duration = Duration::from_secs(1);
/// The leader has its own deadline, and says so.
const ANSWER_WITHIN: Duration = Duration::from_secs(API_REQUEST_SECONDS_MAX + 5);
/// Seconds after which a client that was turned away may come again.
const RETRY_SECONDS: u32 = 1;
/// What concerns one connection only (RFC 9110 section 7.6.1).
const OF_ONE_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What became of a request that was passed on.
enum Outcome {
    /// The leader's API has answered.
    Answered(Response<Incoming>),
    /// It surely was not carried out.
    NotTaken(String),
    /// It may have been.
    Lost(String),
}

/// A request on its way.
struct Forwarding<'a> {
    gateway: &'a Gateway,
    caller: &'a Caller,
    head: Parts,
    began: Instant,
    /// Until when it waits for somebody who leads.
    deadline: Instant,
}

/// Answers a request of a client by asking whoever leads.
pub(super) async fn answer(
    gateway: &Gateway,
    caller: Arc<Caller>,
    request: Request<Sent>,
    working: Working,
) -> Answer {
    let (head, mut body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let form = negotiate::error_form(&head.headers, &query);
    let refuse = |error: &ApiError| failure(error, form);
    let is_watch = path::parse(&head.method, head.uri.path(), &query).verb == "watch";
    // Whom a token stands for only the leader knows.
    let user = user(&caller).map(|user| UserInfo::new(&user.name, user.groups));
    let user = user.unwrap_or_else(|| UserInfo::new(caller.address.ip().to_string(), []));
    let Some(share) = gateway.0.shares.enter(&user) else { return too_many() };
    let began = Instant::now();
    let mut forwarding =
        Forwarding { gateway, caller: &caller, head, began, deadline: began + WAIT };
    let (mut again, mut why) = (false, "no master leads at the moment".to_owned());
    loop {
        let connection = match gateway.asked(forwarding.deadline).await {
            Some(Asked::Leader(connection)) => connection,
            Some(Asked::Own(api)) => {
                let request = Request::from_parts(forwarding.head, body);
                return route::answer(api, caller, request, working).await;
            }
            None => return refuse(&away(&why)),
        };
        let payload = match body {
            Sent::Here(payload) => payload,
            Sent::Coming(coming) => match body::take(&share.room(), coming).await {
                Ok(payload) => payload,
                Err(error) => return refuse(&error),
            },
        };
        let outcome = forwarding.send(&connection, payload.bytes.clone()).await;
        let only_reads = payload.bytes.is_empty() && forwarding.only_reads();
        body = Sent::Here(payload);
        match outcome {
            Outcome::Answered(answer) => {
                let over = Box::pin(gateway.clone().over(connection));
                return match forwarding.upgrade() {
                    Some(client) if answer.status() == StatusCode::OK => {
                        upgrade::switch(gateway, answer, client, over)
                    }
                    _ => passed(answer, over, is_watch, working),
                };
            }
            Outcome::NotTaken(words) => {
                why = words;
                sleep(AGAIN).await;
            }
            Outcome::Lost(_) if only_reads && !again => {
                again = true;
                forwarding.deadline = Instant::now() + SILENT;
            }
            Outcome::Lost(words) => return refuse(&unknown(&words)),
        }
    }
}

impl Forwarding<'_> {
    /// The client's connection, when it is to become something else.
    fn upgrade(&self) -> Option<OnUpgrade> {
        self.head.headers.get(UPGRADE)?;
        self.head.extensions.get::<OnUpgrade>().cloned()
    }

    /// Whether it may be sent again without harm; a stream may have begun something.
    fn only_reads(&self) -> bool {
        matches!(self.head.method, Method::GET | Method::HEAD) && self.upgrade().is_none()
    }

    async fn send(&self, connection: &Connection, body: Bytes) -> Outcome {
        if connection.is_closed() {
            return Outcome::NotTaken("the connection to the leader has ended".to_owned());
        }
        let request = match self.request(body) {
            Ok(request) => request,
            Err(error) => return Outcome::NotTaken(error.to_string()),
        };
        // Cancel safety: a request that is dropped is reset at the leader.
        let answered = tokio::select! {
            answered = connection.send(request) => answered,
            () = self.gateway.clone().over(connection.clone()) => {
                return Outcome::Lost("another master leads".to_owned());
            }
            () = sleep(ANSWER_WITHIN) => return Outcome::Lost("no answer in time".to_owned()),
        };
        match answered {
            Ok(answer) if answer.headers().contains_key(ApiCallV1::ANSWERED) => {
                Outcome::Answered(answer)
            }
            Ok(answer) => {
                let status = answer.status();
                let words = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX);
                let words = timeout(WORDS_WITHIN, words).await.ok().and_then(Result::ok);
                let words = words.unwrap_or_default();
                Outcome::NotTaken(format!("{status}: {}", String::from_utf8_lossy(&words)))
            }
            Err(error) if error.is_not_sent() => Outcome::NotTaken(error.to_string()),
            Err(error) => Outcome::Lost(error.to_string()),
        }
    }

    /// The request as it travels to the leader.
    fn request(&self, body: Bytes) -> Result<Request<peer::Body>, http::Error> {
        let mut headers = self.head.headers.clone();
        let named = self.head.uri.authority().map(|authority| authority.as_str().to_owned());
        let text = |value: HeaderValue| value.to_str().map(str::to_owned).ok();
        let host = headers.remove(HOST).and_then(text);
        let upgrade = self.upgrade().and_then(|_| headers.get(UPGRADE).cloned()).and_then(text);
        for name in OF_ONE_HOP.iter().chain([&CONTENT_LENGTH]) {
            headers.remove(name);
        }
        let method = &self.head.method;
        let call = ApiCallV1 {
            user: user(self.caller),
            address: self.caller.address,
            waited_ms: u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX),
            refused: matches!(self.caller.identity, Some(Err(_))),
            host: named.or(host).unwrap_or_default(),
            upgrade: upgrade.map(|protocol| UpgradeV1 { method: method.to_string(), protocol }),
        };
        headers.insert(ApiCallV1::HEADER, HeaderValue::from_str(&call.header())?);
        let path = self.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("{}{path}", ApiCallV1::PATH).parse()?;
        let body = if body.is_empty() { peer::empty() } else { peer::full(body) };
        let mut request = Request::new(body);
        *request.method_mut() = match call.upgrade {
            Some(_) => Method::CONNECT,
            None => method.clone(),
        };
        if call.upgrade.is_some() {
            request.extensions_mut().insert(upgrade::protocol());
        }
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn user(caller: &Caller) -> Option<CallerV1> {
    let identity = caller.identity.as_ref()?.as_ref().ok()?;
    let board_key = caller.board.as_ref().map(|board| board.key);
    Some(CallerV1 { name: identity.name.clone(), groups: identity.groups.clone(), board_key })
}

/// The leader's answer as the client gets it.
fn passed(answer: Response<Incoming>, over: Over, is_watch: bool, working: Working) -> Answer {
    let (head, body) = answer.into_parts();
    let is_watch = is_watch && head.status.is_success();
    let mut passed = Response::new(AnswerBody::stream(Passing { body, over, is_watch }));
    *passed.status_mut() = head.status;
    *passed.headers_mut() = for_client(head.headers);
    passed.body_mut().mark(working);
    passed
}

/// The headers of an answer without those that are between masters.
pub(super) fn for_client(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(ApiCallV1::ANSWERED);
    for name in &OF_ONE_HOP {
        headers.remove(name);
    }
    headers
}

/// Resolves when the leader is none any more.
pub(super) type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body on its way through. A watch ends properly with its leader, so that the client begins another
/// one where it was; everything else breaks off.
struct Passing {
    body: Incoming,
    over: Over,
    is_watch: bool,
}

impl Passing {
    fn broken(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Chunk {
        let error = io::Error::other(why);
        Poll::Ready(if self.is_watch { None } else { Some(Err(error)) })
    }
}

type Chunk = Poll<Option<io::Result<Bytes>>>;

impl Chunks for Passing {
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Chunk {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    ready!(self.over.as_mut().poll(cx));
                    return self.broken("another master leads");
                }
                Poll::Ready(frame) => frame,
            };
            return match frame {
                None => Poll::Ready(None),
                Some(Err(error)) => self.broken(error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(data))),
                    // The API has no trailers.
                    Err(_) => continue,
                },
            };
        }
    }
}

/// 503: it was not carried out.
fn away(why: &str) -> ApiError {
    let text = format!("the request waited for a master that leads: {why}");
    ApiError {
        details: json!({ "retryAfterSeconds": RETRY_SECONDS }),
        retry_after_seconds: Some(RETRY_SECONDS),
        ..ApiError::new(503, "ServiceUnavailable", text)
    }
}

/// 504: nobody knows.
fn unknown(why: &str) -> ApiError {
    let text = format!("the leader was asked and did not answer, the outcome is unknown: {why}");
    generic(504, "Timeout", &text)
}
