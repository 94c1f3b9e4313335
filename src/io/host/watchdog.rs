//! The hardware watchdog: it restarts a board that has hung, because nobody fed it any more.
//!
//! A process that stops in order disarms it; one that is killed does not, and must be back within its
//! time (Documentation/watchdog/watchdog-api.rst of the kernel).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::libc;

/// `WDIOC_SETTIMEOUT`: `_IOWR('W', 6, int)` (linux/watchdog.h).
const SET_TIMEOUT: u32 = 0xc004_5706;
/// The byte that disarms it when the device is closed next.
const MAGIC_CLOSE: &[u8] = b"V";

/// An armed watchdog; it is disarmed when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    seconds: u32,
}

impl Watchdog {
    /// Arms it, with the longest time that it may wait.
    ///
    /// # Errors
    /// There is no such device, or somebody else (systemd) has it.
    pub fn arm(device: &Path, seconds_max: u32) -> io::Result<Self> {
        let device = File::options().write(true).open(device)?;
        let mut seconds = libc::c_int::try_from(seconds_max).unwrap_or(libc::c_int::MAX);
        // SAFETY: the descriptor is open, and the request reads and writes one int, which is ours.
        let set = unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT as _, &raw mut seconds) };
        // One whose time cannot be set has a time of its own, which is hardly shorter.
        let seconds =
            if set == 0 { u32::try_from(seconds).unwrap_or(seconds_max) } else { seconds_max };
        Ok(Self { device, seconds: seconds.max(1) })
    }

    /// How long it waits.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// How often it should be fed: it bears two feedings that come too late.
    pub fn every(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds)) / 3
    }

    /// The board lives.
    ///
    /// # Errors
    /// What the device says.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"\0")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // A device that refuses will restart the board, as it would one that hangs.
        let _refused = self.device.write_all(MAGIC_CLOSE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Tree;
    use super::*;

    #[test]
    fn it_is_fed_and_disarmed_at_the_end() {
        let tree = Tree::new(&[("dev/watchdog0", "")]);
        let mut watchdog = Watchdog::arm(&tree.path().join("dev/watchdog0"), 15).expect("a device");
        assert_eq!((watchdog.seconds(), watchdog.every()), (15, Duration::from_secs(5)));
        watchdog.feed().expect("fed");
        watchdog.feed().expect("fed");
        drop(watchdog);
        assert_eq!(tree.read("dev/watchdog0"), "\0\0V");
        let missing = Watchdog::arm(&tree.path().join("dev/none"), 15);
        assert_eq!(missing.expect_err("not there").kind(), io::ErrorKind::NotFound);
    }
}
