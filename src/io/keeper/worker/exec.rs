//! Runs a process inside a running container, within a time and an amount of output.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use model::limits::EXEC_OUTPUT_BYTES_MAX;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::overlay::remove_tree;
use super::{Failure, Site, answer};
use crate::io::keeper::process::{PidFd, default_signals, ignore_sigpipe};
use crate::io::keeper::wire::{ExecResultV1, ExecV1, Refusal, ResponseV1};

/// How long output is still awaited after the process ended (its children may hold the pipe).
const LATE_OUTPUT: Duration = Duration::from_millis(100);

/// Runs in a fork of the holder, which has checked that the container runs.
pub(in crate::io::keeper) fn run(site: &Site, exec: &ExecV1, mut stream: UnixStream) -> u8 {
    let bundle = site.layout.container(&exec.id);
    let scratch = bundle.join(format!("exec-{}", std::process::id()));
    let outcome = execute(site, exec, &bundle, &scratch);
    if let Err(error) = remove_tree(&scratch) {
        eprintln!("exec in {}: {error}", exec.id);
    }
    answer(&mut stream, outcome.map(ResponseV1::Executed))
}

/// A state directory of this exec alone: libcontainer leaves a socket in it each time.
pub(super) fn make_scratch(site: &Site, id: &str, scratch: &Path) -> io::Result<()> {
    let state = scratch.join(id);
    fs::create_dir_all(&state)?;
    for entry in fs::read_dir(site.layout.runtime().join(id))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            symlink(entry.path(), state.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn execute(
    site: &Site,
    exec: &ExecV1,
    bundle: &Path,
    scratch: &Path,
) -> Result<ExecResultV1, Failure> {
    if exec.argv.is_empty() {
        return Err(Failure::new(Refusal::Invalid, "no program to run"));
    }
    let process = process_of(&spec_of(bundle)?["process"], exec);
    make_scratch(site, &exec.id, scratch)?;
    let process_file = scratch.join("process.json");
    fs::write(&process_file, process.to_string())?;
    let (output, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from)?;
    let begun = Instant::now();
    let stdio = Stdio::Pipes([None, Some(write.try_clone()?), Some(write)]);
    let pid = tenant(&exec.id, scratch, &process_file, stdio)?;
    let limit = (exec.output_bytes_max as usize).min(EXEC_OUTPUT_BYTES_MAX);
    let timeout = Duration::from_millis(exec.timeout_ms.into());
    watch(pid, File::from(output), begun + timeout, limit).map_err(Failure::from)
}

/// The spec that a container runs by.
pub(super) fn spec_of(bundle: &Path) -> Result<Value, Failure> {
    serde_json::from_slice(&fs::read(bundle.join("config.json"))?)
        .map_err(|error| Failure::failed("reading the container's spec", &error))
}

/// The container's own process with another program.
pub(super) fn process_of(process: &Value, exec: &ExecV1) -> Value {
    let mut process = process.clone();
    process["args"] = json!(exec.argv);
    process["terminal"] = json!(false);
    if let Some(cwd) = &exec.cwd {
        process["cwd"] = json!(cwd);
    }
    if let Some((uid, gid)) = exec.user {
        process["user"] = json!({"uid": uid, "gid": gid});
    }
    if !exec.env.is_empty() {
        let name = |entry: &str| entry.split('=').next().unwrap_or("").to_owned();
        let replaced: Vec<String> = exec.env.iter().map(|entry| name(entry)).collect();
        let own = process["env"].as_array().cloned().unwrap_or_default();
        let kept = own
            .into_iter()
            .filter(|entry| entry.as_str().is_some_and(|entry| !replaced.contains(&name(entry))));
        process["env"] = kept.chain(exec.env.iter().map(|entry| json!(entry))).collect();
    }
    process
}

/// What a process gets as its input, output and errors.
pub(super) enum Stdio {
    /// These; the worker's own where there is none.
    Pipes([Option<OwnedFd>; 3]),
    /// A terminal, whose other end is sent to this socket.
    Console(PathBuf),
}

/// Starts a process beside the container's own.
pub(super) fn tenant(
    id: &str,
    root: &Path,
    process_file: &Path,
    stdio: Stdio,
) -> Result<Pid, Failure> {
    let give = |mut builder: ContainerBuilder| match stdio {
        Stdio::Pipes([stdin, stdout, stderr]) => {
            builder = stdin.into_iter().fold(builder, ContainerBuilder::with_stdin);
            builder = stdout.into_iter().fold(builder, ContainerBuilder::with_stdout);
            stderr.into_iter().fold(builder, ContainerBuilder::with_stderr)
        }
        Stdio::Console(socket) => builder.with_console_socket(Some(socket)),
    };
    default_signals();
    let pid = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(root)
        .map(give)
        .and_then(|builder| {
            builder.as_tenant().with_process(Some(process_file)).with_detach(true).build()
        });
    ignore_sigpipe();
    pid.map_err(|error| {
        let Failure { refusal, text } = Failure::failed("running in the container", &error);
        Failure::new(refusal, text.replace('\0', ""))
    })
}

/// Collects output until the process ends, and kills it when its time is over.
fn watch(pid: Pid, output: File, deadline: Instant, limit: usize) -> io::Result<ExecResultV1> {
    let raw = u32::try_from(pid.as_raw()).map_err(io::Error::other)?;
    let process = PidFd::open(raw)?;
    let mut result = ExecResultV1::default();
    let mut output = Some(output);
    let mut buffer = [0; 4096];
    let mut until = deadline;
    let mut ended = false;
    while !ended || output.is_some() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            if ended {
                break;
            }
            result.timed_out = true;
            // It is the leader of its session; what it started goes with it.
            let _ = nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL);
            process.signal(libc::SIGKILL)?;
            until = Instant::now() + Duration::from_secs(5);
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1))
            .unwrap_or(PollTimeout::from(u16::MAX));
        // An absent descriptor is watched for nothing: the process's own stands in.
        let watched = output.as_ref().map_or(process.as_fd(), AsFd::as_fd);
        let interest = if output.is_some() { PollFlags::POLLIN } else { PollFlags::empty() };
        let alive = if ended { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = [PollFd::new(watched, interest), PollFd::new(process.as_fd(), alive)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [readable, over] = fds.map(|fd| fd.revents().is_some_and(|seen| !seen.is_empty()));
        if readable && let Some(file) = &mut output {
            let count = file.read(&mut buffer)?;
            let room = limit - result.output.len();
            result.output.extend_from_slice(&buffer[..count.min(room)]);
            result.truncated |= count > room;
            if count == 0 {
                output = None;
            }
        }
        if over && !ended {
            ended = true;
            until = Instant::now() + LATE_OUTPUT;
        }
    }
    note_end(pid, &mut result)?;
    Ok(result)
}

