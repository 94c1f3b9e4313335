//! Runs a process inside a running container for a client who takes its streams.
//!
//! ```text
//!  pipes, or a socket that the terminal comes over ─> process ─> descriptors to the client
//!     ─> wait: process ends ─> its result to the client
//!          └── client closes the connection ─> SIGHUP, then SIGKILL, for all of its process group
//! ```
//! The bytes never come through here: a worker that is killed cuts nothing off. Unlike other workers
//! this one lives as long as its client wants.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::exec::{Stdio, make_scratch, note_end, process_of, spec_of, tenant};
use super::overlay::remove_tree;
use super::{Failure, Site, answer};
use crate::io::keeper::descriptors;
use crate::io::keeper::process::PidFd;
use crate::io::keeper::wire::{self, ExecResultV1, ExecV1, Refusal, ResponseV1, SessionV1};

/// How long a process whose client has gone may take to leave by itself.
const HANGUP_WAIT_MILLIS: u16 = 1_000;
/// How long a killed process is waited for.
const KILL_WAIT_MILLIS: u16 = 10_000;
/// What a terminal is called when the image does not say it (as containerd).
const TERM: &str = "TERM=xterm";

/// Runs in a fork of the holder, which has checked that the container runs.
pub(in crate::io::keeper) fn run(site: &Site, session: &SessionV1, mut stream: UnixStream) -> u8 {
    let bundle = site.layout.container(&session.id);
    let scratch = bundle.join(format!("exec-{}", std::process::id()));
    let begun = begin(site, session, &bundle, &scratch);
    if let Err(error) = remove_tree(&scratch) {
        eprintln!("session in {}: {error}", session.id);
    }
    let outcome = begun.and_then(|(pid, ends)| {
        let frame = wire::frame(&ResponseV1::Begun)?;
        let told = descriptors::send(&stream, &frame, &ends);
        drop(ends);
        let gone = told.is_err();
        attend(pid, &stream, gone).map_err(Failure::from)
    });
    answer(&mut stream, outcome.map(ResponseV1::Executed))
}

/// The process, and the client's ends of its streams.
fn begin(
    site: &Site,
    session: &SessionV1,
    bundle: &Path,
    scratch: &Path,
) -> Result<(Pid, Vec<OwnedFd>), Failure> {
    if session.argv.is_empty() {
        return Err(Failure::new(Refusal::Invalid, "no program to run"));
    }
    let exec = ExecV1 { argv: session.argv.clone(), ..ExecV1::default() };
    let mut process = process_of(&spec_of(bundle)?["process"], &exec);
    make_scratch(site, &session.id, scratch)?;
    let process_file = scratch.join("process.json");
    if session.tty {
        prepare_terminal(&mut process);
    }
    fs::write(&process_file, process.to_string())?;
    if !session.tty {
        let (theirs, ours) = pipes(session)?;
        let pid = tenant(&session.id, scratch, &process_file, Stdio::Pipes(theirs.map(Some)))?;
        return Ok((pid, ours));
    }
    let listener = listen_in(scratch, "console.sock")?;
    let console = Stdio::Console(scratch.join("console.sock"));
    let pid = tenant(&session.id, scratch, &process_file, console)?;
    let terminal = accept_terminal(&listener, &process).inspect_err(|_| {
        let _ = killpg(pid, Signal::SIGKILL);
    });
    Ok((pid, vec![terminal?]))
}

/// Marks a process as one with a terminal.
pub(super) fn prepare_terminal(process: &mut Value) {
    process["terminal"] = json!(true);
    let named = |entry: &Value| entry.as_str().is_some_and(|entry| entry.starts_with("TERM="));
    match process["env"].as_array_mut() {
        Some(env) if env.iter().any(named) => {}
        Some(env) => env.push(json!(TERM)),
        None => process["env"] = json!([TERM]),
    }
}

