//! The lifecycle machine of one pod.

use std::net::Ipv4Addr;
use std::sync::Arc;

use model::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::admission::Failure;
use super::container::{ContainerState, Role, Stage, Waiting};
use super::event::{Effect, Event, HookKind, Moment, ProbeKind};
use super::probe;
use super::spec::{Container, Pod, RestartPolicy};
use super::status::Conditions;
use super::stop::PodStop;

/// `ErrImagePull` is shown this long before `ImagePullBackOff`.
const IMAGE_SETTLE_MILLIS: u64 = 2_000;
/// First and longest wait before sandbox, volumes or teardown are tried again.
const RETRY_MILLIS_MIN: u64 = 1_000;
const RETRY_MILLIS_MAX: u64 = 120_000;
/// A postStart hook is given up after this.
const POST_START_MILLIS_MAX: u64 = 300_000;

/// A thing that has to be made before containers start, or taken away at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Not begun.
    #[default]
    Todo,
    /// Under way.
    Asked,
    /// Done.
    Done,
    /// Failed; tried again at this time, or only after a change.
    Failed {
        /// When, if at all.
        retry_ticks: Option<u64>,
        /// What was waited last.
        delay_millis: u64,
    },
}

impl Step {
    pub(super) fn fail(&mut self, retry: bool, delay_before: u64, now: Moment) {
        let delay_millis = (delay_before * 2).clamp(RETRY_MILLIS_MIN, RETRY_MILLIS_MAX);
        let retry_ticks = retry.then_some(now.ticks + delay_millis);
        *self = Self::Failed { retry_ticks, delay_millis };
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        match self {
            Self::Todo => true,
            Self::Failed { retry_ticks: Some(at), .. } => *at <= now.ticks,
            _ => false,
        }
    }

    pub(super) fn wake_ticks(&self) -> Option<u64> {
        match self {
            Self::Failed { retry_ticks, .. } => *retry_ticks,
            _ => None,
        }
    }
}

/// What survives a restart of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodState {
    /// Init containers, then containers.
    pub containers: Vec<ContainerState>,
    /// Network, IPC, host name.
    pub sandbox: Step,
    /// Containers cannot go on in it: they end, and it is made anew.
    #[serde(default)]
    pub(super) outdated: bool,
    /// Its own address in the pod network; kept when the sandbox of a finished pod goes.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// Volumes.
    pub volumes: Step,
    /// Removal of every trace, after a stop.
    pub teardown: Step,
    /// A stop under way.
    pub stop: Option<PodStop>,
    /// The pod has failed as a whole, whatever its containers say.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// It was asked once whether this board takes the pod.
    #[serde(default)]
    pub(super) admitted: bool,
    /// When `activeDeadlineSeconds` are over.
    #[serde(default)]
    pub(super) deadline_ticks: Option<u64>,
    /// `startTime`.
    pub start_time: Timestamp,
    /// All init containers have been through once.
    pub initialized: bool,
    pub(super) conditions: Conditions,
    pub(super) delays: [u64; 3],
}

/// A pod's machine: events in, effects out, no clock and no IO.
#[derive(Clone, Debug)]
pub struct PodMachine {
    pub(super) pod: Arc<Pod>,
    pub(super) state: PodState,
    /// Services send new connections to it.
    pub(super) served: bool,
    /// A master will say when they do not any more.
    pub(super) led: bool,
}

