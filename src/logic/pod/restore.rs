//! A pod's machine after a restart of the agent, or of the whole board.

use std::sync::Arc;

use super::container::{ContainerState, Ended, Role, Stage};
use super::event::{Exit, Moment};
use super::machine::{PodMachine, PodState, Step};
use super::probe::ProbeState;
use super::spec::Pod;
use model::timestamp::Timestamp;

/// A container that the keeper still knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Name in the spec.
    pub container: String,
    /// Which start.
    pub attempt: u32,
    /// When it started.
    pub since: Timestamp,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// What is left of a pod's earlier life.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// The state as last written.
    pub state: Option<PodState>,
    /// What the keeper knows.
    pub instances: Vec<Instance>,
    /// Last start of each container that left a log, as kubelet counts restarts after a reboot.
    pub logged: Vec<(String, u32)>,
    /// The board has booted since: no process, no sandbox and no tick of then is worth anything.
    pub rebooted: bool,
    /// The keeper has no sandbox of this pod, whatever the state says.
    pub sandbox_lost: bool,
    /// The sandbox that the keeper has is without a network, and the pod is to have one.
    pub place_lost: bool,
}

impl PodMachine {
    /// Takes up a pod where it was left; feed it `Event::Timer` to go on.
    pub fn restore(pod: Arc<Pod>, remains: Remains, now: Moment) -> Self {
        let mut machine = Self::new(pod, now);
        let stop = machine.state.stop;
        if let Some(state) = remains.state.clone() {
            let same_names = state.containers.iter().map(|c| &c.name);
            if same_names.eq(machine.state.containers.iter().map(|c| &c.name)) {
                machine.state = state;
            }
        }
        let state = &mut machine.state;
        for step in [&mut state.sandbox, &mut state.volumes, &mut state.teardown] {
            let keeps = *step == Step::Done && !remains.rebooted;
            *step = if keeps { Step::Done } else { Step::Todo };
        }
        if remains.sandbox_lost {
            state.sandbox = Step::Todo;
        }
        // Volumes are filled again: what they are made from may have changed meanwhile.
        state.volumes = Step::Todo;
        if remains.rebooted {
            state.deadline_ticks = None;
        }
        state.stop = if remains.rebooted { stop } else { state.stop.or(stop) };
        let stops = state.stop.is_some();
        for container in &mut state.containers {
            restore_container(container, &remains, now);
            if stops {
                // Hook and signal may have been lost with the agent: the pod's stop begins them anew
                // within the same time.
                container.stop = None;
            }
            let spec = machine.pod.container(&container.name);
            if let (true, Some(spec)) = (container.is_running(), spec) {
                if container.probes.is_empty() {
                    container.probes = ProbeState::of_container(spec, now.ticks);
                }
                // The answer of a hook is lost with the agent; nobody runs it a second time.
                container.hooked = true;
                container.probes.iter_mut().for_each(ProbeState::forget_asked);
            }
        }
        if remains.rebooted && !machine.is_terminal() {
            machine.run_init_again();
        }
        machine.restore_sandbox(&remains);
        machine
    }

    fn restore_sandbox(&mut self, remains: &Remains) {
        let (terminal, state) = (self.is_terminal(), &mut self.state);
        let is_there = !remains.rebooted && !remains.sandbox_lost;
        let place_lost = state.sandbox == Step::Done && remains.place_lost;
        state.outdated = is_there && !terminal && (state.outdated || place_lost);
        if is_there && (terminal || state.outdated) {
            // It is removed, whatever was asked before.
            state.sandbox = Step::Done;
        }
        if !terminal && (state.sandbox == Step::Todo || state.outdated) {
            // The next sandbox brings another one.
            state.address = None;
        }
    }

    /// A new sandbox runs its init containers again, those that succeeded too.
    pub(super) fn run_init_again(&mut self) {
        self.state.initialized = false;
        for container in &mut self.state.containers {
            if container.role == Role::Init && container.has_succeeded() {
                container.last = container.ended.take();
                container.attempt += 1;
                container.stage = Stage::Idle;
            }
        }
    }
}

fn restore_container(container: &mut ContainerState, remains: &Remains, now: Moment) {
    let newest = remains
        .instances
        .iter()
        .filter(|instance| instance.container == container.name)
        .max_by_key(|instance| instance.attempt);
    if remains.rebooted {
        container.backoff = Default::default();
        container.settle_ticks = None;
        container.stop = None;
    }
    let was_running = container.is_running();
    match newest.filter(|instance| !remains.rebooted && instance.attempt >= container.attempt) {
        Some(instance) => adopt(container, instance, now),
        None if was_running => lose(container, now),
        None => forget_asked(container, now),
    }
    let logged = remains.logged.iter().filter(|(name, _)| *name == container.name);
    // Within a boot the state says more: a log may belong to a start that was never asked for.
    let counts = remains.rebooted || remains.state.is_none();
    let logged = logged.map(|(_, attempt)| *attempt).max().filter(|_| counts);
    let is_new = container.stage == Stage::Idle && container.ended.is_none();
    if let (true, Some(attempt)) = (is_new && newest.is_none(), logged)
        && attempt >= container.attempt
    {
        container.attempt = attempt;
        lose(container, now);
    }
}

fn adopt(container: &mut ContainerState, instance: &Instance, now: Moment) {
    if instance.attempt > container.attempt {
        container.last = container.ended.take();
        container.attempt = instance.attempt;
        container.stage = Stage::StartAsked;
    }
    match &instance.exit {
        None if !container.is_running() => {
            container.stage = Stage::Running { since: instance.since };
            container.waiting = None;
            container.ended = None;
        }
        None => {}
        Some(_) if container.ended.is_some() => forget_asked(container, now),
        Some(exit) => {
            container.stage = Stage::Running { since: instance.since };
            container.exited(exit, now);
        }
    }
}

/// It ran, and nobody knows how it ended.
fn lose(container: &mut ContainerState, now: Moment) {
    let since = match container.stage {
        Stage::Running { since } => Some(since),
        _ => None,
    };
    let message = "The container could not be located when the pod was restarted";
    let reason = "ContainerStatusUnknown";
    container.end(reason, 137, message, since, now.wall, now);
}

/// What was asked for was lost with the one who was to answer.
fn forget_asked(container: &mut ContainerState, now: Moment) {
    match container.stage {
        Stage::ImageAsked | Stage::StartAsked | Stage::Blocked => container.stage = Stage::Idle,
        Stage::Ended { ticks } if ticks > now.ticks => {
            container.stage = Stage::Ended { ticks: now.ticks };
        }
        _ => {}
    }
}

/// How an earlier start ended, for a status.
pub(super) fn last_ended(container: &ContainerState) -> Option<&Ended> {
    match &container.waiting {
        Some(_) => container.ended.as_ref().or(container.last.as_ref()),
        None => container.last.as_ref(),
    }
}
