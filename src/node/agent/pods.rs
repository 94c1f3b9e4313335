//! Events to pod machines, effects to the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use logic::network::drain::{Service, service_of};
use logic::pod::spec::RestartPolicy;
use logic::pod::{
    ContainerState, Effect, Event, Exit, Pod, PodMachine, Stage, Step, container_id,
    parse_container_id,
};
use model::ids::Uid;
use model::wire::LogsRequestV1;
use tokio::sync::watch;

use super::outbox::Haste;
use super::{Agent, off_runtime};
use crate::io::image::Hold;
use crate::io::keeper::{ContainerStateV1, ExitV1, RunStateV1};
use crate::node::desired::Changes;
use crate::node::driver::{Answer, Job, exit_of};
use crate::node::network::NetworkHealth;
use crate::node::object;
use crate::node::place::{PodPlaces, replace};
use crate::node::report::Report;

/// A pod of this board.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) machine: PodMachine,
    pub(super) places: PodPlaces,
    /// Keys of the objects that it names.
    pub(super) keys: BTreeSet<String>,
    /// Keeps the images of its containers.
    pub(super) holds: BTreeMap<String, Hold>,
    /// Dropped when its namespace goes: connections into it end with this.
    pub(super) connections: watch::Sender<()>,
    saved: Vec<u8>,
    saved_durably: bool,
}

impl PodEntry {
    pub(super) fn new(machine: PodMachine, places: PodPlaces) -> Self {
        let keys = object::keys_of(machine.pod());
        Self {
            machine,
            places,
            keys,
            holds: BTreeMap::new(),
            connections: watch::Sender::default(),
            saved: Vec::new(),
            saved_durably: false,
        }
    }

    /// Writes the machine's state where it is needed again; nothing when it has not changed.
    fn save(&mut self) -> std::io::Result<()> {
        if self.machine.is_removable() || self.machine.state().teardown == Step::Asked {
            return Ok(());
        }
        let state = serde_json::to_vec(self.machine.state())?;
        if state == self.saved {
            return Ok(());
        }
        replace(&self.places.state(), &state)?;
        let runs_once = self.machine.pod().spec.restart_policy != RestartPolicy::Always
            || self.machine.state().failure.is_some();
        if runs_once && self.machine.is_terminal() && !self.saved_durably {
            off_runtime(|| save_durably(&self.places.durable_state(), &state))?;
            self.saved_durably = true;
        }
        self.saved = state;
        Ok(())
    }
}

/// The pod; one that cannot be read has a name and a reason why it fails.
pub(super) fn readable(json: &[u8], uid: Uid) -> Pod {
    Pod::parse(json).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(pod = %uid, %error, cause, "pod is not started");
        Pod::unreadable(json, uid, cause.unwrap_or_else(|| error.to_string()))
    })
}

/// With more pods than this on their way, changes of their statuses are gathered.
const FEW_PODS: usize = 2;

/// Whether somebody may be waiting to see this in a status.
fn is_waited_for(event: &Event) -> bool {
    matches!(
        event,
        Event::Started { .. } | Event::Exited { .. } | Event::TornDown | Event::Probed { .. }
    )
}

/// A pod that has ended for good must not run again after a power cut.
fn save_durably(path: &std::path::Path, state: &[u8]) -> std::io::Result<()> {
    replace(path, state)?;
    std::fs::File::open(path)?.sync_all()?;
    let dir = path.parent().expect("the state lies in the pod's directory");
    std::fs::File::open(dir)?.sync_all()
}

impl Agent {
    /// Carries what changed in the desired set to the pods.
    pub(super) fn apply_changes(&mut self, changes: &Changes) {
        for uid in &changes.pods_gone {
            self.feed(*uid, Event::Gone);
        }
        for uid in &changes.pods {
            let Some(desired) = self.desired.set().pods.get(uid) else { continue };
            let pod = readable(&desired.pod, *uid);
            self.take_pod(*uid, Arc::new(pod));
        }
        let uses = |entry: &PodEntry| !entry.keys.is_disjoint(&changes.objects);
        let users: Vec<Uid> =
            self.pods.iter().filter(|(_, entry)| uses(entry)).map(|(uid, _)| *uid).collect();
        for uid in users {
            self.feed(uid, Event::ObjectsChanged);
            self.refresh_volumes(uid);
        }
    }

