//! The parts of a board that is in a cluster: what every board has, its seat in the cluster, and the
//! board role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use tokio::sync::{mpsc, watch};

use crate::app::addresses::{self, Addresses};
use crate::app::board::{BoardOptions, BoardRole};
use crate::app::config::Config;
use crate::app::control::Control;
use crate::app::departure::Departure;
use crate::app::dirs::Dirs;
use crate::app::doors::Doors;
use crate::app::identity::Identity;
use crate::app::loops::Loops;
use crate::app::seat::{Base, Seats};
use crate::app::upgrade::{Proof, Upgrader, prove};
use crate::app::watchdog;
use crate::io::clock::Clock;
use crate::io::control;
use crate::io::exchange::{Plan, Trial};
use crate::io::image::{ImageStore, Source};
use crate::io::keeper::KeeperPaths;
use crate::io::link;
use crate::io::net::AddressChanges;
use crate::master::dispatcher::DispatchError;
use crate::node::NodeError;

/// How long loops that fail because another one has failed may take to say so.
const CAUSE_WITHIN: Duration = Duration::from_millis(500);

/// A running board.
pub(super) struct Running {
    /// What every board has.
    loops: Loops,
    /// Its seat in the cluster.
    seat: Loops,
    board: BoardRole,
    keeper: KeeperPaths,
    plans: mpsc::Receiver<Plan>,
    left: mpsc::Receiver<()>,
}

impl Running {
    /// Starts every role of this board. A member's pods run before its master is found.
    ///
    /// # Errors
    /// What a role cannot be started without.
    pub(super) async fn start(
        dirs: &Dirs,
        config: &Config,
        identity: &Identity,
        clock: Clock,
        doors: &Doors,
        began: Instant,
        trial: Option<Trial>,
    ) -> Result<Self> {
        let mut loops = Loops::new();
        // Before the addresses are read: no change may fall between.
        let changes = AddressChanges::open().context("address changes cannot be followed")?;
        let (sender, addresses) = watch::channel(Addresses::read(config.interface.as_deref()));
        let following =
            addresses::follow(config.interface.clone(), changes, sender, loops.stop_signal());
        loops.spawn("addresses", following);
        if config.watchdog {
            loops.spawn("watchdog", watchdog::run(loops.stop_signal()));
        }
        let keeper = keeper_paths(dirs, identity, trial.as_ref())?;
        let images =
            ImageStore::open(dirs.data.join("images")).context("cannot open the image store")?;
        // The control socket answers before the agent knows which containers run on which image.
        images.defer_collection();
        let (departure, left) = Departure::new(dirs);
        let base = Base {
            dirs: dirs.clone(),
            config: config.clone(),
            identity: identity.clone(),
            clock: clock.clone(),
            images: images.clone(),
            addresses: addresses.clone(),
            doors: doors.clone(),
            leaving: departure.wished(),
        };
        let (socket, board_end) = link::socket();
        let (seats, shown) = Seats::take(base, socket, began).await?;
        let mut seat = Loops::new();
        seat.spawn("role in the cluster", seats.run(seat.stop_signal()));
        let control = Arc::new(Control {
            identity: identity.clone(),
            images: images.clone(),
            addresses: addresses.clone(),
            api_port: config.api_port,
            promote: shown.promote,
            departure,
            seat: shown.control,
        });
        serve_control(dirs, Arc::clone(&control), &mut loops)?;
        let source: Arc<dyn Source> = Arc::new(shown.images);
        let renews_keeper = trial.is_none();
        let (upgrader, plans) = exchanges(&keeper, &source, trial, control, &mut loops);
        let board = BoardRole::start(BoardOptions {
            dirs,
            config,
            identity,
            keeper: &keeper,
            clock,
            images,
            addresses,
            source: Some(source),
            link: board_end,
            mastery: shown.mastery,
            renewals: shown.renewals,
            upgrades: Arc::new(upgrader),
            renews_keeper,
        });
        let board = board.await?;
        Ok(Self { loops, seat, board, keeper, plans, left })
    }

    /// Waits until the board goes on as another binary, or has left its cluster: then as none.
    ///
    /// # Errors
    /// A loop ended although nobody asked it to: why it did.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub(super) async fn ended(&mut self) -> Result<Option<Plan>> {
        let Self { loops, seat, board, plans, left, .. } = self;
        // Cancel safety: `Loops::failed` and `recv` lose nothing.
        let first = tokio::select! {
            error = any_failed(loops, seat, board) => error,
            Some(plan) = plans.recv() => return Ok(Some(plan)),
            Some(()) = left.recv() => return Ok(None),
        };
        Err(self.cause(first).await)
    }

    async fn cause(&mut self, first: Error) -> Error {
        if !is_consequence(&first) {
            return first;
        }
        let Self { loops, seat, board, .. } = self;
        let cause = tokio::time::timeout(CAUSE_WITHIN, any_failed(loops, seat, board)).await;
        cause.unwrap_or(first)
    }

    /// Ends every role; containers go on. Gives where their keeper works.
    pub(super) async fn stop(self) -> KeeperPaths {
        let Self { loops, seat, board, keeper, plans: _, left: _ } = self;
        tokio::join!(loops.stop(), seat.stop(), board.stop());
        keeper
    }
}

async fn any_failed(loops: &mut Loops, seat: &mut Loops, board: &mut BoardRole) -> Error {
    // Cancel safety: `Loops::failed` loses nothing.
    tokio::select! {
        error = loops.failed() => error,
        error = seat.failed() => error,
        error = board.loops.failed() => error,
    }
}

/// Where the keeper works. Its binary is the board's own, not one on trial.
pub(super) fn keeper_paths(
    dirs: &Dirs,
    identity: &Identity,
    trial: Option<&Trial>,
) -> Result<KeeperPaths> {
    let exe = match trial {
        Some(trial) => trial.exe().to_owned(),
        None => std::env::current_exe()?,
    };
    let (run_dir, data_dir) = (dirs.run.clone(), dirs.data.clone());
    Ok(KeeperPaths { run_dir, data_dir, cgroup: identity.cgroup(), exe })
}

/// What exchanges the binary of this board; one on trial proves itself.
fn exchanges(
    keeper: &KeeperPaths,
    source: &Arc<dyn Source>,
    trial: Option<Trial>,
    control: Arc<Control>,
    loops: &mut Loops,
) -> (Upgrader, mpsc::Receiver<Plan>) {
    let on_trial = watch::Sender::new(trial.is_some());
    let (data, exe) = (&keeper.data_dir, &keeper.exe);
    let made = Upgrader::new(data, exe, Arc::clone(source), on_trial.subscribe());
    if let Some(trial) = trial {
        let (keeper, stop) = (keeper.clone(), loops.stop_signal());
        let proof = Proof { trial, on_trial, control, keeper, stop };
        loops.spawn("trial of the new binary", prove(proof));
    }
    made
}

fn serve_control(dirs: &Dirs, control: Arc<Control>, loops: &mut Loops) -> Result<()> {
    let socket = dirs.socket();
    let listener = control::bind(&socket).context("cannot make the control socket")?;
    let stop = loops.stop_signal();
    loops.spawn("control socket", async move {
        control::serve(listener, control, stop).await;
        anyhow::Ok(())
    });
    Ok(())
}

/// Whether a loop only failed because the one at the other end of its link did.
fn is_consequence(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(NodeError::LinkClosed))
        || matches!(error.downcast_ref(), Some(DispatchError::LinkClosed))
}
