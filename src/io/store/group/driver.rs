//! The engine's thread: starts the engine, and stands between it, the store's thread and whoever
//! changes the group.
//!
//! Tasks on one runtime of one thread: the engine's own, the proposer (asks of the store's thread), the
//! confirmer (reads), and the loop that looks at the engine's metrics: mandate, health, a disk that
//! stalls. Metrics are cloned at once: a borrow held would stop the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::masters::{MemberId, MembersV1};
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::{Config, RaftMetrics, SnapshotPolicy, StepDownPolicy};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::change::changed;
use super::log::LogStore;
use super::machine::Machine;
use super::network::{Majority, Network};
use super::proposer::{confirm, propose};
use super::pulse::{Heard, pulse};
use super::ready::keep_ready;
use super::reign::{Clocks, Throne};
use super::seam::{Ask, GroupState};
use super::types::{Types, members_to_log, to_log, vote_to_log};
use super::{
    ChangeError, Engine, GroupError, GroupHealth, GroupOptions, MemberChange, READ_WITHIN, Timing,
};
use crate::io::store::Store;

/// What a [`super::Group`] asks of the loop.
pub(super) enum Command {
    /// Change who belongs to the group.
    Change { change: MemberChange, done: oneshot::Sender<Result<(), ChangeError>> },
    /// Give the lead away; who retires does not stand for election any more.
    HandOver { to: Option<MemberId>, retires: bool },
    /// End.
    Stop,
}

/// What a [`super::Group`] is made of.
pub(super) struct Started {
    pub(super) engine: Engine,
    pub(super) log: LogStore,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) health: watch::Receiver<GroupHealth>,
    pub(super) heard: Heard,
    /// To be told that another member has come.
    pub(super) came: Arc<Notify>,
}

/// Commands and reads that wait.
const QUEUE: usize = 256;
/// Messages that wait inside the engine, for each of its channels but one.
const ENGINE_QUEUE: u64 = 256;
/// Of its own notes to itself the engine must never find the channel full: it would wait for itself. A tick
/// may be noted every 40 ms while it waits for a vote to be stored; room is taken only when it is used.
const ENGINE_NOTES: u64 = 65_536;
/// While this board leads, the disk is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A disk that had no room for a write is taken for full for so long; then it is tried again.
const FULL_FOR: Duration = Duration::from_secs(5);
/// A snapshot may take long; its sender notices by itself when nothing moves.
const SNAPSHOT_WITHIN_MS: u64 = 3_600_000;

/// The engine's settings.
fn config(timing: &Timing, founds: bool) -> Config {
    let (min, max) = timing.election_ms;
    Config {
        cluster_name: "kumquat".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        heartbeat_min_interval: Some(0),
        election_timeout_min: min,
        election_timeout_max: max,
        install_snapshot_timeout: SNAPSHOT_WITHIN_MS,
        max_payload_entries: model::limits::GROUP_ENTRIES_MAX as u64,
        max_append_entries: Some(model::limits::GROUP_ENTRIES_MAX as u64),
        // The store says when.
        snapshot_policy: SnapshotPolicy::Never,
        // What goes is counted in bytes, in `Driver::purge`.
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(ENGINE_QUEUE),
        api_batch_capacity: ENGINE_QUEUE,
        notification_channel_size: Some(ENGINE_NOTES),
        state_machine_channel_size: Some(ENGINE_QUEUE),
        broadcast_submitted_on_append: Some(true),
        enable_elect: founds,
        removed_leader_step_down: StepDownPolicy::After(150),
        // A leader that is heard and hears nobody falls silent, so that the others elect one.
        quorum_loss_probe_interval: Some(2 * max),
        enable_pre_vote: Some(true),
        allow_log_reversion: Some(false),
        // Else a restarted leader keeps its term, and gives versions of Events twice.
        enable_leader_restore: Some(founds),
        ..Config::default()
    }
}

