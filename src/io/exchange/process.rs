//! One process, told apart from a later one with its number.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Fields of `/proc/pid/stat` after the name (proc_pid_stat(5)): state, ..., start time.
const STATE: usize = 0;
const START: usize = 19;

/// A process that runs or ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// In clock ticks since the board started; the same over execve.
    pub(super) start: u64,
}

impl Process {
    /// The one with this number, if it runs.
    pub(super) fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        if matches!(*fields.get(STATE)?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, start: fields.get(START)?.parse().ok()? })
    }

    /// Whether it has not ended.
    pub(super) fn runs(self) -> bool {
        Self::find(self.pid) == Some(self)
    }

    /// Ends it, whatever it does.
    pub(super) fn end(self) {
        if self.runs() {
            // An error means that it has ended meanwhile.
            let _ended = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// Whether a process of this machine runs this file, whatever its name is by now.
pub(super) fn is_run(file: &Metadata) -> bool {
    let Ok(all) = fs::read_dir("/proc") else { return false };
    let mut programs = all.flatten().filter_map(|one| fs::metadata(one.path().join("exe")).ok());
    programs.any(|program| (program.dev(), program.ino()) == (file.dev(), file.ino()))
}

/// Milliseconds since the board was started.
pub(super) fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let millis = now.map_or(0, |now| std::time::Duration::from(now).as_millis());
    u64::try_from(millis).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let process = Process::find(pid).expect("it runs");
        assert!(process.runs());
        assert!(!Process { start: process.start + 1, ..process }.runs(), "another with its number");
        process.end();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while process.runs() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(!process.runs(), "nobody has waited for it yet");
        child.wait().expect("waited");
    }
}
