//! What a pod has around its containers: the sandbox and the volumes.
//!
//! ```text
//!  sandbox: Todo ─▶ Asked ─▶ Done ─────(the pod is over)────▶ Asked ─▶ Todo
//!             ▲       └─▶ Failed, later again    └─▶ Failed, later again
//!             └─────── removed ◀── all containers ended ◀── outdated
//! ```
//! A sandbox is outdated when what it gives the containers is of no use any more, and they still run in
//! it: they are stopped, as kubelet does, and start anew in the next one. Volumes of containers that run
//! are filled again when their objects change; when that fails, they keep what they have.

use super::event::{Effect, Moment};
use super::machine::{PodMachine, Step};
use super::stop::is_busy;

impl PodMachine {
    /// Sandbox and volumes are there.
    pub(super) fn is_set_up(&self) -> bool {
        let state = &self.state;
        state.sandbox == Step::Done && !state.outdated && state.volumes == Step::Done
    }

    /// Whether volumes are to follow their objects: not before they are filled, and not once the pod
    /// ends, when they could come back after their removal.
    pub fn refreshes_volumes(&self) -> bool {
        self.state.volumes == Step::Done && self.state.stop.is_none() && !self.is_terminal()
    }

    /// Volumes could not be filled. What runs does so on what they were filled with before.
    pub(super) fn volumes_failed(
        &mut self,
        message: String,
        retry: bool,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        self.report(out, true, "FailedMount", message, None);
        if self.state.volumes != Step::Asked {
            return;
        }
        if !retry && self.state.containers.iter().any(|container| container.is_running()) {
            self.state.volumes = Step::Done;
        } else {
            self.fail_step(1, retry, now);
        }
    }

    pub(super) fn fail_step(&mut self, which: usize, retry: bool, now: Moment) {
        let step = match which {
            0 => &mut self.state.sandbox,
            1 => &mut self.state.volumes,
            _ => &mut self.state.teardown,
        };
        step.fail(retry, self.state.delays[which], now);
        if let Step::Failed { delay_millis, .. } = step {
            self.state.delays[which] = *delay_millis;
        }
    }

    /// What a sandbox waited for may be there.
    pub(super) fn network_ready(&mut self, now: Moment) {
        self.state.delays[0] = 0;
        if let Step::Failed { retry_ticks: Some(at), .. } = &mut self.state.sandbox {
            *at = now.ticks.min(*at);
        }
    }

    /// The sandbox is of no use to its containers.
    pub(super) fn place_lost(&mut self) {
        if self.state.sandbox == Step::Done && !self.is_terminal() {
            self.state.outdated = true;
            self.state.address = None;
        }
    }

    /// The sandbox is gone; unless the pod is over, the next one is due.
    pub(super) fn sandbox_removed(&mut self) {
        self.state.sandbox = Step::Todo;
        self.state.delays[0] = 0;
        if std::mem::take(&mut self.state.outdated) && !self.is_terminal() {
            self.run_init_again();
        }
    }

    pub(super) fn sandbox_not_removed(
        &mut self,
        message: &str,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let message = format!("error killing pod: {message}");
        self.report(out, true, "FailedKillPod", message, None);
        self.fail_step(0, true, now);
    }

    /// When the removal of a finished pod's sandbox is tried again.
    pub(super) fn removal_wake(&self) -> Option<u64> {
        let forgets = self.state.stop.is_some_and(|stop| stop.forget);
        let waits = forgets || self.state.containers.iter().any(is_busy);
        self.state.sandbox.wake_ticks().filter(|_| !waits)
    }

    /// Removes a sandbox that is there, or may be: one that could not be made or removed may be half
    /// there.
    pub(super) fn remove_sandbox(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let due = match self.state.sandbox {
            Step::Done => true,
            Step::Failed { .. } => self.state.sandbox.is_due(now),
            Step::Todo | Step::Asked => false,
        };
        if due {
            self.state.sandbox = Step::Asked;
            out.push(Effect::RemoveSandbox);
        }
    }

    /// Has the containers of an outdated sandbox stopped, then removes it.
    pub(super) fn advance_outdated(&mut self, now: Moment, out: &mut Vec<Effect>) {
        for index in 0..self.state.containers.len() {
            let message = format!("Stopping container {}", self.state.containers[index].name);
            self.stop_container(index, self.pod.grace_millis(), message, now, out);
        }
        if self.state.containers.iter().any(is_busy) {
            return;
        }
        if self.state.sandbox == Step::Done {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.report(out, false, "SandboxChanged", text.to_owned(), None);
        }
        self.remove_sandbox(now, out);
    }
}
