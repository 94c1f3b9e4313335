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
use model::masters::MemberId;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::cli::Role;
use super::config::{Config, ExternalBroker};
use super::dirs::Dirs;
use super::doors::Door;
use super::identity::Identity;
use super::loops::Loops;
use super::membership::Membership;
use crate::io::bus;
use crate::io::bus::client::{self, BusState, ClientOptions};
use crate::io::discovery::{Discovery, Options};
use crate::io::image::Source;
use crate::io::link::MasterEnd;
use crate::io::peer;
use crate::io::tls::{self, BoardKey, Credentials};
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
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
    /// How it hears of leaders.
    pub(super) ears: Ears,
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
        let MemberOptions { dirs, config, identity, credentials, addresses, holds, link, ears } =
            options;
        let mut loops = Loops::new();
        let (found, leader) = watch::channel(None);
        let (signed, record) = watch::channel(None);
        let (announced, on_bus) = watch::channel(None);
        let (state, bus_state) = watch::channel(BusState::default());
        let (known, tunnel) = (Membership::load(dirs), Tunnel::new());
        let standby = Standby {
            own: identity.name.clone(),
            credentials: credentials.clone(),
            tunnel: tunnel.clone(),
            leader: leader.clone(),
            masters: watch::Sender::new(Arc::new(known.masters.clone())),
            told: watch::Sender::default(),
        };
        let (told, masters) = hear(ears, standby, &mut loops);
        let locator = Locator {
            dirs: dirs.clone(),
            credentials: credentials.clone(),
            cluster: identity.cluster.clone(),
            peers: config.peers.clone(),
            discovery: Discovery::start(Options {
                interface: config.interface.clone(),
                judge: locate::judge(&credentials, &identity.cluster),
            }),
            bus: bus_state,
            on_bus,
            told,
            masters,
            found,
            signed,
            known,
        };
        loops.spawn("search for the leader", locator.run(loops.stop_signal()));
        let tunnelling = TunnelOptions {
            tls: credentials.client_config(peer::ALPN)?,
            leader: leader.clone(),
            streams: link.streams.clone(),
        };
        let (keeping, stop) = (tunnel.clone(), loops.stop_signal());
        let keeping = async move { keeping.run(tunnelling, stop).await };
        loops.spawn("tunnel", async move { anyhow::Ok(keeping.await) });
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
        let (said, hears) = watch::channel(None);
        if holds.asks(config.role) {
            let asker = Asker {
                tunnel: tunnel.clone(),
                config: config.clone(),
                data: dirs.data.clone(),
                public_key: BoardKey::open(&dirs.data)?.public_key(),
                addresses,
                holds,
                said,
            };
            loops.spawn("ask for the log", asker.run(loops.stop_signal()));
        }
        Ok(Self { loops, tunnel, leader, record, said: hears })
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
