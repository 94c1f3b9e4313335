//! What a connected board may ask: its requests, its streams, its messages, its images.
//!
//! ```text
//! GET  /v1/tunnel/requests          frames of `model::wire`, for as long as the connection lasts
//! POST /v1/tunnel/streams/<id>      the answer to one of them; other boards' ids are refused; what
//!                                   comes back on a duplex stream is the master's part of it
//! GET  /v1/bus/session, /v1/bus/shared   keys of a bus over somebody else's broker
//! GET  /v1/messages/<sha256 hex>    a message of this board that is too large for the bus
//! GET  /v1/images?name=             {"manifests": [digest, ...]} of an image that its pods name
//! GET  /v1/blobs/<digest>?name=     a blob of such an image; Range: bytes=<from>-
//! ```
//! 403 what is not this board's, 404 what is not there, 503 what cannot be had now; the body says
//! why. Invariant: whatever a board asks, it gets only what is its own.

use http::header::{ALLOW, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{Images, NotYours, Streams};
use crate::io::bus::external::Sessions;
use crate::io::image::{Digest, SourceError};
use crate::io::peer::{self, Body};
use crate::io::tls::BoardPeer;
use crate::master::boards::Messages;

/// Answers boards; the caller has judged the certificate.
#[derive(Clone, Debug)]
pub struct Routes {
    streams: Streams,
    images: Images,
    messages: Messages,
    bus: Option<Sessions>,
}

/// One request, by path and query.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Requests,
    BusSession,
    BusShared,
    Stream(u64),
    Message([u8; 32]),
    Image { name: String },
    Blob { digest: Digest, name: String },
}

impl Routes {
    /// Answers out of these.
    pub fn new(streams: Streams, images: Images, messages: Messages) -> Self {
        Self { streams, images, messages, bus: None }
    }

    /// And gives keys of a bus over somebody else's broker.
    pub fn with_bus(self, bus: Option<Sessions>) -> Self {
        Self { bus, ..self }
    }

    /// Whether a path is answered here.
    pub fn takes(path: &str) -> bool {
        path == "/v1/images"
            || ["/v1/tunnel/", "/v1/messages/", "/v1/blobs/", "/v1/bus/"]
                .iter()
                .any(|it| path.starts_with(it))
    }

    /// Answers a request of the board that showed this certificate.
    pub async fn answer(&self, caller: &BoardPeer, request: Request<Incoming>) -> Response<Body> {
        let board = caller.name.as_str();
        let uri = request.uri();
        let Some(ask) = Ask::parse(uri.path(), uri.query().unwrap_or_default()) else {
            return peer::text(StatusCode::NOT_FOUND, "no such path");
        };
        let method = if matches!(ask, Ask::Stream(_)) { Method::POST } else { Method::GET };
        if *request.method() != method {
            let mut answer = peer::text(StatusCode::METHOD_NOT_ALLOWED, "not with this method");
            let allowed = HeaderValue::from_str(method.as_str()).expect("a method's name");
            answer.headers_mut().insert(ALLOW, allowed);
            return answer;
        }
        match ask {
            Ask::Requests => self.requests(board),
            Ask::BusSession | Ask::BusShared => self.bus_keys(caller, &ask),
            Ask::Stream(id) => self.stream(board, id, request).await,
            Ask::Message(digest) => match self.messages.get(board, &digest) {
                Some(bytes) => Response::new(peer::full(bytes)),
                None => peer::text(StatusCode::NOT_FOUND, "no such message for this board"),
            },
            Ask::Image { name } => self.image(board, &name),
            Ask::Blob { digest, name } => self.blob(board, &name, digest, request.headers()).await,
        }
    }

