//! The console of a container with `tty` or `stdin`: a small process that holds its input open.
//!
//! ```text
//!  attached clients ──frames of `model::wire::channel`──> console ──> the container's input or terminal
//!                                  log pump <──FIFO stdout── console <── its terminal
//! ```
//! It is a fork of the starter, so that input and terminal outlive agent, holder and pump. Clients are
//! read only when the container has taken what they sent before; what the container says goes into its
//! log and is read there. It ends when the container has closed its input, and with the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use model::limits::{CHANNEL_FRAME_BYTES_MAX, CONSOLE_CLIENTS_MAX};
use model::wire::channel::{self, ChannelFrames};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use super::session::{accept_terminal, listen_in, prepare_terminal};
use crate::io::keeper::descriptors;
use crate::io::keeper::paths::{ATTACH_SOCKET, STDIN_ANNOTATION};
use crate::io::keeper::process::{close_others, fork};

/// Where the runtime sends the terminal.
const CONSOLE_SOCKET: &str = "console.sock";
const READ_BYTES: usize = 4096;

/// What a starter needs of the console that it has forked.
pub(super) struct Console {
    /// The container's input, unless it has a terminal.
    pub(super) stdin: Option<OwnedFd>,
    /// Where its terminal is to be sent.
    pub(super) terminal: Option<PathBuf>,
    /// Tells the console that the starter has ended.
    _tether: UnixStream,
}

/// Starts the console of a container that asks for one. `stdout` is its log.
pub(super) fn start(bundle: &Path, spec: &mut Value, stdout: &File) -> io::Result<Option<Console>> {
    let tty = spec["process"]["terminal"] == true;
    let input = spec["annotations"][STDIN_ANNOTATION].as_str().unwrap_or_default();
    if !tty && input.is_empty() {
        return Ok(None);
    }
    let once = input == "once" && !tty;
    let (tether, theirs) = UnixStream::pair()?;
    let attach = listen_in(bundle, ATTACH_SOCKET)?;
    attach.set_nonblocking(true)?;
    let mut serving = Serving {
        process: Value::Null,
        tether: Some(theirs),
        runtime: None,
        attach,
        sink: None,
        log: None,
        is_terminal: tty,
        once,
        clients: Vec::new(),
        input: Vec::new(),
        output: Vec::new(),
    };
    let mut console = Console { stdin: None, terminal: None, _tether: tether };
    if tty {
        prepare_terminal(&mut spec["process"]);
        serving.process = spec["process"].clone();
        serving.runtime = Some(listen_in(bundle, CONSOLE_SOCKET)?);
        serving.log = Some(stdout.try_clone()?);
        console.terminal = Some(bundle.join(CONSOLE_SOCKET));
    } else {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        serving.sink = Some(nonblocking(write)?);
        console.stdin = Some(read);
    }
    let keep = serving.descriptors();
    fork(move || {
        close_others(&keep);
        match serving.run() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("console: {error}");
                1
            }
        }
    })?;
    Ok(Some(console))
}

