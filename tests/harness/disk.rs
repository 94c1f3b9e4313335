//! A disk of its own for a board: ext4 on a loop device, whose written bytes can be counted.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `EXT4_IOC_SHUTDOWN` and `EXT4_GOING_FLAGS_NOLOGFLUSH` (fs/ext4/ext4.h).
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
const NO_LOG_FLUSH: u32 = 2;

/// A mounted ext4 file system; unmounted and removed when dropped.
pub struct Disk {
    folder: PathBuf,
    image: PathBuf,
    device: String,
}

impl Disk {
    /// Makes a disk of `megabytes`.
    pub fn new(name: &str, megabytes: u64) -> Self {
        let unique = format!("kumquat-disk-{name}-{}", std::process::id());
        Self::at(&std::env::temp_dir().join(unique), name, megabytes)
    }

    /// Makes a disk of `megabytes` and mounts it at `folder`.
    pub fn at(folder: &Path, name: &str, megabytes: u64) -> Self {
        let base = folder.to_owned();
        let unique = format!("kumquat-disk-{name}-{}.img", std::process::id());
        let image = std::env::temp_dir().join(unique);
        let file = File::create(&image).expect("disk image");
        file.set_len(megabytes << 20).expect("disk image size");
        run(
            "mkfs.ext4",
            &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", path(&image)],
        );
        let device = run("losetup", &["--find", "--show", path(&image)]).trim().to_owned();
        fs::create_dir_all(&base).expect("mount point");
        run("mount", &["-t", "ext4", &device, path(&base)]);
        Self { folder: base, image, device }
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that have reached the device since it exists.
    pub fn bytes_written(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("block statistics");
        let sectors: u64 =
            stat.split_whitespace().nth(6).expect("field 7").parse().expect("number");
        sectors * 512
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _gone = Command::new("losetup").args(["-d", &self.device]).status();
        let _gone = fs::remove_file(&self.image);
        let _gone = fs::remove_dir(&self.folder);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Cuts the power of the file system mounted here: what is not synced is gone.
pub fn shut_down(mount: &Path) {
    let folder = File::open(mount).expect("mount point");
    // SAFETY: the ioctl reads one u32, which lives across the call.
    let code = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &NO_LOG_FLUSH) };
    assert_eq!(code, 0, "EXT4_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
}

/// Mounts the file system anew once the kernel has let go of the one that was shut down.
pub fn remount(mount: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let wanted = path(mount);
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let device = lines.find(|words| words[1] == wanted).expect("mounted")[0].to_owned();
    // A killed process lets go of its files a moment after it is reaped by its tracer.
    within_seconds("unmounted", || {
        Command::new("umount").arg(mount).output().expect("umount").status.success()
    });
    // A mount namespace that another process made meanwhile holds a copy of the mount, and with it the
    // file system that was shut down: a new mount would only bring that one back.
    within_seconds("released", || {
        File::options().read(true).custom_flags(libc::O_EXCL).open(&device).is_ok()
    });
    run("mount", &["-t", "ext4", &device, wanted]);
}

fn within_seconds(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the disk is not {what}");
}
