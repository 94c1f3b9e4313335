//! The master's end: accepts boards, asks who they are, and hands their streams to the broker.
//!
//! Bounded in connections, in handshakes under way (one more ends the oldest, so that thousands of
//! silent strangers cannot keep a board out) and in the time of each. What is refused costs one line,
//! and a flood of refusals a few lines per second.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::{Access, Broker, Connecting, Ended, Limits, Peer, Refusal};
use model::limits::{
    BUS_CONNECTIONS_MAX, BUS_HANDSHAKE_SECONDS_MAX, BUS_HANDSHAKES_MAX, BUS_KEEP_ALIVE_SECONDS_MAX,
    BUS_PACKET_BYTES_MAX,
};
use nix::sys::socket::{setsockopt, sockopt};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::Topics;
use crate::io::seldom::Seldom;

/// What was sent and not confirmed for this long ends the connection.
const UNCONFIRMED_MILLIS_MAX: u32 = 10_000;
/// What is refused writes one line in this time, after the first few.
const LINES_EVERY: Duration = Duration::from_millis(500);
/// Pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The name and the key of the board with a verified certificate chain, or why it is not let in.
pub type Identify =
    Arc<dyn Fn(&[CertificateDer<'_>]) -> Result<(String, Key), &'static str> + Send + Sync>;
/// SHA-256 of a board's SubjectPublicKeyInfo.
type Key = [u8; 32];

/// Bounds of the broker for boards.
pub fn limits() -> Limits {
    Limits {
        connections_max: BUS_CONNECTIONS_MAX,
        packet_bytes_max: BUS_PACKET_BYTES_MAX,
        ..Limits::default()
    }
}

/// Accepts boards for a broker.
pub struct Server {
    broker: Broker,
    tls: TlsAcceptor,
    identify: Identify,
    shown: Arc<Mutex<Shown>>,
    seats: Arc<Semaphore>,
    handshakes: Arc<Mutex<BTreeMap<u64, AbortHandle>>>,
    lines: Seldom,
}

impl Server {
    /// A broker with the rules of this cluster, and what lets boards in to it. `own` is the master's
    /// own board, which does not use the bus.
    pub fn new(
        cluster: &str,
        own: &str,
        tls: Arc<rustls::ServerConfig>,
        identify: Identify,
    ) -> (Arc<Self>, Broker) {
        let shown: Arc<Mutex<Shown>> = Arc::default();
        let rules =
            Rules { topics: Topics::new(cluster), own: own.to_owned(), shown: shown.clone() };
        let broker = Broker::new(limits(), Arc::new(rules));
        let server = Self {
            broker: broker.clone(),
            tls: tls.into(),
            identify,
            shown,
            seats: Arc::new(Semaphore::new(BUS_CONNECTIONS_MAX + BUS_HANDSHAKES_MAX)),
            handshakes: Arc::default(),
            lines: Seldom::bursts(10, LINES_EVERY),
        };
        (Arc::new(server), broker)
    }

    /// The key of the newest connection that was admitted under this name.
    pub fn key_of(&self, board: &str) -> Option<[u8; 32]> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.admitted.get(board).map(|(_, key)| *key)
    }

    /// Accepts until `stop` turns true; then all its connections end.
    pub async fn serve(
        self: Arc<Self>,
        listener: impl Into<Arc<TcpListener>>,
        mut stop: watch::Receiver<bool>,
    ) {
        let listener = listener.into();
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            // Cancel safety: all arms lose nothing when dropped.
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        number += 1;
                        self.accept(number, stream, address, &mut connections);
                    }
                    Err(error) => {
                        self.refused(None, "connection cannot be accepted", &error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        self.broker.stop().await;
        connections.shutdown().await;
    }

    fn accept(
        self: &Arc<Self>,
        number: u64,
        stream: TcpStream,
        address: SocketAddr,
        connections: &mut JoinSet<()>,
    ) {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else {
            return self.refused(Some(address), "bus connection refused", &"all places are taken");
        };
        let mut handshakes = self.handshakes();
        if handshakes.len() >= BUS_HANDSHAKES_MAX
            && let Some((_, oldest)) = handshakes.pop_first()
        {
            oldest.abort();
            self.refused(None, "bus connection refused", &"room was needed for another handshake");
        }
        // Spawned under the lock: the task looks for its entry when its handshake is over.
        let task = connections.spawn(self.clone().connection(number, stream, address, seat));
        handshakes.insert(number, task);
    }

    async fn connection(
        self: Arc<Self>,
        number: u64,
        stream: TcpStream,
        address: SocketAddr,
        _seat: OwnedSemaphorePermit,
    ) {
        let within = Duration::from_secs(BUS_HANDSHAKE_SECONDS_MAX);
        let shaken = tokio::time::timeout(within, self.shake(stream)).await;
        self.handshakes().remove(&number);
        let refuse = |why: &dyn std::fmt::Display| {
            self.refused(Some(address), "bus connection refused", why);
        };
        let (name, key, stream) = match shaken {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(why)) => return refuse(&why),
            Err(_) => return refuse(&"no TLS handshake in time"),
        };
        let peer = Peer { name: Some(name.clone()), address };
        let _arrival = Arrival::new(self.shown.clone(), address, &name, key);
        let ended = self.broker.serve(stream, peer).await;
        match ended {
            Ended::Left | Ended::Stopped | Ended::Removed | Ended::TakenOver => {
                tracing::debug!(node = name, %address, why = %ended, "bus connection ended");
            }
            ended => self.refused(Some(address), "bus connection ended", &Named(&name, ended)),
        }
    }

    async fn shake(
        &self,
        stream: TcpStream,
    ) -> Result<(String, Key, tokio_rustls::server::TlsStream<TcpStream>), Refused> {
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::TcpUserTimeout, &UNCONFIRMED_MILLIS_MAX)
            .map_err(io::Error::from)?;
        let stream = self.tls.accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let (name, key) = (self.identify)(chain).map_err(Refused::Identity)?;
        Ok((name, key, stream))
    }

    fn handshakes(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line, as long as there are not too many of them.
    fn refused(&self, address: Option<SocketAddr>, what: &str, why: &dyn std::fmt::Display) {
        if let Some(left_out) = self.lines.line() {
            let address = address.map(|address| address.to_string());
            tracing::warn!(address, %why, left_out, "{what}");
        }
    }
}

/// Why a peer did not get as far as the broker.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
    #[error("{0}")]
    Identity(&'static str),
}

/// The end of a connection of a board whose name is known.
struct Named<'a>(&'a str, Ended);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "board {}: {}", self.0, self.1)
    }
}