    fn take_pod(&mut self, uid: Uid, mut pod: Arc<Pod>) {
        if let Some(entry) = self.pods.get_mut(&uid) {
            if pod.unreadable.is_some() {
                // What runs goes on as it was read; only its deletion is taken over.
                let Pod { metadata, .. } = (*pod).clone();
                pod = Arc::new(Pod { metadata, ..entry.machine.pod().clone() });
            }
            entry.keys = object::keys_of(&pod);
            let ends = pod.metadata.deletion_timestamp.is_some();
            let stops = ends && entry.machine.state().stop.is_none();
            let service = self.service_of(&pod.metadata.namespace, &pod.metadata.name);
            if stops && service != Service::None {
                self.feed(uid, Event::Served { calls: true, led: self.is_led() });
            }
            self.feed(uid, Event::Desired(pod));
            if stops && service == Service::Leaving {
                // This board has heard of it first; the others may not have yet.
                self.feed(uid, Event::Served { calls: false, led: true });
            }
            return;
        }
        let places = self.driver.places.pod(&pod);
        self.follow_tokens(&pod, &places);
        let machine = PodMachine::new(pod, self.now());
        self.pods.insert(uid, PodEntry::new(machine, places));
        self.feed(uid, Event::Timer);
    }

    fn service_of(&self, namespace: &str, pod: &str) -> Service {
        service_of(&self.net.state(), namespace, pod)
    }

    /// Services may have let go of pods that wait for it.
    pub(super) fn services_changed(&mut self) {
        let now = self.now();
        let draining = self.pods.iter().filter(|(_, entry)| entry.machine.is_draining(now));
        let released = draining.filter(|(_, entry)| {
            let metadata = &entry.machine.pod().metadata;
            self.service_of(&metadata.namespace, &metadata.name) != Service::Serving
        });
        let released: Vec<Uid> = released.map(|(uid, _)| *uid).collect();
        for uid in released {
            self.feed(uid, Event::Served { calls: false, led: true });
        }
    }

    /// Volumes of a running pod follow their objects; the machine has nothing to do with it.
    pub(super) fn refresh_volumes(&mut self, uid: Uid) {
        if self.pods.get(&uid).is_some_and(|entry| entry.machine.refreshes_volumes()) {
            self.perform(uid, Effect::PrepareVolumes);
        }
    }

    /// How the network fares has changed: pods that wait for it need not wait their pauses out.
    pub(super) fn network_changed(&mut self, health: &NetworkHealth) {
        self.report_board();
        let was_open = std::mem::replace(&mut self.network_open, health.is_open());
        if !self.network_open || was_open {
            return;
        }
        let news = self.pods.iter().filter_map(|(uid, entry)| {
            let is_lost = !entry.machine.pod().spec.host_network
                && self.driver.network.as_ref().is_some_and(|network| network.has_lost(*uid));
            match entry.machine.state().sandbox {
                Step::Failed { .. } => Some((*uid, Event::NetworkReady)),
                Step::Done if is_lost => Some((*uid, Event::PlaceLost)),
                _ => None,
            }
        });
        for (uid, event) in news.collect::<Vec<_>>() {
            self.feed(uid, event);
        }
    }

    /// An image was imported, or a name was removed.
    pub(super) fn images_changed(&mut self) {
        self.report_board();
        let uids: Vec<Uid> = self.pods.keys().copied().collect();
        for uid in uids {
            self.feed(uid, Event::ImagesChanged);
        }
    }

    /// The cluster has an image that pods wait for.
    pub(super) fn image_offered(&mut self, image: &str) {
        let lacks = |entry: &PodEntry| entry.machine.images_missing().any(|other| other == image);
        let uids: Vec<Uid> =
            self.pods.iter().filter(|(_, entry)| lacks(entry)).map(|(uid, _)| *uid).collect();
        for uid in uids {
            self.feed(uid, Event::ImagesChanged);
        }
    }

    /// Says which images pods wait for.
    fn note_wanted(&self) {
        let machines = self.pods.values().map(|entry| &entry.machine);
        let wanted: BTreeSet<String> =
            machines.flat_map(|machine| machine.images_missing()).map(str::to_owned).collect();
        self.wanted.send_if_modified(|before| {
            let changed = *before != wanted;
            *before = wanted;
            changed
        });
    }

    /// Gives due timers to the pods and due statuses to the master.
    pub(super) fn wake(&mut self) {
        let now = super::ticks();
        let due = |entry: &PodEntry| entry.machine.next_wake().is_some_and(|at| at <= now);
        let uids: Vec<Uid> =
            self.pods.iter().filter(|(_, entry)| due(entry)).map(|(uid, _)| *uid).collect();
        for uid in uids {
            self.feed(uid, Event::Timer);
        }
        self.note_wanted();
        self.wake_tokens();
        if self.outbox.due_ticks().is_some_and(|at| at <= super::ticks()) {
            self.send_statuses();
        }
        self.ask_net();
    }

