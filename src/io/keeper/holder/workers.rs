//! Forks of the holder that serve one request each, and the ends of all children.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::io::keeper::process::{PidFd, close_others, fork, now_micros};
use crate::io::keeper::wire::{ExitV1, StartHeaderV1};
use crate::io::keeper::worker::{Failure, Site, answer, remove, start};

/// Longest time for a start, a removal or a sandbox; an exec has its own on top.
const WORK_WAIT: Duration = Duration::from_secs(45);

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Start,
    Remove,
    Other,
    /// Lives as long as its client wants.
    Session,
}

/// A child that works.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) job: Job,
    /// The container it is about; empty for others.
    pub(super) id: String,
    report: Option<UnixStream>,
    /// Who is told that the removal is done, once the holder has forgotten the container.
    pub(super) client: Option<UnixStream>,
    /// When it is taken to hang; a session never.
    until: Option<Instant>,
}

impl Worker {
    fn new(job: Job, id: &str, time: Duration) -> Self {
        let until = (job != Job::Session).then(|| Instant::now() + time);
        Self { job, id: id.to_owned(), report: None, client: None, until }
    }
}

/// All of them, by pid.
#[derive(Debug, Default)]
pub(super) struct Workers(BTreeMap<u32, Worker>);

impl Workers {
    /// Those that end by themselves.
    pub(super) fn count(&self) -> usize {
        self.0.len() - self.sessions()
    }

    pub(super) fn sessions(&self) -> usize {
        self.0.values().filter(|worker| worker.job == Job::Session).count()
    }

    /// When the next worker is taken to hang.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|worker| worker.until).min()
    }

    /// Kills workers that hang; their clients see the connection end.
    pub(super) fn kill_overdue(&mut self, now: Instant) {
        let overdue = |worker: &Worker| worker.until.is_some_and(|until| until <= now);
        for (pid, worker) in self.0.iter_mut().filter(|(_, worker)| overdue(worker)) {
            eprintln!("holder: worker {pid} ({:?} {}) hangs", worker.job, worker.id);
            worker.until = Some(now + WORK_WAIT);
            // Our own child, not reaped: the handle is for nobody else.
            if let Ok(process) = PidFd::open(*pid) {
                let _ = process.signal(libc::SIGKILL);
            }
        }
    }

    /// Whether a worker makes or removes this container.
    pub(super) fn has(&self, id: &str) -> bool {
        self.0.values().any(|worker| worker.id == id)
    }

    /// Descriptors on which starters report.
    pub(super) fn reports(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.0.iter().filter_map(|(pid, worker)| Some((*pid, worker.report.as_ref()?.as_fd())))
    }

    /// The container that a starter reports as made, and the stream that waits for the word to go.
    pub(super) fn take_report(&mut self, pid: u32) -> Option<(String, UnixStream)> {
        let worker = self.0.get_mut(&pid)?;
        let mut report = worker.report.take()?;
        let mut container = [0; 4];
        // Nothing but the end of the stream means that the starter failed; it has cleaned up.
        report.read_exact(&mut container).ok()?;
        Some((worker.id.clone(), report))
    }

    /// The worker that has ended, if `pid` was one.
    pub(super) fn ended(&mut self, pid: u32) -> Option<Worker> {
        self.0.remove(&pid)
    }

    pub(super) fn start(
        &mut self,
        site: &Site,
        header: &StartHeaderV1,
        stream: &UnixStream,
    ) -> Result<(), Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        let stream = stream.try_clone()?;
        let keep = [stream.as_raw_fd(), theirs.as_raw_fd()];
        let pid = fork(|| {
            close_others(&keep);
            // The fork owns copies of these two; the originals belong to the holder.
            match (stream.try_clone(), theirs.try_clone()) {
                (Ok(stream), Ok(report)) => start::run(site, header, stream, report),
                _ => 1,
            }
        })?;
        let worker = Worker::new(Job::Start, &header.id, WORK_WAIT);
        self.0.insert(pid, Worker { report: Some(ours), ..worker });
        Ok(())
    }

    /// Removes what an ended container left.
    pub(super) fn remove(&mut self, site: &Site, id: &str, stream: Option<UnixStream>) {
        let keep: Vec<_> = stream.iter().map(AsRawFd::as_raw_fd).collect();
        let forked = fork(|| {
            close_others(&keep);
            remove::run(site, id, stream.as_ref().and_then(|stream| stream.try_clone().ok()))
        });
        match forked {
            Ok(pid) => {
                let worker = Worker::new(Job::Remove, id, WORK_WAIT);
                self.0.insert(pid, Worker { client: stream, ..worker });
            }
            Err(error) => refuse(stream, error),
        }
    }

    /// Forks a worker that owns `stream` and may take `time` more than others.
    pub(super) fn run(
        &mut self,
        stream: &UnixStream,
        time: Duration,
        body: impl FnOnce(UnixStream) -> u8,
    ) -> Result<(), Failure> {
        self.fork(Job::Other, WORK_WAIT + time, stream, body)
    }

    /// Forks a worker that owns `stream` and lives as long as the client at its other end wants.
    pub(super) fn session(
        &mut self,
        stream: &UnixStream,
        body: impl FnOnce(UnixStream) -> u8,
    ) -> Result<(), Failure> {
        self.fork(Job::Session, Duration::ZERO, stream, body)
    }

    fn fork(
        &mut self,
        job: Job,
        time: Duration,
        stream: &UnixStream,
        body: impl FnOnce(UnixStream) -> u8,
    ) -> Result<(), Failure> {
        let keep = [stream.as_raw_fd()];
        let pid = fork(|| {
            close_others(&keep);
            stream.try_clone().map_or(1, body)
        })?;
        self.0.insert(pid, Worker::new(job, "", time));
        Ok(())
    }
}

fn refuse(stream: Option<UnixStream>, error: io::Error) {
    match stream {
        Some(mut stream) => {
            answer(&mut stream, Err(Failure::failed("forking a worker", &error)));
        }
        None => eprintln!("holder: forking a worker: {error}"),
    }
}

/// Reaps every child that has ended.
pub(super) fn ended_children() -> Vec<(u32, ExitV1)> {
    let mut ended = Vec::new();
    loop {
        let exit = |code, signal| ExitV1 { code, signal, at_micros: now_micros(), oom: false };
        let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, exit(Some(code), None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, exit(None, Some(signal as i32))),
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return ended,
            Ok(_) | Err(nix::Error::EINTR) => continue,
            Err(error) => {
                // A signal number that nix does not know (real-time): the child is reaped anyway.
                eprintln!("holder: waiting for children: {error}");
                continue;
            }
        };
        ended.push((pid.as_raw().unsigned_abs(), exit));
    }
}
