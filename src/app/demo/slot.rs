//! A demo's own number: a locked folder, a subnet and names that no other demo has.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Demos at once on one machine.
const SLOTS_MAX: u8 = 16;

/// A slot that this process holds.
pub(super) struct Slot {
    number: u8,
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Slot {
    /// Takes the first free slot.
    ///
    /// # Errors
    /// All are taken, or the folder of demos is not writable.
    pub(super) fn take() -> Result<Self> {
        let parent = Path::new("/run/kumquat-demo");
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        for number in 1..=SLOTS_MAX {
            let folder = parent.join(number.to_string());
            let path = parent.join(format!("{number}.lock"));
            let file =
                File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            // A demo that ends removes its lock: one taken on a file without a name is no lock.
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
                && same_file(&lock, &path)
            {
                return Ok(Self { number, folder, _lock: lock });
            }
        }
        bail!("{SLOTS_MAX} demos are running on this machine already")
    }

    /// Where the boards of this demo keep their state.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of the demo's cluster and the start of all its names.
    pub(super) fn cluster(&self) -> String {
        format!("demo{}", self.number)
    }

    /// Name of the host's end of the link to the switch.
    pub(super) fn host_link(&self) -> String {
        format!("kqd{}", self.number)
    }

    /// File on which the switch's network namespace is pinned, as `ip netns` does.
    pub(super) fn switch(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/kumquat-{}-switch", self.cluster()))
    }

    /// File on which a board's network namespace is pinned.
    pub(super) fn namespace(&self, board: &str) -> PathBuf {
        PathBuf::from(format!("/run/netns/kumquat-{}-{board}", self.cluster()))
    }

    /// The host's address towards the boards: RFC 2544 benchmark range, a /24 per slot.
    pub(super) fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, 254)
    }

    /// The address of a board with a number from 1.
    pub(super) fn address(&self, board: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, board)
    }

    /// Removes what lies in the slot; the slot stays taken.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub(super) fn empty(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Gives the slot back.
    ///
    /// # Errors
    /// The lock file cannot be removed.
    pub(super) fn give_back(&self) -> Result<()> {
        let lock = self.folder.with_extension("lock");
        fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
        // The parent goes with the last demo; another one may still be in it.
        let _not_empty = fs::remove_dir("/run/kumquat-demo");
        Ok(())
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino(),
        _ => false,
    }
}
