//! What a pod does next, from its state alone: level-triggered, the same answer after any event.

use super::admission::{Failure, refusal};
use super::container::{ContainerState, Role, Stage, Waiting};
use super::event::{Effect, Moment, ProbeKind};
use super::machine::{PodMachine, Step};
use super::spec::RestartPolicy;

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
        if self.state.outdated {
            self.advance_outdated(now, out);
        } else if self.state.sandbox.is_due(now) {
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

    /// A container that stops is only asked whether it still serves.
    pub(super) fn ask_probes(&mut self, index: usize, now: Moment, out: &mut Vec<Effect>) {
        let container = &mut self.state.containers[index];
        if !container.is_running() || !container.hooked {
            return;
        }
        let (started, stopping) = (container.is_started(), container.stop.is_some());
        for probe in &mut container.probes {
            let gated = match probe.kind {
                ProbeKind::Startup => started || stopping,
                ProbeKind::Liveness => !started || stopping,
                ProbeKind::Readiness => !started,
            };
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
}
