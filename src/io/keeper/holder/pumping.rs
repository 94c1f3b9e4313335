//! The holder's side of the log pump: forks it, tells it what to pump, starts it again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::connection::make_blocking;
use super::containers::Containers;
use crate::io::keeper::process::fork;
use crate::io::keeper::pump::{self, PumpCommand, PumpReport};
use crate::io::keeper::wire;
use crate::io::keeper::worker::Site;

/// Shortest time between two starts of the pump.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// The pump, or the pause before the next one.
#[derive(Debug, Default)]
pub(super) struct Pumping {
    running: Option<(u32, UnixStream)>,
    /// The one whose socket failed, until it is reaped.
    not_before: Option<Instant>,
}

impl Pumping {
    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(pid, _)| *pid)
    }

    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(_, control)| control.as_fd())
    }

    /// When the next start is due; the pump is always wanted.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.running.is_some() { None } else { self.not_before }
    }

    /// Starts the pump if there is none and its pause is over.
    pub(super) fn ensure(&mut self, site: &Site, containers: &Containers) {
        let now = Instant::now();
        if self.running.is_some() || self.not_before.is_some_and(|at| at > now) {
            return;
        }
        self.not_before = Some(now + RESTART_PAUSE);
        match spawn(site) {
            Ok(started) => self.running = Some(started),
            Err(error) => return eprintln!("holder: starting the log pump: {error}"),
        }
        for id in containers.undrained() {
            self.add(containers, &id);
        }
    }

    /// Has this container's output pumped.
    pub(super) fn add(&mut self, containers: &Containers, id: &str) {
        if let Some(log_path) = containers.log_path(id) {
            self.tell(&PumpCommand::Add { id: id.to_owned(), log_path });
        }
    }

    /// Ends the pumping of a container whose files are gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.tell(&PumpCommand::Forget { id: id.to_owned() });
    }

    fn tell(&mut self, command: &PumpCommand) {
        if let Some((_, control)) = &mut self.running
            && wire::write(control, command).is_err()
        {
            // It ends by itself, or is ended by its successor.
            self.running = None;
        }
    }

    /// Containers whose log is complete.
    pub(super) fn take_reports(&mut self) -> Vec<String> {
        let Some((_, control)) = &mut self.running else { return Vec::new() };
        match wire::read::<PumpReport>(control) {
            Ok(PumpReport::Drained { id }) => vec![id],
            Err(_) => {
                self.running = None;
                Vec::new()
            }
        }
    }

    /// Whether `pid` was the pump.
    pub(super) fn ended(&mut self, pid: u32) -> bool {
        let ours = self.pid() == Some(pid);
        if ours {
            self.running = None;
        }
        ours
    }
}

/// How long the holder may wait for room for a command.
const COMMAND_WAIT: Duration = Duration::from_millis(1);

fn spawn(site: &Site) -> io::Result<(u32, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    make_blocking(&ours)?;
    // Commands are small and the socket's buffer holds hundreds: a pump that has not read so many is
    // given up, and the holder does not wait for it.
    ours.set_write_timeout(Some(COMMAND_WAIT))?;
    let pid = fork(|| match theirs.try_clone() {
        Ok(control) => pump::run(site.layout.clone(), control),
        Err(_) => 1,
    })?;
    Ok((pid, ours))
}