/// Reaps a process that has ended.
pub(super) fn note_end(pid: Pid, result: &mut ExecResultV1) -> io::Result<()> {
    match waitpid(pid, None)? {
        WaitStatus::Exited(_, code) => result.code = Some(code),
        WaitStatus::Signaled(_, signal, _) => result.signal = Some(signal as i32),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_process_with_another_program() {
        let own = json!({
            "args": ["sleep"], "cwd": "/", "env": ["A=1", "B=2"], "terminal": true,
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "noNewPrivileges": true,
        });
        let exec = ExecV1 {
            argv: vec!["true".into()],
            env: vec!["B=3".into(), "C=".into()],
            ..ExecV1::default()
        };
        let process = process_of(&own, &exec);
        assert_eq!(process["args"], json!(["true"]));
        assert_eq!(process["env"], json!(["A=1", "B=3", "C="]));
        assert_eq!(process["user"], own["user"]);
        assert_eq!((&process["terminal"], &process["cwd"]), (&json!(false), &json!("/")));
        let exec = ExecV1 { user: Some((1, 2)), cwd: Some("/tmp".into()), ..exec };
        let process = process_of(&own, &exec);
        assert_eq!(process["user"], json!({"uid": 1, "gid": 2}));
        assert_eq!(process["cwd"], "/tmp");
    }
}
