//! What a board does as a member of a cluster that another board leads: it finds the leader, and ties
//! its agent to the bus and the tunnel.
//!
//! All of it may be without a leader for as long as it takes: the agent keeps its pods (island mode).

pub(super) mod dial;
mod door;
mod kit;
pub(super) mod locate;
mod standby;
mod view;

use std::sync::Arc;

use anyhow::Result;
use model::leader::{LeaderRecord, SignedRecord};
use model::masters::{CertifiedV1, MemberId};
use tokio::sync::{mpsc, watch};

use super::addresses::Addresses;
use super::authority::Certifying;
use super::cli::Role;
use super::config::{Config, ExternalBroker};
use super::dirs::Dirs;
use super::doors::Door;
use super::identity::Identity;
use super::loops::Loops;
use super::membership::Membership;
use crate::io::bus;
use crate::io::bus::client::{self, BusState, ClientOptions};
use crate::io::discovery::{self, Discovery, Options};
use crate::io::image::Source;
use crate::io::link::{MasterEnd, StreamOpen};
use crate::io::peer;
use crate::io::tls::{self, BoardKey, BoardPeer, Credentials, Pinned};
use crate::master::elector::Book;
use crate::node::tunnel::{Tunnel, TunnelOptions};
use door::Passage;
use kit::Asker;
pub(super) use kit::Said;
use locate::Locator;
use standby::Standby;
pub(super) use view::LeaderView;

/// What the role is started with.
pub(super) struct MemberOptions<'a> {
    /// Folders.
    pub(super) dirs: &'a Dirs,
    /// Configuration.
    pub(super) config: &'a Config,
    /// This board.
    pub(super) identity: &'a Identity,
    /// This board's certificate.
    pub(super) credentials: Credentials,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// What it holds of the log.
    pub(super) holds: Holds,
    /// Epoch of the log that it holds or has lost; zero where there is none.
    pub(super) since: u64,
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
    /// How it hears of leaders.
    pub(super) ears: Ears,
    /// Until when a person wishes that the board leaves.
    pub(super) leaving: watch::Receiver<Option<tokio::time::Instant>>,
    /// Of a master: what its responder says and hears of the others.
    pub(super) seeking: Option<discovery::Members>,
}

/// How a board hears of leaders as soon as the masters know.
pub(super) enum Ears {
    /// It is a master: by what it is told, and with the list of members.
    Own(watch::Receiver<Option<SignedRecord>>, watch::Receiver<Book>),
    /// It asks masters; and it passes clients of the API on to them, at this port.
    Asking(Door),
}

/// What a board that another one leads holds of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nothing.
    Nothing,
    /// All of it, as this member of the group.
    Log(MemberId),
    /// All of it, but its disk does not let it be opened at the moment.
    Pausing,
}

impl Holds {
    /// Whether the board asks for the log. Who has it asks whatever it wants to be: it must hear that it
    /// is to hold it no more.
    fn asks(self, wants: Role) -> bool {
        wants != Role::Worker || self != Self::Nothing
    }

    /// Which member takes part in the group.
    fn member(self) -> Option<MemberId> {
        match self {
            Self::Log(member) => Some(member),
            Self::Nothing | Self::Pausing => None,
        }
    }
}

/// The running role.
pub(super) struct MemberRole {
    /// Its loops.
    pub(super) loops: Loops,
    tunnel: Tunnel,
    leader: watch::Receiver<Option<LeaderRecord>>,
    record: watch::Receiver<Option<SignedRecord>>,
    said: watch::Receiver<Option<Said>>,
    certified: watch::Receiver<Option<CertifiedV1>>,
}

/// A board that holds no log knows masters by what the last leader has told it of them.
struct ByBook(watch::Receiver<Book>);

impl Pinned for ByBook {
    fn is_board(&self, board: &BoardPeer) -> bool {
        self.is_master(board)
    }

    fn is_master(&self, board: &BoardPeer) -> bool {
        self.0.borrow().iter().any(|at| at.board == board.name && at.key == board.key)
    }
}