impl PodMachine {
    /// A pod that this board has never seen; feed it `Event::Timer` to begin.
    pub fn new(pod: Arc<Pod>, now: Moment) -> Self {
        let role = |container: &Container| match container.restart_policy {
            Some(RestartPolicy::Always) => Role::Sidecar,
            _ => Role::Init,
        };
        let init = pod.spec.init_containers.iter().map(|c| ContainerState::new(&c.name, role(c)));
        let main = pod.spec.containers.iter().map(|c| ContainerState::new(&c.name, Role::Main));
        let seeded = pod.status.start_time.as_ref().and_then(|time| Timestamp::parse(time));
        let state = PodState {
            containers: init.chain(main).collect(),
            sandbox: Step::Todo,
            outdated: false,
            address: None,
            volumes: Step::Todo,
            teardown: Step::Todo,
            stop: None,
            failure: None,
            admitted: false,
            deadline_ticks: None,
            start_time: seeded.unwrap_or(now.wall),
            initialized: false,
            conditions: Conditions::default(),
            delays: [0; 3],
        };
        let mut machine = Self { pod, state, served: false, led: false };
        machine.note_deletion(now);
        machine
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The pod, to be kept by those who act for it.
    pub fn shared_pod(&self) -> Arc<Pod> {
        self.pod.clone()
    }

    /// What survives.
    pub fn state(&self) -> &PodState {
        &self.state
    }

    /// Every trace is gone and the API object may go.
    pub fn is_removable(&self) -> bool {
        self.state.teardown == Step::Done
    }

    /// Something was asked for whose answer will show in the status: a start, or a removal.
    pub fn is_moving(&self) -> bool {
        let state = &self.state;
        let steps = [state.sandbox, state.volumes, state.teardown];
        let moves = |c: &ContainerState| matches!(c.stage, Stage::ImageAsked | Stage::StartAsked);
        steps.contains(&Step::Asked) || state.containers.iter().any(moves)
    }

    /// Images that containers wait for although they were looked for.
    pub fn images_missing(&self) -> impl Iterator<Item = &str> {
        let lacks = |container: &&ContainerState| {
            let reason = container.waiting.as_ref().map(|waiting| waiting.reason.as_str());
            container.stage == Stage::Blocked
                && container.image.is_none()
                && matches!(reason, Some("ErrImagePull" | "ImagePullBackOff"))
        };
        let waiting = self.state.containers.iter().filter(lacks);
        waiting.filter_map(|container| Some(self.pod.container(&container.name)?.image.as_str()))
    }

    /// Takes an event and says what to do.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.take(now, event, &mut out);
        self.advance(now, &mut out);
        out.push(Effect::StatusChanged);
        out
    }

    /// When `Event::Timer` is wanted, in ticks. After that event it is later than now, so that no
    /// driver spins.
    pub fn next_wake(&self) -> Option<u64> {
        let state = &self.state;
        let ending = state.stop.is_some() || self.is_terminal();
        let steps =
            if ending { [state.teardown, Step::Done] } else { [state.sandbox, state.volumes] };
        let mut wakes: Vec<u64> = steps.iter().filter_map(Step::wake_ticks).collect();
        wakes.extend(self.removal_wake().filter(|_| ending));
        wakes.extend(state.containers.iter().filter_map(|container| container.settle_ticks));
        self.stop_wakes(&mut wakes);
        let asked: Vec<usize> = match ending {
            true => (0..state.containers.len()).collect(),
            false if self.is_set_up() => self.active().collect(),
            false => Vec::new(),
        };
        for container in asked.into_iter().map(|index| &state.containers[index]) {
            if container.is_running() && container.hooked {
                wakes.extend(due_probes(container));
            } else if !ending && container.wants_restart(self.pod.spec.restart_policy) {
                wakes.extend(container.restart_ticks());
            }
        }
        if !ending {
            wakes.extend(state.deadline_ticks);
        }
        wakes.into_iter().min()
    }

