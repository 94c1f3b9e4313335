//! A board's network: what it hears of services and boards, and what it makes of it.
//!
//! ```text
//!  master ──NetV1──▶ state ──┬──▶ routes ──▶ block, MTU ──▶ sandbox ──▶ local pods
//!                            │      └─▶ ways to other boards ─▶ probe ─▶ health ─▶ Node
//!                            └──▶ rules, DNS, health checks of services
//! ```
//! Start order: what is kept of the block and of this boot's pods, then routes (which give the board its
//! own pod address), then everything that stands on it. Each part is a loop on `watch` channels; one
//! that ends, ends the role. What this kernel lacks is told with its remedy, and the rest goes on.

pub mod dns;
pub mod health_check;
mod kernel;
mod probe;
pub mod proxy;
mod record;
mod routes;
mod sandbox;
mod state;
mod state_file;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use logic::dns::Ranges;
use logic::network::rules::Site;
use model::network::{Ipv4Block, NetState, Protocol};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{NodeError, NodeOptions};
use crate::io::net::nft::NftError;
use dns::DnsOptions;
use probe::ProbeLoop;
use proxy::ProxyLoop;
use routes::{Outcome, RouteLoop, kept_block};
use sandbox::Known;
pub(crate) use sandbox::PodNetwork;
pub(crate) use state::NetHeld;
pub(crate) use state_file::{Addresses, NetFiles};

/// Where the cluster's addresses lie.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Of all pods.
    pub pod_range: Ipv4Block,
    /// Of all services.
    pub service_range: Ipv4Block,
    /// Ports of kumquat itself.
    pub own_ports: Vec<(Protocol, u16)>,
}

impl NetworkOptions {
    fn dns(&self, state: watch::Receiver<Arc<NetState>>) -> DnsOptions {
        DnsOptions { state, ranges: self.ranges(), resolv_conf: dns::host::RESOLV_CONF.into() }
    }

    /// What rules are made for; the rest of it is learnt while they are kept.
    fn site(&self, board: &str) -> Site {
        let own_ports = self.own_ports.clone();
        Site { own_ports, ..Site::new(board, self.pod_range, self.service_range) }
    }

    /// Where pods ask for names.
    pub(super) fn dns_address(&self) -> Ipv4Addr {
        self.ranges().dns_address()
    }

    /// Where pods find the API.
    pub(super) fn api_address(&self) -> Ipv4Addr {
        self.ranges().api_address()
    }

    fn ranges(&self) -> Ranges {
        Ranges { pods: self.pod_range, services: self.service_range }
    }
}

/// How the pod network fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetworkHealth {
    /// Boards that pods of this one do not reach.
    pub(crate) unreachable: BTreeSet<String>,
    /// What this board lacks, in sentences.
    pub(crate) problems: Vec<String>,
    /// Why pods get no network at all.
    pub(crate) unavailable: Option<String>,
    /// The board has addresses for pods.
    pub(crate) has_block: bool,
}

impl NetworkHealth {
    /// Whether pods can have a place in the network.
    pub(crate) fn is_open(&self) -> bool {
        self.has_block && self.unavailable.is_none()
    }
}

