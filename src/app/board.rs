//! The board role: the keeper and the agent, whoever leads the cluster.
//!
//! It needs no master: its link may lead to the dispatcher of this process, to the bus, or for a
//! while to nobody.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use model::network::Ipv4Block;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::config::{Config, Range};
use super::dirs::Dirs;
use super::identity::Identity;
use super::loops::Loops;
use super::version;
use crate::io::clock::Clock;
use crate::io::image::{ImageStore, Source};
use crate::io::keeper::{self, Keeper, KeeperPaths};
use crate::io::link::BoardEnd;
use crate::node;

/// What the role is started with.
pub(super) struct BoardOptions<'a> {
    /// Folders.
    pub(super) dirs: &'a Dirs,
    /// Configuration.
    pub(super) config: &'a Config,
    /// This board.
    pub(super) identity: &'a Identity,
    /// Where its keeper works.
    pub(super) keeper: &'a KeeperPaths,
    /// Cluster time.
    pub(super) clock: Clock,
    /// The images.
    pub(super) images: ImageStore,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Gives images that this board lacks.
    pub(super) source: Option<Arc<dyn Source>>,
    /// The way to the master.
    pub(super) link: BoardEnd,
    /// Whether this board is a master too, which may change.
    pub(super) mastery: watch::Receiver<node::Mastery>,
    /// Changes when the tokens of pods are good no more.
    pub(super) renewals: watch::Receiver<u64>,
    /// Exchanges the binary.
    pub(super) upgrades: Arc<dyn node::Upgrades>,
    /// Whether the keeper goes over to this binary: not while that is on trial.
    pub(super) renews_keeper: bool,
}

/// The running role.
pub(super) struct BoardRole {
    /// Its loops.
    pub(super) loops: Loops,
}

impl BoardRole {
    /// Connects to the keeper, or starts one, and starts the agent.
    ///
    /// # Errors
    /// There is no keeper to be had.
    pub(super) async fn start(options: BoardOptions<'_>) -> Result<Self> {
        let keeper = Keeper::connect_or_spawn(options.keeper.clone()).await?;
        if options.renews_keeper {
            renew(&keeper, &options.keeper.exe).await;
        }
        let agent = node::NodeOptions {
            name: options.identity.name.clone(),
            root: PathBuf::from("/"),
            data_dir: options.dirs.data.clone(),
            run_dir: options.dirs.run.clone(),
            keeper,
            images: options.images,
            source: options.source,
            link: options.link,
            network: Some(network(options.identity, options.config)),
            clock: options.clock,
            version: version::git_version(),
            address: node_address(options.addresses),
            mastery: options.mastery,
            renewals: Some(options.renewals),
            upgrades: Some(options.upgrades),
        };
        let mut loops = Loops::new();
        loops.spawn("agent", node::run(agent, loops.stop_signal()));
        Ok(Self { loops })
    }

    /// Ends the agent; containers go on.
    pub(super) async fn stop(self) {
        self.loops.stop().await;
    }
}

/// Where the cluster's addresses lie, and what of this board is kumquat's own.
fn network(identity: &Identity, config: &Config) -> node::NetworkOptions {
    let block = |range: Range| Ipv4Block::new(range.base, range.prefix);
    node::NetworkOptions {
        pod_range: block(identity.pod_range),
        service_range: block(identity.service_range),
        own_ports: config.own_ports(),
    }
}

/// A keeper of another build goes on as this one, with its containers.
pub(super) async fn renew(keeper: &Keeper, exe: &Path) {
    match keeper.info().await {
        Ok(info) if info.version != keeper::build_id() => match keeper.upgrade(exe).await {
            Ok(()) => tracing::info!(before = info.version, "keeper is upgraded"),
            // It understands this build all the same; the next start tries again.
            Err(error) => tracing::warn!(%error, "keeper is not upgraded"),
        },
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "keeper does not say what it is"),
    }
}

/// The board's address for its Node, as text and up to date.
fn node_address(mut addresses: watch::Receiver<Addresses>) -> watch::Receiver<String> {
    let text = |addresses: &Addresses| addresses.own.to_string();
    let sender = watch::Sender::new(text(&addresses.borrow_and_update()));
    let receiver = sender.subscribe();
    // Ends with the addresses' owner.
    tokio::spawn(async move {
        while addresses.changed().await.is_ok() {
            sender.send_replace(text(&addresses.borrow_and_update()));
        }
    });
    receiver
}
