//! The boards on the bus: a session for each that is connected, as long as this board leads.
//!
//! Which broker carries it (our own, or somebody else's) is behind [`MasterBus`].
//!
//! ```text
//!  presence (came, went) ──▶ sessions: one dispatcher each ──▶ nodes/<n>/down/...
//!  nodes/+/up/# ──▶ routed to the board's session; whatever comes means that it is heard
//!  leader record ──▶ `leader`, retained             network ──▶ `all/net`, once for everybody
//! ```
//! A session's trouble ends that session only, and then the board's connection, so that it comes back.
//! The same board connecting again ends its earlier session first. The master's own board does not
//! come here: its link is in memory.

mod messages;
mod net;
mod session;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ids::Version;
use model::leader::SignedRecord;
use model::limits::BUS_UP_FRAMES_MAX;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::io::bus::external::{ExternalOptions, external};
use crate::io::bus::{self, BusEvent, BusEvents, Embedded, Gated, MasterBus, Topics, Waiting};
use crate::io::link::Gate;
use crate::io::seldom::Seldom;
use crate::io::tls::{BoardPeer, Clients, Credentials, TlsError, board_peer};
use crate::master::audit::AuditLines;
use crate::master::contacts::Contacts;
use crate::master::controllers::Views;
use crate::master::dispatcher::{self, DispatchError};
use crate::master::keys::evicted_key;
use crate::master::registry::Registry;

pub use messages::Messages;
use session::{Over, Session, Shared};

/// Boards that say too much cause one line in this time, after the first few.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Time for sessions to end with the role.
const END_WITHIN: Duration = Duration::from_secs(5);

/// What the role serves boards with.
pub struct BoardsOptions {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the master's own board, which may not come over the bus.
    pub own: String,
    /// What the bus goes over.
    pub over: BusOver,
    /// This board's certificate and the authority.
    pub credentials: Credentials,
    /// Whether a board with a valid certificate is still admitted: its name may belong to another
    /// key by now, or its key may have been evicted.
    pub admitted: Arc<dyn Fn(&BoardPeer) -> bool + Send + Sync>,
    /// Told when boards were evicted, for whatever else they are connected to.
    pub turned_out: watch::Sender<()>,
    /// The world.
    pub views: Views,
    /// The objects.
    pub registry: Registry,
    /// Who is heard.
    pub contacts: Contacts,
    /// Epoch, term and beat.
    pub as_leader: dispatcher::Options,
    /// Nothing is said to boards once it is shut.
    pub gate: Gate,
    /// The signed leader record, which is kept on the bus.
    pub record: watch::Receiver<SignedRecord>,
    /// Where messages are kept that boards fetch over the tunnel.
    pub messages: Messages,
    /// Lines of the audit that go over the bus.
    pub audit: Option<AuditLines>,
}

/// What the bus goes over.
pub enum BusOver {
    /// A broker of our own, on the listener bound to port 8883.
    Own(Arc<TcpListener>),
    /// Somebody else's broker.
    External(ExternalOptions),
}