/// The keys that connections have shown; as many as there are connections.
#[derive(Default)]
struct Shown {
    /// By the address of the connection.
    arrived: HashMap<SocketAddr, Key>,
    /// By the board's name, with the address of the connection that was admitted last.
    admitted: HashMap<String, (SocketAddr, Key)>,
}

/// The entries of a connection, gone with it.
struct Arrival {
    shown: Arc<Mutex<Shown>>,
    address: SocketAddr,
    name: String,
}

impl Arrival {
    fn new(shown: Arc<Mutex<Shown>>, address: SocketAddr, name: &str, key: Key) -> Self {
        shown.lock().unwrap_or_else(PoisonError::into_inner).arrived.insert(address, key);
        Self { shown, address, name: name.to_owned() }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.arrived.remove(&self.address);
        if shown.admitted.get(&self.name).is_some_and(|(address, _)| *address == self.address) {
            shown.admitted.remove(&self.name);
        }
    }
}

/// Who may connect, publish and subscribe.
struct Rules {
    topics: Topics,
    own: String,
    shown: Arc<Mutex<Shown>>,
}

impl Access for Rules {
    fn admit(&self, peer: &Peer, connecting: &Connecting<'_>) -> Result<(), Refusal> {
        let name = peer.name.as_deref().ok_or(Refusal::NotAuthorized)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if name.is_empty() || !name.bytes().all(plain) || name == self.own {
            return Err(Refusal::NotAuthorized);
        }
        if connecting.client_id != name {
            return Err(Refusal::ClientId);
        }
        // A client that may be silent for long would be seen as present although it is gone.
        if !(1..=BUS_KEEP_ALIVE_SECONDS_MAX).contains(&connecting.keep_alive) {
            return Err(Refusal::NotAuthorized);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = shown.arrived.get(&peer.address).copied() {
            shown.admitted.insert(name.to_owned(), (peer.address, key));
        }
        Ok(())
    }

    fn may_publish(&self, client: &str, topic: &str) -> bool {
        self.topics.may_publish(client, topic)
    }

    fn may_subscribe(&self, client: &str, filter: &str) -> bool {
        self.topics.may_subscribe(client, filter)
    }
}

/// Stop is asked for, or nobody is left to ask for it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await;
}