/// The bus over somebody else's broker, with keys from the leader.
fn over(
    broker: &ExternalBroker,
    tunnel: &Tunnel,
    credentials: &Credentials,
) -> Result<client::BrokerOptions> {
    let authority = credentials.authority().clone();
    Ok(client::BrokerOptions {
        url: broker.url.clone(),
        tls: broker.tls()?,
        keys: Arc::new(tunnel.clone()),
        is_leaders: Arc::new(move |bytes, signature| tls::verify(&authority, bytes, signature)),
    })
}

/// What tells of leaders, and of everybody who holds the log.
type Heard = (watch::Receiver<Option<SignedRecord>>, watch::Receiver<Book>);

fn hear(ears: Ears, standby: Standby, loops: &mut Loops) -> Heard {
    let door = match ears {
        Ears::Own(told, masters) => return (told, masters),
        Ears::Asking(door) => door,
    };
    let (told, masters) = (standby.told.subscribe(), standby.masters.subscribe());
    // A board whose port is taken does without.
    match door.listener() {
        Ok(listener) => {
            let passing = Passage { leader: standby.leader.clone(), masters: masters.clone() };
            let passing = passing.run(listener, loops.stop_signal());
            loops.spawn("API port", async move { anyhow::Ok(passing.await) });
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "clients cannot reach the API at this board");
        }
    }
    let listening = standby.run(loops.stop_signal());
    loops.spawn("ears at masters", async move { anyhow::Ok(listening.await) });
    (told, masters)
}

/// What asks for the log, if this board does.
fn asker(
    options: &MemberOptions<'_>,
    tunnel: &Tunnel,
    said: watch::Sender<Option<Said>>,
) -> Result<Option<Asker>> {
    let MemberOptions { dirs, config, addresses, holds, leaving, .. } = options;
    if !holds.asks(config.role) {
        return Ok(None);
    }
    Ok(Some(Asker {
        tunnel: tunnel.clone(),
        config: (*config).clone(),
        data: dirs.data.clone(),
        public_key: BoardKey::open(&dirs.data)?.public_key(),
        addresses: addresses.clone(),
        holds: *holds,
        said,
        leaving: leaving.clone(),
    }))
}

/// Hears of leaders of this cluster.
fn responder(
    config: &Config,
    credentials: &Credentials,
    cluster: &str,
    members: Option<discovery::Members>,
) -> Discovery {
    let (interface, judge) = (config.interface.clone(), locate::judge(credentials, cluster));
    Discovery::start(Options { interface, judge, members })
}

/// A certificate of another authority, once there is one.
type Certified = watch::Receiver<Option<CertifiedV1>>;

/// A board without the log takes masters that it knows by their keys, whatever authority they name, and asks
/// them for a certificate of it. A master has its own way.
fn known_by_key(
    ears: &Ears,
    (credentials, dirs): (Credentials, &Dirs),
    book: &watch::Sender<Book>,
    tunnel: &Tunnel,
    loops: &mut Loops,
) -> Result<(Credentials, Option<Certifying>, Certified)> {
    let (certified, hears) = watch::channel(None);
    if matches!(ears, Ears::Own(..)) {
        return Ok((credentials, None, hears));
    }
    let credentials = credentials.pinning(Arc::new(ByBook(book.subscribe())));
    let certifying = Certifying {
        credentials: credentials.clone(),
        public_key: BoardKey::open(&dirs.data)?.public_key(),
        dirs: dirs.clone(),
        book: book.clone(),
        certified,
    };
    let looking = certifying.clone().run(tunnel.clone(), loops.stop_signal());
    loops.spawn("own certificate", async move { anyhow::Ok(looking.await) });
    Ok((credentials, Some(certifying), hears))
}

/// Keeps the way to the leader open.
fn keep_tunnel(
    tunnel: &Tunnel,
    credentials: &Credentials,
    (leader, streams): (watch::Receiver<Option<LeaderRecord>>, mpsc::Sender<StreamOpen>),
    loops: &mut Loops,
) -> Result<()> {
    let options = TunnelOptions { tls: credentials.client_config(peer::ALPN)?, leader, streams };
    let (keeping, stop) = (tunnel.clone(), loops.stop_signal());
    let keeping = async move { keeping.run(options, stop).await };
    loops.spawn("tunnel", async move { anyhow::Ok(keeping.await) });
    Ok(())
}