/// Serves boards until `stop` turns true.
///
/// # Errors
/// When TLS cannot be set up with these credentials.
pub async fn run(options: BoardsOptions, stop: watch::Receiver<bool>) -> Result<(), TlsError> {
    let BoardsOptions { cluster, own, over, credentials, admitted, record, .. } = options;
    let topics = Topics::new(&cluster);
    let (bus, events, serving): (Arc<dyn MasterBus>, Box<dyn BusEvents>, Waiting<'_, ()>) =
        match over {
            BusOver::Own(listener) => {
                let tls = credentials.server_config(Clients::Required, &[bus::ALPN])?;
                let identify = identify(admitted.clone());
                let (server, broker) = bus::Server::new(&cluster, &own, tls, identify);
                let (bus, events) = Embedded::new(broker, server.clone(), &topics);
                let serving = server.serve(listener, stop.clone());
                (Arc::new(bus), Box::new(events), Box::pin(serving))
            }
            BusOver::External(options) => {
                let (bus, events, running) = external(options);
                let mut stop = stop.clone();
                // Cancel safety: nothing of the connection is used after this.
                let serving = async move {
                    tokio::select! {
                        () = running => {}
                        () = stopped(&mut stop) => {}
                    }
                };
                (bus, Box::new(events), Box::pin(serving))
            }
        };
    let bus: Arc<dyn MasterBus> = Arc::new(Gated::new(bus, options.gate));
    let shared = Arc::new(Shared {
        topics: topics.clone(),
        bus: bus.clone(),
        views: options.views,
        registry: options.registry,
        as_leader: options.as_leader,
        messages: options.messages,
    });
    let boards = Boards {
        shared: shared.clone(),
        admitted,
        turned_out: options.turned_out,
        evictions: None,
        contacts: options.contacts,
        connected: HashMap::new(),
        newest: HashMap::new(),
        sessions: JoinSet::new(),
        lines: Seldom::bursts(5, LINES_EVERY),
    };
    // Cancel safety: all of them end with `stop`.
    tokio::join!(
        net::tell_all(shared, stop.clone()),
        serving,
        announce(&*bus, &topics, record, stop.clone()),
        tell_audit(&*bus, topics.audit(&own), options.audit, stop.clone()),
        boards.run(events, stop),
    );
    Ok(())
}

/// Says whose a connection is by its certificate, or why it is not let in.
fn identify(admitted: Arc<dyn Fn(&BoardPeer) -> bool + Send + Sync>) -> bus::Identify {
    Arc::new(move |chain: &[CertificateDer<'_>]| {
        let peer = board_peer(chain).map_err(|_| "its certificate is not a board's")?;
        match admitted(&peer) {
            true => Ok((peer.name, peer.key)),
            false => Err("its key is not admitted any more"),
        }
    })
}

/// Tells who wrote what, if anybody is to be told.
async fn tell_audit(
    bus: &dyn MasterBus,
    topic: String,
    lines: Option<AuditLines>,
    stop: watch::Receiver<bool>,
) {
    if let Some(lines) = lines {
        lines.to_bus(bus, &topic, stop).await;
    }
}

/// Keeps the leader record on the bus.
async fn announce(
    bus: &dyn MasterBus,
    topics: &Topics,
    mut record: watch::Receiver<SignedRecord>,
    mut stop: watch::Receiver<bool>,
) {
    let topic = topics.leader();
    loop {
        let text = record.borrow_and_update().to_string();
        bus.publish(&topic, text.into(), true).await;
        // Cancel safety: both only wait.
        tokio::select! {
            () = stopped(&mut stop) => return,
            changed = record.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// A board's session as the router sees it.
struct Connected {
    connection: u64,
    key: Option<[u8; 32]>,
    up: mpsc::Sender<Bytes>,
    stop: watch::Sender<bool>,
}

struct Boards {
    shared: Arc<Shared>,
    admitted: Arc<dyn Fn(&BoardPeer) -> bool + Send + Sync>,
    turned_out: watch::Sender<()>,
    /// Version of the list of evicted keys that was looked at last.
    evictions: Option<Version>,
    contacts: Contacts,
    connected: HashMap<String, Connected>,
    /// The newest session of each board that has one, whether or not it is asked to end: the next
    /// one begins after it.
    newest: HashMap<String, (u64, Over)>,
    sessions: JoinSet<(String, u64, Result<(), DispatchError>)>,
    lines: Seldom,
}

impl Boards {
    async fn run(mut self, mut events: Box<dyn BusEvents>, mut stop: watch::Receiver<bool>) {
        let mut evictions = self.shared.views.evictions();
        self.turn_out();
        loop {
            // Cancel safety: all arms lose nothing when dropped.
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(ended) = self.sessions.join_next(), if !self.sessions.is_empty() => match ended {
                    Ok((board, connection, served)) => self.ended(&board, connection, served),
                    Err(error) => tracing::error!(%error, "session of a board crashed"),
                },
                Ok(()) = evictions.changed() => self.turn_out(),
                Some(event) = events.next() => self.take(event),
                else => break,
            }
        }
        for connected in self.connected.values() {
            connected.stop.send_replace(true);
        }
        let all = async { while self.sessions.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, all).await.is_err() {
            tracing::warn!(within = ?END_WITHIN, "sessions of boards did not end in time");
        }
    }

    fn take(&mut self, event: BusEvent) {
        match event {
            BusEvent::Came { board, connection } => {
                let known = self.connected.get(&*board).map(|known| known.connection);
                if known != Some(connection) {
                    self.begin(&board, connection);
                }
            }
            BusEvent::Went { board } => {
                if let Some(gone) = self.connected.remove(&*board) {
                    gone.stop.send_replace(true);
                }
                tracing::info!(node = &*board, "board left the bus");
                self.contacts.gone(&board);
            }
            BusEvent::Said { topic, payload } => self.route(&topic, payload),
        }
    }

    fn begin(&mut self, board: &str, connection: u64) {
        let (up, messages) = mpsc::channel(BUS_UP_FRAMES_MAX);
        let (over, ended) = oneshot::channel::<Infallible>();
        let (stop, stopped) = watch::channel(false);
        let key = self.shared.bus.key_of(board);
        let new = Connected { connection, key, up, stop };
        if let Some(old) = self.connected.insert(board.to_owned(), new) {
            old.stop.send_replace(true);
        }
        let before = self.newest.insert(board.to_owned(), (connection, ended));
        let before = before.map(|(_, over)| over);
        tracing::info!(node = board, again = before.is_some(), "board is on the bus");
        self.contacts.connected(board);
        let session =
            Session { board: board.to_owned(), key, up: messages, before, over, stop: stopped };
        let (board, shared) = (board.to_owned(), self.shared.clone());
        self.sessions.spawn(async move { (board, connection, session.run(shared).await) });
    }

    /// Ends the connections of boards that are not admitted any more: those to the bus here, the others
    /// where they are told.
    fn turn_out(&mut self) {
        let newest = self.shared.views.world().meta(&evicted_key()).map(|list| list.version);
        if self.evictions != newest {
            self.shared.bus.renew_shared();
            self.evictions = newest;
        }
        self.turned_out.send_replace(());
        for (name, connected) in &self.connected {
            let Some(key) = connected.key else { continue };
            let peer = BoardPeer { name: name.clone(), key, is_master: false };
            if !(self.admitted)(&peer) {
                tracing::warn!(node = name, "board is not admitted any more: it is disconnected");
                self.shared.bus.disconnect(name);
            }
        }
    }

    fn ended(&mut self, board: &str, connection: u64, served: Result<(), DispatchError>) {
        if self.newest.get(board).is_some_and(|(newest, _)| *newest == connection) {
            self.newest.remove(board);
        }
        let Err(error) = served else { return };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(node = board, %error, cause, "session of a board failed");
        if self.connected.get(board).is_some_and(|known| known.connection == connection) {
            // It comes back and gets a new session.
            self.shared.bus.disconnect(board);
        }
    }

    /// Gives a board's message to its session; one that finds no room is dropped, and the beats
    /// reveal that.
    fn route(&mut self, topic: &str, payload: Bytes) {
        let Some((board, is_will)) = self.shared.topics.board_of(topic) else { return };
        if is_will {
            // Presence tells the same, in the right order.
            return;
        }
        let Some(connected) = self.connected.get(board) else { return };
        self.contacts.heard(board);
        let sent = connected.up.try_send(payload);
        if matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
            && let Some(left_out) = self.lines.line()
        {
            let what = "message of a board that says too much is dropped";
            tracing::warn!(node = board, left_out, "{what}");
        }
    }
}

/// Stop is asked for, or nobody is left to ask for it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await;
}
