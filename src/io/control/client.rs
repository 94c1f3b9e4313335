//! The client's side of the control socket: one request per connection.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::limits::CONTROL_ANSWER_BYTES_MAX;
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
}

impl Client {
    /// For the socket at `path`; connects at each request.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
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

    /// GET with a JSON answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get_json(&self, uri: &str) -> Result<Value, ClientError> {
        let answer = self.send(Method::GET, uri, bytes_body(Bytes::new())).await?;
        serde_json::from_slice(&read(answer).await?)
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
