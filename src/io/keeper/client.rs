//! The agent's side: an async client that starts the keeper when there is none.
//!
//! Each request is a connection of its own with a deadline, so a holder that was replaced is not
//! noticed by anybody. A start, signal or exec that was cut off in the middle ends in
//! [`KeeperError::Interrupted`]: whether it took effect is seen in [`Keeper::list`]. Everything else
//! is idempotent and tried again.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use model::limits::{KEEPER_FRAME_BYTES_MAX, KEEPER_REQUEST_BYTES_MAX};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::descriptors;
use super::paths::{ATTACH_SOCKET, KeeperPaths, Layout};
use super::pump;
use super::session::{self, Session};
use super::wire::{
    self, ContainerStateV1, ExecResultV1, ExecV1, FRAME_HEADER_BYTES, Refusal, RequestV1,
    ResponseV1, SandboxV1, SessionV1, StartHeaderV1, StartedV1,
};

/// Longest wait for an answer that needs no worker.
const QUICK: Duration = Duration::from_secs(15);
/// Longest wait for a container to be created, started or removed.
const SLOW: Duration = Duration::from_secs(120);
/// How often a request that may be repeated is, when the holder dies under it.
const RETRIES: u8 = 3;
/// Bytes of a Unix socket's path (sun_path) without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a request did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The keeper answered and said no.
    #[error("keeper refused: {text}")]
    Refused {
        /// What kind of refusal.
        refusal: Refusal,
        /// What happened, with all causes.
        text: String,
    },
    /// No keeper was there and none could be started.
    #[error("could not start the keeper: {text}")]
    Launch {
        /// What it said.
        text: String,
    },
    /// The run-dir is too deep for a Unix socket.
    #[error("run-dir {} is too long for a socket path: choose a shorter --run-dir", .0.display())]
    RunDirTooLong(PathBuf),
    /// The keeper vanished between request and answer.
    #[error("the keeper went away during the request")]
    Interrupted(#[source] io::Error),
    /// No answer in time.
    #[error("the keeper did not answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// The request is beyond its bounds.
    #[error("request too large for the keeper")]
    TooLarge,
    /// The answer is not one to this request.
    #[error("unexpected answer of the keeper")]
    Unexpected,
}

impl KeeperError {
    /// Whether the keeper said that there is no such container or sandbox.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { refusal: Refusal::NotFound, .. })
    }
}

/// A container to create and start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its id; letters, digits, `-`, `_` and `.`; must not exist.
    pub id: String,
    /// The pod's uid; its sandbox must exist.
    pub pod_uid: String,
    /// Directories of the image's layers, topmost first.
    pub lower_dirs: Vec<PathBuf>,
    /// A directory on the data-dir that the keeper fills with the writable layer and removes.
    pub writable_dir: PathBuf,
    /// OCI runtime spec as JSON. The keeper sets `root`, the namespaces and the cgroup path; the rest
    /// (process, mounts, resources, capabilities, masked paths) is the caller's.
    pub spec: Vec<u8>,
    /// Where the CRI log goes; `<log_path>.1` is the rotated older part.
    pub log_path: PathBuf,
}

/// What answers on the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperInfo {
    /// Process of the holder.
    pub pid: u32,
    /// Process of the log pump, when it runs.
    pub pump: Option<u32>,
    /// Build of the binary that runs, as [`super::build_id`] says it.
    pub version: String,
}

/// A client of the board's keeper; clones talk to the same one.
#[derive(Clone, Debug)]
pub struct Keeper {
    paths: Arc<KeeperPaths>,
    layout: Arc<Layout>,
    launching: Arc<tokio::sync::Mutex<()>>,
    /// Keeps what the log pump has in hand when holder and pump die together.
    stage: Arc<OnceLock<File>>,
}

