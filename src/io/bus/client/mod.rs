//! The board's end: follows the leader, and plays the master towards the agent of this board.
//!
//! ```text
//!            leader known                 subscribed                    agent says Hello
//!  Waiting ---------------> Connecting ---------------> Ready ~~~ messages ~~~
//!     ^                         | refused, unreachable    | error, three beats missed, new leader
//!     '--- back-off, jittered --'-------------------------'
//! ```
//! The link to the agent outlives every connection. Without one, what the agent says is taken and
//! dropped: the link never fills, and the versions in the beats repair what was lost. Client and
//! event loop are made anew for each connection: what rumqttc keeps of an old one is not wanted.
//!
//! Over somebody else's broker ([`BrokerOptions`]) everything is sealed; a session's keys come over the
//! tunnel, before each connection, and the connection ends with the tunnel.
//!
//! rumqttc opens its sockets itself, so TCP_USER_TIMEOUT cannot be set: its own pings and the beats
//! that have to come tell a dead path.

mod backoff;
mod connection;
mod delivery;
mod sealed;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::LINK_FRAMES_MAX;
use tokio::sync::{mpsc, watch};

use super::{Topics, Waiting};
use crate::io::link::{Closed, MasterEnd};
use backoff::Backoff;
pub use sealed::{BrokerOptions, IsLeaders, Keys};

/// A connection that was ready for this long was a good one: the next is tried soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// Gets messages that are too large for the bus.
pub trait Fetch: Send + Sync + 'static {
    /// The packed parts with this SHA-256 and length, or why they cannot be had.
    fn fetch(
        &self,
        digest: [u8; 32],
        bytes: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>>;
}

/// TLS towards the board of that name.
pub type TlsTo = Arc<dyn Fn(&str) -> Result<Arc<rustls::ClientConfig>, String> + Send + Sync>;

/// What a board's end of the bus works with.
pub struct ClientOptions {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this board, as in its certificate.
    pub name: String,
    /// Shows this board's certificate, accepts the master of that name only; with [`super::ALPN`].
    pub tls: TlsTo,
    /// Who leads, as far as is known.
    pub leader: watch::Receiver<Option<LeaderRecord>>,
    /// Gets what is too large for the bus.
    pub fetch: Arc<dyn Fetch>,
    /// How the bus fares, kept up to date from here.
    pub state: watch::Sender<BusState>,
    /// The retained record that the leader has on the bus; its signature is not checked here.
    pub announced: watch::Sender<Option<SignedRecord>>,
    /// Somebody else's broker that carries the bus; none for the leader's own.
    pub broker: Option<BrokerOptions>,
}

/// How a board's end of the bus fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusState {
    /// The leader's name and address while it is connected and the topics are subscribed.
    pub connected_to: Option<(String, SocketAddr)>,
    /// Since when it is connected, or is not.
    pub since: Instant,
    /// Why the last connection, or attempt at one, ended.
    pub trouble: Option<String>,
}

impl Default for BusState {
    fn default() -> Self {
        Self { connected_to: None, since: Instant::now(), trouble: None }
    }
}

/// Serves the agent's link until `stop` turns true.
///
/// # Errors
/// When the agent closes its end of the link.
pub async fn run(
    options: ClientOptions,
    link: MasterEnd,
    stop: watch::Receiver<bool>,
) -> Result<(), Closed> {
    // Streams are opened by the tunnel; their sender lives as long as the link.
    let MasterEnd { down, up, streams: _streams } = link;
    let (inbox, arrived) = mpsc::channel(LINK_FRAMES_MAX);
    let deliver = delivery::run(arrived, down, options.fetch.clone());
    let mut client = Client {
        topics: Topics::new(&options.cluster),
        leader: options.leader.clone(),
        options,
        up,
        inbox,
        stop,
    };
    // Cancel safety: whichever ends first ends the other for good.
    tokio::select! {
        ended = client.run() => ended,
        closed = deliver => closed,
    }
}

