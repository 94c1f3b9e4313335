//! A board's connection to a master.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{PathAndQuery, Uri};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::limits::{
    PEER_CHUNK_BYTES, PEER_CONNECTION_WINDOW_BYTES, PEER_REFUSAL_BYTES_MAX, PEER_WINDOW_BYTES,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Body, EXPORTER_LABEL, PING, empty, head_bytes_max, read, socket};
use crate::io::tls::{BoardPeer, authority_pin, board_peer};

/// Silence after which the kernel asks whether the master lives.
const QUIET_SECONDS: u32 = 15;

/// Why there is no connection to a master, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody answers at that address.
    #[error("cannot connect to {address}")]
    Connect {
        /// Of the master.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever answers is not a master of the cluster that this board trusts.
    #[error("{address} is not a master of this cluster")]
    Untrusted {
        /// Of whoever answers.
        address: SocketAddr,
        /// What is wrong with its certificate.
        source: io::Error,
    },
    /// A master of the cluster, but not the one that leads.
    #[error("{address} is board {is}, and {leads} leads")]
    Another {
        /// Of whoever answers.
        address: SocketAddr,
        /// Who that is.
        is: String,
        /// Whom the leader record names.
        leads: String,
    },
    /// The master does not take this board.
    #[error("the master at {address} refuses this board: {why}")]
    Refused {
        /// Of the master.
        address: SocketAddr,
        /// As which kind of refusal.
        status: StatusCode,
        /// Its words.
        why: String,
    },
    /// No answer in time.
    #[error("{address} did not answer in {seconds} s")]
    Late {
        /// Of the master.
        address: SocketAddr,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection broke, or does not speak HTTP/2.
    #[error("the connection to {address} broke")]
    Broken {
        /// Of the master.
        address: SocketAddr,
        /// What the library said.
        source: hyper::Error,
    },
}

impl PeerError {
    /// Whether a master does not know this board: another key has its name, or its own was refused for good.
    pub fn is_stranger(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::FORBIDDEN, .. })
    }

    /// Whether the request surely was not sent.
    pub fn is_not_sent(&self) -> bool {
        match self {
            Self::Broken { source, .. } => source.is_canceled(),
            _ => true,
        }
    }
}

/// An open connection; clones share it, and it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Connection {
    address: SocketAddr,
    master: BoardPeer,
    authority: Option<[u8; 32]>,
    exporter: [u8; 32],
    sender: http2::SendRequest<Body>,
    ended: watch::Receiver<()>,
}

impl Connection {
    /// Connects; the master has accepted this board when this returns. `tls` is of
    /// [`crate::io::tls::Credentials::client_config`] or [`crate::io::tls::pinned_client_config`],
    /// with [`super::ALPN`].
    ///
    /// # Errors
    /// [`PeerError`], within that time.
    pub async fn open(
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        within: Duration,
    ) -> Result<Self, PeerError> {
        Self::open_lasting(address, tls, within, socket::USER_TIMEOUT).await
    }

    /// The same; what is sent and not answered for so long ends the connection.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn open_lasting(
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        within: Duration,
        unanswered: Duration,
    ) -> Result<Self, PeerError> {
        let late = |_| PeerError::Late { address, seconds: within.as_secs() };
        timeout(within, Self::connect(address, tls, unanswered)).await.map_err(late)?
    }

    async fn connect(
        address: SocketAddr,
        tls: Arc<ClientConfig>,
        unanswered: Duration,
    ) -> Result<Self, PeerError> {
        let failed = |source| PeerError::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        socket::tune(&stream, QUIET_SECONDS, unanswered).map_err(failed)?;
        // Host names play no part; the library wants one.
        let name = ServerName::try_from("kumquat").expect("a valid name");
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.map_err(|source| match is_about_certificate(&source) {
            true => PeerError::Untrusted { address, source },
            false => PeerError::Connect { address, source },
        })?;
        let (master, authority, exporter) = facts(&stream).map_err(failed)?;
        let (sender, connection) = builder()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| PeerError::Broken { address, source })?;
        let (end, ended) = watch::channel(());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection to the master ended");
            }
            drop(end);
        });
        let connection = Self { address, master, authority, exporter, sender, ended };
        // In TLS 1.3 a client is done before the server has judged its certificate.
        connection.ping().await?;
        Ok(connection)
    }

    async fn ping(&self) -> Result<(), PeerError> {
        let mut request = Request::new(empty());
        *request.uri_mut() = Uri::from_static(PING);
        let answer = self.send(request).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let status = answer.status();
        let why = match read(answer.into_body(), PEER_REFUSAL_BYTES_MAX).await {
            Ok(text) if !text.is_empty() => String::from_utf8_lossy(&text).into_owned(),
            _ => status.to_string(),
        };
        Err(PeerError::Refused { address: self.address, status, why })
    }

    /// Where the master is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which board the master is.
    pub fn master(&self) -> &BoardPeer {
        &self.master
    }

    /// The pin of the authority that the master named; `None` for a board that has no cluster yet.
    pub fn authority(&self) -> Option<[u8; 32]> {
        self.authority
    }

    /// Known to both ends of this connection and to nobody else.
    pub fn exporter(&self) -> &[u8; 32] {
        &self.exporter
    }

    /// Sends a request, of which only the path of the URI counts, and waits for the answer's head.
    /// Whoever waits sets a deadline.
    ///
    /// # Errors
    /// The connection broke, or ended before.
    ///
    /// # Cancel safety
    /// The request is then reset at the master; the connection goes on.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, PeerError> {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority("kumquat")
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()
            .expect("three valid parts");
        let sent = self.sender.clone().send_request(request).await;
        sent.map_err(|source| PeerError::Broken { address: self.address, source })
    }

    /// Whether both are clones of one.
    pub fn is_same(&self, other: &Self) -> bool {
        self.ended.same_channel(&other.ended)
    }

    /// Resolves when the connection has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) {
        // Nothing is ever sent: the error says that the connection's task is gone.
        let _ = self.ended.clone().changed().await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Which board, which authority it names, and the exporter.
fn facts(stream: &TlsStream<TcpStream>) -> io::Result<(BoardPeer, Option<[u8; 32]>, [u8; 32])> {
    let (_, session) = stream.get_ref();
    let exporter =
        session.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(io::Error::other)?;
    let chain = session.peer_certificates().unwrap_or_default();
    let board = board_peer(chain).map_err(io::Error::other)?;
    Ok((board, authority_pin(chain), exporter))
}

fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .initial_connection_window_size(PEER_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(head_bytes_max(true))
        .max_send_buf_size(2 * PEER_CHUNK_BYTES);
    builder
}
