//! `kumquat up`: what a board does from its start to its end.
//!
//! Folders and lock, the decision what this board is ([`decide`], [`arrive`]), its roles
//! ([`running`]). A role's loop that ends ends the process with an error: whatever supervises it
//! starts it again, and containers do not notice.

mod arrive;
mod decide;
mod running;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::limits::{CONTAINER_OPEN_FILES, OPEN_FILES_MAX};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::authority;
use super::backup;
use super::cli::UpArgs;
use super::client::Ending;
use super::config::{self, Config};
use super::crash;
use super::departure;
use super::dirs::Dirs;
use super::doors::Doors;
use super::identity::Identity;
use super::upgrade;
use crate::io::clock::Clock;
use crate::io::code;
use crate::io::exchange::{self, Begun, Plan, Trial};
use crate::io::host;
use crate::io::keeper::{self, Keeper, KeeperPaths};
use crate::node;
use arrive::arrive;
use decide::Start;
use running::Running;

/// Threads of the runtime: waiting is most of the work, and each thread costs memory.
const RUNTIME_THREADS: usize = 2;
/// How long pods may take to stop with `--stop-pods`.
const STOP_PODS_WITHIN: Duration = Duration::from_secs(10);
/// When a start is over: what it ran is hardly needed again.
const SETTLED_AFTER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(55)];
/// What runs once in a while is not kept for ever.
const SETTLED_EVERY: Duration = Duration::from_secs(60);
/// A signal that has come is seen within this.
const SIGNALS_WITHIN: Duration = Duration::from_millis(20);
/// Mode bit of a folder that many share, as /tmp.
const STICKY: u32 = 0o1000;

/// Runs until told to stop.
pub(in crate::app) fn run(dirs: &Dirs, arguments: &UpArgs) -> Result<Ending> {
    let began = Instant::now();
    crash::on_panic();
    let open_files = host::allow_open_files(OPEN_FILES_MAX)?;
    if open_files < CONTAINER_OPEN_FILES {
        tracing::warn!(open_files, "few files may be open: raise the limit (`ulimit -n 65536`)");
    }
    let config = config::load(arguments)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("`kumquat up` makes containers and networks, which needs root: run it with sudo");
    }
    let dirs = prepare(dirs)?;
    let lock = lock(&dirs.data)?;
    end_pods_of_the_left(&dirs)?;
    if departure::finish(&dirs)? {
        tracing::info!("this board has forgotten the cluster that it left");
    }
    if backup::finish(&dirs.data)? {
        tracing::info!("the restore of a backup is complete");
    }
    authority::finish(&dirs, Clock::asking(Default::default(), host::clock_synced).now())?;
    let trial = on_trial(&dirs)?;
    let start = decide::start(Identity::load(&dirs, &config)?, &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(&dirs, &config, start, began, trial));
    // Threads that wait for a slow disk or client must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(5));
    let Some(Onward { plan, mut signals, keeper }) = ended? else {
        tracing::info!("stopped");
        return Ok(Ending::Done);
    };
    // That may have taken its time, too: who was told to stop meanwhile does it as ever.
    let stop = async || {
        give_up(&plan);
        match config.stop_pods {
            true => stop_pods(keeper).await,
            false => Ok(()),
        }
    };
    if signals.have_ended(stop)? {
        tracing::info!("stopped");
        return Ok(Ending::Done);
    }
    drop(lock);
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let error = exchange::exchange(&dirs.data, &plan, &arguments);
    Err(error).context("this board cannot go on as another binary")
}

/// Whether this binary is on trial; says when one is no more.
fn on_trial(dirs: &Dirs) -> Result<Option<Trial>> {
    let exe = std::env::current_exe().context("this program does not know where it lies")?;
    match exchange::begin(&dirs.data, &exe) {
        Begun::Usual => {}
        Begun::OnTrial(trial) => return Ok(Some(trial)),
        Begun::Returned(record) => {
            let (why, millis) = (record.why.unwrap_or_default(), record.millis);
            tracing::warn!(why, millis, "this board went back to the binary that it had");
        }
    }
    // What a leader that ended in the middle handed out; who runs the command again sends it again.
    let _none = fs::remove_dir_all(dirs.data.join(upgrade::FILES));
    Ok(None)
}

