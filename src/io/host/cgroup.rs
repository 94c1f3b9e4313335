//! Which control groups this board has; Raspberry Pi OS lacks the one for memory until it is told.

use std::fs;
use std::path::Path;

/// Layout of the control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupVersion {
    /// None are mounted at /sys/fs/cgroup.
    #[default]
    None,
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Control groups of this board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// Their layout; hybrid counts as version 1, since that is where the limits are.
    pub version: CgroupVersion,
    /// Controllers that can limit something, sorted.
    pub controllers: Vec<String>,
}

impl CgroupFacts {
    pub(super) fn read_from(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        Self::parse(&text("proc/self/mountinfo"), &text("sys/fs/cgroup/cgroup.controllers"))
    }

    fn parse(mountinfo: &str, unified: &str) -> Self {
        let mut facts = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, source)) = line.split_once(" - ") else { continue };
            let point = mount.split(' ').nth(4).unwrap_or("");
            let mut source = source.split(' ');
            match (source.next(), source.nth(1)) {
                (Some("cgroup2"), _) if point == "/sys/fs/cgroup" => {
                    facts.version = CgroupVersion::V2;
                    facts.controllers = unified.split_whitespace().map(str::to_owned).collect();
                }
                (Some("cgroup"), Some(options)) if point.starts_with("/sys/fs/cgroup/") => {
                    facts.version = CgroupVersion::V1;
                    let other = |o: &&str| !matches!(*o, "rw" | "ro" | "xattr") && !o.contains('=');
                    let controllers = options.split(',').filter(other);
                    facts.controllers.extend(controllers.map(str::to_owned));
                }
                _ => {}
            }
        }
        facts.controllers.sort();
        facts.controllers.dedup();
        facts
    }

    /// Whether a controller is there.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_limits_are_in_version_1() {
        let mountinfo = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
        let facts = CgroupFacts::parse(mountinfo, "");
        assert_eq!(facts.version, CgroupVersion::V1);
        assert_eq!(facts.controllers, ["cpu", "cpuacct", "memory"]);
        assert!(facts.has("memory"));
    }

    #[test]
    fn a_missing_memory_controller_is_seen() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let facts = CgroupFacts::parse(mountinfo, "cpu pids\n");
        assert!(facts.has("pids") && !facts.has("memory"));
    }
}
