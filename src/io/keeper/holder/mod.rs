//! The holder: parent of the containers, a poll loop that does almost nothing.
//!
//! In: requests, the ends of children, the pump's reports. Out: workers forked, records on disk,
//! events to subscribers. Invariants: a container's program begins only after the holder watches it;
//! a pid is used only through a pidfd or as our own unreaped child; nothing here blocks for long.
//!
//! ```text
//!            start                  init ends            removal asked
//!  (worker) ───────> Running ─────────────────> Exited ───────────────> (worker) ──> forgotten
//!                       └──── removal asked: SIGKILL ────┘  waits for end and log, then worker
//! ```

mod connection;
mod containers;
mod kept;
mod pumping;
mod requests;
mod workers;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::limits::{KEEPER_CONNECTIONS_MAX, KEEPER_WORKERS_MAX};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::process::{ProcessLock, let_inherit};
use super::pump;
use super::wire::{self, Refusal, RequestV1, ResponseV1};
use super::worker::Site;
use crate::io::code::Quiet;
use connection::{Connection, Progress, make_blocking};
use containers::Containers;
pub(super) use kept::Kept;
use pumping::Pumping;
use requests::refuse;
use workers::Workers;

/// What survives an upgrade by execve, and the rest of what a holder is started with.
#[derive(Debug)]
pub(super) struct Holdings {
    pub(super) site: Site,
    pub(super) data_dir: PathBuf,
    pub(super) listener: UnixListener,
    pub(super) lock: ProcessLock,
    pub(super) kept: Kept,
}

/// A request that cannot be served yet: a container must end first, or a worker.
struct Waiting {
    request: RequestV1,
    stream: UnixStream,
    until: Instant,
}

pub(super) struct Holder {
    site: Site,
    data_dir: PathBuf,
    listener: UnixListener,
    lock: ProcessLock,
    kept: Kept,
    signals: SignalFd,
    connections: Vec<Connection>,
    subscribers: Vec<UnixStream>,
    waiting: Vec<Waiting>,
    containers: Containers,
    workers: Workers,
    pumping: Pumping,
    quiet: Quiet,
    /// Keeps the pump's stage pipe alive between two pumps.
    _stage: File,
}

/// What a descriptor that became readable belongs to.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Connection(usize),
    Worker(u32),
    Pump,
    Container,
}

impl Holder {
    /// Takes over what is on disk and what runs.
    pub(super) fn new(holdings: Holdings) -> io::Result<Self> {
        let Holdings { site, data_dir, listener, lock, kept } = holdings;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        listener.set_nonblocking(true)?;
        let stage = pump::hold_stage(&site.layout)?;
        let mut workers = Workers::default();
        let containers = Containers::recover(&site, &mut workers)?;
        let mut holder = Self {
            site,
            data_dir,
            listener,
            lock,
            kept,
            signals,
            connections: Vec::new(),
            subscribers: Vec::new(),
            waiting: Vec::new(),
            containers,
            workers,
            pumping: Pumping::default(),
            quiet: Quiet::new(),
            _stage: stage,
        };
        holder.reap();
        Ok(holder)
    }

    /// Serves until the process is killed or replaced.
    pub(super) fn run(mut self) -> io::Result<()> {
        loop {
            self.pumping.ensure(&self.site, &self.containers);
            self.settle();
            let ready = self.wait()?;
            if !ready.is_empty() {
                self.quiet.disturb();
            }
            self.quiet.settle();
            for source in ready.iter().rev() {
                self.serve(*source)?;
            }
            let now = Instant::now();
            self.connections.retain(|connection| connection.until() > now);
        }
    }