/// TLS of the bus towards whoever leads.
fn bus_tls(credentials: &Credentials) -> client::TlsTo {
    let credentials = credentials.clone();
    Arc::new(move |leader| {
        let config = credentials.client_config_to(leader, &[bus::ALPN]);
        config.map_err(|error| error.to_string())
    })
}

impl MemberRole {
    /// Starts to look for the leader; does not wait for it.
    ///
    /// # Errors
    /// The board's certificate cannot be used.
    pub(super) fn start(options: MemberOptions<'_>) -> Result<Self> {
        let tunnel = Tunnel::new();
        let (said, hears) = watch::channel(None);
        let asker = asker(&options, &tunnel, said)?;
        let MemberOptions { dirs, config, identity, credentials, link, ears, .. } = options;
        let MemberOptions { since, seeking, .. } = options;
        let mut loops = Loops::new();
        let (found, leader) = watch::channel(None);
        let (signed, record) = watch::channel(None);
        let (announced, on_bus) = watch::channel(None);
        let (state, bus_state) = watch::channel(BusState::default());
        let known = Membership::load(dirs);
        let book: watch::Sender<Book> = watch::Sender::new(Arc::new(known.masters.clone()));
        let (credentials, certifying, certified) =
            known_by_key(&ears, (credentials, dirs), &book, &tunnel, &mut loops)?;
        let standby = Standby {
            own: identity.name.clone(),
            credentials: credentials.clone(),
            tunnel: tunnel.clone(),
            leader: leader.clone(),
            masters: book,
            told: watch::Sender::default(),
        };
        let (told, masters) = hear(ears, standby, &mut loops);
        let locator = Locator {
            dirs: dirs.clone(),
            credentials: credentials.clone(),
            cluster: identity.cluster.clone(),
            peers: config.peers.clone(),
            discovery: responder(config, &credentials, &identity.cluster, seeking),
            bus: bus_state,
            on_bus,
            told,
            masters,
            found,
            signed,
            known,
            since,
            certifying,
        };
        loops.spawn("search for the leader", locator.run(loops.stop_signal()));
        let way = (leader.clone(), link.streams.clone());
        keep_tunnel(&tunnel, &credentials, way, &mut loops)?;
        let bus = ClientOptions {
            cluster: identity.cluster.clone(),
            name: identity.name.clone(),
            tls: bus_tls(&credentials),
            leader: leader.clone(),
            fetch: Arc::new(tunnel.clone()),
            state,
            announced,
            broker: config.broker.as_ref().map(|it| over(it, &tunnel, &credentials)).transpose()?,
        };
        loops.spawn("bus", client::run(bus, link, loops.stop_signal()));
        if let Some(asker) = asker {
            loops.spawn("ask for the log", asker.run(loops.stop_signal()));
        }
        Ok(Self { loops, tunnel, leader, record, said: hears, certified })
    }

    /// The leader's record with its signature, as far as it is known.
    pub(super) fn record(&self) -> watch::Receiver<Option<SignedRecord>> {
        self.record.clone()
    }

    /// The way to the leader.
    pub(super) fn connection(&self) -> watch::Receiver<Option<peer::Connection>> {
        self.tunnel.connection()
    }

    /// Whether a leader answers.
    pub(super) fn is_led(&self) -> bool {
        self.tunnel.connected_to().is_some()
    }

    /// Whether the leader wants this board to hold the log, or to do so no more.
    pub(super) fn said(&self) -> watch::Receiver<Option<Said>> {
        self.said.clone()
    }

    /// A certificate of the authority that the cluster has by now.
    pub(super) fn certified(&self) -> watch::Receiver<Option<CertifiedV1>> {
        self.certified.clone()
    }

    /// The images of the other boards.
    pub(super) fn images(&self) -> Arc<dyn Source> {
        Arc::new(self.tunnel.clone())
    }

    /// For the control socket.
    pub(super) fn view(&self) -> LeaderView {
        LeaderView { leader: self.leader.clone(), tunnel: self.tunnel.clone() }
    }

    /// Ends every loop; the agent is left without a link.
    pub(super) async fn stop(self) {
        self.loops.stop().await;
    }

    /// Ends every loop at once.
    pub(super) async fn cut(self) {
        self.loops.cut().await;
    }
}
