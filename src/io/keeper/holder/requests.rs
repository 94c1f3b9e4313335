//! What the holder does with each request: answers it, or forks a worker that does.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use model::limits::{CONTAINERS_MAX, EXEC_STREAMS_MAX, KEEPER_CONNECTIONS_MAX};

use super::{Holder, Waiting};
use crate::io::keeper::descriptors;
use crate::io::keeper::paths::check_id;
use crate::io::keeper::wire::{self, Refusal, RequestV1, ResponseV1, StartHeaderV1};
use crate::io::keeper::worker::{Failure, exec, sandbox, session};

/// How long a request waits for a container or a worker to end.
const WAIT: Duration = Duration::from_secs(60);

impl Holder {
    /// Serves a request, or keeps it until it can be served.
    pub(super) fn handle(&mut self, request: RequestV1, stream: UnixStream) {
        if let RequestV1::Remove { id } = &request
            && let Err(Failure { text, .. }) = self.containers.kill(id)
        {
            eprintln!("holder: killing {id}: {text}");
        }
        if self.is_ready(&request) {
            self.perform(request, stream);
        } else if self.waiting.len() >= KEEPER_CONNECTIONS_MAX {
            refuse(stream, Refusal::Exhausted, "too many requests wait for containers to end");
        } else {
            self.waiting.push(Waiting { request, stream, until: Instant::now() + WAIT });
        }
    }

    /// Whether nothing that still happens stands in a request's way.
    pub(super) fn is_ready(&self, request: &RequestV1) -> bool {
        match request {
            // A failed start of the same id may still be cleaning up.
            RequestV1::Start(header) => !self.workers.has(&header.id),
            RequestV1::Remove { id } => self.containers.is_settled(id) && !self.workers.has(id),
            // Workers are children that the next binary knows nothing about.
            RequestV1::Upgrade { .. } => self.workers.count() == 0,
            _ => true,
        }
    }

    pub(super) fn perform(&mut self, request: RequestV1, stream: UnixStream) {
        match self.respond(request, &stream) {
            Ok(None) => {}
            // A client that went away, or reads nothing, has no use for its answer.
            Ok(Some(response)) => drop(answer_at_once(stream, &response)),
            Err(Failure { refusal, text }) => refuse(stream, refusal, &text),
        }
    }

    /// The answer; none when a worker gives it, or the stream goes on.
    fn respond(
        &mut self,
        request: RequestV1,
        stream: &UnixStream,
    ) -> Result<Option<ResponseV1>, Failure> {
        let (site, workers) = (&self.site, &mut self.workers);
        match request {
            RequestV1::Hello => return Ok(Some(self.hello())),
            RequestV1::List => return Ok(Some(ResponseV1::States(self.containers.states()))),
            RequestV1::SandboxList => return Ok(Some(ResponseV1::Sandboxes(self.sandboxes()))),
            RequestV1::Events => self.subscribe(stream)?,
            RequestV1::Signal { id, signo } => {
                self.containers.signal(&id, signo)?;
                return Ok(Some(ResponseV1::Done));
            }
            RequestV1::Start(header) => self.start(&header, stream)?,
            RequestV1::Remove { id } => {
                check_id(&id)?;
                workers.remove(site, &id, Some(stream.try_clone()?));
            }
            RequestV1::Exec(exec) => {
                self.containers.check_running(&exec.id)?;
                let time = Duration::from_millis(exec.timeout_ms.into());
                workers.run(stream, time, |stream| exec::run(site, &exec, stream))?;
            }
            RequestV1::Session(session) => {
                self.containers.check_running(&session.id)?;
                if workers.sessions() >= EXEC_STREAMS_MAX {
                    let text = format!("this board runs {EXEC_STREAMS_MAX} sessions, its limit");
                    return Err(Failure::new(Refusal::Exhausted, text));
                }
                workers.session(stream, |stream| session::run(site, &session, stream))?;
            }
            RequestV1::SandboxCreate(new) => {
                check_id(&new.uid)?;
                workers.run(stream, Duration::ZERO, |stream| {
                    sandbox::run_create(site, &new, None, stream)
                })?;
            }
            RequestV1::SandboxAdopt { sandbox: new, net } => {
                check_id(&new.uid)?;
                workers.run(stream, Duration::ZERO, |stream| {
                    sandbox::run_create(site, &new, Some(&net), stream)
                })?;
            }
            RequestV1::SandboxRemove { uid } => {
                check_id(&uid)?;
                workers.run(stream, Duration::ZERO, |stream| {
                    sandbox::run_remove(site, &uid, stream)
                })?;
            }
            RequestV1::Keep { .. } => {
                return Err(Failure::new(Refusal::Invalid, "descriptors come with their request"));
            }
            RequestV1::Kept { name } => self.give_kept(&name, stream)?,
            RequestV1::Upgrade { exe } => {
                let error = self.upgrade(&exe, stream);
                let what = format!("running {}", exe.display());
                return Err(Failure::failed(&what, &error));
            }
        }
        Ok(None)
    }

