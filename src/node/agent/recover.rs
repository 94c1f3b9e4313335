//! Coming back: after a restart of the agent, or of the board, without asking any master.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;

use logic::pod::{Event, Instance, Moment, Pod, PodMachine, PodState, Remains, parse_container_id};
use model::ids::Uid;
use model::timestamp::Timestamp;

use super::pods::PodEntry;
use super::{Agent, Started, ticks};
use crate::io::image::Digest;
use crate::io::keeper::{ContainerStateV1, RunStateV1};
use crate::node::NodeError;
use crate::node::desired::DesiredLog;
use crate::node::driver::{blocking, exit_of, remove_leftovers, sweep_keeper};
use crate::node::place::{Places, PodPlaces, replace};

/// What the board still has of earlier pods.
struct Known {
    states: Vec<ContainerStateV1>,
    /// Pods that have one; unknown when the keeper cannot be asked.
    sandboxes: Option<Vec<String>>,
    rebooted: bool,
}

impl Agent {
    /// Reads the desired set, takes up its pods where they were left, and clears away the rest.
    pub(super) async fn recover(started: Started) -> Result<Self, NodeError> {
        let driver = started.driver.clone();
        let desired = DesiredLog::open(&driver.places.desired())?;
        let (boot, rebooted) = boot_number(&driver.places).map_err(NodeError::RunDir)?;
        let wanted: BTreeSet<String> = desired.set().pods.keys().map(ToString::to_string).collect();
        sweep_keeper(&driver, &wanted).await;
        let places = driver.places.clone();
        let cleared = blocking(move || remove_leftovers(&places, &wanted, rebooted)).await;
        if let Some(Err(error)) = cleared {
            tracing::warn!(%error, "files of earlier pods are not removed");
        }
        let known = Known {
            states: driver.keeper.list().await.unwrap_or_default(),
            sandboxes: driver.keeper.sandboxes().await.ok(),
            rebooted,
        };
        let mut agent = Self::new(started, desired, boot);
        let pods: Vec<(Uid, bytes::Bytes)> =
            agent.desired.set().pods.iter().map(|(uid, pod)| (*uid, pod.pod.clone())).collect();
        for (uid, json) in pods {
            match Pod::parse(&json) {
                Ok(pod) => agent.take_up(uid, Arc::new(pod), &known),
                Err(error) => tracing::error!(pod = %uid, %error, "pod is not taken up"),
            }
        }
        let _ = blocking({
            let images = driver.images.clone();
            move || images.collect()
        })
        .await;
        tracing::info!(pods = agent.pods.len(), rebooted, "board has taken up its pods");
        Ok(agent)
    }

    fn take_up(&mut self, uid: Uid, pod: Arc<Pod>, known: &Known) {
        let places = self.driver.places.pod(&pod);
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
