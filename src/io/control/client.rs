//! The client's side of the control socket: one request per connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::limits::{CONTROL_ANSWER_BYTES_MAX, CONTROL_ANSWER_SECONDS_MAX};
use serde_json::Value;
use tokio::net::UnixStream;

use super::server::{Body, bytes_body};

/// Why a board could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no kumquat answers at {path}: start it with `kumquat up`, or give its --run-dir")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Only root may ask.
    #[error("{path} may be used by root only: run this command with sudo")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the board ended the conversation")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("the board at {path} did not answer within {within:?}: look at its log")]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        within: Duration,
    },
    /// The board refused.
    #[error("{message}")]
    Refused {
        /// HTTP status code.
        status: StatusCode,
        /// The board's words.
        message: String,
    },
}

/// An answer whose body has not been read.
pub type Answer = http::Response<Incoming>;

/// Asks the board whose socket this is.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    within: Duration,
}

impl Client {
    /// For the socket at `path`; connects at each request.
    pub fn new(path: &Path) -> Self {
        let within = Duration::from_secs(CONTROL_ANSWER_SECONDS_MAX);
        Self { path: path.to_owned(), within }
    }

    /// The same, with another bound on the wait for answers to [`Client::get`].
    pub fn within(&self, within: Duration) -> Self {
        Self { path: self.path.clone(), within }
    }

    /// Sends a request and gives the answer once its headers are there.
    ///
    /// # Errors
    /// Any [`ClientError`]; an answer that is not 2xx is `Refused` with the board's words.
    pub async fn send(&self, method: Method, uri: &str, body: Body) -> Result<Answer, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| {
            let path = self.path.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Permission { path }
            } else {
                ClientError::NotRunning { path, source }
            }
        })?;
        let broken = |error: hyper::Error| ClientError::Broken(error.into());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::HOST, "kumquat")
            .body(body)
            .map_err(|error| ClientError::Broken(error.into()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = read(answer).await?;
        let message = serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|value| value["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
        Err(ClientError::Refused { status, message })
    }

    /// GET of something that the board has at hand.
    ///
    /// # Errors
    /// As [`Client::send`], and `TimedOut`.
    pub async fn get(&self, uri: &str) -> Result<Bytes, ClientError> {
        self.ask(Method::GET, uri).await
    }

    /// A request that the board answers at once, without a body of its own.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn ask(&self, method: Method, uri: &str) -> Result<Bytes, ClientError> {
        let asking = async {
            let answer = self.send(method, uri, bytes_body(Bytes::new())).await?;
            read(answer).await
        };
        let within = self.within;
        let late = |_| ClientError::TimedOut { path: self.path.clone(), within };
        tokio::time::timeout(within, asking).await.map_err(late)?
    }

    /// GET with a JSON answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_json(&self, uri: &str) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.get(uri).await?)
            .map_err(|error| ClientError::Broken(error.into()))
    }
}

/// The whole body, within the bound of a control answer.
async fn read(answer: Answer) -> Result<Bytes, ClientError> {
    Limited::new(answer.into_body(), CONTROL_ANSWER_BYTES_MAX)
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .map_err(ClientError::Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_board_that_accepts_and_says_nothing_is_given_up() {
        let path = std::env::temp_dir().join(format!("kumquat-wedged-{}", std::process::id()));
        let _earlier = std::fs::remove_file(&path);
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let client = Client::new(&path).within(Duration::from_millis(50));
        let refusal = client.get_json("/v1/status").await.expect_err("nobody answers");
        assert!(matches!(refusal, ClientError::TimedOut { .. }), "{refusal}");
        std::fs::remove_file(&path).expect("removed");
    }
}
