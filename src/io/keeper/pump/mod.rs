//! The log pump: a single-threaded worker that turns containers' output into log files.
//!
//! In: FIFOs of running containers, named by the holder over a socket. Out: CRI lines, and a report
//! when both outputs of a container are closed and written. For one chunk:
//!
//! ```text
//! peek at the FIFO (tee) ─> note {container, log offset} ─> shift to the stage pipe (splice)
//!      ─> write lines to the log ─> empty the stage pipe
//! ```
//! The stage is a FIFO that the holder keeps open. A pump killed at any point leaves each byte in the
//! container's FIFO, or in the stage: then the next pump cuts the log back to the noted offset and
//! writes the chunk again. So no line is lost or doubled. An unfinished line waits in the FIFO for
//! its end, at most [`PARTIAL_WAIT`], and hardly at all where somebody may be typing.
//!
//! When the holder dies the pump goes on; it ends on SIGTERM, between two chunks. It never syncs.

mod cri;
mod log_file;
mod pipe;
mod stage;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::limits::LOG_CHUNK_BYTES_MAX;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::{Deserialize, Serialize};

pub(super) use cri::Output;
use log_file::LogFile;
use pipe::{Lens, Peek};
pub(super) use stage::hold as hold_stage;
use stage::{Note, Stage};

use super::paths::{ATTACH_SOCKET, Layout};
use super::process::{ProcessLock, close_others, now_micros};
use super::wire;
use crate::io::code::Quiet;

/// How long an unfinished line waits for its end before it is written as a part.
const PARTIAL_WAIT: Duration = Duration::from_secs(1);
/// The same for a container with a console.
const PARTIAL_WAIT_TYPING: Duration = Duration::from_millis(10);
/// Chunks of one output in a row before the others get their turn.
const CHUNKS_PER_TURN: usize = 8;
/// How long an older pump gets to finish its chunk.
const OLDER_PUMP_WAIT: Duration = Duration::from_secs(2);

/// What the holder tells its pump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum PumpCommand {
    /// Log the output of this container from now on.
    Add { id: String, log_path: PathBuf },
    /// The container's FIFOs go away.
    Forget { id: String },
}

/// What the pump tells the holder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum PumpReport {
    /// Both outputs are closed and everything is in the log.
    Drained { id: String },
}

const CONTROL: u64 = 0;
const SIGNAL: u64 = 1;
const FIRST_OUTPUT: u64 = 2;

/// One output of one container.
struct Source {
    id: String,
    output: Output,
    fifo: File,
    /// Every writer has closed.
    hung_up: bool,
    /// The last line in the log is an unfinished part of this output.
    mid_line: bool,
    /// Since when an unfinished line waits in the FIFO.
    partial_since: Option<Instant>,
    /// How long it may.
    partial_wait: Duration,
    queued: bool,
}

impl Source {
    /// How long its unfinished line still waits.
    fn partial_left(&self) -> Option<Duration> {
        Some(self.partial_wait.saturating_sub(self.partial_since?.elapsed()))
    }

    fn is_overdue(&self) -> bool {
        self.partial_left() == Some(Duration::ZERO)
    }
}

struct Pump {
    layout: Layout,
    control: Option<UnixStream>,
    epoll: Epoll,
    sources: BTreeMap<u64, Source>,
    logs: BTreeMap<String, LogFile>,
    ready: VecDeque<u64>,
    next_token: u64,
    stage: Stage,
    lens: Lens,
    buffer: Box<[u8; LOG_CHUNK_BYTES_MAX]>,
    quiet: Quiet,
}

/// Runs the pump in a fresh fork of the holder.
pub(super) fn run(layout: Layout, control: UnixStream) -> u8 {
    close_others(&[control.as_raw_fd()]);
    let outcome = take_over(&layout).and_then(|lock| {
        let mut pump = Pump::new(layout, control)?;
        let outcome = pump.run();
        drop(lock);
        outcome
    });
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("log pump: {error}");
            1
        }
    }
}

/// Waits until an older pump, left by an earlier holder, is gone.
fn take_over(layout: &Layout) -> io::Result<ProcessLock> {
    let path = layout.file("pump.lock");
    let begun = Instant::now();
    loop {
        match ProcessLock::acquire(&path)? {
            Ok(lock) => return Ok(lock),
            Err(owner) => {
                let patient = begun.elapsed() < OLDER_PUMP_WAIT;
                let signo = if patient { libc::SIGTERM } else { libc::SIGKILL };
                if let Ok(older) = super::process::PidFd::open(owner) {
                    older.signal(signo)?;
                    older.wait(100);
                }
            }
        }
        if begun.elapsed() > OLDER_PUMP_WAIT * 3 {
            return Err(io::Error::other("an older log pump does not end"));
        }
    }
}

