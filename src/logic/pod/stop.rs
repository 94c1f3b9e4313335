//! How a pod, or one container of it, comes to its end.
//!
//! ```text
//! preStop hooks of all ─▶ (drained) ─▶ stop signal: mains, then sidecars, the last one first
//!        └──────────── grace is over: signal all ─▶ 2 s ─▶ SIGKILL, again every 10 s
//! ```
//! Grace counts from the deletion, whatever is waited for. A pod that services still send new
//! connections to is *drained*: its containers get the signal when this board's view of the services
//! has let go of it, and a little later, so that the other boards have too. However slow a master that
//! is heard may be, half of the grace stays the pod's own. kubelet leaves that to hooks that sleep; its order of everything else is kept (`kuberuntime_container.go`,
//! `kuberuntime_termination_order.go`).

use serde::{Deserialize, Serialize};

use super::container::{ContainerState, Role, Stage, Stopping};
use super::event::{Effect, HookKind, Moment};
use super::machine::{PodMachine, Step};

/// After SIGKILL the exit is waited for this long before the signal is sent again.
const KILL_AGAIN_MILLIS: u64 = 10_000;
/// What a container gets after its stop signal, even when hooks have used up its grace.
const SIGNALLED_MILLIS_MIN: u64 = 2_000;
/// A stopping pod waits for the services to let go of it for so long, and for no more than half of
/// its grace.
const DRAIN_MILLIS_MAX: u64 = 10_000;
/// The same where no master is heard who could say that they have.
const DRAIN_ALONE_MILLIS_MAX: u64 = 1_000;
/// Other boards hear of it later than this one by less than this, even those that miss the message:
/// the master repeats within 0.1 s which one was the newest.
const DRAIN_SETTLE_MILLIS: u64 = 300;

/// The whole pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStop {
    /// Containers that are still there then are killed.
    pub kill_ticks: u64,
    /// The API object is going or gone: every trace is removed at the end.
    pub forget: bool,
    /// Without any grace: nobody waits for it any more.
    #[serde(default)]
    pub forced: bool,
    /// The signal is held back until then: services may send connections.
    #[serde(default)]
    pub drained_ticks: Option<u64>,
}

impl PodMachine {
    /// Whether the pod's end waits for the services to let go of it.
    pub fn is_draining(&self, now: Moment) -> bool {
        self.state.stop.is_some_and(|stop| stop.drained_ticks.is_some_and(|at| at > now.ticks))
    }

    /// Services send new connections to this pod, or do not any more.
    pub(super) fn take_served(&mut self, served: bool, led: bool, now: Moment) {
        (self.served, self.led) = (served, led);
        if let Some(stop) = self.state.stop.as_mut().filter(|_| !served) {
            let settled = now.ticks + DRAIN_SETTLE_MILLIS;
            stop.drained_ticks = stop.drained_ticks.map(|at| at.min(settled));
        }
    }

