//! The agent task: one loop that owns the desired set and a machine per pod.
//!
//! ```text
//!  master ──down──▶ desired set (disk) ──▶ pod machines ──effects──▶ driver tasks
//!         ◀──up──── outbox ◀── statuses ◀──     ▲ ◀────── answers ──────┘
//!                                               └── exits (keeper), imports (images), timers
//! ```
//! Everything that decides is in `logic::pod`; this loop only carries events to machines and effects
//! to the driver. It holds no lock and waits on nobody: a full link makes it keep what it has.
//! When the link closes, or the disk refuses the desired set at start, the role ends.

mod link;
mod outbox;
mod pods;
mod recover;
mod streams;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use logic::pod::token::TokenBook;
use logic::pod::{Host, Moment};
use model::ids::Uid;
use model::limits::{
    BLOB_STREAMS_MAX, EXEC_STREAMS_MAX, FORWARD_STREAMS_MAX, LOG_STREAMS_MAX, NODE_ANSWERS_MAX,
};
use model::wire::Assembly;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::board::{Board, Condition};
use super::desired::DesiredLog;
use super::driver::{Answer, Driver};
use super::network::{Addresses, NetHeld, Network, NetworkHealth, NetworkOptions};
use super::place::Places;
use super::pull::{self, Puller};
use super::{NodeError, NodeOptions};
use crate::io::clock::Clock;
use crate::io::host::Vitals;
use crate::io::keeper::{KeeperError, KeeperEvent};
use outbox::Outbox;
use pods::PodEntry;

/// Every so often the board says what it has.
const BEAT: Duration = Duration::from_secs(5);
/// After a keeper that cannot be reached.
const KEEPER_PAUSE: Duration = Duration::from_secs(1);

/// The agent of one board.
pub(super) struct Agent {
    driver: Arc<Driver>,
    clock: Clock,
    host: Host,
    version: String,
    desired: DesiredLog,
    /// The pods of the desired set are taken up and all others are cleared away.
    settled: bool,
    pods: BTreeMap<Uid, PodEntry>,
    outbox: Outbox,
    tokens: TokenBook,
    up: mpsc::Sender<bytes::Bytes>,
    answers: mpsc::Sender<Answer>,
    /// Ids of containers that run, for those who follow logs.
    running: Arc<Mutex<BTreeSet<String>>>,
    log_streams: Arc<Semaphore>,
    exec_streams: Arc<Semaphore>,
    forward_streams: Arc<Semaphore>,
    blob_streams: Arc<Semaphore>,
    /// Images that pods wait for.
    wanted: watch::Sender<BTreeSet<String>>,
    assembly: Assembly,
    boot: u64,
    rebooted: bool,
    messages: u64,
    net: NetHeld,
    condition: Condition,
    beats: u64,
    /// When a master was heard last.
    heard_ticks: Option<u64>,
    /// Pods can have a place in the network.
    network_open: bool,
}

/// Runs the agent until shutdown or until the link closes.
pub(super) async fn run(
    options: NodeOptions,
    net: NetHeld,
    addresses: watch::Sender<Arc<Addresses>>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let places = Places { data_dir: options.data_dir.clone(), run_dir: options.run_dir.clone() };
    let mut network = Network::start(&options, net.subscribe(), addresses).await?;
    let mut health = network.as_ref().map(|network| network.health.clone());
    let (mut address, mut link) = (options.address, options.link);
    let board = Board::look(&options.name, address.clone(), &options.root, &options.data_dir)
        .with_mastery(options.mastery.clone())
        .with_network(health.clone());
    let (mut mastery, mut renewals) = (options.mastery, options.renewals);
    let (answers, mut answered) = mpsc::channel(NODE_ANSWERS_MAX);
    let puller = options.source.map(|source| Puller::new(options.images.clone(), source));
    let driver = Arc::new(Driver {
        keeper: options.keeper.clone(),
        images: options.images.clone(),
        places,
        board,
        clock: options.clock.clone(),
        puller: puller.clone(),
        network: network.as_ref().map(|network| network.pods.clone()),
        dns: options.network.as_ref().map(NetworkOptions::dns_address),
        api: options.network.as_ref().map(NetworkOptions::api_address),
        answers: answers.clone(),
        upgrades: options.upgrades,
    });
    let (mut exits, mut imports) = (options.keeper.events(), options.images.changes());
    let started = Started { driver, net, up: link.up, answers, version: options.version };
    // Cancel safe: what recovery has begun is found again by the next one.
    let mut agent = tokio::select! {
        () = stopped(&mut shutdown) => return Ok(()),
        agent = Agent::recover(started) => agent?,
    };
    let (offers, mut offered) = pull::offered();
    if let Some(puller) = puller {
        // Ends with the agent, which holds the other ends of its channels.
        tokio::spawn(puller.ask_again(agent.wanted.subscribe(), offers));
    }
    agent.hello();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let wake = agent.next_wake();
        // Every arm is cancel safe: channels, intervals and `Events::next` lose nothing.
        tokio::select! {
            biased;
            () = stopped(&mut shutdown) => return Ok(()),
            message = link.down.recv() => match message {
                Some(message) => agent.take_message(&message).await?,
                None => return Err(NodeError::LinkClosed),
            },
            Some(answer) = answered.recv() => agent.take_answer(answer),
            event = exits.next() => agent.take_exits(event).await,
            Some(open) = link.streams.recv() => agent.open_stream(open),
            Ok(()) = imports.changed() => agent.images_changed(),
            Some(image) = offered.recv() => agent.image_offered(&image),
            Ok(()) = address.changed() => agent.address_changed(),
            Ok(()) = mastery.changed() => agent.introduce(),
            () = renewed(&mut renewals) => agent.renew_tokens(),
            Some(health) = changed(&mut health) => agent.network_changed(&health),
            error = failed(&mut network) => return Err(error),
            _ = beat.tick() => agent.beat().await,
            () = sleep_until(wake) => {}
        }
        agent.wake();
    }
}

