//! The port that boards connect to.
//!
//! ```text
//! accepted -> TLS -> no certificate: stays in the crowd, few seconds, may ask to be let in only
//!          |      -> board, admitted: leaves the crowd, stays while it is admitted and has few
//!          |         others that are newer
//!          |      -> board, not admitted: stays in the crowd, told so once, ended
//!          -> too slow, no TLS, another authority's certificate: ended
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::limits::{
    PEER_BOARD_CONNECTIONS_MAX, PEER_BOARDS_MAX, PEER_CHUNK_BYTES, PEER_CONNECTION_WINDOW_BYTES,
    PEER_HANDSHAKE_SECONDS_MAX, PEER_STOP_SECONDS_MAX, PEER_STRANGER_SECONDS_MAX,
    PEER_STRANGERS_MAX, PEER_STREAMS_MAX, PEER_WINDOW_BYTES,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{
    Body, Caller, EXPORTER_LABEL, OPEN, PING, PeerHandler, empty, head_bytes_max, socket, text,
};
use crate::io::crowd::Crowd;
use crate::io::seldom::Seldom;
use crate::io::tls::{BoardPeer, board_peer};

/// Silence after which the kernel asks whether the board lives; boards ask sooner.
const QUIET_SECONDS: u32 = 25;
/// Pause after `accept` failed (descriptors exhausted): the condition passes by itself.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// At most one line of a kind in this time.
const LINES_EVERY: Duration = Duration::from_secs(10);
const STRANGER_STREAMS: u32 = 4;
const STRANGER_WINDOW_BYTES: u32 = 16 * 1024;

/// Serves connections until `stop` (or its sender is gone), then gives requests under way
/// [`PEER_STOP_SECONDS_MAX`]. `tls` is of [`crate::io::tls::Credentials::server_config`] with
/// [`super::ALPN`].
pub async fn serve(
    listener: impl Into<Arc<TcpListener>>,
    tls: Arc<ServerConfig>,
    handler: Arc<dyn PeerHandler>,
    mut stop: watch::Receiver<bool>,
) {
    let port = Arc::new(Port {
        tls,
        handler,
        crowd: Crowd::new(PEER_STRANGERS_MAX),
        boards: Crowd::new(PEER_BOARDS_MAX).with_each(PEER_BOARD_CONNECTIONS_MAX),
        lines: Lines::default(),
        stop: stop.clone(),
    });
    let listener = listener.into();
    let mut connections = JoinSet::new();
    loop {
        // Cancel safety: accept and join_next lose nothing when dropped.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                connections.spawn(port.clone().connection(stream, address));
            }
            Err(error) => {
                if let Some(left_out) = port.lines.crowd.line() {
                    tracing::warn!(%error, left_out, "peer port cannot accept");
                }
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is still open at the deadline is cut off when the set is dropped.
    let _ = timeout(Duration::from_secs(PEER_STOP_SECONDS_MAX), ended).await;
}

/// Resolves once the port is to stop, or nobody can ask any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

struct Port {
    tls: Arc<ServerConfig>,
    handler: Arc<dyn PeerHandler>,
    /// By address.
    crowd: Crowd<IpAddr>,
    /// By name.
    boards: Crowd<String>,
    lines: Lines,
    stop: watch::Receiver<bool>,
}

struct Lines {
    tls: Seldom,
    crowd: Seldom,
    refused: Seldom,
    http: Seldom,
}

impl Default for Lines {
    fn default() -> Self {
        let seldom = || Seldom::new(LINES_EVERY);
        Self { tls: seldom(), crowd: seldom(), refused: seldom(), http: seldom() }
    }
}

/// Why a connection ended other than well.
enum Ended {
    Handshake(io::Error),
    Late,
    Displaced,
    Refused(String),
    /// The board has newer connections.
    Superseded(String),
    Http(hyper::Error),
}

impl Port {
    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if let Err(ended) = self.clone().serve(stream, address).await {
            self.log(address, &ended);
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) -> Result<(), Ended> {
        let mut place = self.crowd.enter(address.ip());
        let deadline = Duration::from_secs(PEER_HANDSHAKE_SECONDS_MAX);
        // Cancel safety: whichever comes first ends the connection or its handshake for good.
        let (stream, caller) = tokio::select! {
            greeted = timeout(deadline, self.greet(stream, address)) => {
                greeted.map_err(|_| Ended::Late)?.map_err(Ended::Handshake)?
            }
            () = place.displaced() => return Err(Ended::Displaced),
        };
        let Some(board) = &caller.board else {
            let deadline = Duration::from_secs(PEER_STRANGER_SECONDS_MAX);
            return tokio::select! {
                served = timeout(deadline, self.clone().requests(stream, caller, false)) => {
                    served.map_err(|_| Ended::Late)?
                }
                () = place.displaced() => Err(Ended::Displaced),
            };
        };
        let name = board.name.clone();
        // Taken before the question, so that no change of the answer is missed.
        let judged = self.handler.judged_anew();
        if !self.handler.admits(board) {
            // Long enough to be told why: the answer to its first request says so.
            let told = timeout(deadline, self.clone().requests(stream, caller, false));
            return tokio::select! {
                _ = told => Err(Ended::Refused(name)),
                () = place.displaced() => Err(Ended::Displaced),
            };
        }
        drop(place);
        let mut place = self.boards.enter(name.clone());
        let turned_out = self.turned_out(board.clone(), judged);
        // Cancel safety: the connection is over, whichever comes first.
        tokio::select! {
            served = self.clone().requests(stream, caller, true) => served,
            () = turned_out => Err(Ended::Refused(name)),
            () = place.displaced() => Err(Ended::Superseded(name)),
        }
    }

    /// Resolves when this board is not admitted any more.
    async fn turned_out(&self, board: BoardPeer, mut judged: watch::Receiver<()>) {
        while judged.changed().await.is_ok() {
            if !self.handler.admits(&board) && self.handler.can_judge() {
                return;
            }
        }
        // Nobody judges any more.
        pending().await
    }

    async fn greet(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(TlsStream<TcpStream>, Caller)> {
        socket::tune(&stream, QUIET_SECONDS, socket::USER_TIMEOUT)?;
        let stream = TlsAcceptor::from(self.tls.clone()).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(io::Error::other)?;
        let board = session.peer_certificates().map(board_peer).transpose();
        let board = board.map_err(io::Error::other)?;
        Ok((stream, Caller { board, exporter, address }))
    }

    async fn requests(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        caller: Caller,
        is_admitted: bool,
    ) -> Result<(), Ended> {
        let guard = Guard { handler: self.handler.clone(), caller: Arc::new(caller) };
        let caller = guard.caller.clone();
        let port = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (port, caller) = (port.clone(), caller.clone());
            async move { Ok::<_, Infallible>(port.answer(caller, request).await) }
        });
        let connection = builder(is_admitted).serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut stop = self.stop.clone();
        // Cancel safety: the connection is polled by reference.
        tokio::select! {
            ended = &mut connection => return ended.map_err(Ended::Http),
            () = stopped(&mut stop) => {}
        }
        connection.as_mut().graceful_shutdown();
        let grace = Duration::from_secs(PEER_STOP_SECONDS_MAX);
        timeout(grace, connection).await.unwrap_or(Ok(())).map_err(Ended::Http)
    }

    async fn answer(&self, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        match &caller.board {
            Some(board) if !self.handler.admits(board) && !self.handler.can_judge() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "this master takes over the log: ask again")
            }
            Some(board) if !self.handler.admits(board) => text(
                StatusCode::FORBIDDEN,
                format!("board {} is not a member of this cluster with this key", board.name),
            ),
            None if !OPEN.contains(&path) => {
                text(StatusCode::UNAUTHORIZED, "this path needs a board's certificate")
            }
            _ if path == PING => {
                let mut answer = Response::new(empty());
                *answer.status_mut() = StatusCode::NO_CONTENT;
                answer
            }
            _ => self.handler.clone().handle(caller, request).await,
        }
    }

    fn log(&self, address: SocketAddr, ended: &Ended) {
        match ended {
            Ended::Handshake(error) => {
                if let Some(left_out) = self.lines.tls.line() {
                    tracing::warn!(%address, %error, left_out, "peer port: no proper TLS");
                }
            }
            Ended::Late => {
                if let Some(left_out) = self.lines.tls.line() {
                    tracing::warn!(%address, left_out, "peer port: took too long");
                }
            }
            Ended::Displaced => {
                if let Some(left_out) = self.lines.crowd.line() {
                    tracing::warn!(%address, left_out, "peer port: too many unknown connections");
                }
            }
            Ended::Refused(board) => {
                if let Some(left_out) = self.lines.refused.line() {
                    tracing::warn!(%address, board, left_out, "peer port: board is not admitted");
                }
            }
            Ended::Superseded(board) => {
                if let Some(left_out) = self.lines.crowd.line() {
                    tracing::warn!(%address, board, left_out, "peer port: too many connections of a board");
                }
            }
            Ended::Http(error) if is_cut(error) => {
                tracing::debug!(%address, %error, "peer connection was cut");
            }
            Ended::Http(error) => {
                if let Some(left_out) = self.lines.http.line() {
                    let error: &dyn Error = error;
                    tracing::warn!(%address, error, left_out, "peer port: no proper HTTP/2");
                }
            }
        }
    }
}

/// A link that ended is no fault of what was sent over it.
fn is_cut(error: &hyper::Error) -> bool {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn builder(is_admitted: bool) -> http2::Builder<TokioExecutor> {
    let (streams, window, all) = match is_admitted {
        true => (PEER_STREAMS_MAX, PEER_WINDOW_BYTES, PEER_CONNECTION_WINDOW_BYTES),
        false => (STRANGER_STREAMS, STRANGER_WINDOW_BYTES, 4 * STRANGER_WINDOW_BYTES),
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(all)
        .max_concurrent_streams(streams)
        .max_header_list_size(head_bytes_max(is_admitted))
        .max_send_buf_size(2 * PEER_CHUNK_BYTES);
    if is_admitted {
        // Masters pass streams of API clients on (RFC 8441).
        builder.enable_connect_protocol();
    }
    builder
}

/// Tells the handler when the connection is over, however it ends.
struct Guard {
    handler: Arc<dyn PeerHandler>,
    caller: Arc<Caller>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.handler.gone(&self.caller);
    }
}
