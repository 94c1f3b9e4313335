//! Makes the effects of pod machines true: images, keeper, volumes, probes, files.
//!
//! In: one effect with the pod it is for. Out: one [`Answer`]. Nothing here decides anything about
//! a pod's life, and nothing is kept between effects.

mod hosts;
mod image;
mod resolv;
mod start;
mod teardown;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use logic::pod::token::TokenText;
use logic::pod::{ContainerState, Effect, Event, Exit, HookKind, Pod, container_id, probe_spec};
use model::ids::Uid;
use model::limits::TERMINATION_MESSAGE_BYTES_MAX;
use model::timestamp::Timestamp;
use tokio::sync::mpsc;

use super::board::Board;
use super::log_stream;
use super::network::PodNetwork;
use super::object::Objects;
use super::place::{self, Places, PodPlaces};
use super::prober::Target;
use super::pull::Puller;
use super::report::Report;
use super::volume;
use crate::io::clock::Clock;
use crate::io::image::{Hold, ImageStore};
use crate::io::keeper::{ExitV1, Keeper, KeeperError, SandboxV1};

pub(super) use teardown::{remove_leftovers, sweep_keeper};

/// What effects are made true with.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) keeper: Keeper,
    pub(super) images: ImageStore,
    pub(super) places: Places,
    pub(super) board: Board,
    pub(super) clock: Clock,
    /// Gets what this board lacks; `None` where there is nobody to ask.
    pub(super) puller: Option<Puller>,
    /// Addresses and links of pods; `None` where they have no network.
    pub(super) network: Option<PodNetwork>,
    /// Address of the DNS service; `None` where there is none.
    pub(super) dns: Option<Ipv4Addr>,
    /// Address of the API's service; `None` where there is none.
    pub(super) api: Option<Ipv4Addr>,
    /// Where answers go: also what is to be told before an effect is through.
    pub(super) answers: mpsc::Sender<Answer>,
    /// Exchanges the binary of this board.
    pub(super) upgrades: Option<Arc<dyn super::Upgrades>>,
}

/// An effect with all that it needs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) effect: Effect,
    pub(super) pod: Arc<Pod>,
    pub(super) objects: Objects,
    /// The pod's tokens, for its volumes, or why there are none.
    pub(super) tokens: Result<Vec<TokenText>, String>,
    pub(super) places: PodPlaces,
    pub(super) qos_class: String,
    /// The pod's own address, once it has one.
    pub(super) address: Option<Ipv4Addr>,
}

/// Why a sandbox has no place in the network.
enum Unplaced {
    /// What was prepared, or the board's own address, has gone meanwhile: another may do.
    Unwired(String),
    /// It is to be tried later.
    Refused(String),
}

/// What came of an effect.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) uid: Uid,
    pub(super) event: Option<Event>,
    pub(super) reports: Vec<Report>,
    /// Keeps the image of a started container.
    pub(super) hold: Option<(String, Hold)>,
}

impl Answer {
    fn of(job: &Job, event: Option<Event>) -> Self {
        Self { uid: job.pod.uid(), event, reports: Vec::new(), hold: None }
    }

    fn reporting(mut self, report: Report) -> Self {
        self.reports.push(report);
        self
    }
}