/// Makes both folders and gives their absolute paths. Secrets, logs and the programs of image layers,
/// setuid ones too, lie in them: they are closed to all others of this machine at every start.
pub(in crate::app) fn prepare(dirs: &Dirs) -> Result<Dirs> {
    for folder in [&dirs.data, &dirs.run] {
        let failed = || format!("cannot make {}", folder.display());
        fs::create_dir_all(folder).with_context(failed)?;
        let mode = fs::metadata(folder).with_context(failed)?.permissions().mode();
        if mode & STICKY != 0 || folder.canonicalize()? == Path::new("/") {
            bail!("{} is not for kumquat alone: choose a folder of its own", folder.display());
        }
        let closed = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
        closed.with_context(|| format!("cannot close {} to others", folder.display()))?;
    }
    Ok(Dirs::new(&dirs.data.canonicalize()?, &dirs.run.canonicalize()?))
}

/// One process per data-dir.
pub(in crate::app) fn lock(data: &Path) -> Result<Flock<File>> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => bail!("another kumquat runs on {}: stop it first", data.display()),
    }
}

/// A board whose roles have ended, and that goes on as another binary.
struct Onward {
    plan: Plan,
    signals: Signals,
    /// Where its containers are kept.
    keeper: KeeperPaths,
}

/// From the first decision to the last container, if pods stop with the process; gives how the board goes
/// on, if it does.
async fn live(
    dirs: &Dirs,
    config: &Config,
    start: Start,
    began: Instant,
    trial: Option<Trial>,
) -> Result<Option<Onward>> {
    let mut signals = Signals::catch()?;
    let clock = Clock::asking(Default::default(), host::clock_synced);
    if dirs.store().exists() {
        // Whoever holds the log may be one of several: its own clock must not push the cluster's.
        clock.wait();
    }
    let doors = Doors::new(config);
    // Cancel safety: a board that is told to stop before it is in a cluster is in none.
    let identity = tokio::select! {
        () = signals.any() => return Ok(None),
        identity = arrive(dirs, config, &clock, &doors, start) => identity?,
    };
    let mut running = Running::start(dirs, config, &identity, clock, &doors, began, trial).await?;
    let settled = tokio::spawn(settle());
    // Cancel safety: both lose nothing when dropped.
    let ended = tokio::select! {
        () = signals.any() => Ok(None),
        ended = running.ended() => ended,
    };
    settled.abort();
    let keeper = running.stop().await;
    let ended = match ended {
        // The roles took their time: who was told to stop meanwhile does not go on.
        Ok(Some(plan)) if signals.have_come().await => {
            give_up(&plan);
            Ok(None)
        }
        ended => ended,
    };
    let leaves = departure::is_due(dirs);
    if leaves || config.stop_pods && !matches!(ended, Ok(Some(_))) {
        stop_pods(keeper.clone()).await?;
    }
    if leaves {
        let (dirs, cluster) = (dirs.clone(), identity.cluster);
        tokio::task::spawn_blocking(move || departure::finish(&dirs)).await??;
        tracing::info!(cluster, "this board has left its cluster and forgotten it");
        return Ok(None);
    }
    Ok(ended?.map(|plan| Onward { plan, signals, keeper }))
}

/// The board stays with the binary that it has.
fn give_up(plan: &Plan) {
    // What stays is replaced by the next attempt.
    let _gone = fs::remove_file(&plan.staged);
}

/// Once the board is quiet, what only its start needed is given back, and now and then what has come
/// since: a board that does the same each few seconds runs through 2 MB of code.
async fn settle() {
    for pause in SETTLED_AFTER.into_iter().chain(std::iter::repeat(SETTLED_EVERY)) {
        tokio::time::sleep(pause).await;
        if let Err(error) = code::give_back() {
            tracing::debug!(%error, "code is not given back");
        }
    }
}

