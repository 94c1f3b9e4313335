//! Processes as the keeper needs them: forks of a single-threaded process, pidfds, start times, locks.
//!
//! The only `unsafe` of the keeper beside `pump::pipe` and `worker::sandbox`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};

/// Now, in microseconds since 1970.
pub(super) fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Forks; the child runs `body` and exits with its result, never returning into the caller's stack.
///
/// Signals are unblocked in the child. Only for processes with a single thread.
pub(super) fn fork(body: impl FnOnce() -> u8) -> io::Result<u32> {
    // SAFETY: every caller is the holder or a fork of it, which never starts a thread, so the child
    // finds no lock held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ = nix::sys::signal::sigprocmask(
                SigmaskHow::SIG_SETMASK,
                Some(&SigSet::empty()),
                None,
            );
            let code = body();
            // SAFETY: `_exit` has no preconditions; skipping destructors and exit handlers is meant.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Ok(pid.unsigned_abs()),
    }
}

/// Closes every descriptor from 3 on that is not in `keep`.
///
/// For a fresh fork that goes on for long: what it does not need must not be held open by it.
/// Objects of the parent that own these descriptors must never be used or dropped afterwards.
pub(super) fn close_others(keep: &[RawFd]) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for fd in open {
        if fd > 2 && !keep.contains(&fd) {
            // SAFETY: closing a number is memory-safe; the caller promises that no owner uses it.
            unsafe { libc::close(fd) };
        }
    }
}

/// Takes every signal that is ignored by default again. Ignored signals are inherited by programs, which
/// cannot always undo that: a shell does not trap what was ignored when it began. Rust ignores SIGPIPE,
/// and whoever started the board may have ignored others (`nohup` does SIGHUP).
pub(super) fn default_signals() {
    let action = |handler| SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|it| !matches!(it, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default runs no code of ours, and what was there before was in force before.
        let _ = unsafe {
            match nix::sys::signal::sigaction(signal, &action(SigHandler::SigDfl)) {
                Ok(before) if before.handler() != SigHandler::SigIgn => {
                    nix::sys::signal::sigaction(signal, &before)
                }
                other => other,
            }
        };
    }
}

/// Ignores SIGPIPE, as Rust wants it.
pub(super) fn ignore_sigpipe() {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring runs no code of ours.
    let _ = unsafe { nix::sys::signal::sigaction(Signal::SIGPIPE, &action) };
}

/// Lets a descriptor pass an execve.
pub(super) fn let_inherit(fd: RawFd) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(())
}

/// A descriptor that an execve left to us, by its number.
pub(super) fn inherited(number: &OsStr) -> io::Result<OwnedFd> {
    let number: Option<RawFd> = number.to_str().and_then(|text| text.parse().ok());
    let fd = number.filter(|fd| *fd > 2).ok_or_else(|| io::Error::other("not a descriptor"))?;
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open (fcntl succeeded) and was left to us alone by the execve.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on a process that never means another one.
#[derive(Debug)]
pub(super) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens `pid`, a child or somebody else's process.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd =
            unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(to_pid(pid)?), 0) };
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just returned this descriptor to us, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Opens `pid` if it is still the process that started at `start_ticks`.
    pub(super) fn open_same(pid: u32, start_ticks: u64) -> Option<Self> {
        let fd = Self::open(pid).ok()?;
        (start_ticks_of(pid)? == start_ticks).then_some(fd)
    }

    /// Sends a signal; a process that is gone takes it silently.
    pub(super) fn signal(&self, signo: i32) -> io::Result<()> {
        // SAFETY: pidfd_send_signal takes a descriptor that we own, a number and a null siginfo.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                libc::c_long::from(self.0.as_raw_fd()),
                libc::c_long::from(signo),
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if sent == 0 => Ok(()),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// Waits up to `millis` for the process to end; whether it did.
    pub(super) fn wait(&self, millis: u16) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::from(millis)), Ok(ready) if ready > 0)
    }
}

impl std::os::fd::AsFd for PidFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A pid as the kernel's signed type.
pub(super) fn to_pid(pid: u32) -> io::Result<i32> {
    match i32::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// When a process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
pub(super) fn start_ticks_of(pid: u32) -> Option<u64> {
    parse_start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether `pid` is a child of this process.
pub(super) fn is_child(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat_field(&stat, 4) == Some(u64::from(std::process::id()))
}

fn parse_start_ticks(stat: &str) -> Option<u64> {
    stat_field(stat, 22)
}

/// A field of /proc/PID/stat by its number in proc(5), from 3 on.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    // The command name is in parentheses and may contain anything, parentheses and spaces included.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// An exclusive fcntl lock on a file: one process at a time, released with the process.
#[derive(Debug)]
pub(super) struct ProcessLock {
    file: File,
}

impl ProcessLock {
    /// Takes the lock, or names the process that has it.
    pub(super) fn acquire(path: &Path) -> io::Result<Result<Self, u32>> {
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        Self::acquire_open(file)
    }

    /// Takes the lock on an open file.
    pub(super) fn acquire_open(file: File) -> io::Result<Result<Self, u32>> {
        use nix::fcntl::{FcntlArg, fcntl};
        let wanted = whole_file(libc::F_WRLCK);
        match fcntl(file.as_raw_fd(), FcntlArg::F_SETLK(&wanted)) {
            Ok(_) => Ok(Ok(Self { file })),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(Err(owner_of(&file)?.unwrap_or(0))),
            Err(error) => Err(error.into()),
        }
    }

    /// The process that has the lock at `path`, if any.
    pub(super) fn owner(path: &Path) -> Option<u32> {
        owner_of(&File::options().read(true).write(true).open(path).ok()?).ok()?
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

fn owner_of(file: &File) -> io::Result<Option<u32>> {
    use nix::fcntl::{FcntlArg, fcntl};
    let mut probe = whole_file(libc::F_WRLCK);
    fcntl(file.as_raw_fd(), FcntlArg::F_GETLK(&mut probe))?;
    if i32::from(probe.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    Ok(u32::try_from(probe.l_pid).ok())
}

fn whole_file(kind: i32) -> libc::flock {
    // SAFETY: `flock` is plain integers; all zeroes is a valid value of it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// An error with all its causes on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_ticks_survive_odd_command_names() {
        let check = |name: &str| {
            let stat =
                format!("12 ({name}) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 9 9");
            assert_eq!(parse_start_ticks(&stat), Some(98765), "{name}");
        };
        check("sh");
        check("a b) S 1 (c");
        assert_eq!(parse_start_ticks("nonsense"), None);
        assert!(start_ticks_of(std::process::id()).is_some());
    }

    #[test]
    fn a_handle_is_for_one_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let ticks = start_ticks_of(child.id()).expect("runs");
        assert!(PidFd::open_same(child.id(), ticks + 1).is_none());
        let fd = PidFd::open_same(child.id(), ticks).expect("runs");
        assert!(!fd.wait(0));
        fd.signal(libc::SIGKILL).expect("alive");
        assert!(fd.wait(5000));
        child.wait().expect("reaped");
        fd.signal(libc::SIGKILL).expect("gone is fine");
    }
}
