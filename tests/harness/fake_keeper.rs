//! A keeper for simulations: it speaks the real protocol on the real socket, and keeps containers
//! "running" in memory, without a process, a namespace or a mount.
//!
//! The agent that talks to it is the real one and does not know the difference. A container runs
//! until it is signalled, removed or told to end; it says nothing, so its log stays empty.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kumquat::io::keeper::wire::{self, FRAME_HEADER_BYTES, RequestV1, ResponseV1, StartHeaderV1};
use kumquat::io::keeper::{ContainerStateV1, ExecResultV1, ExitV1, Refusal, RunStateV1, StartedV1};
use model::limits::KEEPER_FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Exits that wait for one watcher; beyond, it is cut off and asks for all states again.
const WATCHER_EXITS_MAX: usize = 64;

/// The keeper of one simulated board; it ends with this value.
pub struct FakeKeeper {
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, ContainerStateV1>,
    sandboxes: BTreeSet<String>,
    watchers: Vec<mpsc::Sender<Vec<u8>>>,
    /// Containers that were started, over all time.
    starts: u64,
}

impl FakeKeeper {
    /// Listens where the agent of `run_dir` looks for its keeper.
    ///
    /// # Errors
    /// The folder or the socket cannot be made.
    pub fn listen(run_dir: &Path) -> io::Result<Self> {
        let folder = run_dir.join("keeper");
        std::fs::create_dir_all(&folder)?;
        let listener = UnixListener::bind(folder.join("keeper.sock"))?;
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Ends with its client, or with the runtime.
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Ok(Self { state, serving })
    }

    /// Uids of pods with a container that runs.
    pub fn running_pods(&self) -> BTreeSet<String> {
        let state = lock(&self.state);
        let runs = |container: &&ContainerStateV1| container.state == RunStateV1::Running;
        state.containers.values().filter(runs).map(|container| container.pod_uid.clone()).collect()
    }

    /// How many containers were ever started.
    pub fn starts(&self) -> u64 {
        lock(&self.state).starts
    }

    /// What it still holds: containers, ended ones too, and sandboxes.
    pub fn holds(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.containers.len(), state.sandboxes.len())
    }
}

impl Drop for FakeKeeper {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut stream: UnixStream, state: Arc<Mutex<State>>) -> io::Result<()> {
    let request: RequestV1 = wire::decode(&read_frame(&mut stream).await?)?;
    if let RequestV1::Start(_) = &request {
        // The OCI spec, which nobody carries out.
        read_frame(&mut stream).await?;
    }
    if request == RequestV1::Events {
        return watch(stream, &state).await;
    }
    let answer = lock(&state).answer(request);
    stream.write_all(&wire::frame(&answer)?).await
}

async fn read_frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; wire::body_bytes(&header, KEEPER_FRAME_BYTES_MAX)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn watch(mut stream: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    let (sender, mut exits) = mpsc::channel(WATCHER_EXITS_MAX);
    let states = {
        let mut state = lock(state);
        state.watchers.retain(|watcher| !watcher.is_closed());
        state.watchers.push(sender);
        ResponseV1::States(state.containers.values().cloned().collect())
    };
    stream.write_all(&wire::frame(&states)?).await?;
    loop {
        tokio::select! {
            exit = exits.recv() => match exit {
                Some(exit) => stream.write_all(&exit).await?,
                None => return Ok(()),
            },
            // The client sends nothing more: it hung up.
            _ = stream.readable() => match stream.try_read(&mut [0]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            },
        }
    }
}

impl State {
    fn answer(&mut self, request: RequestV1) -> ResponseV1 {
        match request {
            RequestV1::Hello => {
                ResponseV1::Hello { pid: std::process::id(), pump: None, version: "fake".into() }
            }
            RequestV1::SandboxCreate(sandbox) | RequestV1::SandboxAdopt { sandbox, .. } => {
                self.sandboxes.insert(sandbox.uid);
                ResponseV1::Done
            }
            RequestV1::SandboxRemove { uid } => {
                if self.containers.values().any(|container| container.pod_uid == uid) {
                    return refused(Refusal::Failed, "the pod has containers");
                }
                self.sandboxes.remove(&uid);
                ResponseV1::Done
            }
            RequestV1::SandboxList => {
                ResponseV1::Sandboxes(self.sandboxes.iter().cloned().collect())
            }
            RequestV1::Start(header) => self.start(header),
            RequestV1::Signal { id, signo } => self.signal(&id, signo),
            RequestV1::Remove { id } => {
                self.end(&id, ExitV1 { signal: Some(9), ..ExitV1::default() });
                self.containers.remove(&id);
                ResponseV1::Done
            }
            RequestV1::List => ResponseV1::States(self.containers.values().cloned().collect()),
            RequestV1::Exec(exec) if self.containers.contains_key(&exec.id) => {
                ResponseV1::Executed(ExecResultV1 { code: Some(0), ..ExecResultV1::default() })
            }
            RequestV1::Exec(_) => refused(Refusal::NotFound, "no such container"),
            RequestV1::Upgrade { .. } => refused(Refusal::Unsupported, "a fake has no binary"),
            RequestV1::Session(_) => refused(Refusal::Unsupported, "a fake runs nothing"),
            RequestV1::Keep { .. } => refused(Refusal::Unsupported, "a fake keeps nothing"),
            RequestV1::Kept { .. } => refused(Refusal::NotFound, "a fake keeps nothing"),
            RequestV1::Events => refused(Refusal::Invalid, "events are a stream"),
        }
    }

    fn start(&mut self, header: StartHeaderV1) -> ResponseV1 {
        if self.containers.contains_key(&header.id) {
            return refused(Refusal::AlreadyExists, "the container exists already");
        }
        if !self.sandboxes.contains(&header.pod_uid) {
            return refused(Refusal::NotFound, "the pod has no sandbox");
        }
        self.starts += 1;
        let pid = u32::try_from(self.starts).unwrap_or(u32::MAX);
        let container = ContainerStateV1 {
            id: header.id.clone(),
            pod_uid: header.pod_uid,
            pid,
            state: RunStateV1::Running,
            started_at_micros: now_micros(),
        };
        self.containers.insert(header.id, container);
        ResponseV1::Started(StartedV1 { pid, ..StartedV1::default() })
    }

    fn signal(&mut self, id: &str, signo: i32) -> ResponseV1 {
        if !self.containers.contains_key(id) {
            return refused(Refusal::NotFound, "no such container");
        }
        match signo {
            15 => self.end(id, ExitV1 { code: Some(0), ..ExitV1::default() }),
            9 => self.end(id, ExitV1 { signal: Some(9), ..ExitV1::default() }),
            _ => {}
        }
        ResponseV1::Done
    }

    fn end(&mut self, id: &str, exit: ExitV1) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.state != RunStateV1::Running {
            return;
        }
        container.state = RunStateV1::Exited(ExitV1 { at_micros: now_micros(), ..exit });
        let event = wire::frame(&ResponseV1::Exited(container.clone())).expect("a small message");
        self.watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
    }
}

fn refused(refusal: Refusal, text: &str) -> ResponseV1 {
    ResponseV1::Failed { refusal, text: text.to_owned() }
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
