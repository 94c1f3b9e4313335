//! Ends and removes everything that a keeper made on this board: for uninstall and the demo.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

use super::cgroup::Hierarchies;
use super::paths::{KeeperPaths, Layout};
use super::process::{PidFd, ProcessLock};

/// Kills holder, pump, workers and containers of a board, unmounts what lies under its run-dir and
/// data-dir, and removes its cgroups and the keeper's files. Blocks; idempotent.
///
/// The data-dir's files (images, logs, writable layers) stay.
///
/// # Errors
/// The first thing that would not go; the rest is tried all the same.
pub fn cleanup(paths: &KeeperPaths) -> io::Result<()> {
    let layout = Layout::new(&paths.run_dir);
    // The holder first: it would start another pump and reap the rest.
    for lock in ["holder.lock", "pump.lock"] {
        if let Some(process) = ProcessLock::owner(&layout.file(lock))
            && let Ok(process) = PidFd::open(process)
        {
            process.signal(libc::SIGKILL)?;
            process.wait(5000);
        }
    }
    let cgroup = Hierarchies::detect().and_then(|h| h.remove(&PathBuf::from(&paths.cgroup)));
    let mounts = unmount_below(&[&paths.run_dir, &paths.data_dir]);
    let keeper = remove(&layout.keeper());
    let sandboxes = remove(&layout.sandboxes());
    cgroup.and(mounts).and(keeper).and(sandboxes)
}

fn unmount_below(dirs: &[&Path]) -> io::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let mut outcome = Ok(());
    // The latest mounts first: they may lie upon earlier ones.
    for point in mountinfo.lines().rev().filter_map(mount_point) {
        if dirs.iter().any(|dir| point != **dir && point.starts_with(dir))
            && let Err(error) = umount2(&point, MntFlags::MNT_DETACH)
        {
            outcome = Err(error.into());
        }
    }
    outcome
}

/// Field 5 of a line of mountinfo, with its octal escapes resolved (proc(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?;
    let mut text = field.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(escape, character);
    }
    Some(PathBuf::from(text))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let check = |line: &str, expected: Option<&str>| {
            assert_eq!(mount_point(line), expected.map(PathBuf::from));
        };
        check(
            "1 2 0:3 net:[4] /run/x/sandboxes/u/net rw - nsfs nsfs rw",
            Some("/run/x/sandboxes/u/net"),
        );
        check("1 2 0:3 / /a\\040b rw - ext4 x rw", Some("/a b"));
        check("1 2", None);
    }
}
