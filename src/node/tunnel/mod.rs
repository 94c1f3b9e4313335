//! The board's side of the tunnel: one connection to whoever leads.
//!
//! ```text
//!             leader known              admitted, requests open
//!  waiting ─────────────────▶ dialling ─────────────────────────▶ open
//!     ▲                          │ nobody answers                  │ connection ended, other leader
//!     └── back-off 0.2 to 5 s ───┴─────────────────────────────────┘
//! ```
//! Over it the master asks for streams, which go to the agent as those of the in-memory link do, and
//! the board asks for images, messages and whatever else the master has for it. The connection ends
//! with the link: unacknowledged bytes and keep-alives are bounded in time by the kernel.

mod ask;
mod serve;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::leader::LeaderRecord;
use tokio::sync::{mpsc, watch};

use crate::io::link::StreamOpen;
use crate::io::peer::{Connection, PeerError};

/// How long one address of a master is tried.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Waits between attempts.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one: the next is tried soon.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// What the tunnel works with.
#[derive(Clone, Debug)]
pub struct TunnelOptions {
    /// Shows this board's certificate and accepts masters of the cluster only; of
    /// `io::tls::Credentials::client_config` with `io::peer::ALPN`.
    pub tls: Arc<rustls::ClientConfig>,
    /// Who leads, as far as is known.
    pub leader: watch::Receiver<Option<LeaderRecord>>,
    /// Where streams that the master wants go: into the agent's `BoardEnd`.
    pub streams: mpsc::Sender<StreamOpen>,
}

/// The way to the leader; clones share it. It may be asked before it is open, and then says so.
#[derive(Clone, Debug, Default)]
pub struct Tunnel {
    connection: Arc<watch::Sender<Option<Connection>>>,
}

impl Tunnel {
    /// A tunnel that is not open; [`Self::run`] opens it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the leader is, while the tunnel is open.
    pub fn connected_to(&self) -> Option<SocketAddr> {
        self.connection.borrow().as_ref().map(Connection::address)
    }

    /// The connection to the leader, when there is one: changes whenever there is another.
    pub fn connection(&self) -> watch::Receiver<Option<Connection>> {
        self.connection.subscribe()
    }

    /// Keeps the tunnel open until `stop` turns true or its sender is gone.
    pub async fn run(&self, options: TunnelOptions, mut stop: watch::Receiver<bool>) {
        // Cancel safety: nothing of the tunnel is used after this.
        tokio::select! {
            () = self.keep(options) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.connection.send_replace(None);
    }

    /// Ends when nobody can name a leader any more.
    async fn keep(&self, options: TunnelOptions) {
        let TunnelOptions { tls, mut leader, streams } = options;
        let mut pause = Pause::default();
        loop {
            let record = match leader.wait_for(Option::is_some).await {
                Ok(record) => record.clone(),
                Err(_) => return,
            };
            let Some(record) = record else { continue };
            match dial(&record, &tls).await {
                Ok(connection) => {
                    let began = Instant::now();
                    self.serve(&record, connection, &mut leader, &streams).await;
                    if began.elapsed() >= GOOD_AFTER {
                        pause = Pause::default();
                    }
                }
                Err(error) => pause.note(&record, &error),
            }
            let wait = pause.next();
            // Cancel safety: both only wait.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = leader.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Uses a connection until it ends or somebody else leads.
    async fn serve(
        &self,
        record: &LeaderRecord,
        connection: Connection,
        leader: &mut watch::Receiver<Option<LeaderRecord>>,
        streams: &mpsc::Sender<StreamOpen>,
    ) {
        let address = connection.address();
        tracing::info!(leader = record.name, %address, "tunnel to the leader is open");
        self.connection.send_replace(Some(connection.clone()));
        let moved = leader.wait_for(|other| {
            other.as_ref().is_some_and(|other| !leads_at(other, record, address))
        });
        // Cancel safety: the connection is over after this, whatever was under way.
        let why = tokio::select! {
            why = serve::requests(&connection, streams) => why,
            () = connection.closed() => "the connection ended".to_owned(),
            _ = moved => "another board leads, or at another address".to_owned(),
        };
        self.connection.send_replace(None);
        tracing::info!(leader = record.name, %address, why, "tunnel to the leader is closed");
    }
}

/// Whether the connection to `address` still leads to the leader.
fn leads_at(new: &LeaderRecord, old: &LeaderRecord, address: SocketAddr) -> bool {
    new.name == old.name
        && (new.epoch, new.term) == (old.epoch, old.term)
        && new.peer_port == address.port()
        && new.addresses.iter().any(|other| IpAddr::V4(*other) == address.ip())
}

/// Tries the addresses of a leader, the best first.
async fn dial(
    record: &LeaderRecord,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Connection, Option<PeerError>> {
    let mut last = None;
    for address in &record.addresses {
        let address = SocketAddr::from((*address, record.peer_port));
        match Connection::open(address, tls.clone(), DIAL_WITHIN).await {
            // Any master's certificate is good; only the leader's may say what this board does.
            Ok(connection) if connection.master().name == record.name => return Ok(connection),
            Ok(connection) => {
                let (is, leads) = (connection.master().name.clone(), record.name.clone());
                last = Some(PeerError::Another { address, is, leads });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last)
}

/// The wait before the next attempt, doubling, and what was said about the last one.
#[derive(Debug, Default)]
struct Pause {
    tries: u32,
    told: Option<String>,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let whole = PAUSE_MIN.saturating_mul(1 << self.tries.min(8)).min(PAUSE_MAX);
        self.tries = self.tries.saturating_add(1);
        // Boards that lose the same master do not all come back at the same moment.
        let mut byte = [0];
        let jitter = getrandom::fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
        whole / 2 + whole * jitter / 512
    }

    /// Says why there is no connection, once per reason.
    fn note(&mut self, record: &LeaderRecord, error: &Option<PeerError>) {
        let error = error.as_ref().map_or_else(
            || "its record has no address".to_owned(),
            |error| {
                let source = std::error::Error::source(error).map(|source| format!(": {source}"));
                format!("{error}{}", source.unwrap_or_default())
            },
        );
        if self.told.as_ref() == Some(&error) {
            tracing::debug!(leader = record.name, error, "no tunnel to the leader yet");
        } else {
            tracing::warn!(leader = record.name, error, "no tunnel to the leader");
            self.told = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds() {
        let mut pause = Pause::default();
        let waits: Vec<Duration> = (0..100).map(|_| pause.next()).collect();
        assert!(waits[0] >= PAUSE_MIN / 2 && waits[0] <= PAUSE_MIN);
        assert!(waits[99] >= PAUSE_MAX / 2 && waits[99] <= PAUSE_MAX);
    }
}
