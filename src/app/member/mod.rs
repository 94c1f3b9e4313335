//! What a board does as a member of a cluster that another board leads: it finds the leader, and ties
//! its agent to the bus and the tunnel.
//!
//! All of it may be without a leader for as long as it takes: the agent keeps its pods (island mode).

pub(super) mod dial;
mod locate;
mod view;

use std::sync::Arc;

use anyhow::{Context, Result};
use model::leader::LeaderRecord;
use tokio::sync::watch;

use super::config::{Config, ExternalBroker};
use super::dirs::Dirs;
use super::identity::Identity;
use super::loops::Loops;
use super::membership::Membership;
use crate::io::bus;
use crate::io::bus::client::{self, BusState, ClientOptions};
use crate::io::discovery::{Discovery, Options};
use crate::io::image::Source;
use crate::io::link::MasterEnd;
use crate::io::peer;
use crate::io::tls::{self, Credentials};
use crate::node::tunnel::{Tunnel, TunnelOptions};
use locate::Locator;
pub(super) use view::LeaderView;

/// What the role is started with.
pub(super) struct MemberOptions<'a> {
    /// Folders.
    pub(super) dirs: &'a Dirs,
    /// Configuration.
    pub(super) config: &'a Config,
    /// This board.
    pub(super) identity: &'a Identity,
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
}

/// The running role.
pub(super) struct MemberRole {
    /// Its loops.
    pub(super) loops: Loops,
    tunnel: Tunnel,
    leader: watch::Receiver<Option<LeaderRecord>>,
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

impl MemberRole {
    /// Starts to look for the leader; does not wait for it.
    ///
    /// # Errors
    /// The board's certificate cannot be used.
    pub(super) fn start(options: MemberOptions<'_>) -> Result<Self> {
        let MemberOptions { dirs, config, identity, link } = options;
        let credentials = Credentials::load(&dirs.data)?.with_context(|| {
            format!(
                "the certificate of this board is missing from {}: remove {} and join again with \
                 a token (`kumquat token create` on the master board)",
                dirs.data.join("pki").display(),
                dirs.board().display()
            )
        })?;
        let mut loops = Loops::new();
        let (found, leader) = watch::channel(None);
        let (announced, on_bus) = watch::channel(None);
        let (state, bus_state) = watch::channel(BusState::default());
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
            found,
            known: Membership::load(dirs),
        };
        loops.spawn("search for the leader", locator.run(loops.stop_signal()));
        let tunnel = Tunnel::new();
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
            tls: credentials.client_config(&[bus::ALPN])?,
            leader: leader.clone(),
            fetch: Arc::new(tunnel.clone()),
            state,
            announced,
            broker: config.broker.as_ref().map(|it| over(it, &tunnel, &credentials)).transpose()?,
        };
        loops.spawn("bus", client::run(bus, link, loops.stop_signal()));
        Ok(Self { loops, tunnel, leader })
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
}