struct Client {
    options: ClientOptions,
    topics: Topics,
    leader: watch::Receiver<Option<LeaderRecord>>,
    up: mpsc::Receiver<Bytes>,
    /// Messages for the agent, in the order in which they came.
    inbox: mpsc::Sender<Bytes>,
    stop: watch::Receiver<bool>,
}

/// Why a connection, or the attempt at one, ended.
#[derive(Debug)]
enum Ended {
    /// Stop is asked for.
    Stopped,
    /// The agent closed its end of the link.
    LinkClosed,
    /// Somebody else leads, or elsewhere.
    OtherLeader,
    /// It failed; how long it was ready before, if it was.
    Failed { why: String, ready_for: Option<Duration> },
}

impl Client {
    async fn run(&mut self) -> Result<(), Closed> {
        let mut backoff = Backoff::default();
        // The address that worked last is tried first.
        let mut good: Option<IpAddr> = None;
        loop {
            let Some(record) = self.leader.borrow_and_update().clone() else {
                match self.idle(None).await {
                    Ended::Stopped => return Ok(()),
                    Ended::LinkClosed => return Err(Closed),
                    Ended::OtherLeader | Ended::Failed { .. } => continue,
                }
            };
            if let Some(broker) = self.options.broker.clone() {
                match self.over_broker(&record, &broker, &mut backoff).await {
                    Ended::Stopped => return Ok(()),
                    Ended::LinkClosed => return Err(Closed),
                    Ended::OtherLeader | Ended::Failed { .. } => continue,
                }
            }
            let mut addresses: Vec<IpAddr> =
                record.addresses.iter().map(|address| IpAddr::V4(*address)).collect();
            addresses.sort_by_key(|address| Some(*address) != good);
            let mut again = None;
            for address in addresses {
                let ended = self.connection(&record, address).await;
                match ended {
                    Ended::Stopped => return Ok(()),
                    Ended::LinkClosed => return Err(Closed),
                    Ended::OtherLeader => again = Some(Duration::ZERO),
                    Ended::Failed { why, ready_for } => {
                        self.note_trouble(&record, &address, why);
                        let Some(ready_for) = ready_for else { continue };
                        good = Some(address);
                        if ready_for >= GOOD_AFTER {
                            backoff = Backoff::default();
                        }
                        again = Some(backoff.next());
                    }
                }
                break;
            }
            match self.idle(Some(again.unwrap_or_else(|| backoff.next()))).await {
                Ended::Stopped => return Ok(()),
                Ended::LinkClosed => return Err(Closed),
                Ended::OtherLeader | Ended::Failed { .. } => {}
            }
        }
    }

    /// Drops what the agent says until the pause is over (never without one) or the leader changes.
    async fn idle(&mut self, pause: Option<Duration>) -> Ended {
        let over = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        match self.meanwhile(over).await {
            Ok(()) => Ended::OtherLeader,
            Err(ended) => ended,
        }
    }

    /// Drops what the agent says until `work` is done or the leader changes.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(work);
        loop {
            // Cancel safety: channels lose nothing; the work goes on.
            tokio::select! {
                () = stopped(&mut self.stop) => return Err(Ended::Stopped),
                done = &mut work => return Ok(done),
                Ok(()) = self.leader.changed() => return Err(Ended::OtherLeader),
                message = self.up.recv() => if message.is_none() {
                    return Err(Ended::LinkClosed);
                },
            }
        }
    }

    fn note_trouble(&self, record: &LeaderRecord, address: &dyn std::fmt::Display, why: String) {
        self.options.state.send_if_modified(|state| {
            let news = state.connected_to.is_some() || state.trouble.as_ref() != Some(&why);
            if news {
                tracing::warn!(leader = record.name, %address, why, "bus is not connected");
            }
            if state.connected_to.take().is_some() {
                state.since = Instant::now();
            }
            state.trouble = Some(why);
            news
        });
    }
}

/// Stop is asked for, or nobody is left to ask for it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await;
}
