//! Named network namespaces, compatible with `ip netns`: a bind mount of the namespace on a file.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a new network namespace, pinned at `path`, with `lo` up.
///
/// # Errors
/// The file exists, or the system refuses.
pub fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::create_new(path)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        super::Links::open()?.set_up("lo")?;
        let own = "/proc/thread-self/ns/net";
        mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        fs::remove_file(path)?;
    }
    made
}

/// Runs `work` in the network namespace pinned at `path`.
///
/// # Errors
/// There is no namespace at `path`, or what `work` says.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Unpins the namespace, and removes its folder when it is the last; it vanishes with its last process. One that is gone already is fine.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => (),
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    if let Some(folder) = path.parent() {
        // The folder goes with its last namespace; others may still be in it.
        let _not_empty = fs::remove_dir(folder);
    }
    Ok(())
}

/// Namespaces belong to threads: a thread of its own leaves everybody else where they are.
pub(super) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("namespace thread died")))
    })
}