    /// Keeps descriptors that came with the request.
    pub(super) fn keep(&mut self, name: &str, fds: Vec<OwnedFd>, stream: UnixStream) {
        match self.kept.put(name, fds) {
            // A client that went away, or reads nothing, has no use for its answer.
            Ok(()) => drop(answer_at_once(stream, &ResponseV1::Done)),
            Err(Failure { refusal, text }) => refuse(stream, refusal, &text),
        }
    }

    fn give_kept(&self, name: &str, stream: &UnixStream) -> Result<(), Failure> {
        let fds = self.kept.get(name)?;
        stream.set_nonblocking(true)?;
        descriptors::send(stream, &wire::frame(&ResponseV1::Kept)?, fds)?;
        Ok(())
    }

    fn hello(&self) -> ResponseV1 {
        ResponseV1::Hello {
            pid: std::process::id(),
            pump: self.pumping.pid(),
            version: crate::io::keeper::build_id(),
        }
    }

    fn sandboxes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.site.layout.sandboxes()).into_iter().flatten();
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn start(&mut self, header: &StartHeaderV1, stream: &UnixStream) -> Result<(), Failure> {
        check_id(&header.id)?;
        check_id(&header.pod_uid)?;
        if self.containers.contains(&header.id) {
            let text = format!("container {} exists already", header.id);
            return Err(Failure::new(Refusal::AlreadyExists, text));
        }
        if self.containers.count() >= CONTAINERS_MAX {
            let text = format!("this board runs {CONTAINERS_MAX} containers, its limit");
            return Err(Failure::new(Refusal::Exhausted, text));
        }
        self.workers.start(&self.site, header, stream)
    }

    /// Sends the state of everything, then keeps the stream for exits.
    fn subscribe(&mut self, stream: &UnixStream) -> Result<(), Failure> {
        self.subscribers.retain(is_open);
        if self.subscribers.len() >= KEEPER_CONNECTIONS_MAX {
            return Err(Failure::new(Refusal::Exhausted, "too many clients watch events"));
        }
        let states = ResponseV1::States(self.containers.states());
        self.subscribers.push(answer_at_once(stream.try_clone()?, &states)?);
        Ok(())
    }
}

/// Tells a client no.
pub(super) fn refuse(stream: UnixStream, refusal: Refusal, text: &str) {
    // A client that went away, or reads nothing, cannot be told.
    let _ = answer_at_once(stream, &ResponseV1::Failed { refusal, text: text.to_owned() });
}

/// Writes what fits into the socket's buffer at once: the holder waits for no client. An error means
/// that the client has to be dropped, since half an answer may have gone out.
fn answer_at_once(mut stream: UnixStream, response: &ResponseV1) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    wire::write(&mut stream, response)?;
    Ok(stream)
}

/// Whether the other side of a non-blocking stream, which never sends anything, is still there.
fn is_open(stream: &UnixStream) -> bool {
    let mut stream = stream;
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_dropped_at_once() {
        let (_client, stream) = UnixStream::pair().expect("pair");
        let begun = Instant::now();
        let large = ResponseV1::Sandboxes(vec!["x".repeat(1000); 4000]);
        assert!(answer_at_once(stream, &large).is_err(), "4 MB do not fit");
        assert!(begun.elapsed() < Duration::from_secs(5));
        let (mut client, stream) = UnixStream::pair().expect("pair");
        refuse(stream, Refusal::Exhausted, "no");
        let told: ResponseV1 = wire::read(&mut client).expect("fits");
        assert!(matches!(told, ResponseV1::Failed { refusal: Refusal::Exhausted, .. }));
    }
}