/// The running network of a board.
#[derive(Debug)]
pub(crate) struct Network {
    /// The pods.
    pub(crate) pods: PodNetwork,
    /// How it fares.
    pub(crate) health: watch::Receiver<NetworkHealth>,
    loops: JoinSet<(&'static str, io::Result<()>)>,
    /// DNS ends with it.
    _stop: watch::Sender<bool>,
}

impl Network {
    /// Starts every loop; `None` for a board whose pods have no network.
    ///
    /// # Errors
    /// The run-dir cannot be read.
    pub(super) async fn start(
        options: &NodeOptions,
        state: watch::Receiver<Arc<NetState>>,
        addresses: watch::Sender<Arc<Addresses>>,
    ) -> Result<Option<Self>, NodeError> {
        let Some(network) = &options.network else { return Ok(None) };
        // The board has the address only after the first pass.
        let (block, known_block) = watch::channel(None);
        let (mtu, known_mtu) = watch::channel(kernel::MTU_DEFAULT);
        let (outcome, known_outcome) = watch::channel(Outcome::default());
        let (lost, known_lost) = watch::channel(BTreeSet::new());
        let (held, names) = watch::channel(None);
        let (trouble, unfiltered) = watch::channel(None);
        let (told, health) = watch::channel(NetworkHealth::default());
        let (stop, stopped) = watch::channel(false);
        let known = Known { block: known_block.clone(), mtu: known_mtu, state: state.clone() };
        let (pods, filler) =
            PodNetwork::new(&options.run_dir, known, addresses).map_err(NodeError::RunDir)?;
        // Before anybody makes links: they would be taken for an earlier process's.
        remove_strays(&pods).await;
        let routes = RouteLoop {
            name: options.name.clone(),
            data_dir: options.data_dir.clone(),
            pod_range: network.pod_range,
            service_range: network.service_range,
            state: state.clone(),
            address: options.address.clone(),
            pods: pods.clone(),
            keeper: options.keeper.clone(),
            block,
            mtu,
            outcome,
        };
        let proxy = ProxyLoop {
            site: network.site(&options.name),
            state: state.clone(),
            local: pods.local(),
            block: known_block.clone(),
            names,
            trouble,
        };
        let sources = HealthLoop {
            outcome: known_outcome.clone(),
            lost: known_lost,
            trouble: pods.trouble(),
            unfiltered,
            block: known_block.clone(),
        };
        let probe = ProbeLoop {
            name: options.name.clone(),
            state: state.clone(),
            block: known_block,
            outcome: known_outcome,
            lost,
        };
        let dns = network.dns(state.clone());
        let (name, keeper) = (options.name.clone(), options.keeper.clone());
        let checks = health_check::run(options.name.clone(), state);
        let mut loops = JoinSet::new();
        spawn(&mut loops, "routes", routes.run());
        spawn(&mut loops, "prepared namespaces", async { io::Result::Ok(filler.run().await) });
        spawn(&mut loops, "rules", proxy.run());
        let dns = async move { dns::run(&name, dns, &keeper, &held, stopped).await };
        spawn(&mut loops, "DNS", dns);
        spawn(&mut loops, "health checks", async { io::Result::Ok(checks.await) });
        spawn(&mut loops, "echoes", async { io::Result::Ok(probe.run().await) });
        spawn(&mut loops, "network health", async { io::Result::Ok(sources.run(told).await) });
        Ok(Some(Self { pods, health, loops, _stop: stop }))
    }

    /// Waits for a part that ends, and says why it did.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn failed(&mut self) -> NodeError {
        let (name, cause) = match self.loops.join_next().await {
            Some(Ok((name, Ok(())))) => (name, io::Error::other("it ended by itself")),
            Some(Ok((name, Err(error)))) => (name, error),
            Some(Err(error)) => ("a part", io::Error::other(error)),
            None => std::future::pending().await,
        };
        NodeError::Network { part: name, cause }
    }
}

async fn remove_strays(pods: &PodNetwork) {
    if let Err(error) = pods.remove_strays().await {
        tracing::warn!(%error, "links of an earlier process are not removed");
    }
}

fn spawn(
    loops: &mut JoinSet<(&'static str, io::Result<()>)>,
    name: &'static str,
    running: impl Future<Output = io::Result<()>> + Send + 'static,
) {
    loops.spawn(async move { (name, running.await) });
}

/// Gathers what the parts say of themselves.
struct HealthLoop {
    outcome: watch::Receiver<Outcome>,
    lost: watch::Receiver<BTreeSet<String>>,
    trouble: watch::Receiver<Option<String>>,
    unfiltered: watch::Receiver<Option<String>>,
    block: watch::Receiver<Option<Ipv4Block>>,
}

impl HealthLoop {
    /// Runs until a channel closes.
    async fn run(mut self, told: watch::Sender<NetworkHealth>) {
        loop {
            let health = self.gather();
            told.send_if_modified(|known| {
                let changed = *known != health;
                *known = health;
                changed
            });
            // Cancel safety: all lose nothing when dropped.
            let changed = tokio::select! {
                changed = self.outcome.changed() => changed,
                changed = self.lost.changed() => changed,
                changed = self.trouble.changed() => changed,
                changed = self.unfiltered.changed() => changed,
                changed = self.block.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn gather(&mut self) -> NetworkHealth {
        let outcome = self.outcome.borrow_and_update().clone();
        let mut unreachable = self.lost.borrow_and_update().clone();
        unreachable.extend(outcome.cut_off);
        let unavailable = self.trouble.borrow_and_update().clone();
        let mut problems = outcome.problems;
        problems.extend(self.unfiltered.borrow_and_update().clone());
        let has_block = self.block.borrow_and_update().is_some();
        NetworkHealth { unreachable, problems, unavailable, has_block }
    }
}

/// Removes everything that the network of a board made in this network namespace. Blocking;
/// idempotent.
///
/// # Errors
/// The first thing that would not go.
pub(super) fn remove(data_dir: &Path) -> io::Result<()> {
    // Without a packet filter there is nothing of ours in it.
    let rules = match proxy::remove() {
        Err(NftError::Open(_)) => Ok(()),
        removed => removed.map_err(io::Error::other),
    };
    kernel::remove_all(kept_block(data_dir)).and(rules)
}
