//! Coming back: after a restart of the agent, or of the board, without asking any master.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use logic::pod::{Event, Instance, Moment, Pod, PodMachine, PodState, Remains, parse_container_id};
use model::ids::Uid;
use model::timestamp::Timestamp;

use super::pods::{PodEntry, readable};
use super::{Agent, Started, off_runtime, ticks};
use crate::io::image::Digest;
use crate::io::keeper::{ContainerStateV1, RunStateV1};
use crate::node::NodeError;
use crate::node::desired::DesiredLog;
use crate::node::driver::{Driver, blocking, exit_of, remove_leftovers, sweep_keeper};
use crate::node::place::{Places, PodPlaces, replace};

/// What the board still has of earlier pods.
struct Known {
    states: Vec<ContainerStateV1>,
    /// Pods that have one; unknown when the keeper cannot be asked.
    sandboxes: Option<Vec<String>>,
    rebooted: bool,
}

/// How often containers are asked for before the role ends, to be run again from the start.
const LIST_TRIES: u32 = 30;
const LIST_PAUSE: Duration = Duration::from_secs(1);

impl Agent {
    /// Reads the desired set and, if it is known, settles the board by it.
    pub(super) async fn recover(started: Started) -> Result<Self, NodeError> {
        let driver = started.driver.clone();
        let (desired, boot) = off_runtime(|| {
            let boot = boot_number(&driver.places).map_err(NodeError::RunDir)?;
            Ok::<_, NodeError>((DesiredLog::open(&driver.places.desired())?, boot))
        })?;
        let mut agent = Self::new(started, desired, boot);
        if agent.desired.is_known() {
            agent.settle().await?;
        }
        Ok(agent)
    }

    /// Takes up the pods of the desired set where they were left, and clears away the rest. Not before
    /// the set is known: what an empty set that was never sent does not list is not unwanted.
    pub(super) async fn settle(&mut self) -> Result<(), NodeError> {
        let (driver, rebooted) = (self.driver.clone(), self.rebooted);
        let mut states = listed(&driver).await?;
        let mut wanted: BTreeSet<String> =
            self.desired.set().pods.keys().map(ToString::to_string).collect();
        // Files that a container still uses stay.
        wanted.extend(sweep_keeper(&driver, &states, &wanted).await);
        states.retain(|state| wanted.contains(&state.pod_uid));
        if let Some(network) = &driver.network {
            network.retain(&wanted).await;
        }
        let places = driver.places.clone();
        let cleared = blocking(move || remove_leftovers(&places, &wanted, rebooted)).await;
        if let Some(Err(error)) = cleared {
            tracing::warn!(%error, "files of earlier pods are not removed");
        }
        let sandboxes = driver.keeper.sandboxes().await.ok();
        let known = Known { states, sandboxes, rebooted };
        self.settled = true;
        let pods: Vec<(Uid, bytes::Bytes)> =
            self.desired.set().pods.iter().map(|(uid, pod)| (*uid, pod.pod.clone())).collect();
        for (uid, json) in pods {
            let pod = readable(&json, uid);
            off_runtime(|| self.take_up(uid, Arc::new(pod), &known));
        }
        // Services may have let go of pods while nobody looked.
        self.services_changed();
        let _ = blocking({
            let images = driver.images.clone();
            move || images.collect()
        })
        .await;
        tracing::info!(pods = self.pods.len(), rebooted, "board has taken up its pods");
        Ok(())
    }

    fn take_up(&mut self, uid: Uid, pod: Arc<Pod>, known: &Known) {
        let places = self.driver.places.pod(&pod);
        self.follow_tokens(&pod, &places);
        let now = Moment { wall: self.clock.now(), ticks: ticks() };
        let remains = Remains {
            state: saved_state(&places),
            instances: instances(&uid, &pod, &places, &known.states),
            logged: places.logged_attempts().unwrap_or_default(),
            rebooted: known.rebooted,
            sandbox_lost: known
                .sandboxes
                .as_ref()
                .is_some_and(|all| !all.contains(&uid.to_string())),
            place_lost: !pod.spec.host_network
                && self.driver.network.as_ref().is_some_and(|network| network.has_lost(uid)),
        };
        let machine = PodMachine::restore(pod, remains, now);
        let mut entry = PodEntry::new(machine, places);
        for container in entry.machine.state().containers.iter().filter(|c| c.is_running()) {
            let id = container.image.as_ref().map(|image| image.id.as_str()).unwrap_or_default();
            let digest = id.rsplit('@').next().and_then(Digest::parse);
            if let Some(hold) = digest.and_then(|digest| self.driver.images.hold(digest)) {
                entry.holds.insert(container.name.clone(), hold);
            }
        }
        self.pods.insert(uid, entry);
        self.feed(uid, Event::Timer);
    }
}

/// What runs. Without knowing it, whatever runs would be started a second time.
async fn listed(driver: &Driver) -> Result<Vec<ContainerStateV1>, NodeError> {
    let mut tries = 1;
    loop {
        match driver.keeper.list().await {
            Ok(states) => return Ok(states),
            Err(error) if tries >= LIST_TRIES => return Err(NodeError::Keeper(error)),
            Err(error) => tracing::warn!(%error, tries, "containers cannot be listed"),
        }
        tries += 1;
        tokio::time::sleep(LIST_PAUSE).await;
    }
}

/// The number of this boot, and whether it is a new one: the run-dir is empty after a boot.
fn boot_number(places: &Places) -> io::Result<(u64, bool)> {
    let path = places.boot();
    if let Ok(text) = fs::read_to_string(&path)
        && let Ok(number) = text.trim().parse()
    {
        return Ok((number, false));
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let number = u64::from_le_bytes(bytes);
    replace(&path, number.to_string().as_bytes())?;
    Ok((number, true))
}

/// What this boot knows; else what was kept of a pod that had ended for good.
fn saved_state(places: &PodPlaces) -> Option<PodState> {
    let read = |path| serde_json::from_slice(&fs::read(path).ok()?).ok();
    read(places.state()).or_else(|| read(places.durable_state()))
}

fn instances(
    uid: &Uid,
    pod: &Pod,
    places: &PodPlaces,
    states: &[ContainerStateV1],
) -> Vec<Instance> {
    let uid = uid.to_string();
    let instance = |state: &ContainerStateV1| {
        let (owner, container, attempt) = parse_container_id(&state.id)?;
        if owner != uid {
            return None;
        }
        let mut container_state =
            logic::pod::ContainerState::new(container, logic::pod::Role::Main);
        container_state.attempt = attempt;
        let exit = match &state.state {
            RunStateV1::Running => None,
            RunStateV1::Exited(exit) => Some(exit_of(exit, pod, &container_state, places)),
        };
        Some(Instance {
            container: container.to_owned(),
            attempt,
            since: Timestamp(state.started_at_micros),
            exit,
        })
    };
    states.iter().filter_map(instance).collect()
}