    /// The one place where a machine moves: state is saved before anything is done about it.
    pub(super) fn feed(&mut self, uid: Uid, event: Event) {
        let now = self.now();
        let haste = match is_waited_for(&event) {
            // Its removal, which is waited for, mostly follows at once.
            true if matches!(event, Event::Exited { .. }) && self.is_leaving(&uid) => Haste::None,
            true if self.is_crowded() => Haste::Gathered,
            true => Haste::Urgent,
            false => Haste::None,
        };
        let Some(entry) = self.pods.get_mut(&uid) else { return };
        let effects = entry.machine.handle(now, event);
        if let Err(error) = entry.save() {
            tracing::warn!(pod = %uid, %error, "state of the pod is not saved");
        }
        self.note_running(&uid);
        for effect in effects {
            match effect {
                Effect::StatusChanged => self.outbox.touch(uid, haste, now.ticks),
                Effect::Report { warning, reason, message, container } => {
                    self.report(&uid, &Report { warning, reason, message, container });
                }
                effect => self.perform(uid, effect),
            }
        }
        let gone = !self.desired.set().pods.contains_key(&uid);
        if gone && self.pods.get(&uid).is_some_and(|entry| entry.machine.is_removable()) {
            self.pods.remove(&uid);
            self.outbox.forget(&uid);
            self.tokens.forget(uid);
        }
    }

    /// Whether a pod is being deleted.
    fn is_leaving(&self, uid: &Uid) -> bool {
        let stop = self.pods.get(uid).and_then(|entry| entry.machine.state().stop);
        stop.is_some_and(|stop| stop.forget)
    }

    /// Many pods are on their way to their next status.
    fn is_crowded(&self) -> bool {
        self.pods.values().filter(|entry| entry.machine.is_moving()).nth(FEW_PODS).is_some()
    }

    fn report(&mut self, uid: &Uid, report: &Report) {
        let Some(entry) = self.pods.get(uid) else { return };
        let pod = entry.machine.pod();
        tracing::debug!(pod = pod.full_name(), reason = report.reason, "{}", report.message);
        let node = &self.driver.board.name;
        let event = report.object(pod, node, self.clock.now());
        self.outbox.event(Bytes::from(event.to_string()), super::ticks());
    }

    pub(super) fn perform(&mut self, uid: Uid, effect: Effect) {
        let Some(entry) = self.pods.get(&uid) else { return };
        let pod = entry.machine.shared_pod();
        let tokens = match effect {
            Effect::PrepareVolumes => self.tokens_for(&pod),
            _ => Some(Ok(Vec::new())),
        };
        // Volumes are filled once their tokens are there.
        let (Some(tokens), Some(entry)) = (tokens, self.pods.get(&uid)) else { return };
        let job = Job {
            effect,
            tokens,
            objects: self.desired.set().objects(&entry.keys),
            places: entry.places.clone(),
            qos_class: entry.machine.qos_class(),
            address: entry.machine.state().address,
            pod,
        };
        let (driver, answers) = (self.driver.clone(), self.answers.clone());
        let told = tracing::enabled!(tracing::Level::DEBUG).then(|| format!("{:?}", job.effect));
        tokio::spawn(async move {
            // Nobody listens once the agent has ended. What it had asked for ends with it, or it could
            // start a keeper behind the back of whoever stops the board; recovery takes it up again.
            tokio::select! {
                answer = driver.perform(job) => {
                    if let Some(effect) = told {
                        tracing::debug!(pod = %uid, %effect, "effect is done");
                    }
                    drop(answers.send(answer).await);
                }
                () = answers.closed() => {}
            }
        });
    }

    /// What came of an effect.
    pub(super) fn take_answer(&mut self, answer: Answer) {
        let Answer { uid, event, reports, hold } = answer;
        if let (Some((container, hold)), Some(entry)) = (hold, self.pods.get_mut(&uid)) {
            entry.holds.insert(container, hold);
        }
        for report in reports {
            self.report(&uid, &report);
        }
        let Some(event) = event else { return };
        let torn_down = event == Event::TornDown;
        if let (true, Some(entry)) = (torn_down, self.pods.get_mut(&uid)) {
            entry.holds.clear();
            entry.connections = watch::Sender::default();
        }
        self.feed(uid, event);
        if torn_down {
            self.collect_images();
        }
    }

