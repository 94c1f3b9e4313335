//! The guard: a process of the old binary that watches the new one, and starts the old one again when
//! nobody else does.
//!
//! It is not needed where something supervises the board: FILE is the old binary all the time. It ends
//! what hangs, and it serves boards that were started by hand.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use super::process::Process;
use super::record::{Record, State, last};

/// The hidden subcommands: the first starts the second and ends, so that it is nobody's child.
const START: &str = "upgrade-guard";
const WATCH: &str = "upgrade-watch";
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long something else may take to start the board again.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);
/// The same where systemd started it.
const SYSTEMD_WITHIN: Duration = Duration::from_secs(30);

/// Starts a guard of this very process.
pub(super) fn start(data: &Path, exe: &Path, arguments: &[OsString]) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    let own = Process::find(pid).ok_or_else(|| io::Error::other("/proc is not there"))?;
    let status = Command::new(exe)
        .arg(START)
        .arg(data)
        .args([own.pid.to_string(), own.start.to_string()])
        .args(arguments)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("its guard ended with {status}"))),
    }
}

/// Runs the guard's hidden subcommands if `args` (with the program's name first) name one.
pub fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    let [_, subcommand, rest @ ..] = args else { return None };
    let outcome = if subcommand == START {
        detach(rest)
    } else if subcommand == WATCH {
        watch(rest)
    } else {
        return None;
    };
    match outcome {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("kumquat: guard of the upgrade: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

fn detach(rest: &[OsString]) -> io::Result<()> {
    // The path and not /proc/self/exe: tools show what it is.
    let _watcher = Command::new(std::env::current_exe()?).arg(WATCH).args(rest).spawn()?;
    Ok(())
}

fn watch(rest: &[OsString]) -> io::Result<()> {
    let [data, pid, start, arguments @ ..] = rest else {
        return Err(io::Error::other("usage: upgrade-watch DATA-DIR PID START ARGUMENTS"));
    };
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let bad = || io::Error::from(io::ErrorKind::InvalidInput);
    let pid = number(pid).and_then(|pid| i32::try_from(pid).ok()).ok_or_else(bad)?;
    let board = Process { pid, start: number(start).ok_or_else(bad)? };
    // What is sent to the board's group or terminal is not for its guard.
    nix::unistd::setsid()?;
    let data = Path::new(data);
    let Some(why) = wait(data, board) else { return Ok(()) };
    let Some(mut record) = last(data).filter(|record| record.state == State::Trial) else {
        return Ok(());
    };
    eprintln!("kumquat: the new binary goes: {why}; the old one is started again");
    record.why.get_or_insert(why);
    // A full disk must not keep the board from its old binary.
    let _unwritten = record.save(data);
    if others_start(data) {
        return Ok(());
    }
    Err(Command::new(&record.exe).args(arguments).exec())
}

/// Waits until the trial is over; gives why it has to be ended, unless somebody else knows.
fn wait(data: &Path, board: Process) -> Option<String> {
    let on_trial = || last(data).filter(|record| record.state == State::Trial);
    // Judged once: a file that somebody has removed does not come back, and reading another one takes long.
    let mut is_kept = None;
    loop {
        let record = on_trial()?;
        let is_gone = !record.staged.exists();
        if is_gone && *is_kept.get_or_insert_with(|| record.is_kept_at(&record.exe)) {
            // The disk was too full to write that down.
            return None;
        }
        if !board.runs() {
            // It may have been kept, or written down, a moment before.
            let record = on_trial()?;
            let has_ended = !record.is_kept_at(&record.exe);
            return has_ended.then(|| "it ended by itself".to_owned());
        }
        if record.age_ms() > u64::from(record.ready_seconds) * 1_000 {
            if record.is_kept_at(&record.exe) {
                return None;
            }
            let why = format!("it was not ready within {} s", record.ready_seconds);
            // First: what supervises the board may end this guard with it.
            let _unwritten = Record { why: Some(why.clone()), ..record }.save(data);
            board.end();
            while board.runs() {
                std::thread::sleep(LOOK_EVERY);
            }
            return Some(why);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether something else has started the board by the time that it may take for it.
fn others_start(data: &Path) -> bool {
    let within = match std::env::var_os("INVOCATION_ID") {
        Some(_) => SYSTEMD_WITHIN,
        None => OTHERS_WITHIN,
    };
    let deadline = Instant::now() + within;
    loop {
        if is_locked(&data.join("lock")) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a process has the lock; looking does not keep anybody from taking it.
fn is_locked(path: &Path) -> bool {
    let Ok(inode) = std::fs::metadata(path).map(|file| file.ino().to_string()) else {
        return false;
    };
    // proc_locks(5): `1: FLOCK  ADVISORY  WRITE 4321 00:19:77 0 EOF`.
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let file = words.get(5).and_then(|file| file.rsplit(':').next());
        words.get(1) == Some(&"FLOCK") && file == Some(&*inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::exchange::record::hex;
    use crate::io::exchange::staged::digest_of;
    use nix::fcntl::{Flock, FlockArg};

    #[test]
    fn only_a_trial_that_was_kept_or_given_up_needs_no_old_binary() {
        let data = std::env::temp_dir().join(format!("kumquat-watch-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("made");
        let (exe, staged) = (data.join("kumquat"), data.join("kumquat.trial"));
        std::fs::write(&exe, "old").expect("written");
        std::fs::write(&staged, "new").expect("written");
        let sha256 = hex(&digest_of(&staged).expect("read"));
        let (state, ready_seconds) = (State::Trial, u32::MAX);
        let (exe, staged) = (exe.clone(), staged.clone());
        let record = Record { state, sha256, exe, staged, ready_seconds, ..Record::default() };
        record.save(&data).expect("saved");
        // A process that has ended: nobody has the number 0.
        let ended = Process { pid: 0, start: 0 };
        let own = i32::try_from(std::process::id()).expect("a pid");
        let own = Process::find(own).expect("this test runs");
        assert!(wait(&data, ended).is_some(), "the old one has to be started");
        // Somebody has removed it: the board cannot be kept, and nobody else starts the old one.
        std::fs::remove_file(&record.staged).expect("there");
        assert!(wait(&data, ended).is_some(), "the old one has to be started");
        // The outcome could not be written down.
        std::fs::write(&record.exe, "new").expect("written");
        assert_eq!(wait(&data, ended), None, "it was kept");
        assert_eq!(wait(&data, own), None, "it was kept");
        std::fs::write(&record.exe, "old").expect("written");
        super::super::record::forget(&data).expect("there");
        assert_eq!(wait(&data, ended), None, "a person has stopped it");
        std::fs::remove_dir_all(data).expect("removed");
    }

    #[test]
    fn a_lock_is_seen_without_being_taken() {
        let path = std::env::temp_dir().join(format!("kumquat-guard-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("made");
        assert!(!is_locked(&path));
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("free");
        assert!(is_locked(&path));
        drop(lock);
        assert!(!is_locked(&path));
        std::fs::remove_file(&path).expect("removed");
        assert!(!is_locked(&path));
    }
}