/// The process's descriptors 0 to 2, and the client's ends.
fn pipes(session: &SessionV1) -> io::Result<([OwnedFd; 3], Vec<OwnedFd>)> {
    let mut ours = Vec::new();
    let mut make = |wanted: bool, input: bool| -> io::Result<OwnedFd> {
        if !wanted {
            return Ok(File::options().read(true).write(true).open("/dev/null")?.into());
        }
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (their, our) = if input { (read, write) } else { (write, read) };
        ours.push(our);
        Ok(their)
    };
    let theirs =
        [make(session.stdin, true)?, make(session.stdout, false)?, make(session.stderr, false)?];
    Ok((theirs, ours))
}

/// A listening socket in a directory whose path may be too long for one.
pub(super) fn listen_in(dir: &Path, name: &str) -> io::Result<UnixListener> {
    // This process has one thread and needs its directory for nothing else.
    std::env::set_current_dir(dir)?;
    let listener = UnixListener::bind(name);
    std::env::set_current_dir("/")?;
    listener
}

/// The terminal that the runtime has sent; its inner end is given to the process's user.
pub(super) fn accept_terminal(listener: &UnixListener, process: &Value) -> io::Result<OwnedFd> {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(KILL_WAIT_MILLIS))? == 0 {
        return Err(io::Error::other("the runtime sent no terminal"));
    }
    let (stream, _) = listener.accept()?;
    let (_, mut received) = descriptors::receive(stream.as_raw_fd(), &mut [0; 64])?;
    let terminal =
        received.pop().ok_or_else(|| io::Error::other("the runtime sent no terminal"))?;
    let uid = process["user"]["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok());
    let inner = descriptors::terminal_peer(terminal.as_fd())?;
    let uid = nix::unistd::Uid::from_raw(uid.unwrap_or(0));
    nix::unistd::fchown(inner.as_raw_fd(), Some(uid), None)?;
    Ok(terminal)
}

/// Waits for the end of the process, and brings it about when the client has gone.
fn attend(pid: Pid, stream: &UnixStream, mut gone: bool) -> io::Result<ExecResultV1> {
    let process = PidFd::open(u32::try_from(pid.as_raw()).map_err(io::Error::other)?)?;
    while !gone {
        // The client sends nothing: whatever happens to its end is its end.
        let mut fds = [
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [over, closed] = fds.map(|fd| fd.revents().is_some_and(|seen| !seen.is_empty()));
        if over {
            break;
        }
        gone = closed;
    }
    if gone && !process.wait(0) {
        // It is the leader of its session; what it started goes with it.
        let _ = killpg(pid, Signal::SIGHUP);
        if !process.wait(HANGUP_WAIT_MILLIS) {
            let _ = killpg(pid, Signal::SIGKILL);
            process.signal(libc::SIGKILL)?;
        }
        if !process.wait(KILL_WAIT_MILLIS) {
            return Err(io::Error::other("the process does not end, even when killed"));
        }
    }
    let mut result = ExecResultV1::default();
    note_end(pid, &mut result)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_name() {
        let check = |env: Value, expected: Value| {
            let mut process = json!({"terminal": false, "env": env});
            prepare_terminal(&mut process);
            assert_eq!(process, json!({"terminal": true, "env": expected}));
        };
        check(json!(["A=1"]), json!(["A=1", "TERM=xterm"]));
        check(json!(["TERM=dumb"]), json!(["TERM=dumb"]));
        check(Value::Null, json!(["TERM=xterm"]));
    }

    #[test]
    fn only_what_is_wanted_gets_a_pipe() {
        let session = SessionV1 { stdin: true, stderr: true, ..SessionV1::default() };
        let (theirs, ours) = pipes(&session).expect("pipes");
        assert_eq!(ours.len(), 2);
        nix::unistd::write(&theirs[2], b"hello").expect("room");
        let mut buffer = [0; 8];
        assert_eq!(nix::unistd::read(ours[1].as_raw_fd(), &mut buffer).expect("bytes"), 5);
        nix::unistd::write(&theirs[1], b"thrown away").expect("the null device");
    }
}
