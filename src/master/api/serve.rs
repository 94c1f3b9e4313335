//! Accepts connections: TLS, then HTTP/1.1 or HTTP/2 by ALPN, each connection its own task.
//!
//! ```text
//! accepted -> crowd -> TLS -> certificate is known: leaves the crowd, stays as long as it likes
//!                        |--> none, or not known (probes, tokens): stays in the crowd, is served
//!                        '--> too slow, no TLS: ended
//! ```
//! Whatever a peer sends ends at most its own connection, and no number of strangers keeps a client
//! out: they displace each other ([`crate::io::crowd`]). Bounds: number of connections, time of the
//! handshake, of a request's head, of idleness; small HTTP/2 windows, because a board has little
//! memory and clients send little.
//! On shutdown: no new connections, watches end, requests under way get
//! [`API_STOP_SECONDS_MAX`] to finish.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use model::limits::{
    API_CLIENTS_MAX, API_HANDSHAKE_SECONDS_MAX, API_HEAD_BYTES_MAX, API_HEAD_SECONDS_MAX,
    API_IDLE_SECONDS_MAX, API_STOP_SECONDS_MAX, API_STRANGER_IDLE_SECONDS_MAX, API_STRANGERS_MAX,
    API_STREAMS_PER_CONNECTION_MAX,
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::auth::Caller;
use super::gateway::Gateway;
use crate::io::crowd::{Crowd, Place};
use crate::io::tls::{ApiTls, board_peer};

/// Silence after which the kernel asks whether the peer still lives.
const KEEP_ALIVE_SECONDS: u32 = 30;
/// Pause after `accept` failed (descriptors exhausted): the condition passes by itself.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
const HTTP2_SEND_BUFFER: usize = 32 * 1024;

/// Starts a task per listener; the handle ends when all connections have.
pub(super) fn start(
    gateway: Gateway,
    tls: Arc<ApiTls>,
    listeners: Vec<Arc<TcpListener>>,
    shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let door = Door {
            gateway,
            tls,
            crowd: Crowd::new(API_STRANGERS_MAX),
            clients: Arc::new(Semaphore::new(API_CLIENTS_MAX)),
            shutdown,
        };
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(door.clone().accept_all(listener)))
            .collect();
        for task in accepting {
            if let Err(error) = task.await {
                tracing::error!(%error, "API listener failed");
            }
        }
    })
}

