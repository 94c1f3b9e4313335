//! From a command line to a running holder: a daemon in its own session and cgroup.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;

use super::cgroup::Hierarchies;
use super::holder::{Holder, Holdings, Kept};
use super::paths::Layout;
use super::process::{ProcessLock, close_others, fork, inherited};
use super::wire::{self, ResponseV1};
use super::worker::Site;

/// How long a keeper that was just started by somebody else may take to listen.
const OTHER_KEEPER_WAIT: Duration = Duration::from_secs(3);

/// Runs the keeper's hidden subcommand if `args` (with the program's name first) name it.
///
/// To be called before any thread exists: the holder forks, and libcontainer must not meet threads.
/// `keeper-holder RUN-DIR DATA-DIR CGROUP` becomes a daemon and returns when it listens; with three
/// descriptors (listener, lock, client) after them it goes on as its earlier self, after execve.
pub fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    let [_, subcommand, rest @ ..] = args else { return None };
    if subcommand != "keeper-holder" {
        return None;
    }
    let outcome = match rest {
        [run_dir, data_dir, cgroup] => daemonise(&site(run_dir, cgroup), data_dir.into()),
        [run_dir, data_dir, cgroup, kept @ ..] if kept.len() == 3 => {
            resume(site(run_dir, cgroup), data_dir.into(), kept)
        }
        _ => Err(io::Error::other("usage: keeper-holder RUN-DIR DATA-DIR CGROUP")),
    };
    match outcome {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("{error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn site(run_dir: &OsString, cgroup: &OsString) -> Site {
    Site { layout: Layout::new(Path::new(run_dir)), cgroup: cgroup.to_string_lossy().into_owned() }
}

/// Forks the daemon and waits until it listens or says why not.
fn daemonise(site: &Site, data_dir: PathBuf) -> io::Result<()> {
    super::paths::check_cgroup(&site.cgroup)?;
    let (mut ready, tell) = UnixStream::pair()?;
    fork(|| {
        close_others(&[tell.as_raw_fd()]);
        let outcome = become_daemon(site).and_then(|lock| {
            let Some(lock) = lock else { return Ok(None) };
            let listener = listen(&site.layout)?;
            let kept = Kept::default();
            let holdings = Holdings { site: site.clone(), data_dir, listener, lock, kept };
            Holder::new(holdings).map(Some)
        });
        let told = match &outcome {
            Ok(_) => (&tell).write_all(b"ready"),
            Err(error) => (&tell).write_all(error.to_string().as_bytes()),
        };
        let closed = nix::unistd::close(tell.as_raw_fd());
        match (outcome, told, closed) {
            (Ok(Some(holder)), ..) => match holder.run() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("holder: {error}");
                    1
                }
            },
            (Ok(None), ..) => 0,
            (Err(_), ..) => 1,
        }
    })?;
    drop(tell);
    let mut said = String::new();
    ready.read_to_string(&mut said)?;
    match said.as_str() {
        "ready" => Ok(()),
        "" => Err(io::Error::other("the keeper ended at once")),
        text => Err(io::Error::other(text.to_owned())),
    }
}

/// Own session, cgroup, log and lock; no lock when another keeper serves this board.
fn become_daemon(site: &Site) -> io::Result<Option<ProcessLock>> {
    nix::unistd::setsid()?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    nix::unistd::chdir("/")?;
    for dir in [site.layout.keeper(), site.layout.containers(), site.layout.runtime()] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    fs::create_dir_all(site.layout.sandboxes())?;
    let Some(lock) = lock(&site.layout)? else { return Ok(None) };
    redirect_output(&site.layout)?;
    nix::sys::prctl::set_child_subreaper(true)?;
    // Only with CAP_SYS_RESOURCE; without it the keeper is as likely a victim as others.
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    Hierarchies::detect()?.join(&PathBuf::from(&site.cgroup).join("keeper"), std::process::id());
    Ok(Some(lock))
}

fn lock(layout: &Layout) -> io::Result<Option<ProcessLock>> {
    let begun = Instant::now();
    loop {
        match ProcessLock::acquire(&layout.file("holder.lock"))? {
            Ok(lock) => return Ok(Some(lock)),
            Err(_) if UnixStream::connect(layout.socket()).is_ok() => return Ok(None),
            Err(owner) if begun.elapsed() > OTHER_KEEPER_WAIT => {
                let text = format!("keeper {owner} serves this run-dir but does not answer");
                return Err(io::Error::other(text));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn listen(layout: &Layout) -> io::Result<UnixListener> {
    let path = layout.socket();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Output goes to a file that begins anew with each holder; input is empty.
fn redirect_output(layout: &Layout) -> io::Result<()> {
    let log = File::create(layout.file("keeper.log"))?;
    let null = File::open("/dev/null")?;
    nix::unistd::dup2(null.as_raw_fd(), 0)?;
    nix::unistd::dup2(log.as_raw_fd(), 1)?;
    nix::unistd::dup2(log.as_raw_fd(), 2)?;
    Ok(())
}

/// Goes on after execve with the same children, listener and lock, and answers the client who asked.
fn resume(site: Site, data_dir: PathBuf, kept: &[OsString]) -> io::Result<()> {
    let mut kept = kept.iter().map(|argument| inherited(argument));
    let mut next = || kept.next().unwrap_or_else(|| Err(io::Error::other("descriptors missing")));
    let (listener, lock, client) = (next()?, next()?, next()?);
    let lock = match ProcessLock::acquire_open(File::from(lock))? {
        Ok(lock) => lock,
        Err(owner) => return Err(io::Error::other(format!("keeper {owner} has the lock"))),
    };
    nix::sys::prctl::set_child_subreaper(true)?;
    let listener = UnixListener::from(listener);
    let kept = Kept::inherit(&std::env::var_os(Kept::VARIABLE).unwrap_or_default());
    let holder = Holder::new(Holdings { site, data_dir, listener, lock, kept })?;
    let _ = wire::write(&mut UnixStream::from(client), &ResponseV1::Done);
    holder.run()
}