    /// Sources with something to do; connections in ascending order.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut fds: Vec<(BorrowedFd<'_>, Source)> = vec![(self.signals.as_fd(), Source::Signals)];
        if self.connections.len() < KEEPER_CONNECTIONS_MAX
            && self.workers.count() < KEEPER_WORKERS_MAX
        {
            fds.push((self.listener.as_fd(), Source::Listener));
        }
        fds.extend(self.pumping.control().map(|fd| (fd, Source::Pump)));
        fds.extend(self.workers.reports().map(|(pid, fd)| (fd, Source::Worker(pid))));
        fds.extend(self.containers.orphans().map(|fd| (fd, Source::Container)));
        let connections = self.connections.iter().enumerate();
        fds.extend(connections.map(|(index, c)| (c.as_fd(), Source::Connection(index))));
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|(fd, _)| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, self.timeout()) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let seen = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(polled.iter().zip(&fds).filter(|(fd, _)| seen(fd)).map(|(_, (_, s))| *s).collect())
    }

    /// Until the next thing that must happen without an event; for ever on an idle board.
    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let connections = self.connections.iter().map(Connection::until);
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let others = [
            self.containers.next_deadline(),
            self.pumping.next_deadline(),
            self.workers.next_deadline(),
            self.quiet.due(),
        ];
        let next = connections.chain(waiting).chain(others.into_iter().flatten()).min();
        next.map_or(PollTimeout::NONE, |next| {
            let left = next.saturating_duration_since(now) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::from(u16::MAX))
        })
    }

    fn serve(&mut self, source: Source) -> io::Result<()> {
        match source {
            Source::Signals => {
                while self.signals.read_signal()?.is_some() {}
                self.reap();
            }
            Source::Listener => self.accept(),
            Source::Connection(index) => self.advance(index),
            Source::Worker(pid) => self.adopt(pid),
            Source::Pump => {
                for id in self.pumping.take_reports() {
                    self.containers.drained(&id);
                }
            }
            Source::Container => self.containers.note_orphans_ended(&self.site),
        }
        Ok(())
    }

    fn accept(&mut self) {
        if let Ok((stream, _)) = self.listener.accept()
            && let Ok(connection) = Connection::new(stream)
        {
            self.connections.push(connection);
        }
    }

    fn advance(&mut self, index: usize) {
        match self.connections.swap_remove(index).advance() {
            Progress::Partial(connection) => self.connections.push(connection),
            Progress::Complete(RequestV1::Keep { name }, stream, fds) => {
                self.keep(&name, fds, stream);
            }
            Progress::Complete(request, stream, _) => self.handle(request, stream),
            Progress::Garbage(error, stream) => {
                if make_blocking(&stream).is_ok() {
                    refuse(stream, Refusal::Unsupported, &error.to_string());
                }
            }
            Progress::Gone => {}
        }
    }

    /// A starter made a container: watch it, pump it, and let it go.
    fn adopt(&mut self, worker: u32) {
        let Some((id, mut report)) = self.workers.take_report(worker) else { return };
        let adopted = self.containers.adopt(&self.site, &id);
        match adopted {
            Ok(()) => {
                self.pumping.add(&self.containers, &id);
                // Without the byte the starter removes what it made.
                let _ = io::Write::write_all(&mut report, &[1]);
            }
            Err(error) => eprintln!("holder: adopting {id}: {error}"),
        }
    }

    /// Takes the end of every child that has one.
    fn reap(&mut self) {
        for (pid, exit) in workers::ended_children() {
            if let Some(worker) = self.workers.ended(pid) {
                self.worker_ended(worker, exit.code == Some(0));
            } else if !self.pumping.ended(pid) {
                self.containers.child_ended(&self.site, pid, exit);
            }
        }
    }

    fn worker_ended(&mut self, worker: workers::Worker, succeeded: bool) {
        match worker.job {
            workers::Job::Start if !succeeded => {
                // Its own cleaning may have been cut short; what is gone already costs nothing.
                self.pumping.forget(&worker.id);
                self.containers.forget(&worker.id);
                if self.site.layout.container(&worker.id).exists() {
                    self.workers.remove(&self.site, &worker.id, None);
                }
            }
            workers::Job::Remove => {
                self.pumping.forget(&worker.id);
                self.containers.forget(&worker.id);
                if let Some(mut client) = worker.client
                    && succeeded
                {
                    let _ = wire::write(&mut client, &ResponseV1::Done);
                }
            }
            workers::Job::Start | workers::Job::Other | workers::Job::Session => {}
        }
    }

    /// Does what waited for something else: exits whose log is complete, removals of what has ended.
    fn settle(&mut self) {
        let published = self.containers.take_publishable();
        for state in published {
            let Ok(event) = wire::frame(&ResponseV1::Exited(state)) else { continue };
            // A subscriber that does not read is dropped; it asks for all states when it returns.
            self.subscribers.retain_mut(|stream| io::Write::write_all(stream, &event).is_ok());
        }
        let now = Instant::now();
        self.workers.kill_overdue(now);
        for index in (0..self.waiting.len()).rev() {
            let Waiting { request, until, .. } = &self.waiting[index];
            if self.is_ready(request) {
                let Waiting { request, stream, .. } = self.waiting.swap_remove(index);
                self.perform(request, stream);
            } else if *until <= now {
                let Waiting { stream, .. } = self.waiting.swap_remove(index);
                let text = "what it waits for does not end, even when killed";
                refuse(stream, Refusal::Failed, text);
            }
        }
    }

    /// Becomes another binary with the same pid, children and listening socket.
    ///
    /// The client is answered by the new one, once it has taken over.
    fn upgrade(&self, exe: &Path, client: &UnixStream) -> io::Error {
        use std::os::unix::process::CommandExt;
        let kept = [self.listener.as_raw_fd(), self.lock.file().as_raw_fd(), client.as_raw_fd()];
        let passed = kept.into_iter().try_for_each(let_inherit).and_then(|()| self.kept.pass_on());
        let sets = match passed {
            Ok(sets) => sets,
            Err(error) => return error,
        };
        std::process::Command::new(exe)
            .arg("keeper-holder")
            .arg(&self.site.layout.run_dir)
            .arg(&self.data_dir)
            .arg(&self.site.cgroup)
            .args(kept.map(|fd| fd.to_string()))
            .env(Kept::VARIABLE, sets)
            .exec()
    }
}
