//! `kumquat up`: what a board is made of, in the order in which it starts and stops.
//!
//! Folders and lock, identity, keeper and images, the master role (store, registry, controllers, API),
//! the board role (agent), the control socket. A role's loop that ends ends the process with an
//! error: whatever supervises it starts it again, and containers do not notice.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use model::limits::{CONTAINER_OPEN_FILES, OPEN_FILES_MAX};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::addresses::{self, Addresses};
use super::board::{BoardOptions, BoardRole};
use super::cli::UpArgs;
use super::client::Ending;
use super::config::{self, Config};
use super::control::Control;
use super::crash;
use super::dirs::Dirs;
use super::identity::Identity;
use super::loops::Loops;
use super::master::{MasterOptions, MasterRole};
use crate::io::clock::Clock;
use crate::io::image::ImageStore;
use crate::io::keeper::{self, Keeper, KeeperPaths};
use crate::io::net::AddressChanges;
use crate::io::{control, host, link};
use crate::master::dispatcher::DispatchError;
use crate::node;

/// Threads of the runtime: waiting is most of the work, and each thread costs memory.
const RUNTIME_THREADS: usize = 2;
/// How long pods may take to stop with `--stop-pods`.
const STOP_PODS_WITHIN: Duration = Duration::from_secs(10);
/// How long loops that fail because another one has failed may take to say so.
const CAUSE_WITHIN: Duration = Duration::from_millis(500);

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
    let _lock = lock(&dirs.data)?;
    let identity = Identity::load_or_found(&dirs, &config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(board(&dirs, &config, identity, began));
    // Threads that wait for a slow disk or client must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(5));
    if ended.is_ok() {
        tracing::info!("stopped");
    }
    ended.map(|()| Ending::Done)
}

/// Makes both folders and gives their absolute paths. Secrets, logs and the programs of image layers,
/// setuid ones too, lie in them: they are closed to all others of this machine at every start.
fn prepare(dirs: &Dirs) -> Result<Dirs> {
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

async fn board(dirs: &Dirs, config: &Config, identity: Identity, began: Instant) -> Result<()> {
    let mut signals = Signals::catch()?;
    let mut loops = Loops::new();
    let clock = Clock::starting_at(Default::default());
    // Before the addresses are read: no change may fall between.
    let changes = AddressChanges::open().context("address changes cannot be followed")?;
    let sender = watch::Sender::new(Addresses::read(config.interface.as_deref()));
    let addresses = sender.subscribe();
    let following =
        addresses::follow(config.interface.clone(), changes, sender, loops.stop_signal());
    loops.spawn("addresses", following);
    let keeper = KeeperPaths {
        run_dir: dirs.run.clone(),
        data_dir: dirs.data.clone(),
        cgroup: identity.cgroup(),
        exe: std::env::current_exe()?,
    };
    let images =
        ImageStore::open(dirs.data.join("images")).context("cannot open the image store")?;
    // The control socket answers before the agent knows which containers run on which image.
    images.defer_collection();
    let (master_end, board_end) = link::pair();
    let master = MasterRole::start(MasterOptions {
        dirs,
        config,
        identity: &identity,
        clock: clock.clone(),
        addresses: addresses.clone(),
        link: master_end,
    });
    let mut master = master.await?;
    let api = format!("https://{}:{}", addresses.borrow().own, config.api_port);
    let millis = began.elapsed().as_millis();
    tracing::info!(%api, millis, "API ready");

    let control = Control {
        identity: identity.clone(),
        registry: master.registry.clone(),
        images: images.clone(),
        pki: Arc::clone(&master.pki),
        addresses: addresses.clone(),
        api_port: config.api_port,
        epoch: master.leader.epoch,
        term: master.leader.term,
    };
    serve_control(dirs, control, &mut loops)?;

    let board = BoardRole::start(BoardOptions {
        dirs,
        identity: &identity,
        keeper: &keeper,
        clock,
        images,
        addresses,
        link: board_end,
        is_master: true,
    });
    let mut board = board.await?;

    let ended = supervise(&mut signals, [&mut loops, &mut master.loops, &mut board.loops]).await;
    tokio::join!(loops.stop(), master.stop(), board.stop());
    if config.stop_pods {
        stop_pods(keeper).await?;
    }
    tracing::info!("stopped");
    ended
}

fn serve_control(dirs: &Dirs, control: Control, loops: &mut Loops) -> Result<()> {
    let listener = control::bind(&dirs.socket()).context("cannot make the control socket")?;
    let stop = loops.stop_signal();
    loops.spawn("control socket", async move {
        control::serve(listener, Arc::new(control), stop).await;
        anyhow::Ok(())
    });
    Ok(())
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
}

/// Waits for a signal, or for a loop that ends although nobody asked it to.
async fn supervise(signals: &mut Signals, mut roles: [&mut Loops; 3]) -> Result<()> {
    // Cancel safety: all three lose nothing when dropped.
    tokio::select! {
        _ = signals.terminate.recv() => Ok(()),
        _ = signals.interrupt.recv() => Ok(()),
        first = any_failed(&mut roles) => {
            if !is_consequence(&first) {
                return Err(first);
            }
            // Cancel safety: `any_failed` loses nothing.
            let cause = tokio::time::timeout(CAUSE_WITHIN, any_failed(&mut roles)).await;
            Err(cause.unwrap_or(first))
        }
    }
}

/// The first loop of any role that ends unasked.
async fn any_failed([first, second, third]: &mut [&mut Loops; 3]) -> Error {
    // Cancel safety: `Loops::failed` loses nothing.
    tokio::select! {
        error = first.failed() => error,
        error = second.failed() => error,
        error = third.failed() => error,
    }
}

/// Whether a loop only failed because the one at the other end of its link did.
fn is_consequence(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(node::NodeError::LinkClosed))
        || matches!(error.downcast_ref(), Some(DispatchError::LinkClosed))
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
        node::forget_boot(&paths.run_dir)
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
}