/// What every connection of a listener needs.
#[derive(Clone)]
struct Door {
    gateway: Gateway,
    tls: Arc<ApiTls>,
    /// By address.
    crowd: Crowd<IpAddr>,
    /// Those whose certificate is known.
    clients: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Door {
    async fn accept_all(self, listener: Arc<TcpListener>) {
        let mut shutdown = self.shutdown.clone();
        let mut connections = JoinSet::new();
        loop {
            // Cancel safety: accept and join_next lose nothing when dropped.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = stopped(&mut shutdown) => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (door, place) = (self.clone(), self.crowd.enter(address.ip()));
                    connections.spawn(async move {
                        if let Err(error) = door.connection(stream, address, place).await {
                            tracing::debug!(%address, %error, "API connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "API port cannot accept");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What is still open at the deadline is cut off when the set is dropped.
        let deadline = Duration::from_secs(API_STOP_SECONDS_MAX + 1);
        if timeout(deadline, ended).await.is_err() {
            tracing::warn!("API connections were still open at the deadline");
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        address: SocketAddr,
        mut place: Place<IpAddr>,
    ) -> io::Result<()> {
        // Cancel safety: whichever comes first ends the connection or its time in the crowd for good.
        let (stream, caller) = tokio::select! {
            greeted = self.greet(stream, address) => greeted?,
            () = place.displaced() => return Err(displaced()),
        };
        if !matches!(caller.identity, Some(Ok(_))) {
            return tokio::select! {
                served = self.serve(stream, caller) => served,
                () = place.displaced() => Err(displaced()),
            };
        }
        let slot = tokio::select! {
            slot = self.clients.acquire() => slot,
            () = place.displaced() => return Err(displaced()),
        };
        let Ok(_slot) = slot else { return Ok(()) };
        drop(place);
        let Some(board) = caller.board.clone() else { return self.serve(stream, caller).await };
        // Cancel safety: the connection is over, whichever comes first.
        tokio::select! {
            served = self.serve(stream, caller) => served,
            () = self.gateway.turned_out(&board) => Err(io::Error::other("its board is not admitted")),
        }
    }

    async fn greet(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(TlsStream<TcpStream>, Caller)> {
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECONDS)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_SECONDS)?;
        let accepting = TlsAcceptor::from(self.tls.config()).accept(stream);
        let deadline = Duration::from_secs(API_HANDSHAKE_SECONDS_MAX);
        let stream = timeout(deadline, accepting).await.map_err(io::Error::from)??;
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates();
        let identity = chain.map(|chain| self.tls.identify(chain));
        let known = chain.filter(|_| matches!(identity, Some(Ok(_))));
        let board = known.and_then(|chain| board_peer(chain).ok());
        Ok((stream, Caller { identity, board, address }))
    }

    async fn serve(&self, stream: TlsStream<TcpStream>, caller: Caller) -> io::Result<()> {
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let busy = Arc::new(Busy::default());
        let serving = self.serve_http(TokioIo::new(stream), http2, caller, busy);
        serving.await.map_err(io::Error::other)
    }

    async fn serve_http<I: Read + Write + Unpin + Send + 'static>(
        &self,
        stream: I,
        http2: bool,
        caller: Caller,
        busy: Arc<Busy>,
    ) -> Result<(), hyper::Error> {
        let idle = Duration::from_secs(match caller.identity {
            Some(Ok(_)) => API_IDLE_SECONDS_MAX,
            _ => API_STRANGER_IDLE_SECONDS_MAX,
        });
        let caller = Arc::new(caller);
        let counted = busy.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, caller) = (self.gateway.clone(), caller.clone());
            let working = counted.begin();
            async move { Ok::<_, Infallible>(gateway.answer(caller, request, working).await) }
        });
        if http2 {
            let connection = http2_builder().serve_connection(stream, service);
            let wind_down = http2::Connection::graceful_shutdown;
            run(connection, wind_down, &busy, idle, self.shutdown.clone()).await
        } else {
            let connection = http1_builder().serve_connection(stream, service).with_upgrades();
            let wind_down = http1::UpgradeableConnection::graceful_shutdown;
            run(connection, wind_down, &busy, idle, self.shutdown.clone()).await
        }
    }
}

fn displaced() -> io::Error {
    io::Error::other("a newer connection without a known certificate took its place")
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(API_HEAD_SECONDS_MAX))
        .max_buf_size(API_HEAD_BYTES_MAX);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_concurrent_streams(API_STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(API_HEAD_BYTES_MAX as u32)
        .max_send_buf_size(HTTP2_SEND_BUFFER);
    builder
}

/// Drives one connection; asks it to end when it is idle for too long or the API stops.
async fn run<C>(
    connection: C,
    wind_down: impl FnOnce(Pin<&mut C>),
    busy: &Busy,
    idle: Duration,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut connection = pin!(connection);
    let mut seen = busy.begun();
    // Cancel safety: the connection is polled by reference; the timers hold no state.
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = stopped(&mut shutdown) => break,
            () = sleep(idle) => {
                let begun = busy.begun();
                if busy.under_way() == 0 && begun == seen {
                    break;
                }
                seen = begun;
            }
        }
    }
    wind_down(connection.as_mut());
    let grace = Duration::from_secs(API_STOP_SECONDS_MAX);
    timeout(grace, connection).await.unwrap_or(Ok(()))
}

/// Resolves once shutdown is asked for, or its sender is gone.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody can ask any more: the same as being asked.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Counts the requests of one connection.
#[derive(Debug, Default)]
struct Busy {
    begun: AtomicUsize,
    under_way: AtomicUsize,
}

impl Busy {
    fn begin(self: &Arc<Self>) -> Working {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A request under way; lives as long as its answer's body.
#[derive(Debug)]
pub(super) struct Working(Arc<Busy>);

impl Working {
    /// Of a request that comes over no connection of this port.
    pub(super) fn elsewhere() -> Self {
        Arc::new(Busy::default()).begin()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