fn nonblocking(fd: OwnedFd) -> io::Result<File> {
    fcntl(fd.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}

struct Serving {
    /// Whose terminal it is.
    process: Value,
    tether: Option<UnixStream>,
    /// Where the terminal comes from.
    runtime: Option<UnixListener>,
    attach: UnixListener,
    /// The container's input or terminal.
    sink: Option<File>,
    /// Where its terminal's output goes.
    log: Option<File>,
    is_terminal: bool,
    /// Its input ends with the first client.
    once: bool,
    clients: Vec<Client>,
    /// Not taken by the container yet.
    input: Vec<u8>,
    /// Not taken by the log pump yet.
    output: Vec<u8>,
}

struct Client {
    stream: UnixStream,
    frames: ChannelFrames,
}

/// What a descriptor that is ready belongs to.
#[derive(Clone, Copy)]
enum Source {
    Tether,
    Runtime,
    Attach,
    Sink,
    Log,
    Client(usize),
}

/// Whether the console goes on.
enum Then {
    GoOn,
    End,
}

impl Serving {
    fn descriptors(&self) -> Vec<i32> {
        let sockets = [self.tether.as_ref().map(AsFd::as_fd), Some(self.attach.as_fd())];
        let others = [
            self.runtime.as_ref().map(AsFd::as_fd),
            self.sink.as_ref().map(AsFd::as_fd),
            self.log.as_ref().map(AsFd::as_fd),
        ];
        sockets.into_iter().chain(others).flatten().map(|fd| fd.as_raw_fd()).collect()
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            for (source, events) in self.wait()?.into_iter().rev() {
                if matches!(self.serve(source, events)?, Then::End) {
                    return Ok(());
                }
            }
        }
    }

    /// What is ready; clients in ascending order.
    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags, Source)> = Vec::new();
        fds.extend(self.tether.iter().map(|it| (it.as_fd(), read, Source::Tether)));
        fds.extend(self.runtime.iter().map(|it| (it.as_fd(), read, Source::Runtime)));
        if self.clients.len() < CONSOLE_CLIENTS_MAX {
            fds.push((self.attach.as_fd(), read, Source::Attach));
        }
        let mut events = PollFlags::empty();
        events.set(read, self.is_terminal);
        events.set(write, !self.input.is_empty());
        if self.output.is_empty() {
            fds.extend(self.sink.iter().map(|it| (it.as_fd(), events, Source::Sink)));
        } else {
            // First what was said: a terminal that is hung up would be ready all the time.
            fds.extend(self.log.iter().map(|it| (it.as_fd(), write, Source::Log)));
        }
        if self.input.is_empty() && self.sink.is_some() {
            let clients = self.clients.iter().enumerate();
            fds.extend(clients.map(|(i, it)| (it.stream.as_fd(), read, Source::Client(i))));
        }
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|(fd, events, _)| PollFd::new(*fd, *events)).collect();
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let seen = polled.iter().zip(&fds);
        let seen = seen.filter_map(|(fd, (.., source))| Some((*source, fd.revents()?)));
        Ok(seen.filter(|(_, events)| !events.is_empty()).collect())
    }

    fn serve(&mut self, source: Source, events: PollFlags) -> io::Result<Then> {
        match source {
            Source::Tether => {
                self.tether = None;
                // The starter has ended: what it has not sent will not come.
                if self.sink.is_none() {
                    return Ok(Then::End);
                }
            }
            Source::Runtime => {
                if let Some(runtime) = self.runtime.take() {
                    self.sink = Some(nonblocking(accept_terminal(&runtime, &self.process)?)?);
                }
            }
            Source::Attach => {
                if let Ok((stream, _)) = self.attach.accept() {
                    stream.set_nonblocking(true)?;
                    self.clients.push(Client { stream, frames: ChannelFrames::default() });
                }
            }
            Source::Sink => return self.serve_sink(events),
            Source::Log => {
                if let Some(log) = &mut self.log {
                    // Not more than a pipe takes at once without waiting (PIPE_BUF).
                    let count = log.write(&self.output)?;
                    self.output.drain(..count);
                }
            }
            Source::Client(index) => {
                if index < self.clients.len() {
                    return self.serve_client(index);
                }
            }
        }
        Ok(Then::GoOn)
    }

    fn serve_sink(&mut self, events: PollFlags) -> io::Result<Then> {
        let Some(sink) = &mut self.sink else { return Ok(Then::GoOn) };
        if events.contains(PollFlags::POLLOUT) {
            match sink.write(&self.input) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(Then::End),
            }
        }
        if events.contains(PollFlags::POLLIN) && self.output.is_empty() {
            let mut buffer = [0; READ_BYTES];
            match sink.read(&mut buffer) {
                Ok(0) => return Ok(Then::End),
                Ok(count) => self.output.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(Then::End),
            }
        } else if events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)
            && self.output.is_empty()
        {
            // Nobody holds the other end, and everything is read.
            return Ok(Then::End);
        }
        Ok(Then::GoOn)
    }

    fn serve_client(&mut self, index: usize) -> io::Result<Then> {
        let mut buffer = [0; READ_BYTES];
        let client = &mut self.clients[index];
        let frames = match client.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Then::GoOn),
            Ok(count) if count > 0 => client.frames.take(&buffer[..count]).ok(),
            _ => None,
        };
        let Some(frames) = frames else {
            self.clients.remove(index);
            return Ok(if self.once { Then::End } else { Then::GoOn });
        };
        for (kind, bytes) in frames {
            match kind {
                channel::STDIN => self.input.extend_from_slice(&bytes),
                channel::RESIZE => self.resize(&bytes),
                channel::CLOSE if self.once => return self.finish_input(),
                _ => {}
            }
        }
        debug_assert!(self.input.len() <= CHANNEL_FRAME_BYTES_MAX + READ_BYTES);
        Ok(Then::GoOn)
    }

    fn resize(&self, bytes: &[u8]) {
        if let (Some(sink), Some((columns, rows))) = (&self.sink, channel::resize_of(bytes))
            && self.is_terminal
        {
            // One that is just going away has no size.
            let _ = descriptors::set_terminal_size(sink.as_fd(), columns, rows);
        }
    }

    /// Gives the container the rest of its only input, and its end.
    fn finish_input(&mut self) -> io::Result<Then> {
        if let Some(sink) = &mut self.sink {
            fcntl(sink.as_raw_fd(), FcntlArg::F_SETFL(OFlag::empty()))?;
            // A container that has closed its input does not want it.
            let _ = sink.write_all(&self.input);
        }
        Ok(Then::End)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_who_asks_gets_a_console() {
        let null = File::open("/dev/null").expect("there");
        let mut spec = json!({"process": {"terminal": false}, "annotations": {}});
        assert!(start(Path::new("/nowhere"), &mut spec, &null).expect("nothing to do").is_none());
    }
}