impl Driver {
    /// Makes one effect true. `None` for those that need no driver.
    pub(super) async fn perform(self: Arc<Self>, job: Job) -> Answer {
        let uid = job.pod.uid().to_string();
        let event = match &job.effect {
            Effect::CreateSandbox => Some(self.create_sandbox(&job).await),
            Effect::RemoveSandbox => match self.remove_sandbox(job.pod.uid()).await {
                Ok(()) => Some(Event::SandboxRemoved),
                Err(error) => Some(Event::SandboxNotRemoved { message: error.to_string() }),
            },
            Effect::PrepareVolumes => Some(self.prepare_volumes(&job).await),
            Effect::EnsureImage { container } => {
                return self.ensure_image(&job, container).await;
            }
            Effect::Start { container, attempt } => {
                return self.start(&job, container, *attempt).await;
            }
            Effect::Signal { container, attempt, signal } => {
                self.signal(&container_id(&uid, container, *attempt), signal).await;
                None
            }
            Effect::Probe { container, attempt, kind } => {
                let spec = job.pod.container(container);
                let probe = spec.and_then(|spec| probe_spec(spec, *kind));
                let (Some(spec), Some(probe)) = (spec, probe) else {
                    return Answer::of(&job, None);
                };
                let result = self.target(&job, spec, *attempt).probe(probe).await;
                let (container, attempt) = (container.clone(), *attempt);
                Some(Event::Probed { container, attempt, kind: *kind, result })
            }
            Effect::Hook { container, attempt, kind, timeout_millis } => {
                self.hook(&job, container, *attempt, *kind, *timeout_millis).await
            }
            Effect::RemoveContainer { container, attempt } => {
                let id = container_id(&uid, container, *attempt);
                if let Err(error) = self.keeper.remove(&id).await {
                    tracing::warn!(container = id, %error, "ended container is not removed");
                }
                None
            }
            Effect::Teardown => Some(self.teardown(&job).await),
            Effect::Report { .. } | Effect::StatusChanged => None,
        };
        Answer::of(&job, event)
    }

    async fn create_sandbox(&self, job: &Job) -> Event {
        match self.try_create_sandbox(&job.pod, &job.places).await {
            Ok(address) => Event::SandboxReady { address },
            Err(message) => Event::SandboxFailed { message },
        }
    }

    async fn try_create_sandbox(
        &self,
        pod: &Pod,
        places: &PodPlaces,
    ) -> Result<Option<Ipv4Addr>, String> {
        let spec = &pod.spec;
        let sandbox = SandboxV1 {
            uid: pod.uid().to_string(),
            hostname: hosts::kernel_hostname(pod, &self.board.name)?,
            host_network: spec.host_network,
            host_ipc: spec.host_ipc,
        };
        let Some(network) = self.network.as_ref().filter(|_| !spec.host_network) else {
            let made = self.keeper.sandbox_create(sandbox).await;
            return made.map(|()| None).map_err(|error| error.to_string());
        };
        // Another sandbox has another address.
        place::forget(&places.etc("hosts")).map_err(|error| error.to_string())?;
        let address = match self.place_sandbox(network, pod, sandbox.clone()).await {
            Err(Unplaced::Unwired(message)) => {
                tracing::warn!(pod = pod.full_name(), message, "it gets another place");
                self.place_sandbox(network, pod, sandbox).await
            }
            placed => placed,
        };
        address.map(Some).map_err(|unplaced| match unplaced {
            Unplaced::Unwired(message) | Unplaced::Refused(message) => message,
        })
    }

    /// A sandbox around a namespace with an address; nothing is left of one that fails.
    async fn place_sandbox(
        &self,
        network: &PodNetwork,
        pod: &Pod,
        sandbox: SandboxV1,
    ) -> Result<Ipv4Addr, Unplaced> {
        let refused = |error: KeeperError| Unplaced::Refused(error.to_string());
        if network.has(pod.uid()) || self.keeper.sandbox_netns(&sandbox.uid).exists() {
            // Begun and not answered before the agent was restarted: its namespace is another one, and
            // the keeper would leave it as it is.
            self.remove_sandbox(pod.uid()).await.map_err(refused)?;
        }
        let place = network.reserve(pod).await.map_err(Unplaced::Refused)?;
        let (address, (namespace, held)) = (place.address(), place.namespace());
        let (adopted, settled) =
            tokio::join!(self.keeper.sandbox_adopt(sandbox, namespace), place.settle());
        drop(held);
        let made = adopted.map_err(refused).and(settled.map_err(Unplaced::Unwired));
        if made.is_err()
            && let Err(error) = self.remove_sandbox(pod.uid()).await
        {
            tracing::debug!(pod = pod.full_name(), %error, "half a sandbox is not removed");
        }
        made.map(|_adopted| address)
    }

