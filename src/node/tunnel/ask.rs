//! What the board asks the leader for: images, messages, and whatever its other parts need.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::RANGE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::limits::{PEER_REFUSAL_BYTES_MAX, TUNNEL_CHUNKS_MAX, WIRE_MESSAGE_BYTES_MAX};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Tunnel;
use crate::io::bus::Waiting;
use crate::io::bus::client::{Fetch, Keys};
use crate::io::bus::external::{SessionGrant, SharedGrant};
use crate::io::image::{Answer, Chunks, Digest, Source, SourceError};
use crate::io::peer::{self, Away};

/// How long the leader may take to begin an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A session's keys, and what all boards share, of a bus over somebody else's broker.
const BUS_SESSION: &str = "/v1/bus/session";
const BUS_SHARED: &str = "/v1/bus/shared";
/// Largest answer with keys that is read.
const BUS_KEYS_BYTES_MAX: usize = 4 * 1024;
/// Largest list of images that is read.
const OFFERS_BYTES_MAX: usize = 16 * 1024;

/// Why the leader gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection, or it broke.
    #[error("the leader cannot be asked: {0}")]
    Away(String),
    /// It answered with another status than success.
    #[error("{text}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// Its words.
        text: String,
    },
}

impl From<AskError> for SourceError {
    fn from(error: AskError) -> Self {
        let text = error.to_string();
        match error {
            AskError::Refused { status, .. } if status.is_client_error() => Self::Refused(text),
            _ => Self::Away(text),
        }
    }
}

impl Tunnel {
    /// GET of a path (with its query) at the leader; the body is for the caller to read, with a
    /// bound and a deadline.
    ///
    /// # Errors
    /// There is no way to the leader, or it refuses.
    pub async fn get(&self, path: &str) -> Result<Response<Incoming>, AskError> {
        self.get_from(path, 0).await
    }

    async fn get_from(&self, path: &str, from: u64) -> Result<Response<Incoming>, AskError> {
        let away = |why: &str| AskError::Away(why.to_owned());
        let connection = self.connection.borrow().clone();
        let connection = connection.ok_or_else(|| away("no connection to it"))?;
        let mut request = Request::new(peer::empty());
        *request.uri_mut() = path.parse().map_err(|_| away("that is no path"))?;
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            request.headers_mut().insert(RANGE, range.expect("a word and a number"));
        }
        let sent = timeout(ANSWER_WITHIN, connection.send(request)).await;
        let answer = sent.map_err(|_| away("it did not answer in time"))?;
        let answer = answer.map_err(|error| AskError::Away(error.to_string()))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let reading = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX);
        let text = match timeout(ANSWER_WITHIN, reading).await {
            Ok(Ok(text)) if !text.is_empty() => String::from_utf8_lossy(&text).into_owned(),
            _ => format!("the leader answers {status}"),
        };
        Err(AskError::Refused { status, text })
    }

    async fn read(&self, path: &str, bytes_max: usize) -> Result<Bytes, AskError> {
        let answer = self.get(path).await?;
        let read = timeout(ANSWER_WITHIN, peer::read(answer.into_body(), bytes_max)).await;
        let read =
            read.map_err(|_| AskError::Away("its answer did not come in time".to_owned()))?;
        read.map_err(AskError::Away)
    }
}

impl Tunnel {
    /// Sends a request to the leader, and waits for the answer's head. Whoever waits sets a deadline.
    ///
    /// # Errors
    /// There is no connection, or it broke.
    ///
    /// # Cancel safety
    /// The request is then reset at the leader.
    pub async fn send(&self, request: Request<peer::Body>) -> Result<Response<Incoming>, Away> {
        let connection = self.connection.borrow().clone().ok_or(Away::NoLeader)?;
        if connection.is_closed() {
            return Err(Away::NotSent("the connection has ended".to_owned()));
        }
        connection.send(request).await.map_err(|error| Away::Unknown(error.to_string()))
    }
}

impl Keys for Tunnel {
    fn session(&self) -> Waiting<'_, Result<(SessionGrant, Waiting<'static, ()>), String>> {
        Box::pin(async move {
            let mut connection = self.connection.subscribe();
            let opened = timeout(ANSWER_WITHIN, connection.wait_for(Option::is_some)).await;
            if !matches!(opened, Ok(Ok(_))) {
                return Err("there is no tunnel to it".to_owned());
            }
            drop(opened);
            let grant = self.keys(BUS_SESSION).await?;
            let lost: Waiting<'static, ()> = Box::pin(async move {
                let _ended = connection.changed().await;
            });
            Ok((grant, lost))
        })
    }

    fn shared(&self) -> Waiting<'_, Result<SharedGrant, String>> {
        Box::pin(async move { self.keys(BUS_SHARED).await })
    }
}

impl Tunnel {
    async fn keys<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let bytes = self.read(path, BUS_KEYS_BYTES_MAX).await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| format!("the leader's answer: {error}"))
    }
}

#[derive(Deserialize)]
struct Offers {
    manifests: Vec<Digest>,
}

impl Source for Tunnel {
    fn offers<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<Digest>> {
        Box::pin(async move {
            let path = format!("/v1/images?name={}", escape(name));
            let bytes = self.read(&path, OFFERS_BYTES_MAX).await?;
            let offers: Offers = serde_json::from_slice(&bytes).map_err(|error| {
                SourceError::Away(format!("the leader's list of images: {error}"))
            })?;
            Ok(offers.manifests)
        })
    }

    fn blob<'a>(&'a self, name: &'a str, digest: Digest, from: u64) -> Answer<'a, Chunks> {
        Box::pin(async move {
            let path = format!("/v1/blobs/{digest}?name={}", escape(name));
            let answer = self.get_from(&path, from).await?;
            let resumed = answer.status() == StatusCode::PARTIAL_CONTENT;
            if resumed != (from > 0) {
                let text = "the leader does not give the rest of a blob";
                return Err(SourceError::Refused(text.to_owned()));
            }
            let (sender, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
            // Ends when nobody reads the chunks any more.
            tokio::spawn(async move { peer::forward(answer.into_body(), &sender).await });
            Ok(chunks)
        })
    }
}

impl Fetch for Tunnel {
    fn fetch(
        &self,
        digest: [u8; 32],
        bytes: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>> {
        Box::pin(async move {
            let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
            if bytes_max > WIRE_MESSAGE_BYTES_MAX + WIRE_MESSAGE_BYTES_MAX / 64 {
                return Err(format!("a message of {bytes} bytes is too large"));
            }
            let path = format!("/v1/messages/{}", Digest::from_bytes(digest).hex());
            let answer = self.get(&path).await.map_err(|error| error.to_string())?;
            // Who asks has the deadline for all of it.
            peer::read(answer.into_body(), bytes_max).await
        })
    }
}

/// An image name as a value of a query.
fn escape(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_travel_in_a_query() {
        assert_eq!(escape("a.b:5/c_d@sha256:1&x#é"), "a.b:5/c_d%40sha256:1%26x%23%C3%A9");
    }

    #[tokio::test]
    async fn a_tunnel_that_is_not_open_says_so() {
        let error = Tunnel::new().get("/v1/status").await.expect_err("closed");
        assert_eq!(error.to_string(), "the leader cannot be asked: no connection to it");
        let offers = Tunnel::new().offers("app").await;
        assert!(matches!(offers, Err(SourceError::Away(_))), "worth another try");
    }
}
