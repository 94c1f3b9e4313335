//! The board's cgroup in every hierarchy there is: version 1, version 2, or both (hybrid).
//!
//! libcontainer makes and fills the containers' cgroups; this module finds them, reads their OOM
//! counters, kills and removes them, and says which controllers exist.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest wait for the last process to leave a cgroup that is being removed.
const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// The cgroup hierarchies mounted on this board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Version 1: mount point and its controllers (or `name=...`).
    v1: Vec<(PathBuf, Vec<String>)>,
    /// Version 2: its mount point.
    v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads the mounts of this process.
    pub(super) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, source)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            // Only the standard place counts: containers' own views may be mounted elsewhere.
            if !point.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let mut source = source.split(' ');
            let (kind, options) = (source.next(), source.nth(1).unwrap_or(""));
            match kind {
                Some("cgroup2") => found.v2 = Some(PathBuf::from(point)),
                Some("cgroup") => {
                    let controllers = options.split(',').filter(|o| !matches!(*o, "rw" | "ro"));
                    let controllers = controllers.map(str::to_owned).collect();
                    found.v1.push((PathBuf::from(point), controllers));
                }
                _ => {}
            }
        }
        found
    }

    /// Whether limits are set through version 2.
    pub(super) fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// Whether `controller` can limit anything here.
    pub(super) fn has(&self, controller: &str) -> bool {
        if self.is_unified() {
            let listed = self.v2.as_ref().map(|root| root.join("cgroup.controllers"));
            let listed = listed.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            return listed.split_whitespace().any(|c| c == controller);
        }
        self.v1.iter().any(|(_, controllers)| controllers.iter().any(|c| c == controller))
    }

    fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(root, _)| root.as_path()).chain(self.v2.as_deref())
    }

    /// Directories of `cgroup` in all hierarchies that have it.
    fn existing(&self, cgroup: &Path) -> Vec<PathBuf> {
        self.roots().map(|root| root.join(cgroup)).filter(|dir| dir.is_dir()).collect()
    }

    /// Moves a process into `cgroup` wherever that is possible; best effort.
    pub(super) fn join(&self, cgroup: &Path, pid: u32) {
        for (root, controllers) in &self.v1 {
            // A new cpuset is empty and takes nobody.
            if !controllers.iter().any(|c| c == "cpuset") {
                join_dir(&root.join(cgroup), pid);
            }
        }
        if let Some(root) = &self.v2 {
            join_dir(&root.join(cgroup), pid);
        }
    }

    /// Whether the kernel killed a process of `cgroup` for lack of memory.
    pub(super) fn oom_killed(&self, cgroup: &Path) -> bool {
        self.roots().any(|root| {
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                fs::read_to_string(root.join(cgroup).join(file))
                    .is_ok_and(|text| oom_kills(&text) > 0)
            })
        })
    }

    /// Processes in `cgroup` and below it.
    pub(super) fn processes(&self, cgroup: &Path) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        for dir in self.existing(cgroup) {
            visit(&dir, &mut |dir| {
                let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                pids.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
            });
        }
        pids
    }

    /// Kills every process in `cgroup` and below it, and removes it everywhere.
    pub(super) fn remove(&self, cgroup: &Path) -> io::Result<()> {
        let until = Instant::now() + REMOVE_WAIT;
        loop {
            for pid in self.processes(cgroup) {
                if pid != std::process::id() {
                    kill(pid);
                }
            }
            let mut last = Ok(());
            for dir in self.existing(cgroup) {
                visit(&dir, &mut |dir| {
                    if let Err(error) = fs::remove_dir(dir)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        last = Err(error);
                    }
                });
            }
            if last.is_ok() || Instant::now() >= until {
                return last;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Names of the cgroups directly below `cgroup`, in any hierarchy.
    pub(super) fn children(&self, cgroup: &Path) -> BTreeSet<String> {
        let entries = self.existing(cgroup).into_iter().filter_map(|dir| fs::read_dir(dir).ok());
        let entries = entries.flatten().flatten().filter(|entry| entry.path().is_dir());
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Removes what is empty below `cgroup` and not named in `keep`.
    pub(super) fn prune(&self, cgroup: &Path, keep: &dyn Fn(&str) -> bool) {
        for dir in self.existing(cgroup) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if entry.path().is_dir() && !name.to_str().is_some_and(keep) {
                    visit(&entry.path(), &mut |dir| {
                        // A cgroup with processes refuses to go, which is meant.
                        let _ = fs::remove_dir(dir);
                    });
                }
            }
        }
    }
}

fn join_dir(dir: &Path, pid: u32) {
    if fs::create_dir_all(dir).is_ok() {
        let _ = fs::write(dir.join("cgroup.procs"), pid.to_string());
    }
}

/// Children first, then the directory itself; at most as deep as the board's cgroups ever are.
fn visit(dir: &Path, act: &mut dyn FnMut(&Path)) {
    fn walk(dir: &Path, depth: u8, act: &mut dyn FnMut(&Path)) {
        if depth > 0 {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    walk(&entry.path(), depth - 1, act);
                }
            }
        }
        act(dir);
    }
    walk(dir, 8, act);
}

fn kill(pid: u32) {
    if let Ok(process) = super::process::PidFd::open(pid) {
        let _ = process.signal(libc::SIGKILL);
    }
}

/// `oom_kill N` of memory.events (v2) and memory.oom_control (v1, Linux 4.13).
fn oom_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
99 31 0:29 / /var/lib/x/rootfs/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
";

    #[test]
    fn hierarchies_are_found() {
        let hybrid = Hierarchies::parse(HYBRID);
        assert!(!hybrid.is_unified());
        assert_eq!(hybrid.roots().count(), 4);
        for (controller, there) in [("cpu", true), ("memory", true), ("pids", false)] {
            assert_eq!(hybrid.has(controller), there, "{controller}");
        }
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert!(Hierarchies::parse(unified).is_unified());
        assert_eq!(Hierarchies::parse("garbage\n\n - \n"), Hierarchies::default());
    }

    #[test]
    fn oom_counters_of_both_versions() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
    }
}