    fn bus_keys(&self, board: &BoardPeer, ask: &Ask) -> Response<Body> {
        let Some(bus) = &self.bus else {
            return peer::text(StatusCode::NOT_FOUND, "the bus of this master is its own broker's");
        };
        let keys = match ask {
            Ask::BusSession => match bus.grant(&board.name, board.key) {
                Some(grant) => serde_json::to_vec(&grant),
                None => return peer::text(StatusCode::SERVICE_UNAVAILABLE, "too many boards"),
            },
            _ => serde_json::to_vec(&bus.shared()),
        };
        match keys {
            Ok(keys) => Response::new(peer::full(keys)),
            Err(error) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn requests(&self, board: &str) -> Response<Body> {
        let requests = self.streams.connect(board);
        tracing::info!(board, "board is connected for streams");
        let (frames, kept) = requests.split();
        Response::new(peer::chunks(frames, kept))
    }

    async fn stream(&self, board: &str, id: u64, request: Request<Incoming>) -> Response<Body> {
        let taken = match self.streams.take(board, id) {
            Ok(taken) => taken,
            Err(error) => {
                let status = match error {
                    NotYours::Unknown => StatusCode::NOT_FOUND,
                    NotYours::Foreign => StatusCode::FORBIDDEN,
                };
                if status == StatusCode::FORBIDDEN {
                    tracing::warn!(board, id, "board answers a stream of another board");
                }
                return peer::text(status, error.to_string());
            }
        };
        let mut taken = taken;
        let input = taken.input.take();
        // A task of its own: when the connection ends, the reader still has to be told.
        let forwarding = tokio::spawn(async move {
            // All of it: its place is taken until the end.
            let taken = taken;
            if let Some(text) = peer::error_of(request.headers()) {
                drop(taken.answer.send(Err(text)).await);
            } else {
                peer::forward(request.into_body(), &taken.answer).await;
            }
        });
        if let Some(input) = input {
            return Response::new(peer::chunks(input, ()));
        }
        drop(forwarding.await);
        let mut answer = Response::new(peer::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        answer
    }

    fn image(&self, board: &str, name: &str) -> Response<Body> {
        match self.images.offers(board, name) {
            Ok(manifests) => {
                let json = json!({ "manifests": manifests }).to_string();
                let mut answer = Response::new(peer::full(json));
                let kind = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            Err(error) => refusal(board, &error),
        }
    }

    async fn blob(
        &self,
        board: &str,
        name: &str,
        digest: Digest,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let Some(from) = range_start(headers) else {
            let text = "only ranges without an end can be given";
            return peer::text(StatusCode::RANGE_NOT_SATISFIABLE, text);
        };
        match self.images.blob(board, name, digest, from).await {
            Ok(relay) => {
                let (chunks, permits) = relay.split();
                let mut answer = Response::new(peer::chunks(chunks, permits));
                if from > 0 {
                    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                }
                answer
            }
            Err(error) => refusal(board, &error),
        }
    }
}

fn refusal(board: &str, error: &SourceError) -> Response<Body> {
    let status = match error {
        SourceError::Refused(_) => StatusCode::FORBIDDEN,
        SourceError::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    tracing::debug!(board, %error, "board is given no image");
    peer::text(status, error.to_string())
}

/// The offset of `Range: bytes=<from>-`; 0 without a range.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let Some(range) = headers.get(RANGE) else { return Some(0) };
    range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

impl Ask {
    fn parse(path: &str, query: &str) -> Option<Self> {
        let name = || {
            let value = query.split('&').find_map(|pair| pair.strip_prefix("name="))?;
            unescape(value).filter(|name| !name.is_empty())
        };
        if let Some(id) = path.strip_prefix("/v1/tunnel/streams/") {
            return number(id).map(Self::Stream);
        }
        if let Some(hex) = path.strip_prefix("/v1/messages/") {
            return Digest::from_hex(hex).map(|digest| Self::Message(digest.bytes()));
        }
        if let Some(digest) = path.strip_prefix("/v1/blobs/") {
            let (digest, name) = (Digest::parse(digest)?, name()?);
            return Some(Self::Blob { digest, name });
        }
        match path {
            "/v1/tunnel/requests" => Some(Self::Requests),
            "/v1/bus/session" => Some(Self::BusSession),
            "/v1/bus/shared" => Some(Self::BusShared),
            "/v1/images" => Some(Self::Image { name: name()? }),
            _ => None,
        }
    }
}

/// A number as we write it: no sign, no leading zero.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_exactly() {
        let digest = Digest::of(b"x");
        let hex = digest.hex();
        let check = |path: &str, query: &str, expected: Option<Ask>| {
            assert_eq!(Ask::parse(path, query), expected, "{path}?{query}");
        };
        check("/v1/tunnel/requests", "", Some(Ask::Requests));
        check("/v1/tunnel/streams/7", "", Some(Ask::Stream(7)));
        check(&format!("/v1/messages/{hex}"), "", Some(Ask::Message(digest.bytes())));
        let name = "docker.io/library/app:1".to_owned();
        let image = Some(Ask::Image { name: name.clone() });
        check("/v1/images", "name=docker.io%2Flibrary%2Fapp%3A1", image);
        let query = format!("x=y&name={name}");
        check(&format!("/v1/blobs/{digest}"), &query, Some(Ask::Blob { digest, name }));
        for (path, query) in [
            ("/v1/tunnel/streams/", ""),
            ("/v1/tunnel/streams/+7", ""),
            ("/v1/tunnel/streams/07", ""),
            ("/v1/tunnel/streams/7/..", ""),
            ("/v1/tunnel/streams/18446744073709551616", ""),
            ("/v1/messages/../../etc/passwd", ""),
            ("/v1/messages/", ""),
            ("/v1/images", ""),
            ("/v1/images", "name="),
            ("/v1/images", "name=%zz"),
            ("/v1/images/", "name=a"),
            ("/v1/blobs/sha256:12", "name=a"),
            ("/v1/blobs/..", "name=a"),
            ("/v1/other", ""),
        ] {
            check(path, query, None);
        }
        check(&format!("/v1/blobs/{digest}"), "", None);
    }

    #[test]
    fn only_open_ranges_are_given() {
        let check = |range: Option<&'static str>, expected| {
            let range = range.map(|range| (RANGE, HeaderValue::from_static(range)));
            assert_eq!(range_start(&range.into_iter().collect()), expected);
        };
        check(None, Some(0));
        check(Some("bytes=300-"), Some(300));
        for bad in ["bytes=0-9", "bytes=-5", "bytes=a-", "lines=1-", "bytes=1-,5-"] {
            check(Some(bad), None);
        }
    }
}
