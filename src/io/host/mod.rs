//! The host: what this board is and has, read from /proc, /sys, /etc and the kernel.
//!
//! In: nothing but the board itself, or a directory that looks like one (`read_from`). Out: plain
//! facts. It changes nothing but this process (its limit of open files, its mapped code), remembers
//! nothing, and takes what is missing as unknown instead of failing: boards differ.

mod address;
mod cgroup;
mod clock;
mod files;
mod inquiry;
mod mounts;
mod parse;
mod profile;
#[cfg(test)]
mod testing;
mod vitals;
mod watchdog;

use std::fs;
use std::io;
use std::path::Path;

pub use address::{InterfaceAddress, addresses};
pub use cgroup::{CgroupFacts, CgroupVersion};
pub use clock::synchronised as clock_synced;
pub use files::allow_open_files;
pub use inquiry::Inquiry;
pub use profile::{kernel_file, profile};
pub use vitals::{VitalSigns, Vitals};
pub use watchdog::Watchdog;

/// What does not change until the next boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Memory that the kernel manages.
    pub memory_bytes: u64,
    /// Swap space.
    pub swap_bytes: u64,
    /// Processors online.
    pub cpus: u32,
    /// Version of the kernel, as `uname -r` shows it.
    pub kernel_version: String,
    /// Name of the operating system for people (`PRETTY_NAME` of os-release).
    pub os_image: String,
    /// Random id of this boot of the kernel; boards in namespaces of one machine share it.
    pub boot_id: String,
    /// Id of the installation; empty when there is none.
    pub machine_id: String,
    /// Architecture in Go's words: `amd64`, `arm64`, `arm`.
    pub architecture: &'static str,
    /// On `arm` the instruction set version: 5, 6 or 7.
    pub arm_version: Option<u8>,
    /// Model from the device tree: `Raspberry Pi 4 Model B Rev 1.5`.
    pub model: Option<String>,
    /// Compatible strings from the device tree, most specific first.
    pub compatible: Vec<String>,
    /// Control groups.
    pub cgroup: CgroupFacts,
}

/// What changes all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Memory that programs can still get without swapping.
    pub available_bytes: u64,
}

/// Numbers of processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PidUse {
    /// In use.
    pub used: u64,
    /// That the kernel gives out; 0 for unknown.
    pub max: u64,
}

/// Space of a filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total_bytes: u64,
    /// What programs can still write.
    pub available_bytes: u64,
    /// Files that can still be made; filesystems without such a bound say 0 of 0.
    pub inodes_available: u64,
    /// Files that there can be.
    pub inodes_total: u64,
}

impl HostFacts {
    /// Reads this board.
    pub fn read() -> Self {
        Self::read_from(Path::new("/"))
    }

    /// Reads a directory that holds a board's `/proc`, `/sys` and `/etc`.
    pub fn read_from(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let meminfo = text("proc/meminfo");
        let os_release = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| parse::os_release(&text(path)))
            .unwrap_or_else(|| "Linux".to_owned());
        let tree = |name: &str| {
            let bytes = fs::read(root.join("proc/device-tree").join(name)).unwrap_or_default();
            parse::device_tree_strings(&bytes)
        };
        Self {
            memory_bytes: parse::meminfo(&meminfo, "MemTotal").unwrap_or(0),
            swap_bytes: parse::meminfo(&meminfo, "SwapTotal").unwrap_or(0),
            cpus: parse::cpu_list(&text("sys/devices/system/cpu/online")).unwrap_or_else(|| {
                let threads = std::thread::available_parallelism();
                threads.map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
            }),
            kernel_version: text("proc/sys/kernel/osrelease").trim().to_owned(),
            os_image: os_release,
            boot_id: text("proc/sys/kernel/random/boot_id").trim().to_owned(),
            machine_id: text("etc/machine-id").trim().to_owned(),
            architecture: architecture(),
            arm_version: parse::arm_version(&text("proc/cpuinfo")),
            model: tree("model").into_iter().next(),
            compatible: tree("compatible"),
            cgroup: CgroupFacts::read_from(root),
        }
    }
}

