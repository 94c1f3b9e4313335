//! The board role: agent, pod driver, status reporter, logs.
//!
//! In: the master's messages over [`BoardEnd`], the keeper, the image store. Out: containers that run
//! as the desired set says, statuses, events, logs. A board needs no master to keep its pods: it
//! restarts what crashes, and brings everything back after a reboot. It meets the master only
//! through `model::wire`. Deliberately absent: service traffic, exec and port-forward streams.

mod agent;
mod board;
mod container;
mod desired;
mod driver;
mod health;
mod image_list;
mod log_stream;
pub mod network;
mod object;
mod place;
mod pressure;
mod prober;
mod pull;
mod report;
mod streams;
pub mod tunnel;
mod volume;

pub use network::NetworkOptions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::upgrade::UpgradeRequestV1;
use tokio::sync::watch;

use crate::io::clock::Clock;
use crate::io::image::{ImageStore, Source};
use crate::io::keeper::{Keeper, KeeperError};
use crate::io::link::{BoardEnd, StreamAnswer};
use network::{NetFiles, NetHeld};

/// What a board is to the cluster's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mastery {
    /// Others hold it.
    #[default]
    Worker,
    /// It holds it.
    Master,
    /// It would, and its disk does not let it; it tries again.
    DiskFailed,
}

/// What a board is made of.
#[derive(Debug)]
pub struct NodeOptions {
    /// Node name.
    pub name: String,
    /// The board's address (`InternalIP`, `hostIP`), which may change; empty for none.
    pub address: watch::Receiver<String>,
    /// Whether this board is a master too, which its Node says; it may change.
    pub mastery: watch::Receiver<Mastery>,
    /// Changes when the tokens of pods are good no more, whatever their dates say.
    pub renewals: Option<watch::Receiver<u64>>,
    /// `kubeletVersion`: `v1.36.2+kumquat.X`.
    pub version: String,
    /// Where the board's /proc, /sys and /etc are looked at: `/`, or what a test made.
    pub root: PathBuf,
    /// What survives a reboot.
    pub data_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
    /// Runs containers.
    pub keeper: Keeper,
    /// Has images.
    pub images: ImageStore,
    /// Gives images that this board lacks; `None` where there is nobody to ask.
    pub source: Option<Arc<dyn Source>>,
    /// Cluster time.
    pub clock: Clock,
    /// Where the cluster's addresses lie; `None` leaves pods with nothing but their loopback, for
    /// trials without a network.
    pub network: Option<NetworkOptions>,
    /// The way to the master.
    pub link: BoardEnd,
    /// Exchanges the binary of this board; `None` where there is nothing to exchange.
    pub upgrades: Option<Arc<dyn Upgrades>>,
}

/// Exchanges the binary of a board, as its leader asks.
pub trait Upgrades: std::fmt::Debug + Send + Sync {
    /// Answers a request; must not wait.
    fn answer(&self, request: UpgradeRequestV1, answer: StreamAnswer);
}

/// Why the board's role ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The desired set cannot be read or made.
    #[error("this board's desired set cannot be opened")]
    Desired(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The run-dir cannot be used.
    #[error("the run-dir cannot be written")]
    RunDir(#[source] std::io::Error),
    /// What runs on this board cannot be learnt.
    #[error("the keeper does not say which containers run")]
    Keeper(#[source] KeeperError),
    /// A part of the network ended.
    #[error("{part} of the pod network ended")]
    Network {
        /// Which part.
        part: &'static str,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The master's end of the link is gone.
    #[error("the link to the master is closed")]
    LinkClosed,
}

impl From<desired::DesiredError> for NodeError {
    fn from(error: desired::DesiredError) -> Self {
        Self::Desired(Box::new(error))
    }
}

/// After everything that ran was removed: the next agent takes its pods up as after a reboot.
///
/// # Errors
/// What lies in the run-dir cannot be removed.
pub fn forget_boot(run_dir: &Path) -> std::io::Result<()> {
    let places = place::Places { data_dir: PathBuf::new(), run_dir: run_dir.to_owned() };
    place::remove_dir(&run_dir.join("pods"))?;
    match std::fs::remove_file(places.boot()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// After everything that ran was removed: takes away what the pod network made in the kernel. Blocking.
///
/// # Errors
/// The first thing that would not go.
pub fn remove_network(data_dir: &Path) -> std::io::Result<()> {
    network::remove(data_dir)
}

/// Runs the board's role until `shutdown` is true. Containers go on running.
///
/// # Errors
/// [`NodeError`] says why the role ended; run it again after that.
pub async fn run(options: NodeOptions, shutdown: watch::Receiver<bool>) -> Result<(), NodeError> {
    let net = NetHeld::open(&options.data_dir, &options.run_dir);
    let (data_dir, run_dir) = (&options.data_dir, &options.run_dir);
    let mut files = NetFiles::new(net.subscribe(), &options.name, data_dir, run_dir);
    let addresses = files.addresses();
    // Cancel safety: the agent ends the role; what the files lack by then is written behind it.
    let ended = tokio::select! {
        ended = agent::run(options, net, addresses, shutdown) => ended,
        never = files.run() => match never {},
    };
    files.finish();
    ended
}