impl Keeper {
    /// A client of the keeper of this board, started if there is none.
    ///
    /// # Errors
    /// When the keeper can be neither reached nor started.
    pub async fn connect_or_spawn(paths: KeeperPaths) -> Result<Self, KeeperError> {
        let layout = Layout::new(&paths.run_dir);
        if layout.socket().as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(KeeperError::RunDirTooLong(paths.run_dir));
        }
        let keeper = Self {
            paths: Arc::new(paths),
            layout: Arc::new(layout),
            launching: Arc::default(),
            stage: Arc::default(),
        };
        keeper.info().await?;
        // Without it the keeper works all the same.
        if let Ok(stage) = pump::hold_stage(&keeper.layout) {
            let _ = keeper.stage.set(stage);
        }
        Ok(keeper)
    }

    /// Who answers.
    pub async fn info(&self) -> Result<KeeperInfo, KeeperError> {
        match self.ask(RequestV1::Hello, None, QUICK).await? {
            ResponseV1::Hello { pid, pump, version } => Ok(KeeperInfo { pid, pump, version }),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// Makes a pod's namespaces (net with `lo` up, ipc, uts with its host name). Idempotent.
    pub async fn sandbox_create(&self, sandbox: SandboxV1) -> Result<(), KeeperError> {
        self.done(RequestV1::SandboxCreate(sandbox), SLOW).await
    }

    /// Makes a pod's namespaces around the network namespace at `net`. Idempotent: a sandbox that is
    /// there keeps the network namespace that it has.
    pub async fn sandbox_adopt(&self, sandbox: SandboxV1, net: PathBuf) -> Result<(), KeeperError> {
        self.done(RequestV1::SandboxAdopt { sandbox, net }, SLOW).await
    }

    /// Removes a pod's namespaces and cgroup. Idempotent; its containers must be gone.
    pub async fn sandbox_remove(&self, uid: &str) -> Result<(), KeeperError> {
        self.done(RequestV1::SandboxRemove { uid: uid.to_owned() }, SLOW).await
    }

    /// Uids of the sandboxes that exist.
    pub async fn sandboxes(&self) -> Result<Vec<String>, KeeperError> {
        match self.ask(RequestV1::SandboxList, None, QUICK).await? {
            ResponseV1::Sandboxes(uids) => Ok(uids),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// The file whose opening gives a pod's network namespace; absent with host network.
    pub fn sandbox_netns(&self, uid: &str) -> PathBuf {
        self.layout.sandbox(uid).join("net")
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] with every cause in its text; nothing is left behind then.
    pub async fn start(&self, start: Start) -> Result<StartedV1, KeeperError> {
        let Start { id, pod_uid, lower_dirs, writable_dir, spec, log_path } = start;
        let header = StartHeaderV1 { id, pod_uid, lower_dirs, writable_dir, log_path };
        match self.ask(RequestV1::Start(header), Some(&spec), SLOW).await? {
            ResponseV1::Started(started) => Ok(started),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// Sends a signal to a container's init process; one that has exited takes it silently.
    pub async fn signal(&self, id: &str, signo: i32) -> Result<(), KeeperError> {
        self.done(RequestV1::Signal { id: id.to_owned(), signo }, QUICK).await
    }

    /// Kills what still runs, drains its log and removes every trace but the log. Idempotent.
    pub async fn remove(&self, id: &str) -> Result<(), KeeperError> {
        self.done(RequestV1::Remove { id: id.to_owned() }, SLOW).await
    }

    /// Every container that was started and not removed.
    pub async fn list(&self) -> Result<Vec<ContainerStateV1>, KeeperError> {
        match self.ask(RequestV1::List, None, QUICK).await? {
            ResponseV1::States(states) => Ok(states),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// A stream of exits; it begins with the state of everything.
    pub fn events(&self) -> Events {
        Events { keeper: self.clone(), stream: None, buffer: Vec::new() }
    }

    /// Runs a process inside a running container and waits for it.
    pub async fn exec(&self, exec: ExecV1) -> Result<ExecResultV1, KeeperError> {
        let deadline = Duration::from_millis(exec.timeout_ms.into()) + SLOW;
        match self.ask(RequestV1::Exec(exec), None, deadline).await? {
            ResponseV1::Executed(result) => Ok(result),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// Runs a process inside a running container whose streams are the caller's.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when it cannot be started, with every cause in its text.
    pub async fn session(&self, session: SessionV1) -> Result<Session, KeeperError> {
        let request = wire::frame(&RequestV1::Session(session.clone()));
        let request = request.map_err(|_| KeeperError::TooLarge)?;
        if request.len() - FRAME_HEADER_BYTES > KEEPER_REQUEST_BYTES_MAX {
            return Err(KeeperError::TooLarge);
        }
        let beginning = async {
            let mut stream = self.connect().await?;
            stream.write_all(&request).await.map_err(KeeperError::Interrupted)?;
            session::begin(stream, &session).await
        };
        tokio::time::timeout(SLOW, beginning).await.map_err(|_| KeeperError::Deadline(SLOW))?
    }

    /// Attaches to the input of a container that was started with one; takes frames of
    /// `model::wire::channel`.
    ///
    /// # Errors
    /// The container has no input that is held open, or no more.
    pub fn console(&self, id: &str) -> io::Result<UnixStream> {
        session::connect_in(&self.layout.container(id), ATTACH_SOCKET)
    }

    /// Makes the keeper replace itself by another binary, keeping its children.
    pub async fn upgrade(&self, exe: &Path) -> Result<(), KeeperError> {
        self.done(RequestV1::Upgrade { exe: exe.to_owned() }, QUICK).await
    }

    /// Gives the holder copies of descriptors, which it keeps for the next agent, also through its own
    /// upgrade, instead of those with the same name. A holder that dies takes them along: give them again
    /// when [`Events`] begins anew.
    pub async fn keep(&self, name: &str, fds: &[OwnedFd]) -> Result<(), KeeperError> {
        let request = RequestV1::Keep { name: name.to_owned() };
        let bytes = wire::frame(&request).map_err(|_| KeeperError::TooLarge)?;
        let exchange = async {
            // The stream stays non-blocking, and its buffer is empty.
            let stream = self.connect().await?.into_std().map_err(KeeperError::Interrupted)?;
            descriptors::send(&stream, &bytes, fds).map_err(KeeperError::Interrupted)?;
            let mut stream = UnixStream::from_std(stream).map_err(KeeperError::Interrupted)?;
            read_message(&mut stream).await.map_err(KeeperError::Interrupted)
        };
        let answer = tokio::time::timeout(QUICK, exchange);
        match answer.await.map_err(|_| KeeperError::Deadline(QUICK))?? {
            ResponseV1::Done => Ok(()),
            ResponseV1::Failed { refusal, text } => Err(KeeperError::Refused { refusal, text }),
            _ => Err(KeeperError::Unexpected),
        }
    }

    /// Copies of what an earlier agent had kept under this name.
    pub async fn kept(&self, name: &str) -> Result<Vec<OwnedFd>, KeeperError> {
        let request = RequestV1::Kept { name: name.to_owned() };
        let bytes = wire::frame(&request).map_err(|_| KeeperError::TooLarge)?;
        let exchange = async {
            let mut stream = self.connect().await?;
            stream.write_all(&bytes).await.map_err(KeeperError::Interrupted)?;
            read_with_descriptors(&stream).await.map_err(KeeperError::Interrupted)
        };
        let answer = tokio::time::timeout(QUICK, exchange);
        match answer.await.map_err(|_| KeeperError::Deadline(QUICK))?? {
            (ResponseV1::Kept, fds) => Ok(fds),
            (ResponseV1::Failed { refusal, text }, _) => {
                Err(KeeperError::Refused { refusal, text })
            }
            _ => Err(KeeperError::Unexpected),
        }
    }

    async fn done(&self, request: RequestV1, deadline: Duration) -> Result<(), KeeperError> {
        match self.ask(request, None, deadline).await? {
            ResponseV1::Done => Ok(()),
            _ => Err(KeeperError::Unexpected),
        }
    }

    async fn ask(
        &self,
        request: RequestV1,
        payload: Option<&[u8]>,
        deadline: Duration,
    ) -> Result<ResponseV1, KeeperError> {
        let mut bytes = wire::frame(&request).map_err(|_| KeeperError::TooLarge)?;
        if bytes.len() - FRAME_HEADER_BYTES > KEEPER_REQUEST_BYTES_MAX {
            return Err(KeeperError::TooLarge);
        }
        if let Some(payload) = payload {
            bytes.extend(wire::raw_frame(payload).map_err(|_| KeeperError::TooLarge)?);
        }
        let mut retries = if request.is_idempotent() { RETRIES } else { 0 };
        let exchange = async {
            loop {
                match self.exchange(&bytes).await {
                    Err(KeeperError::Interrupted(_)) if retries > 0 => retries -= 1,
                    outcome => return outcome,
                }
            }
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| KeeperError::Deadline(deadline))?
    }

    async fn exchange(&self, bytes: &[u8]) -> Result<ResponseV1, KeeperError> {
        let mut stream = self.connect().await?;
        // A refusal may come before everything is written: the answer counts, not the write.
        let wrote = stream.write_all(bytes).await;
        match (read_message(&mut stream).await, wrote) {
            (Ok(ResponseV1::Failed { refusal, text }), _) => {
                Err(KeeperError::Refused { refusal, text })
            }
            (Ok(response), _) => Ok(response),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(KeeperError::Interrupted(error)),
        }
    }

    async fn connect(&self) -> Result<UnixStream, KeeperError> {
        if let Ok(stream) = UnixStream::connect(self.layout.socket()).await {
            return Ok(stream);
        }
        let _launching = self.launching.lock().await;
        if let Ok(stream) = UnixStream::connect(self.layout.socket()).await {
            return Ok(stream);
        }
        let paths = self.paths.clone();
        let launch = |text: String| KeeperError::Launch { text };
        tokio::task::spawn_blocking(move || launch_holder(&paths))
            .await
            .map_err(|error| launch(error.to_string()))?
            .map_err(launch)?;
        UnixStream::connect(self.layout.socket())
            .await
            .map_err(|error| launch(format!("started, but its socket does not answer: {error}")))
    }
}

/// Runs the binary until it has become a daemon that listens.
fn launch_holder(paths: &KeeperPaths) -> Result<(), String> {
    let output = Command::new(&paths.exe)
        .arg("keeper-holder")
        .arg(&paths.run_dir)
        .arg(&paths.data_dir)
        .arg(&paths.cgroup)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/")
        .output()
        .map_err(|error| format!("{}: {error}", paths.exe.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

async fn read_message(stream: &mut UnixStream) -> io::Result<ResponseV1> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; wire::body_bytes(&header, KEEPER_FRAME_BYTES_MAX)?];
    stream.read_exact(&mut body).await?;
    wire::decode(&body)
}

/// A message and the descriptors that came with it.
async fn read_with_descriptors(stream: &UnixStream) -> io::Result<(ResponseV1, Vec<OwnedFd>)> {
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    loop {
        if let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() {
            let end = FRAME_HEADER_BYTES + wire::body_bytes(header, KEEPER_REQUEST_BYTES_MAX)?;
            if bytes.len() >= end {
                return Ok((wire::decode(&bytes[FRAME_HEADER_BYTES..end])?, fds));
            }
        }
        stream.readable().await?;
        let mut buffer = [0; 512];
        let read = || descriptors::receive(stream.as_raw_fd(), &mut buffer);
        match stream.try_io(tokio::io::Interest::READABLE, read) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((count, more)) => {
                bytes.extend_from_slice(&buffer[..count]);
                fds.extend(more);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What [`Events`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperEvent {
    /// The state of every container: first of all, and again after the holder was replaced.
    States(Vec<ContainerStateV1>),
    /// A container ended; its log is complete, unless its writer took too long.
    Exited(ContainerStateV1),
}

/// A stream of exits that reconnects, and revives the keeper, by itself.
#[derive(Debug)]
pub struct Events {
    keeper: Keeper,
    stream: Option<UnixStream>,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event.
    ///
    /// # Errors
    /// When no keeper can be reached or started; call again later to try again.
    ///
    /// # Cancel safety
    /// Safe: a half-read event stays in the buffer.
    pub async fn next(&mut self) -> Result<KeeperEvent, KeeperError> {
        loop {
            if self.stream.is_none() {
                self.buffer.clear();
                let mut stream = self.keeper.connect().await?;
                let request = wire::frame(&RequestV1::Events).map_err(|_| KeeperError::TooLarge)?;
                if stream.write_all(&request).await.is_err() {
                    continue;
                }
                self.stream = Some(stream);
            }
            match self.take_buffered() {
                Ok(Some(ResponseV1::States(states))) => return Ok(KeeperEvent::States(states)),
                Ok(Some(ResponseV1::Exited(state))) => return Ok(KeeperEvent::Exited(state)),
                Ok(Some(ResponseV1::Failed { refusal, text })) => {
                    self.stream = None;
                    return Err(KeeperError::Refused { refusal, text });
                }
                Ok(Some(_)) | Err(_) => {
                    self.stream = None;
                    return Err(KeeperError::Unexpected);
                }
                Ok(None) => {}
            }
            if let Some(stream) = &mut self.stream
                && !matches!(stream.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
            {
                self.stream = None;
            }
        }
    }

    fn take_buffered(&mut self) -> io::Result<Option<ResponseV1>> {
        let Some(header) = self.buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let end = FRAME_HEADER_BYTES + wire::body_bytes(header, KEEPER_FRAME_BYTES_MAX)?;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let message = wire::decode(&self.buffer[FRAME_HEADER_BYTES..end])?;
        self.buffer.drain(..end);
        Ok(Some(message))
    }
}
