//! What the answers of probes and hooks do to a pod.

use super::event::{Effect, HookKind, Moment, ProbeFault, ProbeKind};
use super::machine::PodMachine;
use super::probe::{self, spec_of};

impl PodMachine {
    pub(super) fn probed(
        &mut self,
        index: usize,
        kind: ProbeKind,
        result: Result<(), ProbeFault>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &mut self.state.containers[index];
        let name = container.name.clone();
        let Some(spec) = self.pod.container(&name).and_then(|c| spec_of(c, kind)) else { return };
        let Some(state) = container.probes.iter_mut().find(|p| p.kind == kind) else { return };
        match result {
            Err(ProbeFault::Unknown(_)) => state.skip(spec, now.ticks),
            _ => state.answer(spec, result.is_ok(), now.ticks),
        }
        let verdict = state.verdict;
        let stopping = container.stop.is_some() || self.state.stop.is_some();
        let word = probe::word(kind);
        let message = match result {
            Ok(()) => None,
            Err(ProbeFault::Unhealthy(text)) => Some(format!("{word} probe failed: {text}")),
            Err(ProbeFault::Unknown(text)) => {
                Some(format!("{word} probe errored and resulted in unknown state: {text}"))
            }
        };
        if let Some(message) = message {
            self.report(out, true, "Unhealthy", message, Some(&name));
        }
        if kind != ProbeKind::Readiness && verdict == Some(false) && !stopping {
            let grace = spec_of(self.pod.container(&name).expect("found above"), kind)
                .and_then(|spec| spec.termination_grace_period_seconds)
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or_else(|| self.pod.grace_millis(), |seconds| seconds * 1_000);
            let probe = word.to_lowercase();
            let message = format!("Container {name} failed {probe} probe, will be restarted");
            self.stop_container(index, grace, message, now, out);
        }
    }

    pub(super) fn hooked(
        &mut self,
        index: usize,
        kind: HookKind,
        result: Result<(), String>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &self.state.containers[index];
        let name = container.name.clone();
        // A hook that outlives the grace is cut off, and nobody is told.
        let late =
            container.stop.is_some_and(|stop| stop.signalled || stop.kill_ticks <= now.ticks);
        let failed = result.is_err();
        if let Err(text) = result
            && !late
        {
            let (reason, hook) = match kind {
                HookKind::PostStart => ("FailedPostStartHook", "PostStartHook"),
                HookKind::PreStop => ("FailedPreStopHook", "PreStopHook"),
            };
            self.report(out, true, reason, format!("{hook} failed: {text}"), Some(&name));
        }
        match kind {
            HookKind::PreStop => {
                if let Some(stop) = &mut self.state.containers[index].stop {
                    stop.hooked = true;
                }
            }
            HookKind::PostStart if failed => {
                let grace = self.pod.grace_millis();
                let message = "FailedPostStartHook".to_owned();
                self.stop_container(index, grace, message, now, out);
            }
            HookKind::PostStart => self.state.containers[index].hooked = true,
        }
    }
}