impl Pump {
    fn new(layout: Layout, control: UnixStream) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&control, EpollEvent::new(EpollFlags::EPOLLIN, CONTROL))?;
        let stage = Stage::open(&layout)?;
        Ok(Self {
            layout,
            control: Some(control),
            epoll,
            sources: BTreeMap::new(),
            logs: BTreeMap::new(),
            ready: VecDeque::new(),
            next_token: FIRST_OUTPUT,
            stage,
            lens: Lens::new()?,
            buffer: Box::new([0; LOG_CHUNK_BYTES_MAX]),
            quiet: Quiet::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        let signal = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        self.epoll.add(&signal, EpollEvent::new(EpollFlags::EPOLLIN, SIGNAL))?;
        self.finish_chunk();
        let mut events = [EpollEvent::empty(); 32];
        loop {
            let timeout = self.timeout();
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            if count > 0 {
                self.quiet.disturb();
            }
            self.quiet.settle();
            for event in &events[..count] {
                match event.data() {
                    SIGNAL => return Ok(()),
                    CONTROL => self.obey(),
                    token => self.woken(token, event.events()),
                }
            }
            self.queue_overdue_parts();
            for _ in 0..self.ready.len() {
                if let Some(token) = self.ready.pop_front() {
                    self.turn(token);
                }
            }
            if self.control.is_none() && self.sources.is_empty() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if !self.ready.is_empty() {
            return EpollTimeout::ZERO;
        }
        let partial = self.sources.values().filter_map(Source::partial_left);
        let quiet = self.quiet.due().map(|due| due.saturating_duration_since(Instant::now()));
        let next = partial.chain(quiet).min();
        next.map_or(EpollTimeout::NONE, |left| {
            EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::ZERO)
        })
    }

    /// Takes one command of the holder.
    fn obey(&mut self) {
        let Some(control) = &mut self.control else { return };
        match wire::read::<PumpCommand>(control) {
            Ok(PumpCommand::Add { id, log_path }) => self.add(&id, log_path),
            Ok(PumpCommand::Forget { id }) => self.forget(&id),
            Err(_) => {
                // The holder is gone; closing the socket also takes it out of the epoll set.
                self.control = None;
            }
        }
    }

    fn add(&mut self, id: &str, log_path: PathBuf) {
        self.forget(id);
        self.logs.insert(id.to_owned(), LogFile::new(log_path));
        for output in [Output::Stdout, Output::Stderr] {
            if let Err(error) = self.add_output(id, output) {
                eprintln!("log pump: {id} {}: {error}", output.name());
            }
        }
        self.report_if_drained(id);
    }

    fn add_output(&mut self, id: &str, output: Output) -> io::Result<()> {
        let path = self.layout.container(id).join(output.name());
        let fifo = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let token = self.next_token;
        self.next_token += 1;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        self.epoll.add(&fifo, EpollEvent::new(flags, token))?;
        let source = Source {
            id: id.to_owned(),
            output,
            fifo,
            hung_up: false,
            mid_line: false,
            partial_since: None,
            partial_wait: match self.layout.container(id).join(ATTACH_SOCKET).exists() {
                true => PARTIAL_WAIT_TYPING,
                false => PARTIAL_WAIT,
            },
            queued: true,
        };
        self.sources.insert(token, source);
        // What was written before counts too, and a closed FIFO raises no event.
        self.ready.push_back(token);
        Ok(())
    }

    fn forget(&mut self, id: &str) {
        self.sources.retain(|_, source| source.id != id);
        self.logs.remove(id);
    }

    fn report_if_drained(&mut self, id: &str) {
        if self.sources.values().any(|source| source.id == id) {
            return;
        }
        self.logs.remove(id);
        if let Some(control) = &mut self.control
            && wire::write(control, &PumpReport::Drained { id: id.to_owned() }).is_err()
        {
            self.control = None;
        }
    }

    fn woken(&mut self, token: u64, flags: EpollFlags) {
        let Some(source) = self.sources.get_mut(&token) else { return };
        source.hung_up |= flags.contains(EpollFlags::EPOLLHUP);
        if !source.queued {
            source.queued = true;
            self.ready.push_back(token);
        }
    }

    fn queue_overdue_parts(&mut self) {
        for (&token, source) in &mut self.sources {
            if !source.queued && source.is_overdue() {
                source.queued = true;
                self.ready.push_back(token);
            }
        }
    }

    /// Moves a bounded number of chunks of one output.
    fn turn(&mut self, token: u64) {
        for _ in 0..CHUNKS_PER_TURN {
            match self.chunk(token) {
                Ok(Step::More) => {}
                Ok(Step::Wait) => {
                    if let Some(source) = self.sources.get_mut(&token) {
                        source.queued = false;
                    }
                    return;
                }
                Ok(Step::Closed) => return self.close(token),
                Err(error) => {
                    eprintln!("log pump: {error}");
                    return self.close(token);
                }
            }
        }
        self.ready.push_back(token);
    }

    fn chunk(&mut self, token: u64) -> io::Result<Step> {
        let Some(source) = self.sources.get_mut(&token) else { return Ok(Step::Wait) };
        let waiting = match self.lens.peek(source.fifo.as_fd(), &mut self.buffer)? {
            Peek::Bytes(count) => count,
            Peek::Closed => return Ok(Step::Closed),
            Peek::Empty => {
                source.partial_since = None;
                return Ok(Step::Wait);
            }
        };
        let take = cri::take(&self.buffer[..waiting], source.hung_up || source.is_overdue());
        if take == 0 {
            source.partial_since.get_or_insert_with(Instant::now);
            return Ok(Step::Wait);
        }
        source.partial_since = None;
        let Some(log) = self.logs.get_mut(&source.id) else { return Ok(Step::Closed) };
        let last = source.hung_up && take == waiting;
        let offset = log.prepare();
        self.stage.note(&Note {
            log_path: log.path().to_owned(),
            output: source.output,
            offset: *offset.as_ref().unwrap_or(&u64::MAX),
            last,
        })?;
        let moved = pipe::shift(source.fifo.as_fd(), self.stage.as_fd(), take)?;
        let text = &self.buffer[..moved];
        let micros = now_micros();
        let written = match &offset {
            Ok(_) => cri::format(micros, source.output, text, last, |bytes| log.append(bytes)),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match written {
            Ok(mid_line) => source.mid_line = mid_line,
            // A full disk must not stop the container: its lines are lost, and this is told.
            Err(error) => {
                if let Err(error) = log.fails(offset.unwrap_or(u64::MAX), &error) {
                    eprintln!("log pump: {}: {error}", log.path().display());
                }
            }
        }
        pipe::discard(self.stage.as_fd(), &mut self.buffer)?;
        Ok(Step::More)
    }

    fn close(&mut self, token: u64) {
        let Some(source) = self.sources.remove(&token) else { return };
        if source.mid_line
            && let Some(log) = self.logs.get_mut(&source.id)
        {
            // The line ends with its output.
            let ended = log.prepare().and_then(|_| {
                cri::format(now_micros(), source.output, b"\n", true, |bytes| log.append(bytes))
            });
            if let Err(error) = ended {
                eprintln!("log pump: {}: {error}", log.path().display());
            }
        }
        self.report_if_drained(&source.id);
    }

    /// Writes again what an earlier pump had in hand when it was killed.
    fn finish_chunk(&mut self) {
        let Ok(Peek::Bytes(count)) = self.lens.peek(self.stage.as_fd(), &mut self.buffer) else {
            return;
        };
        if let Some(note) = self.stage.read_note()
            && note.offset != u64::MAX
        {
            let mut log = LogFile::new(note.log_path);
            let text = &self.buffer[..count];
            let written = log.prepare().and_then(|_| log.cut_back(note.offset)).and_then(|()| {
                cri::format(now_micros(), note.output, text, note.last, |bytes| log.append(bytes))
            });
            if let Err(error) = written {
                eprintln!("log pump: {}: lost {count} bytes: {error}", log.path().display());
            }
        }
        if let Err(error) = pipe::discard(self.stage.as_fd(), &mut self.buffer) {
            eprintln!("log pump: stage: {error}");
        }
    }
}

enum Step {
    /// A chunk was written; there may be more.
    More,
    /// Nothing to do until the next event or the end of the wait for a line's end.
    Wait,
    /// No writer is left and nothing waits.
    Closed,
}