    /// The containers whose turn it is, by index: init containers one after the other, sidecars
    /// kept up from their turn on, then all others.
    pub(super) fn active(&self) -> impl Iterator<Item = usize> + '_ {
        let initialized = self.state.initialized;
        let mut held_up = false;
        let turn = move |(index, container): (usize, &ContainerState)| {
            let through =
                container.role == Role::Init && (initialized || container.has_succeeded());
            if held_up || through {
                return None;
            }
            held_up = match container.role {
                Role::Init => true,
                Role::Sidecar => !initialized && !container.is_started(),
                Role::Main => false,
            };
            Some(index)
        };
        self.state.containers.iter().enumerate().filter_map(turn)
    }

    fn take(&mut self, now: Moment, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Desired(pod) => self.take_pod(pod, now, out),
            Event::Gone => self.stop_pod(0, true, now),
            Event::Served { calls, led } => self.take_served(calls, led, now),
            Event::SandboxReady { address } => {
                self.state.sandbox = Step::Done;
                self.state.address = address;
            }
            Event::SandboxRemoved => self.sandbox_removed(),
            Event::SandboxNotRemoved { message } => self.sandbox_not_removed(&message, now, out),
            Event::SandboxFailed { message } => {
                let message = format!("Failed to create pod sandbox: {message}");
                self.report(out, true, "FailedCreatePodSandBox", message, None);
                self.fail_step(0, true, now);
            }
            Event::VolumesReady => self.state.volumes = Step::Done,
            Event::VolumesFailed { message, retry } => {
                self.volumes_failed(message, retry, now, out);
            }
            Event::TornDown => self.state.teardown = Step::Done,
            Event::TeardownFailed { message } => {
                let message = format!("error killing pod: {message}");
                self.report(out, true, "FailedKillPod", message, None);
                self.fail_step(2, true, now);
            }
            Event::NetworkReady => self.network_ready(now),
            Event::PlaceLost => self.place_lost(),
            Event::ObjectsChanged => self.retry_blocked(|_| true),
            Event::ImagesChanged => self.retry_blocked(|container| container.image.is_none()),
            Event::Timer => {}
            other => self.take_container_event(now, other, out),
        }
    }

    /// A change may have brought what was missing.
    fn retry_blocked(&mut self, concerns: impl Fn(&ContainerState) -> bool) {
        if matches!(self.state.volumes, Step::Failed { .. }) {
            self.state.volumes = Step::Todo;
        }
        for container in &mut self.state.containers {
            if container.stage == Stage::Blocked && concerns(container) {
                container.stage = Stage::Idle;
                container.settle_ticks = None;
            }
        }
    }

    fn take_pod(&mut self, pod: Arc<Pod>, now: Moment, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.pod, pod);
        self.state.deadline_ticks = None;
        self.note_deletion(now);
        for index in 0..self.state.containers.len() {
            let name = self.state.containers[index].name.clone();
            let image = |pod: &Pod| pod.container(&name).map(|c| c.image.clone());
            if image(&before) == image(&self.pod) {
                continue;
            }
            let container = &mut self.state.containers[index];
            container.image = None;
            if container.stage == Stage::Blocked {
                container.stage = Stage::Idle;
            }
            if container.is_running() && container.stop.is_none() {
                let message = format!("Container {name} definition changed, will be restarted");
                self.stop_container(index, self.pod.grace_millis(), message, now, out);
            }
        }
    }

    fn take_container_event(&mut self, now: Moment, event: Event, out: &mut Vec<Effect>) {
        let Some(index) = self.index_of(&event) else { return };
        let name = self.state.containers[index].name.clone();
        match event {
            Event::ImageReady { image, .. } => self.image_ready(index, image),
            Event::ImageMissing { reason, message, .. } => {
                self.image_missing(index, reason, message, now, out);
            }
            Event::ConfigFailed { message, .. } => {
                let container = &mut self.state.containers[index];
                container.stage = Stage::Blocked;
                let reason = "CreateContainerConfigError".to_owned();
                container.waiting = Some(Waiting { reason, message: message.clone() });
                self.report(out, true, "Failed", format!("Error: {message}"), Some(&name));
            }
            Event::Started { at, .. } => {
                let Some(spec) = self.pod.container(&name) else { return };
                let container = &mut self.state.containers[index];
                if container.is_starting() {
                    container.started(spec, at, now);
                    self.report_start(&name, out);
                    self.post_start(index, out);
                }
            }
            Event::StartFailed { message, .. } => {
                let container = &mut self.state.containers[index];
                if container.is_starting() {
                    container.end("StartError", 128, &message, None, now.wall, now);
                    self.report(out, true, "Failed", format!("Error: {message}"), Some(&name));
                    self.remove_previous(index, out);
                }
            }
            Event::Exited { exit, .. } => {
                if self.state.containers[index].is_starting() {
                    // What ended at once may say so before the answer to its start arrives.
                    self.report_start(&name, out);
                }
                let container = &mut self.state.containers[index];
                if container.is_running() || container.is_starting() {
                    container.exited(&exit, now);
                    self.remove_previous(index, out);
                }
            }
            Event::Probed { kind, result, .. } => self.probed(index, kind, result, now, out),
            Event::Hooked { kind, result, .. } => self.hooked(index, kind, result, now, out),
            _ => {}
        }
    }

    /// One start makes and starts a container; kubelet tells of both.
    fn report_start(&self, name: &str, out: &mut Vec<Effect>) {
        for (reason, message) in
            [("Created", "Container created"), ("Started", "Container started")]
        {
            self.report(out, false, reason, message.to_owned(), Some(name));
        }
    }

    /// The container of an event; `None` when it is about an earlier start.
    fn index_of(&self, event: &Event) -> Option<usize> {
        let (name, attempt) = match event {
            Event::ImageReady { container, .. }
            | Event::ImageMissing { container, .. }
            | Event::ConfigFailed { container, .. } => (container, None),
            Event::Started { container, attempt, .. }
            | Event::StartFailed { container, attempt, .. }
            | Event::Exited { container, attempt, .. }
            | Event::Probed { container, attempt, .. }
            | Event::Hooked { container, attempt, .. } => (container, Some(*attempt)),
            _ => return None,
        };
        let matches = |container: &ContainerState| {
            container.name == *name && attempt.is_none_or(|attempt| attempt == container.attempt)
        };
        self.state.containers.iter().position(matches)
    }

    fn image_ready(&mut self, index: usize, image: super::event::ImageRef) {
        let container = &mut self.state.containers[index];
        container.settle_ticks = None;
        container.image = Some(image);
        if matches!(container.stage, Stage::ImageAsked | Stage::Blocked) {
            container.stage = Stage::Idle;
        }
    }

    fn image_missing(
        &mut self,
        index: usize,
        reason: String,
        message: String,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &mut self.state.containers[index];
        if container.stage != Stage::ImageAsked {
            return;
        }
        container.stage = Stage::Blocked;
        container.image = None;
        let settles = reason == "ErrImagePull";
        container.settle_ticks = settles.then_some(now.ticks + IMAGE_SETTLE_MILLIS);
        container.waiting = Some(Waiting { reason: reason.clone(), message: message.clone() });
        let name = container.name.clone();
        let event = if reason == "InvalidImageName" { "InspectFailed" } else { "Failed" };
        self.report(out, true, event, message, Some(&name));
        if settles {
            self.report(out, true, "Failed", format!("Error: {reason}"), Some(&name));
        }
    }

    fn post_start(&mut self, index: usize, out: &mut Vec<Effect>) {
        let container = &self.state.containers[index];
        if !container.hooked {
            out.push(Effect::Hook {
                container: container.name.clone(),
                attempt: container.attempt,
                kind: HookKind::PostStart,
                timeout_millis: POST_START_MILLIS_MAX,
            });
        }
    }

    /// Only the log of the start before the last is of no use to anybody.
    fn remove_previous(&self, index: usize, out: &mut Vec<Effect>) {
        let container = &self.state.containers[index];
        out.push(Effect::RemoveContainer {
            container: container.name.clone(),
            attempt: container.attempt,
        });
    }

    pub(super) fn report(
        &self,
        out: &mut Vec<Effect>,
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<&str>,
    ) {
        let container = container.map(str::to_owned);
        out.push(Effect::Report { warning, reason, message, container });
    }
}

/// When each probe of a running container is due; the others wait for the startup probe.
pub(super) fn due_probes(container: &ContainerState) -> impl Iterator<Item = u64> + '_ {
    let (started, stopping) = (container.is_started(), container.stop.is_some());
    let asks = move |probe: &&probe::ProbeState| match probe.kind {
        ProbeKind::Startup => !started && !stopping,
        ProbeKind::Liveness => started && !stopping,
        ProbeKind::Readiness => started,
    };
    container.probes.iter().filter(asks).filter_map(probe::ProbeState::due_ticks)
}