/// Runs the engine until it is stopped or fails; on a thread of its own.
pub(super) fn run(
    store: Store,
    state: GroupState,
    options: GroupOptions,
    votes_from: Instant,
    asked: mpsc::Receiver<Ask>,
    started: oneshot::Sender<Result<Started, GroupError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // Whoever started it may have gone.
            let _ = started.send(Err(GroupError::Engine(error.to_string())));
            return;
        }
    };
    runtime.block_on(async move {
        match Driver::start(store, state, options, votes_from, asked).await {
            Ok((driver, group)) => {
                if started.send(Ok(group)).is_ok() {
                    driver.run().await;
                } else {
                    driver.end().await;
                }
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    });
    // Connections of the wire end with it; nothing of them may hold the thread.
    runtime.shutdown_background();
}

struct Driver {
    store: Store,
    engine: Engine,
    log: LogStore,
    /// The last entry of the snapshot for which the log was purged.
    purged_for: u64,
    own: MemberId,
    timing: Timing,
    throne: Throne,
    clocks: Clocks,
    commands: mpsc::Receiver<Command>,
    health: watch::Sender<GroupHealth>,
    /// What it was made of, and whether this member reigned.
    told: Option<(RaftMetrics<Types>, bool)>,
    /// When this member may stand for election; `None` once it may.
    elect_at: Option<Instant>,
    /// It will not stand again.
    retires: bool,
    /// What the network knows of it.
    majority: Arc<Majority>,
    /// The disk has stalled since.
    stalled: Option<Stalled>,
    /// Neither heartbeats nor elections.
    silent: watch::Sender<bool>,
    /// Proposer, confirmer, pulse, ways to others, changes; they end with the loop.
    tasks: JoinSet<()>,
    /// Of entries written to go on reigning.
    written: (mpsc::Sender<Written>, mpsc::Receiver<Written>),
}

/// Term of an entry written to go on reigning, and whether it is applied.
type Written = (u64, bool);

/// What was done about a disk that stalls.
struct Stalled {
    since: Instant,
    is_silent: bool,
}

/// Members that start together do not stand for election together.
fn spread(own: MemberId, timing: &Timing) -> Duration {
    let (min, max) = timing.election_ms;
    Duration::from_millis(own.0.wrapping_mul(97) % (max - min).max(1))
}

impl Driver {
    async fn start(
        store: Store,
        state: GroupState,
        options: GroupOptions,
        votes_from: Instant,
        asked: mpsc::Receiver<Ask>,
    ) -> Result<(Self, Started), GroupError> {
        let failed = |error: &dyn std::fmt::Display| GroupError::Engine(error.to_string());
        let GroupOptions { own, found, timing, wire, .. } = options;
        let founds = found.is_some();
        let config = config(&timing, founds).validate().map_err(|error| failed(&error))?;
        let thread = store.engine();
        let log = LogStore::new(thread.clone(), &state);
        let machine = Machine::new(thread.clone(), log.clone(), &state);
        let majority = Arc::new(Majority::new(timing.lease()));
        let network = Network { own, wire: Arc::clone(&wire), majority: majority.clone() };
        let engine = Engine::new(own.0, Arc::new(config), network, log.clone(), machine).await;
        let engine = engine.map_err(|error| failed(&error))?;
        let (health_sender, health) = watch::channel(GroupHealth::default());
        let (command_sender, commands) = mpsc::channel(QUEUE);
        let (confirms, confirmed) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(propose(engine.clone(), thread.clone(), asked));
        tasks.spawn(confirm(engine.clone(), confirmed));
        let (heard, silent) = (Heard::default(), watch::Sender::new(false));
        tasks.spawn(pulse(engine.clone(), timing, heard.clone(), silent.subscribe()));
        let came = Arc::<Notify>::default();
        tasks.spawn(keep_ready(engine.clone(), wire, Arc::clone(&came)));
        let throne = Throne::new(thread.clone(), state.epoch, timing.lease(), confirms);
        let driver = Self {
            store,
            engine: engine.clone(),
            log: log.clone(),
            purged_for: 0,
            own,
            timing,
            throne,
            clocks: Clocks::new(),
            commands,
            health: health_sender,
            told: None,
            elect_at: (!founds).then_some(votes_from + spread(own, &timing)),
            retires: false,
            majority,
            stalled: None,
            silent,
            tasks,
            written: mpsc::channel(1),
        };
        Ok((driver, Started { engine, log, commands: command_sender, health, heard, came }))
    }

    async fn run(mut self) {
        let mut metrics = self.engine.metrics();
        let mut alone = true;
        loop {
            let now = metrics.borrow_watched().clone();
            if alone && self.elect_at.is_some() {
                // A group of one has nobody whose lease could hold.
                alone = false;
                if is_alone(&now) {
                    self.elect_at = None;
                    self.engine.runtime_config().elect(true);
                    // An error: the engine has ended, which its metrics say as well.
                    let _ = self.engine.trigger().elect(false).await;
                }
            }
            if self.look(&now).await.is_err() {
                break;
            }
            let wake = self.wake_at(&now);
            // Cancel safety: nothing is taken out of a channel by an arm that loses.
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    self.failed("it ended without a word");
                    break;
                },
                command = self.commands.recv() => match command {
                    Some(Command::Change { change, done }) => self.change(change, done),
                    Some(Command::HandOver { to, retires }) => {
                        if retires {
                            self.retire();
                        }
                        self.hand_over(to, &now).await;
                    }
                    Some(Command::Stop) | None => break,
                },
                Some((term, applied)) = self.written.1.recv() => self.throne.written(term, applied),
                () = sleep_until(wake.into()) => {}
            }
        }
        self.end().await;
    }

    async fn end(mut self) {
        self.throne.end();
        self.tasks.shutdown().await;
        if let Err(error) = self.engine.shutdown().await {
            tracing::warn!(%error, "engine of the group did not end well");
        }
        self.health.send_if_modified(|health| {
            let led = std::mem::take(&mut health.leads);
            let knew = health.leader.take().is_some();
            led || knew
        });
    }

    fn wake_at(&self, metrics: &RaftMetrics<Types>) -> Instant {
        let now = Instant::now();
        let looks =
            self.throne.reigns() || self.stalled.is_some() || self.throne.is_offered(metrics);
        let look = looks.then(|| now + LOOK_EVERY);
        let at = [self.elect_at, look].into_iter().flatten().min();
        // Nothing to wait for: the engine's metrics wake the loop.
        at.unwrap_or(now + Duration::from_secs(3600))
    }

    /// Takes in where the engine stands; an error when it has ended.
    async fn look(&mut self, now: &RaftMetrics<Types>) -> Result<(), ()> {
        if self.elect_at.is_some_and(|at| Instant::now() >= at) {
            self.elect_at = None;
            self.engine.runtime_config().elect(self.stalled.is_none());
        }
        let now_ms = self.clocks.look();
        let acked_ms = self.clocks.acked_ms(now, now_ms);
        self.majority.look(now, acked_ms, now_ms);
        if self.throne.look(now, acked_ms, now_ms) {
            let (engine, term) = (self.engine.clone(), now.current_term);
            let written = self.written.0.clone();
            self.tasks.spawn(async move {
                let applied = matches!(timeout(READ_WITHIN, engine.write_blank()).await, Ok(Ok(_)));
                // An error: the loop has ended.
                let _ = written.send((term, applied)).await;
            });
        }
        while self.tasks.try_join_next().is_some() {}
        self.tell(now);
        self.purge(now).await;
        self.disk(now).await;
        match &now.running_state {
            Ok(()) if self.throne.is_left_with_an_offer(now) => {
                self.failed("nobody took the lead that it offered");
                Err(())
            }
            Ok(()) => Ok(()),
            Err(error) => {
                self.failed(&error.to_string());
                Err(())
            }
        }
    }

    fn failed(&mut self, error: &str) {
        tracing::error!(error, "engine of the group has ended");
        self.throne.end();
        self.health.send_modify(|health| health.failed = Some(error.to_owned()));
    }

    /// Lets go of entries that a new snapshot has, but for the newest ones.
    async fn purge(&mut self, now: &RaftMetrics<Types>) {
        let snapshot = now.snapshot.as_ref().map_or(0, |id| to_log(id).index);
        if snapshot > self.purged_for {
            self.purged_for = snapshot;
            if let Some(upto) = self.log.purgeable(snapshot).checked_sub(1) {
                // The engine's index. An error: it has ended.
                let _ = self.engine.trigger().purge_log(upto).await;
            }
        }
    }

    fn tell(&mut self, now: &RaftMetrics<Types>) {
        let reigns = self.throne.reigns();
        // Most news are only heartbeats.
        if self.told.as_ref().is_some_and(|(told, did)| *did == reigns && is_same(told, now)) {
            return;
        }
        self.told = Some((now.clone(), reigns));
        let matched = now.replication.iter().flatten().filter(|(id, _)| **id != now.id);
        let index = |id: &Option<_>| id.as_ref().map_or(0, |id| to_log(id).index);
        let health = GroupHealth {
            leader: now.current_leader.map(MemberId),
            term: now.current_term,
            vote: vote_to_log(&now.vote),
            leads: reigns,
            members: members_of(now),
            last_index: now.last_log_index.map_or(0, |index| index + 1),
            applied_index: index(&now.last_applied),
            applied_term: now.last_applied.as_ref().map_or(0, |id| to_log(id).term),
            matched: matched.map(|(id, matched)| (MemberId(*id), index(matched))).collect(),
            failed: None,
        };
        self.health.send_if_modified(|before| {
            let changed = *before != health;
            *before = health;
            changed
        });
    }

    /// A leader whose disk stalls or is full gives way: to the voter with the most of the log, or by
    /// falling silent.
    async fn disk(&mut self, now: &RaftMetrics<Types>) {
        let max = Duration::from_millis(self.timing.unsynced_max_ms);
        let is_slow = self.store.syncing_since().is_some_and(|since| since.elapsed() >= max);
        let is_full = self.store.full_at().is_some_and(|at| at.elapsed() < FULL_FOR);
        let is_bad = is_slow || is_full;
        let config = self.engine.runtime_config();
        match &mut self.stalled {
            // Nobody else could lead.
            None if !is_slow && is_alone(now) => {}
            None if is_bad => {
                let why = if is_full { "is full" } else { "takes too long to store a write" };
                tracing::warn!(why, "this board does not lead because of its disk");
                config.elect(false);
                let leads = now.state.is_leader();
                // Then neither heartbeats are sent nor notes of a clock pile up.
                self.silent.send_replace(!leads);
                self.stalled = Some(Stalled { since: Instant::now(), is_silent: !leads });
                if leads {
                    self.hand_over(None, now).await;
                }
            }
            Some(stalled) if is_bad => {
                // Nothing that the engine hears counts before the disk has it.
                self.throne.renew_offer();
                let given = self.timing.lease() * 2;
                if !stalled.is_silent && stalled.since.elapsed() > given {
                    stalled.is_silent = true;
                    self.silent.send_replace(true);
                }
            }
            Some(stalled) => {
                if stalled.is_silent {
                    self.silent.send_replace(false);
                }
                config.elect(self.elect_at.is_none() && !self.retires);
                self.stalled = None;
            }
            None => {}
        }
    }

    /// Whoever takes no lead leaves it to the others: else a leader that is about to end, and of whom nobody
    /// took it, would win the next election, and end then.
    fn retire(&mut self) {
        (self.retires, self.elect_at) = (true, None);
        self.engine.runtime_config().elect(false);
    }

    /// Offers the lead to that voter, or to the one with the most of the log; to nobody who is away.
    async fn hand_over(&mut self, to: Option<MemberId>, now: &RaftMetrics<Types>) {
        let voters = members_of(now).voters();
        let heard = |id: u64| now.heartbeat.as_ref().and_then(|heard| heard.get(&id)?.as_ref());
        let is_there =
            |id: u64| heard(id).is_some_and(|at| at.elapsed() <= 2 * self.timing.lease());
        let may = |id: u64| id != now.id && voters.contains(&MemberId(id)) && is_there(id);
        let matched = now.replication.iter().flatten().filter(|(id, _)| may(**id));
        let best = matched.max_by_key(|(_, matched)| **matched).map(|(id, _)| MemberId(*id));
        let to = to.filter(|to| may(to.0)).or(best);
        if let Some(to) = to.filter(|_| now.state.is_leader()) {
            tracing::info!(from = %self.own, %to, "handing the lead over");
            self.throne.give_away(now.current_term);
            // An error: the engine has ended.
            let _ = self.engine.trigger().transfer_leader(to.0).await;
        }
    }

    fn change(&mut self, change: MemberChange, done: oneshot::Sender<Result<(), ChangeError>>) {
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            // Whoever asked may have gone: the change stands.
            let _ = done.send(changed(&engine, change).await);
        });
    }
}

fn members_of(metrics: &RaftMetrics<Types>) -> MembersV1 {
    members_to_log(metrics.membership_config.membership())
}

/// Whether both say the same of what [`GroupHealth`] tells.
fn is_same(one: &RaftMetrics<Types>, other: &RaftMetrics<Types>) -> bool {
    let of = |it: &RaftMetrics<Types>| {
        (it.current_leader, it.current_term, it.vote, it.last_log_index, it.last_applied)
    };
    of(one) == of(other)
        && one.replication == other.replication
        && one.membership_config == other.membership_config
}

fn is_alone(metrics: &RaftMetrics<Types>) -> bool {
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    voters == BTreeSet::from([metrics.id])
}