    /// The namespaces, then the link, whose other end was in one of them.
    async fn remove_sandbox(&self, uid: Uid) -> Result<(), KeeperError> {
        self.keeper.sandbox_remove(&uid.to_string()).await?;
        if let Some(network) = &self.network {
            network.release(uid).await;
        }
        Ok(())
    }

    async fn prepare_volumes(&self, job: &Job) -> Event {
        let tokens = match &job.tokens {
            Ok(tokens) => tokens.clone(),
            Err(why) => {
                let message = format!("failed to fetch a token of the service account: {why}");
                return Event::VolumesFailed { message, retry: true };
            }
        };
        let objects = job.objects.clone().with_tokens(tokens);
        let (pod, places) = (job.pod.clone(), job.places.clone());
        let facts = self.board.facts();
        let filled = blocking(move || volume::prepare(&pod, &objects, &facts, &places)).await;
        match filled {
            Some(Ok(())) => Event::VolumesReady,
            Some(Err(fault)) => Event::VolumesFailed { message: fault.message, retry: fault.retry },
            None => Event::VolumesFailed { message: "interrupted".to_owned(), retry: true },
        }
    }

    async fn signal(&self, id: &str, signal: &str) {
        let number = signal_number(signal);
        if let Err(error) = self.keeper.signal(id, number).await
            && !error.is_not_found()
        {
            tracing::warn!(container = id, signal, %error, "signal is not sent");
        }
    }

    fn target<'a>(
        &'a self,
        job: &Job,
        container: &'a logic::pod::spec::Container,
        attempt: u32,
    ) -> Target<'a> {
        let uid = job.pod.uid().to_string();
        Target {
            keeper: &self.keeper,
            id: container_id(&uid, &container.name, attempt),
            netns: (!job.pod.spec.host_network).then(|| self.keeper.sandbox_netns(&uid)),
            address: job.address.map(IpAddr::V4),
            container,
        }
    }

    async fn hook(
        &self,
        job: &Job,
        container: &str,
        attempt: u32,
        kind: HookKind,
        timeout_millis: u64,
    ) -> Option<Event> {
        let spec = job.pod.container(container)?;
        let handler = match kind {
            HookKind::PostStart => spec.lifecycle.post_start.as_ref(),
            HookKind::PreStop => spec.lifecycle.pre_stop.as_ref(),
        };
        let timeout = Duration::from_millis(timeout_millis);
        let result = self.target(job, spec, attempt).hook(handler?, timeout).await;
        Some(Event::Hooked { container: container.to_owned(), attempt, kind, result })
    }
}

/// Runs what blocks on the disk; `None` when the runtime is going down.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The number of a signal named as in Kubernetes, Docker or by number; SIGTERM for what is no signal.
fn signal_number(signal: &str) -> i32 {
    if let Ok(number) = signal.parse() {
        return number;
    }
    let name = match signal.starts_with("SIG") {
        true => signal.to_owned(),
        false => format!("SIG{signal}"),
    };
    if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        return 34 + rest.trim_start_matches('+').parse::<i32>().unwrap_or(0);
    }
    name.parse::<nix::sys::signal::Signal>().map_or(15, |signal| signal as i32)
}

/// How the keeper's word on an end reads in a status, with the container's own last word.
pub(super) fn exit_of(
    exit: &ExitV1,
    pod: &Pod,
    container: &ContainerState,
    places: &PodPlaces,
) -> Exit {
    let code = exit.shell_code();
    let id = container_id(&pod.metadata.uid, &container.name, container.attempt);
    let mut message = read_message(&places.termination(&id));
    let spec = pod.container(&container.name);
    let falls_back = spec.is_some_and(|spec| {
        spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
    });
    if message.is_empty() && falls_back && code != 0 {
        let log = places.log(&container.name, container.attempt);
        message = log_stream::last_lines(&log, 80, 2_048).unwrap_or_default();
    }
    let at = Timestamp(exit.at_micros);
    Exit { code, at, out_of_memory: exit.oom && code != 0, message }
}

fn read_message(path: &Path) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(TERMINATION_MESSAGE_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_many_spellings() {
        for (text, number) in
            [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("SIGRTMIN+3", 37), ("nonsense", 15)]
        {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