/// The signals that end the process cleanly, caught from its first moment.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        // Cancel safety: both lose nothing when dropped.
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }

    /// Whether one has come already.
    async fn have_come(&mut self) -> bool {
        tokio::time::timeout(SIGNALS_WITHIN, self.any()).await.is_ok()
    }

    /// The same when the runtime that caught them is gone: they are caught on, and nobody looks. What the
    /// end takes is done if one has come.
    fn have_ended(&mut self, stop: impl AsyncFnOnce() -> Result<()>) -> Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            if !self.have_come().await {
                return Ok(false);
            }
            stop().await.map(|()| true)
        })
    }
}

/// What runs still on a board that has left its cluster, when that was cut short.
fn end_pods_of_the_left(dirs: &Dirs) -> Result<()> {
    if !departure::is_due(dirs) {
        return Ok(());
    }
    let ended = match Identity::read(dirs) {
        // It has begun to forget: what ran has ended before.
        Ok(None) => return Ok(()),
        Ok(Some(identity)) => {
            let keeper = running::keeper_paths(dirs, &identity, None)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(stop_pods(keeper))
        }
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::warn!(
            error = format!("{error:#}"),
            "containers of the cluster that this board left may run on: restart the board"
        );
    }
    Ok(())
}

/// Asks every container to stop, then removes all of them.
async fn stop_pods(paths: KeeperPaths) -> Result<()> {
    let keeper = Keeper::connect_or_spawn(paths.clone()).await?;
    for container in keeper.list().await? {
        // One that has ended meanwhile is what we want.
        let _ended = keeper.signal(&container.id, nix::libc::SIGTERM).await;
    }
    let deadline = Instant::now() + STOP_PODS_WITHIN;
    while Instant::now() < deadline {
        let all = keeper.list().await?;
        if all.iter().all(|container| container.state != keeper::RunStateV1::Running) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::task::spawn_blocking(move || {
        keeper::cleanup(&paths)?;
        node::forget_boot(&paths.run_dir)?;
        node::remove_network(&paths.data_dir)
    })
    .await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_closed_to_others_at_every_start() {
        let root = std::env::temp_dir().join(format!("kumquat-prepare-{}", std::process::id()));
        let dirs = Dirs::new(&root.join("data"), &root.join("run"));
        for _ in 0..2 {
            let dirs = prepare(&dirs).expect("made");
            for folder in [&dirs.data, &dirs.run] {
                let mode = fs::metadata(folder).expect("there").permissions().mode();
                assert_eq!(mode & 0o7777, 0o700);
                fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("opened");
            }
        }
        fs::set_permissions(&dirs.run, fs::Permissions::from_mode(0o1777)).expect("shared");
        assert!(prepare(&dirs).is_err(), "a folder like /tmp");
        fs::remove_dir_all(root).expect("removable");
    }

    #[test]
    fn a_signal_between_two_binaries_is_not_lost() {
        let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let live = runtime().expect("a runtime");
        let mut signals = live.block_on(async { Signals::catch() }).expect("caught");
        live.shutdown_timeout(Duration::from_secs(5));
        let pods = std::cell::Cell::new(1);
        let mut have_ended = || {
            // As the end of pods does, it needs threads and timers.
            let stop = async || {
                let stopped = tokio::task::spawn_blocking(|| 0).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                pods.set(stopped);
                Ok(())
            };
            signals.have_ended(stop).expect("looked")
        };
        assert!(!have_ended());
        assert_eq!(pods.get(), 1, "nobody has stopped the board");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).expect("raised");
        // The runtime of another test may be the one that reads it, in a moment.
        let seen = (0..100).any(|_| have_ended());
        assert!(seen, "it is seen although its runtime has ended");
        assert_eq!(pods.get(), 0, "and means what it always means");
    }
}
