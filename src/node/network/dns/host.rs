//! The host's resolv.conf, looked at when it matters: nothing is watched while nobody asks.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use logic::dns::Resolv;

/// Where hosts have it.
pub(in crate::node) const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved writes the servers that it asks itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Shortest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads a host's resolv.conf; a file that cannot be read says nothing.
pub(in crate::node) fn read(path: &Path) -> Resolv {
    let read = |path: &Path| {
        let small = fs::metadata(path).is_ok_and(|file| file.len() <= FILE_BYTES_MAX);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        Resolv::parse(&String::from_utf8_lossy(&bytes))
    };
    let mut found = read(path);
    if found.is_stub() && path == Path::new(RESOLV_CONF) {
        let behind = read(Path::new(RESOLVED));
        if !behind.servers().is_empty() && !behind.is_stub() {
            found.nameservers = behind.nameservers;
        }
    }
    found
}

/// What tells one state of a file from another.
type Stamp = (u64, u64, i64, i64);

/// The file, and what it said when it was last looked at.
#[derive(Debug)]
pub(super) struct HostFile {
    path: PathBuf,
    looked: Option<Instant>,
    stamp: Option<[Option<Stamp>; 2]>,
}

impl HostFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, looked: None, stamp: None }
    }

    /// What it says, if that may have changed since the last look.
    pub(super) fn look(&mut self) -> Option<Resolv> {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_EVERY) {
            return None;
        }
        self.looked = Some(now);
        let stamp = |file: Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
        let files = [self.path.as_path(), Path::new(RESOLVED)];
        let stamp = files.map(|path| fs::metadata(path).ok().map(stamp));
        if self.stamp == Some(stamp) {
            return None;
        }
        self.stamp = Some(stamp);
        Some(read(&self.path))
    }
}
