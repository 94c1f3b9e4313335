//! Accepts connections: TLS, then HTTP/1.1 or HTTP/2 by ALPN, each connection its own task.
//!
//! Whatever a peer sends ends at most its own connection. Bounds: number of connections, time of the
//! handshake, of a request's head, of idleness; small HTTP/2 windows, because a board has little
//! memory and clients send little.
//! On shutdown: no new connections, watches end, requests under way get
//! [`API_STOP_SECONDS_MAX`] to finish.

use std::convert::Infallible;
use std::future::Future;
use std::io;
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
    API_CONNECTIONS_MAX, API_HANDSHAKE_SECONDS_MAX, API_HEAD_BYTES_MAX, API_HEAD_SECONDS_MAX,
    API_IDLE_SECONDS_MAX, API_STOP_SECONDS_MAX, API_STRANGER_IDLE_SECONDS_MAX,
    API_STREAMS_PER_CONNECTION_MAX,
};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::auth::Peer;
use super::route::{self, Api};
use crate::io::tls::ApiTls;

/// Silence after which the kernel asks whether the peer still lives.
const KEEP_ALIVE_SECONDS: u32 = 30;
/// Pause after `accept` failed (descriptors exhausted): the condition passes by itself.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
const HTTP2_STREAM_WINDOW: u32 = 64 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 256 * 1024;
const HTTP2_SEND_BUFFER: usize = 32 * 1024;

/// Starts a task per listener; the handle ends when all connections have.
pub(super) fn start(
    api: Arc<Api>,
    tls: Arc<ApiTls>,
    listeners: Vec<TcpListener>,
    shutdown: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(API_CONNECTIONS_MAX));
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|listener| {
                let door = Door {
                    api: api.clone(),
                    tls: tls.clone(),
                    slots: slots.clone(),
                    shutdown: shutdown.clone(),
                };
                tokio::spawn(door.accept_all(listener))
            })
            .collect();
        for task in accepting {
            if let Err(error) = task.await {
                tracing::error!(%error, "API listener failed");
            }
        }
        // Every connection holds a slot: all slots free means all are closed.
        let all = u32::try_from(API_CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let deadline = Duration::from_secs(API_STOP_SECONDS_MAX + 1);
        if timeout(deadline, slots.acquire_many(all)).await.is_err() {
            tracing::warn!("API connections were still open at the deadline");
        }
    })
}

/// What every connection of a listener needs.
#[derive(Clone)]
struct Door {
    api: Arc<Api>,
    tls: Arc<ApiTls>,
    slots: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Door {
    async fn accept_all(self, listener: TcpListener) {
        let mut shutdown = self.shutdown.clone();
        loop {
            // Cancel safety: acquire and accept lose nothing when dropped.
            let slot = tokio::select! {
                slot = self.slots.clone().acquire_owned() => slot,
                () = stopped(&mut shutdown) => return,
            };
            let Ok(slot) = slot else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut shutdown) => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let door = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = door.connection(stream).await {
                            tracing::debug!(%address, %error, "API connection ended");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "API port cannot accept");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_SECONDS)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_SECONDS)?;
        let accepting = TlsAcceptor::from(self.tls.config()).accept(stream);
        let deadline = Duration::from_secs(API_HANDSHAKE_SECONDS_MAX);
        let stream = timeout(deadline, accepting).await.map_err(io::Error::from)??;
        let (_, session) = stream.get_ref();
        let peer: Peer = session.peer_certificates().map(|chain| self.tls.identify(chain));
        let http2 = session.alpn_protocol() == Some(b"h2");
        let busy = Arc::new(Busy::default());
        let serving = self.serve_http(TokioIo::new(stream), http2, peer, busy);
        serving.await.map_err(io::Error::other)
    }

    async fn serve_http<I: Read + Write + Unpin + Send + 'static>(
        &self,
        stream: I,
        http2: bool,
        peer: Peer,
        busy: Arc<Busy>,
    ) -> Result<(), hyper::Error> {
        let idle = Duration::from_secs(match peer {
            Some(Ok(_)) => API_IDLE_SECONDS_MAX,
            _ => API_STRANGER_IDLE_SECONDS_MAX,
        });
        let peer = Arc::new(peer);
        let counted = busy.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, peer, working) = (self.api.clone(), peer.clone(), counted.begin());
            async move { Ok::<_, Infallible>(route::answer(api, peer, request, working).await) }
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

impl Drop for Working {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