/// Shutdown is asked for, or nobody is left to ask for it.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _asked = shutdown.wait_for(|stop| *stop).await;
}

/// Waits until tokens are good no more; for ever where nobody says so.
async fn renewed(renewals: &mut Option<watch::Receiver<u64>>) {
    if let Some(renewals) = renewals
        && renewals.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for the network to fare otherwise; for ever where there is none.
async fn changed(health: &mut Option<watch::Receiver<NetworkHealth>>) -> Option<NetworkHealth> {
    let health = health.as_mut()?;
    health.changed().await.ok()?;
    Some(health.borrow_and_update().clone())
}

/// Waits for a part of the network to end; for ever where there is none.
async fn failed(network: &mut Option<Network>) -> NodeError {
    match network {
        Some(network) => network.failed().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What an agent is made of before it knows its pods.
struct Started {
    driver: Arc<Driver>,
    net: NetHeld,
    up: mpsc::Sender<bytes::Bytes>,
    answers: mpsc::Sender<Answer>,
    version: String,
}

/// How the board fares; the one clock adapter says how its clock does.
fn vitals(driver: &Driver) -> Vitals {
    Vitals { clock_synced: driver.clock.synced(), ..driver.board.vitals() }
}

impl Agent {
    fn new(started: Started, desired: DesiredLog, (boot, rebooted): (u64, bool)) -> Self {
        let Started { driver, net, up, answers, version } = started;
        let mut condition = Condition::default();
        condition.pressure = driver.board.pressure(condition.pressure, &driver.places.data_dir);
        condition.health.look_again(&vitals(&driver), ticks());
        Self {
            clock: driver.clock.clone(),
            host: Host { address: driver.board.address() },
            condition,
            beats: 0,
            heard_ticks: None,
            network_open: false,
            driver,
            version,
            desired,
            settled: false,
            pods: BTreeMap::new(),
            outbox: Outbox::default(),
            tokens: TokenBook::default(),
            up,
            answers,
            running: Arc::default(),
            log_streams: Arc::new(Semaphore::new(LOG_STREAMS_MAX)),
            exec_streams: Arc::new(Semaphore::new(EXEC_STREAMS_MAX)),
            forward_streams: Arc::new(Semaphore::new(FORWARD_STREAMS_MAX)),
            blob_streams: Arc::new(Semaphore::new(BLOB_STREAMS_MAX)),
            wanted: watch::Sender::default(),
            boot,
            rebooted,
            assembly: Assembly::default(),
            messages: 0,
            net,
        }
    }

    fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), ticks: ticks() }
    }

    /// The earliest wish of any pod, of the outbox, and of the tokens.
    fn next_wake(&self) -> Option<Instant> {
        let pods = self.pods.values().filter_map(|pod| pod.machine.next_wake());
        let now = self.now();
        let tokens = self.tokens.wake_ticks(self.is_led(), now.wall, now.ticks);
        let at =
            pods.chain(self.outbox.due_ticks()).chain(self.net.ask_ticks()).chain(tokens).min()?;
        Some(Instant::now() + Duration::from_millis(at.saturating_sub(now.ticks)))
    }

    async fn take_exits(&mut self, event: Result<KeeperEvent, KeeperError>) {
        match event {
            Ok(KeeperEvent::States(states)) => self.take_states(&states).await,
            Ok(KeeperEvent::Exited(state)) => self.take_state(&state),
            Err(error) => {
                tracing::warn!(%error, "the keeper's events cannot be read");
                tokio::time::sleep(KEEPER_PAUSE).await;
            }
        }
    }
}

/// Runs what may wait for a disk so that other tasks of the runtime do not wait with it.
fn off_runtime<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Milliseconds since this boot of the kernel; the same for every process of it.
fn ticks() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("every kernel that runs containers has this clock");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}