    pub(super) fn note_deletion(&mut self, now: Moment) {
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.stop_pod(self.pod.grace_seconds(), true, now);
        }
    }

    /// A later wish can only shorten the time.
    pub(super) fn stop_pod(&mut self, grace_seconds: u32, forget: bool, now: Moment) {
        let grace_millis = u64::from(grace_seconds) * 1_000;
        let kill_ticks = now.ticks + grace_millis;
        let before = self.state.stop;
        let patience = if self.led { DRAIN_MILLIS_MAX } else { DRAIN_ALONE_MILLIS_MAX };
        let drain_by = now.ticks + patience.min(grace_millis / 2);
        let drained_ticks = match before {
            Some(before) => before.drained_ticks.map(|at| at.min(drain_by)),
            None => self.served.then_some(drain_by),
        };
        self.state.stop = Some(PodStop {
            kill_ticks: before.map_or(kill_ticks, |stop| stop.kill_ticks.min(kill_ticks)),
            forget: forget || before.is_some_and(|stop| stop.forget),
            forced: grace_seconds == 0 || before.is_some_and(|stop| stop.forced),
            drained_ticks,
        });
    }

    /// When something of an end under way is due.
    pub(super) fn stop_wakes(&self, wakes: &mut Vec<u64>) {
        let held = |c: &ContainerState| c.stop.is_some_and(|stop| !stop.signalled);
        let containers = &self.state.containers;
        wakes.extend(containers.iter().filter_map(|c| Some(c.stop?.kill_ticks)));
        if containers.iter().any(|c| c.is_running() && held(c) && self.waits_for_drain(c)) {
            wakes.extend(self.state.stop.and_then(|stop| stop.drained_ticks));
        }
    }

    /// All that holds its signal back is the drain.
    fn waits_for_drain(&self, container: &ContainerState) -> bool {
        container.stop.is_some_and(|stop| stop.hooked) && self.has_turn(container)
    }

    /// Stops what runs, then removes what is left.
    pub(super) fn advance_stop(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let stop = self.state.stop;
        let kill_ticks = stop.map_or_else(
            || now.ticks + u64::from(self.pod.grace_seconds()) * 1_000,
            |stop| stop.kill_ticks,
        );
        let forced = stop.is_some_and(|stop| stop.forced);
        for index in (0..self.state.containers.len()).rev() {
            let container = &mut self.state.containers[index];
            if !container.is_running() {
                continue;
            }
            match &mut container.stop {
                Some(stop) if stop.killed => {}
                Some(stop) if forced => {
                    stop.graceful = false;
                    stop.kill_ticks = stop.kill_ticks.min(now.ticks);
                }
                Some(stop) if stop.signalled && stop.extended => {}
                Some(stop) => stop.kill_ticks = stop.kill_ticks.min(kill_ticks.max(now.ticks)),
                None => {
                    let name = container.name.clone();
                    let millis = kill_ticks.saturating_sub(now.ticks);
                    let message = format!("Stopping container {name}");
                    self.stop_container(index, millis, message, now, out);
                }
            }
        }
        self.advance_kills(now, out);
        for index in 0..self.state.containers.len() {
            self.ask_probes(index, now, out);
        }
        if self.state.containers.iter().any(is_busy) {
            return;
        }
        for container in &mut self.state.containers {
            if matches!(container.stage, Stage::ImageAsked | Stage::Blocked) {
                container.stage = Stage::Idle;
                container.settle_ticks = None;
            }
        }
        self.remove_rest(now, out);
    }

    /// Sends the signals that are due to containers that stop.
    pub(super) fn advance_kills(&mut self, now: Moment, out: &mut Vec<Effect>) {
        for index in 0..self.state.containers.len() {
            let container = &self.state.containers[index];
            let Some(stop) = container.stop.filter(|_| container.is_running()) else { continue };
            let due = stop.kill_ticks <= now.ticks;
            let ready = stop.hooked && self.has_turn(container) && !self.is_draining(now);
            if stop.graceful && !stop.signalled && (due || ready) {
                self.signal(index, now, out);
            }
            let container = &mut self.state.containers[index];
            let Some(stop) = container.stop.as_mut() else { continue };
            if stop.kill_ticks <= now.ticks {
                stop.signalled = true;
                stop.killed = true;
                stop.kill_ticks = now.ticks + KILL_AGAIN_MILLIS;
                out.push(Effect::Signal {
                    container: container.name.clone(),
                    attempt: container.attempt,
                    signal: "SIGKILL".to_owned(),
                });
            }
        }
    }

    /// When the pod ends, a sidecar's turn comes after all that may use it: the others, and the
    /// sidecars that were started after it.
    fn has_turn(&self, container: &ContainerState) -> bool {
        if container.role != Role::Sidecar || self.state.stop.is_none() && !self.is_terminal() {
            return true;
        }
        let containers = &self.state.containers;
        let own = containers.iter().position(|c| c.name == container.name);
        let waits_for = |(index, other): (usize, &ContainerState)| {
            other.role != Role::Sidecar || own.is_some_and(|own| index > own)
        };
        let mut others = containers.iter().enumerate();
        !others.any(|(index, other)| is_busy(other) && waits_for((index, other)))
    }

    fn remove_rest(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.state.stop.is_some_and(|stop| stop.forget) {
            // A sandbox or volume that is being made would outlive its own removal.
            let making = [self.state.sandbox, self.state.volumes].contains(&Step::Asked);
            if !making && self.state.teardown.is_due(now) {
                self.state.teardown = Step::Asked;
                out.push(Effect::Teardown);
            }
        } else {
            self.remove_sandbox(now, out);
        }
    }

    /// Begins the stop of a running container; with no grace at all it is killed.
    pub(super) fn stop_container(
        &mut self,
        index: usize,
        grace_millis: u64,
        message: String,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &mut self.state.containers[index];
        if !container.is_running() || container.stop.is_some() {
            return;
        }
        let name = container.name.clone();
        let spec = self.pod.container(&name);
        let has_hook = spec.is_some_and(|spec| spec.lifecycle.pre_stop.is_some());
        let graceful = grace_millis > 0;
        container.stop = Some(Stopping {
            kill_ticks: now.ticks + grace_millis,
            graceful,
            hooked: !has_hook,
            ..Stopping::default()
        });
        let attempt = container.attempt;
        self.report(out, false, "Killing", message, Some(&name));
        if has_hook && graceful {
            out.push(Effect::Hook {
                container: name,
                attempt,
                kind: HookKind::PreStop,
                timeout_millis: grace_millis,
            });
        }
    }

    fn signal(&mut self, index: usize, now: Moment, out: &mut Vec<Effect>) {
        let container = &mut self.state.containers[index];
        let Some(stop) = container.stop.as_mut() else { return };
        stop.signalled = true;
        let least = now.ticks + SIGNALLED_MILLIS_MIN;
        stop.extended = stop.kill_ticks < least;
        stop.kill_ticks = stop.kill_ticks.max(least);
        let spec = self.pod.container(&container.name);
        let chosen = spec.and_then(|spec| spec.lifecycle.stop_signal.clone());
        let of_image = container.image.as_ref().map(|image| image.stop_signal.clone());
        let signal = chosen.or(of_image).filter(|signal| !signal.is_empty());
        out.push(Effect::Signal {
            container: container.name.clone(),
            attempt: container.attempt,
            signal: signal.unwrap_or_else(|| "SIGTERM".to_owned()),
        });
    }
}

pub(super) fn is_busy(container: &ContainerState) -> bool {
    container.is_running() || container.is_starting()
}
