//! What the answers of probes and hooks do to a pod.

use super::event::{Effect, HookKind, Moment, ProbeKind};
use super::machine::PodMachine;
use super::probe::{self, spec_of};

impl PodMachine {
    pub(super) fn probed(
        &mut self,
        index: usize,
        kind: ProbeKind,
        result: Result<(), String>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let container = &mut self.state.containers[index];
        let name = container.name.clone();
        let Some(spec) = self.pod.container(&name).and_then(|c| spec_of(c, kind)) else { return };
        let Some(state) = container.probes.iter_mut().find(|p| p.kind == kind) else { return };
        state.answer(spec, result.is_ok(), now.ticks);
        let verdict = state.verdict;
        let stopping = container.stop.is_some() || self.state.stop.is_some();
        let word = probe::word(kind);
        if let Err(text) = result {
            self.report(
                out,
                true,
                "Unhealthy",
                format!("{word} probe failed: {text}"),
                Some(&name),
            );
        }
        if kind != ProbeKind::Readiness && verdict == Some(false) && !stopping {
            let grace = spec_of(self.pod.container(&name).expect("found above"), kind)
                .and_then(|spec| spec.termination_grace_period_seconds)
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or_else(|| self.pod.grace_seconds());
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
        let name = self.state.containers[index].name.clone();
        let failed = result.is_err();
        if let Err(text) = result {
            let (reason, hook) = match kind {
                HookKind::PostStart => ("FailedPostStartHook", "PostStartHook"),
                HookKind::PreStop => ("FailedPreStopHook", "PreStopHook"),
            };
            self.report(out, true, reason, format!("{hook} failed: {text}"), Some(&name));
        }
        match kind {
            HookKind::PreStop => self.signal(index, out),
            HookKind::PostStart if failed => {
                let grace = self.pod.grace_seconds();
                let message = "FailedPostStartHook".to_owned();
                self.stop_container(index, grace, message, now, out);
            }
            HookKind::PostStart => self.state.containers[index].hooked = true,
        }
    }
}
