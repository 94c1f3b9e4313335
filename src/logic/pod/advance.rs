//! What a pod does next, from its state alone: level-triggered, the same answer after any event.

use super::admission::{Failure, refusal};
use super::container::{ContainerState, Role, Stage, Waiting};
use super::event::{Effect, HookKind, Moment, ProbeKind};
use super::machine::{PodMachine, Step};
use super::spec::{Handler, RestartPolicy};

/// After SIGKILL the exit is waited for this long before the signal is sent again.
const KILL_AGAIN_MILLIS: u64 = 10_000;

impl PodMachine {
    /// Nothing will start any more: the pod has succeeded or failed.
    pub fn is_terminal(&self) -> bool {
        if self.state.failure.is_some() {
            return true;
        }
        let policy = self.pod.spec.restart_policy;
        let over = |container: &ContainerState| {
            matches!(container.stage, Stage::Ended { .. }) && !container.wants_restart(policy)
        };
        let containers = &self.state.containers;
        let init_failed =
            containers.iter().any(|c| c.role == Role::Init && over(c) && !c.has_succeeded());
        let mut mains = containers.iter().filter(|c| c.role == Role::Main);
        init_failed || policy != RestartPolicy::Always && mains.all(over)
    }

    /// Asks for whatever is missing.
    pub(super) fn advance(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.admit(out);
        self.advance_deadline(now, out);
        self.settle_images(now, out);
        if self.state.stop.is_some() || self.is_terminal() {
            self.advance_stop(now, out);
            return;
        }
        if self.state.sandbox.is_due(now) {
            self.state.sandbox = Step::Asked;
            out.push(Effect::CreateSandbox);
        }
        if self.state.volumes.is_due(now) {
            self.state.volumes = Step::Asked;
            out.push(Effect::PrepareVolumes);
        }
        self.advance_kills(now, out);
        if self.is_set_up() {
            self.advance_containers(now, out);
        }
    }

