//! When a container's probes run and what their answers mean (kubelet `prober/worker.go`).

use serde::{Deserialize, Serialize};

use super::event::ProbeKind;
use super::spec::{Container, Probe};

/// One probe of one running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeState {
    /// Which.
    pub kind: ProbeKind,
    next_ticks: u64,
    asked: bool,
    last_good: Option<bool>,
    run: u32,
    /// What the thresholds have decided.
    pub verdict: Option<bool>,
}

impl ProbeState {
    /// The probes of a container that started at `started_ticks`.
    pub fn of_container(container: &Container, started_ticks: u64) -> Vec<Self> {
        let kinds = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];
        let state = |kind: ProbeKind| {
            let delay = u64::from(spec_of(container, kind)?.initial_delay_seconds) * 1_000;
            let next_ticks = started_ticks + delay;
            Some(Self { kind, next_ticks, asked: false, last_good: None, run: 0, verdict: None })
        };
        kinds.into_iter().filter_map(state).collect()
    }

    /// When it wants to run; not while it is out.
    pub fn due_ticks(&self) -> Option<u64> {
        (!self.asked).then_some(self.next_ticks)
    }

    /// Marks it as out.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// An agent that restarts has lost the answers that were out.
    pub fn forget_asked(&mut self) {
        self.asked = false;
    }

    /// Takes it that nobody could ask; the verdict stays.
    pub fn skip(&mut self, spec: &Probe, now_ticks: u64) {
        self.asked = false;
        let period = u64::from(spec.period_seconds.unwrap_or(10).max(1)) * 1_000;
        // Keeps the rhythm, but never falls behind it.
        self.next_ticks = (self.next_ticks + period).max(now_ticks + 100);
    }

    /// Takes an answer; the verdict changes when enough equal ones came in a row.
    pub fn answer(&mut self, spec: &Probe, good: bool, now_ticks: u64) {
        self.skip(spec, now_ticks);
        self.run = if self.last_good == Some(good) { self.run.saturating_add(1) } else { 1 };
        self.last_good = Some(good);
        let threshold = if good { spec.success_threshold } else { spec.failure_threshold };
        if self.run >= threshold.unwrap_or(if good { 1 } else { 3 }).max(1) {
            self.verdict = Some(good);
        }
    }
}

/// The spec of a container's probe.
pub fn spec_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

/// The name in messages.
pub(super) fn word(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_equal_answers_in_a_row() {
        let spec =
            Probe { failure_threshold: Some(2), period_seconds: Some(1), ..Probe::default() };
        let container = Container { readiness_probe: Some(spec.clone()), ..Container::default() };
        let mut probe = ProbeState::of_container(&container, 0).remove(0);
        let mut verdicts = Vec::new();
        for (second, good) in [true, false, true, false, false, true].into_iter().enumerate() {
            probe.ask();
            assert_eq!(probe.due_ticks(), None);
            probe.answer(&spec, good, second as u64 * 1_000);
            verdicts.push(probe.verdict);
        }
        let expected = [true, true, true, true, false, true].map(Some);
        assert_eq!(verdicts, expected);
        assert_eq!(probe.due_ticks(), Some(6_000));
    }
}