    /// Removes images that had lost their names while containers used them.
    fn collect_images(&self) {
        if !self.settled {
            return;
        }
        let images = self.driver.images.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = images.collect() {
                tracing::warn!(error = error.text(), "unused images are not removed");
            }
        });
    }

    fn note_running(&self, uid: &Uid) {
        let Some(entry) = self.pods.get(uid) else { return };
        let prefix = format!("{uid}_");
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.retain(|id| !id.starts_with(&prefix));
        let state = entry.machine.state();
        let ids = state.containers.iter().filter(|c| c.is_running() || c.is_starting());
        running.extend(ids.map(|c| container_id(&uid.to_string(), &c.name, c.attempt)));
    }

    /// Everything that the keeper knew when its events began, or began again after it was replaced.
    pub(super) async fn take_states(&mut self, states: &[ContainerStateV1]) {
        for state in states {
            self.take_state(state);
        }
        if self.unknown_to(states).is_empty() {
            return;
        }
        // The start of a container may have been answered after those states were sent: only a list
        // that is made now tells that one is lost. Without an answer, events will begin once more.
        let Ok(states) = self.driver.keeper.list().await else { return };
        for state in &states {
            self.take_state(state);
        }
        for (uid, container) in self.unknown_to(&states) {
            let exit = ExitV1 { at_micros: self.clock.now().0, ..ExitV1::default() };
            self.take_exit(uid, &container, &exit);
        }
    }

    /// Containers that run, as far as their pods know, and that are not among these states.
    fn unknown_to(&self, states: &[ContainerStateV1]) -> Vec<(Uid, ContainerState)> {
        let known: BTreeSet<&str> = states.iter().map(|state| state.id.as_str()).collect();
        let mut unknown = Vec::new();
        for (uid, entry) in &self.pods {
            for container in entry.machine.state().containers.iter().filter(|c| c.is_running()) {
                let id = container_id(&uid.to_string(), &container.name, container.attempt);
                if !known.contains(id.as_str()) {
                    unknown.push((*uid, container.clone()));
                }
            }
        }
        unknown
    }

    /// One container that the keeper knows.
    pub(super) fn take_state(&mut self, state: &ContainerStateV1) {
        let RunStateV1::Exited(exit) = &state.state else { return };
        let Some((uid, name, attempt)) = parse_container_id(&state.id) else { return };
        let Some(uid) = Uid::parse(uid) else { return };
        let Some(entry) = self.pods.get(&uid) else { return };
        let matches = |c: &&ContainerState| c.name == name && c.attempt == attempt;
        if let Some(container) = entry.machine.state().containers.iter().find(matches) {
            let container = container.clone();
            self.take_exit(uid, &container, exit);
        }
    }

    fn take_exit(&mut self, uid: Uid, container: &ContainerState, exit: &ExitV1) {
        let Some(entry) = self.pods.get(&uid) else { return };
        // The last lines of a log may become its message.
        let read = || exit_of(exit, entry.machine.pod(), container, &entry.places);
        let exit: Exit = off_runtime(read);
        let (name, attempt) = (container.name.clone(), container.attempt);
        self.feed(uid, Event::Exited { container: name, attempt, exit });
    }

    /// The log file that a request means, and the id of the container that writes it.
    pub(super) fn log_of(&self, request: &LogsRequestV1) -> Result<(PathBuf, String), String> {
        let LogsRequestV1 { pod: uid, container: name, previous, .. } = request;
        let missing = || format!("pod {uid} is not on this board");
        let entry = self.pods.get(uid).ok_or_else(missing)?;
        let pod = &entry.machine.pod().metadata.name;
        let container = entry.machine.state().containers.iter().find(|c| c.name == *name);
        let container =
            container.ok_or_else(|| format!("container {name} is not valid for pod {pod}"))?;
        let started = container.is_running() || container.ended.is_some();
        let attempt = match (previous, started) {
            (true, _) if container.is_running() || container.ended.is_none() => {
                container.last.as_ref().map(|ended| ended.attempt)
            }
            // Between two starts the one that ended is the previous one.
            (true, _) if container.waiting.is_some() => Some(container.attempt),
            (true, _) => container.last.as_ref().map(|ended| ended.attempt),
            (false, true) => Some(container.attempt),
            (false, false) => container.last.as_ref().map(|ended| ended.attempt),
        };
        let reason = match (&container.waiting, container.stage) {
            (Some(waiting), _) => waiting.reason.clone(),
            (None, Stage::Idle) if !entry.machine.state().initialized => {
                "PodInitializing".to_owned()
            }
            _ => "ContainerCreating".to_owned(),
        };
        let attempt = attempt.ok_or_else(|| match previous {
            true => format!("previous terminated container {name:?} in pod {pod:?} not found"),
            false => format!("container {name:?} in pod {pod:?} is waiting to start: {reason}"),
        })?;
        let id = container_id(&uid.to_string(), name, attempt);
        Ok((entry.places.log(name, attempt), id))
    }
}