    /// Asks once whether this board takes the pod.
    fn admit(&mut self, out: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.state.admitted, true) || self.state.stop.is_some() {
            return;
        }
        if let Some((reason, message)) = refusal(&self.pod) {
            self.report(out, true, reason, message.clone(), None);
            self.fail(reason, format!("Pod was rejected: {message}"));
        }
    }

    /// kubelet's `active_deadline.go`.
    fn advance_deadline(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(seconds) = self.pod.spec.active_deadline_seconds else { return };
        if self.state.stop.is_some() || self.is_terminal() {
            return;
        }
        let micros = now.wall.0.saturating_sub(self.state.start_time.0).max(0);
        let active_millis = u64::try_from(micros / 1_000).unwrap_or(0);
        let allowed_millis = u64::try_from(seconds.max(0)).unwrap_or(0).saturating_mul(1_000);
        let left_millis = allowed_millis.saturating_sub(active_millis);
        let due = *self.state.deadline_ticks.get_or_insert(now.ticks.saturating_add(left_millis));
        if due <= now.ticks {
            let text = "Pod was active on the node longer than the specified deadline";
            self.report(out, false, "DeadlineExceeded", text.to_owned(), None);
            self.fail("DeadlineExceeded", text.to_owned());
        }
    }

    /// The pod has failed as a whole: nothing of it waits for anything any more.
    fn fail(&mut self, reason: &str, message: String) {
        self.state.failure = Some(Failure { reason: reason.to_owned(), message });
        for container in &mut self.state.containers {
            container.waiting = None;
            container.settle_ticks = None;
        }
    }

    fn advance_containers(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let active: Vec<usize> = self.active().collect();
        for index in active {
            self.state.initialized |= self.state.containers[index].role == Role::Main;
            self.drive(index, now, out);
        }
    }

    /// Brings one container closer to running.
    fn drive(&mut self, index: usize, now: Moment, out: &mut Vec<Effect>) {
        let policy = self.pod.spec.restart_policy;
        let pod = self.pod.full_name();
        let container = &mut self.state.containers[index];
        match container.stage {
            Stage::ImageAsked | Stage::StartAsked | Stage::Blocked => {}
            Stage::Running { .. } => self.ask_probes(index, now, out),
            Stage::Ended { .. } if !container.wants_restart(policy) => {}
            Stage::Ended { .. } if container.restart_ticks() > Some(now.ticks) => {
                if let Some(message) = container.show_backoff(&pod) {
                    let name = container.name.clone();
                    self.report(out, true, "BackOff", message, Some(&name));
                }
            }
            Stage::Ended { .. } => {
                container.begin_start(now);
                // A name may mean another image by now.
                container.image = None;
                self.ask_image(index, out);
            }
            Stage::Idle if container.image.is_none() => self.ask_image(index, out),
            Stage::Idle => {
                container.stage = Stage::StartAsked;
                container.waiting = None;
                out.push(Effect::Start {
                    container: container.name.clone(),
                    attempt: container.attempt,
                });
            }
        }
    }

    fn ask_image(&mut self, index: usize, out: &mut Vec<Effect>) {
        let container = &mut self.state.containers[index];
        container.stage = Stage::ImageAsked;
        out.push(Effect::EnsureImage { container: container.name.clone() });
    }

    fn ask_probes(&mut self, index: usize, now: Moment, out: &mut Vec<Effect>) {
        let container = &mut self.state.containers[index];
        if container.stop.is_some() || !container.hooked {
            return;
        }
        let started = container.is_started();
        for probe in &mut container.probes {
            let gated = started == (probe.kind == ProbeKind::Startup);
            if gated || probe.due_ticks().is_none_or(|due| due > now.ticks) {
                continue;
            }
            probe.ask();
            out.push(Effect::Probe {
                container: container.name.clone(),
                attempt: container.attempt,
                kind: probe.kind,
            });
        }
    }

    /// kubelet shows a failed pull first as itself, then as its back-off.
    fn settle_images(&mut self, now: Moment, out: &mut Vec<Effect>) {
        for index in 0..self.state.containers.len() {
            let container = &mut self.state.containers[index];
            if container.settle_ticks.is_none_or(|at| at > now.ticks) {
                continue;
            }
            container.settle_ticks = None;
            let name = container.name.clone();
            let image = self.pod.container(&name).map(|c| c.image.clone()).unwrap_or_default();
            let Some(before) = container.waiting.take() else { continue };
            let back_off = format!("Back-off pulling image {image:?}");
            container.waiting = Some(Waiting {
                reason: "ImagePullBackOff".to_owned(),
                message: format!("{back_off}: ErrImagePull: {}", before.message),
            });
            self.report(out, false, "BackOff", back_off, Some(&name));
            let error = "Error: ImagePullBackOff".to_owned();
            self.report(out, true, "Failed", error, Some(&name));
        }
    }

    fn advance_kills(&mut self, now: Moment, out: &mut Vec<Effect>) {
        for container in &mut self.state.containers {
            if !container.is_running() {
                continue;
            }
            let Some(stop) = &mut container.stop else { continue };
            if stop.kill_ticks <= now.ticks {
                stop.signalled = true;
                stop.kill_ticks = now.ticks + KILL_AGAIN_MILLIS;
                out.push(Effect::Signal {
                    container: container.name.clone(),
                    attempt: container.attempt,
                    signal: "SIGKILL".to_owned(),
                });
            }
        }
    }

    /// Stops what runs (sidecars after the others), then removes what is left.
    fn advance_stop(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let kill_ticks = self.state.stop.map(|stop| stop.kill_ticks);
        let kill_ticks =
            kill_ticks.unwrap_or_else(|| now.ticks + u64::from(self.pod.grace_seconds()) * 1_000);
        let busy = |c: &ContainerState| c.is_running() || c.is_starting();
        let mains_busy = self.state.containers.iter().any(|c| c.role != Role::Sidecar && busy(c));
        for index in (0..self.state.containers.len()).rev() {
            let container = &mut self.state.containers[index];
            let waits = container.role == Role::Sidecar && mains_busy && now.ticks < kill_ticks;
            if !container.is_running() || waits {
                continue;
            }
            match &mut container.stop {
                Some(stop) => stop.kill_ticks = stop.kill_ticks.min(kill_ticks.max(now.ticks)),
                None => {
                    let name = container.name.clone();
                    let millis = kill_ticks.saturating_sub(now.ticks);
                    let grace = u32::try_from(millis.div_ceil(1_000)).unwrap_or(u32::MAX);
                    let message = format!("Stopping container {name}");
                    self.stop_container(index, grace, message, now, out);
                }
            }
        }
        self.advance_kills(now, out);
        if self.state.containers.iter().any(busy) {
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

    fn remove_rest(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.state.stop.is_some_and(|stop| stop.forget) {
            // A sandbox or volume that is being made would outlive its own removal.
            let making = [self.state.sandbox, self.state.volumes].contains(&Step::Asked);
            if !making && self.state.teardown.is_due(now) {
                self.state.teardown = Step::Asked;
                out.push(Effect::Teardown);
            }
        } else if self.state.sandbox == Step::Done {
            self.state.sandbox = Step::Todo;
            out.push(Effect::RemoveSandbox);
        }
    }

    /// Begins the graceful stop of a running container.
    pub(super) fn stop_container(
        &mut self,
        index: usize,
        grace_seconds: u32,
        message: String,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &mut self.state.containers[index];
        if !container.is_running() || container.stop.is_some() {
            return;
        }
        let name = container.name.clone();
        let kill_ticks = now.ticks + u64::from(grace_seconds) * 1_000;
        container.stop = Some(super::container::Stopping { kill_ticks, signalled: false });
        let attempt = container.attempt;
        self.report(out, false, "Killing", message, Some(&name));
        let hook: Option<&Handler> =
            self.pod.container(&name).and_then(|c| c.lifecycle.pre_stop.as_ref());
        if hook.is_some() && grace_seconds > 0 {
            out.push(Effect::Hook {
                container: name,
                attempt,
                kind: HookKind::PreStop,
                timeout_millis: u64::from(grace_seconds) * 1_000,
            });
        } else if grace_seconds > 0 {
            self.signal(index, out);
        } else {
            self.advance_kills(now, out);
        }
    }

    /// Sends the stop signal once.
    pub(super) fn signal(&mut self, index: usize, out: &mut Vec<Effect>) {
        let container = &mut self.state.containers[index];
        let Some(stop) = container.stop.as_mut().filter(|stop| !stop.signalled) else { return };
        stop.signalled = true;
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