impl MemoryUse {
    /// Reads this board.
    pub fn read() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self { available_bytes: parse::meminfo(&meminfo, "MemAvailable").unwrap_or(0) }
    }
}

impl PidUse {
    /// Reads this board.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let used = parse::loadavg_tasks(&text("/proc/loadavg"));
        let max = text("/proc/sys/kernel/pid_max").trim().parse().ok();
        match (used, max) {
            (Some(used), Some(max)) => Self { used, max },
            _ => Self::default(),
        }
    }
}

impl DiskSpace {
    /// Of the filesystem that holds `path`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let space = nix::sys::statvfs::statvfs(path)?;
        #[allow(clippy::useless_conversion, reason = "the widths differ on 32-bit boards")]
        let (block, blocks, available, files, free) = (
            u64::from(space.fragment_size()),
            u64::from(space.blocks()),
            u64::from(space.blocks_available()),
            u64::from(space.files()),
            u64::from(space.files_available()),
        );
        Ok(Self {
            total_bytes: blocks.saturating_mul(block),
            available_bytes: available.saturating_mul(block),
            inodes_available: free,
            inodes_total: files,
        })
    }
}

/// The architecture that this binary was built for, in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> std::path::PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root =
            std::env::temp_dir().join(format!("kumquat-host-{}-{number}", std::process::id()));
        for (path, bytes) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("in root")).expect("tmp");
            fs::write(path, bytes).expect("tmp");
        }
        root
    }

    #[test]
    fn a_raspberry_pi_without_memory_controller() {
        let root = tree(&[
            ("proc/meminfo", b"MemTotal:        3884360 kB\nMemFree: 1 kB\nSwapTotal: 102396 kB\n"),
            ("sys/devices/system/cpu/online", b"0-3\n"),
            ("proc/sys/kernel/osrelease", b"6.12.47+rpt-rpi-v8\n"),
            ("etc/os-release", b"NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("proc/sys/kernel/random/boot_id", b"1b2c\n"),
            ("proc/device-tree/model", b"Raspberry Pi 4 Model B Rev 1.5\0"),
            ("proc/device-tree/compatible", b"raspberrypi,4-model-b\0brcm,bcm2711\0"),
            (
                "proc/self/mountinfo",
                b"30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/cgroup.controllers", b"cpuset cpu io pids\n"),
        ]);
        let facts = HostFacts::read_from(&root);
        assert_eq!(facts.memory_bytes, 3_884_360 * 1024);
        assert_eq!(facts.swap_bytes, 102_396 * 1024);
        assert_eq!(facts.cpus, 4);
        assert_eq!(facts.kernel_version, "6.12.47+rpt-rpi-v8");
        assert_eq!(facts.os_image, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(facts.model.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.5"));
        assert_eq!(facts.compatible, ["raspberrypi,4-model-b", "brcm,bcm2711"]);
        assert_eq!(facts.cgroup.version, CgroupVersion::V2);
        assert!(facts.cgroup.has("pids") && !facts.cgroup.has("memory"));
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn an_empty_tree_is_unknown_and_no_error() {
        let root = tree(&[("proc/meminfo", b"")]);
        let facts = HostFacts::read_from(&root);
        assert_eq!((facts.memory_bytes, facts.os_image.as_str()), (0, "Linux"));
        assert!(facts.cpus >= 1);
        assert_eq!(facts.cgroup.version, CgroupVersion::None);
        fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn this_machine_has_memory_space_and_a_kernel() {
        let facts = HostFacts::read();
        assert!(facts.memory_bytes > 0 && !facts.kernel_version.is_empty());
        assert!(MemoryUse::read().available_bytes <= facts.memory_bytes);
        let pids = PidUse::read();
        assert!(pids.used > 0 && pids.used <= pids.max);
        let space = DiskSpace::of(Path::new("/")).expect("a root");
        assert!(space.total_bytes >= space.available_bytes && space.total_bytes > 0);
    }
}
