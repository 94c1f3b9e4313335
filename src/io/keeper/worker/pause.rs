//! The process namespace that the containers of a pod share (`shareProcessNamespace`), and the process
//! that is its first: it reaps what nobody waits for, and does nothing else.
//!
//! Namespaces of other kinds need no process; this one ends with its first. It is made with the first
//! container of the pod and lives in a cgroup of its own, by which it is removed with the pod.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

use super::{Failure, Site};
use crate::io::keeper::cgroup::Hierarchies;
use crate::io::keeper::wire::Refusal;

/// Its cgroup in the pod's; no container is called so, because their ids begin with the pod's uid.
const CGROUP: &str = "pause";

/// The file of the pod's process namespace, made when it is not there or its first process is gone.
/// Must run outside of private mount namespaces.
pub(super) fn process_namespace(site: &Site, pod_uid: &str) -> Result<PathBuf, Failure> {
    let dir = site.layout.sandbox(pod_uid);
    let lock = File::options().create(true).append(true).open(dir.join("pid.lock"))?;
    // Containers of a pod are started at the same moment.
    let _held =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))?;
    let pin = dir.join("pid");
    let hierarchies = Hierarchies::detect()?;
    let cgroup = site.container_cgroup(pod_uid, CGROUP);
    if pin.exists() {
        if !hierarchies.processes(&cgroup).is_empty() {
            return Ok(pin);
        }
        while umount2(&pin, MntFlags::MNT_DETACH).is_ok() {}
    }
    let pid = spawn()?;
    hierarchies.join(&cgroup, pid);
    pinned(pid, &pin).inspect_err(|_| drop(hierarchies.remove(&cgroup)))?;
    Ok(pin)
}

fn pinned(pid: u32, pin: &Path) -> Result<(), Failure> {
    File::create(pin)?;
    let source = format!("/proc/{pid}/ns/pid");
    let bound = mount(Some(source.as_str()), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(|error| {
        drop(fs::remove_file(pin));
        let error = io::Error::from(error);
        Failure::new(Refusal::Failed, format!("pinning the pod's process namespace: {error}"))
    })
}

/// Makes the first process of a new namespace, as a child of the holder, which reaps it.
fn spawn() -> io::Result<u32> {
    let flags = libc::CLONE_PARENT | libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: this process has a single thread; without a new stack and without sharing memory this
    // is a fork, and zeroes mean that nothing else is asked for, whatever the order of arguments.
    let made = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) };
    match made {
        0 => stay(),
        ..0 => Err(io::Error::last_os_error()),
        pid => u32::try_from(pid).map_err(io::Error::other),
    }
}

/// Never returns. Only calls what is safe after a fork of one thread.
fn stay() -> ! {
    // Whoever waits for the end of a connection must not wait for this process.
    // SAFETY: descriptors above the standard three belong to nobody in this process any more.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: the disposition runs no code; with it the kernel reaps children by itself.
    let _ = unsafe { nix::sys::signal::sigaction(Signal::SIGCHLD, &ignored) };
    let _ = nix::unistd::setsid();
    loop {
        nix::unistd::pause();
    }
}
