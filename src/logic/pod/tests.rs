//! The pod machine against a small model of a board: scripted cases, then random walks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::*;

mod ending;
mod setup;

const UID: &str = "30313233-3435-4637-b839-616263646566";
const START: i64 = 1_790_000_000;

fn pod(spec: Value) -> Arc<Pod> {
    let metadata = json!({"name": "p", "namespace": "default", "uid": UID, "generation": 1});
    let pod = json!({"metadata": metadata, "spec": spec});
    Arc::new(Pod::parse(pod.to_string().as_bytes()).expect("a test's pod"))
}

/// Status and reason of a condition.
fn condition(status: &Value, kind: &str) -> Value {
    let mut conditions = status["conditions"].as_array().expect("conditions").iter();
    let found = conditions.find(|it| it["type"] == kind).expect("it is reported");
    json!({"status": found["status"], "reason": found["reason"]})
}

fn one(container: Value) -> Arc<Pod> {
    pod(json!({"containers": [container]}))
}

/// The world outside of the machine, as far as it can be seen through effects.
struct Board {
    machine: PodMachine,
    now: Moment,
    pending: Vec<Effect>,
    running: BTreeSet<(String, u32)>,
    reports: Vec<(&'static str, String)>,
    sandbox: bool,
}

impl Board {
    fn new(pod: Arc<Pod>) -> Self {
        let now = Moment { wall: Timestamp::from_seconds(START), ticks: 1_000_000 };
        let machine = PodMachine::new(pod, now);
        let mut board = Self {
            machine,
            now,
            pending: Vec::new(),
            running: BTreeSet::new(),
            reports: Vec::new(),
            sandbox: false,
        };
        board.feed(Event::Timer);
        board
    }

    fn feed(&mut self, event: Event) {
        for effect in self.machine.handle(self.now, event) {
            match effect {
                Effect::Report { reason, message, .. } => self.reports.push((reason, message)),
                Effect::StatusChanged => {}
                effect => {
                    self.check_request(&effect);
                    self.pending.push(effect);
                }
            }
        }
        let status = self.machine.status(&Host::default(), self.now.wall);
        assert!(status["phase"].is_string());
    }

    /// The invariants of the module's header.
    fn check_request(&self, effect: &Effect) {
        match effect {
            Effect::Start { container, .. } => {
                assert!(self.machine.state().stop.is_none(), "start after a stop");
                let busy = |name: &str| self.running.iter().any(|(running, _)| running == name);
                assert!(!busy(container), "second start of {container}");
                assert!(self.sandbox, "start without a sandbox");
            }
            Effect::Teardown | Effect::RemoveSandbox => {
                assert!(self.running.is_empty(), "{effect:?} under {:?}", self.running);
            }
            Effect::Signal { .. } => return,
            _ => {}
        }
        assert!(!self.pending.contains(effect), "{effect:?} asked twice");
    }

    fn advance(&mut self, millis: u64) {
        self.now.ticks += millis;
        self.now.wall = self.now.wall.plus_millis(millis as i64);
    }

    /// Answers everything well, at once, until nothing is asked any more.
    fn settle(&mut self) {
        while !self.pending.is_empty() {
            let effect = self.pending.remove(0);
            self.answer(effect, true);
        }
    }

    fn answer(&mut self, effect: Effect, good: bool) {
        let fault = || "trouble".to_owned();
        let event = match effect {
            Effect::CreateSandbox if good => {
                self.sandbox = true;
                Event::SandboxReady { address: None }
            }
            Effect::CreateSandbox => Event::SandboxFailed { message: fault() },
            Effect::RemoveSandbox if !good => Event::SandboxNotRemoved { message: fault() },
            Effect::RemoveSandbox => {
                self.sandbox = false;
                Event::SandboxRemoved
            }
            Effect::PrepareVolumes if good => Event::VolumesReady,
            Effect::PrepareVolumes => Event::VolumesFailed { message: fault(), retry: true },
            Effect::EnsureImage { container } if good => {
                Event::ImageReady { container, image: ImageRef::default() }
            }
            Effect::EnsureImage { container } => {
                let reason = "ErrImagePull".to_owned();
                Event::ImageMissing { container, reason, message: fault() }
            }
            Effect::Start { container, attempt } if good => {
                self.running.insert((container.clone(), attempt));
                Event::Started { container, attempt, at: self.now.wall }
            }
            Effect::Start { container, attempt } => {
                Event::StartFailed { container, attempt, message: fault() }
            }
            Effect::Signal { container, attempt, signal } => {
                let key = (container.clone(), attempt);
                if (good || signal == "SIGKILL") && self.running.remove(&key) {
                    self.exit_event(container, attempt, if signal == "SIGKILL" { 137 } else { 143 })
                } else {
                    return;
                }
            }
            Effect::Probe { container, attempt, kind } => {
                let result = if good { Ok(()) } else { Err(ProbeFault::Unhealthy(fault())) };
                Event::Probed { container, attempt, kind, result }
            }
            Effect::Hook { container, attempt, kind, .. } => {
                let result = if good { Ok(()) } else { Err(fault()) };
                Event::Hooked { container, attempt, kind, result }
            }
            Effect::Teardown if good => {
                self.sandbox = false;
                Event::TornDown
            }
            Effect::Teardown => Event::TeardownFailed { message: fault() },
            Effect::RemoveContainer { .. } | Effect::Report { .. } | Effect::StatusChanged => {
                return;
            }
        };
        self.feed(event);
    }

    fn exit_event(&self, container: String, attempt: u32, code: i32) -> Event {
        let exit = Exit { code, at: self.now.wall, out_of_memory: false, message: String::new() };
        Event::Exited { container, attempt, exit }
    }

    fn exit(&mut self, container: &str, code: i32) {
        let attempt = self.running.iter().find(|(name, _)| name == container).expect("runs").1;
        self.running.remove(&(container.to_owned(), attempt));
        let event = self.exit_event(container.to_owned(), attempt, code);
        self.feed(event);
    }

    /// Lets time pass to the machine's next wish.
    fn wake(&mut self) -> bool {
        let Some(at) = self.machine.next_wake() else { return false };
        self.advance(at.saturating_sub(self.now.ticks));
        self.feed(Event::Timer);
        let next = self.machine.next_wake();
        assert!(next.is_none_or(|next| next > self.now.ticks), "the driver would spin");
        true
    }

    fn status(&mut self) -> Value {
        self.machine.status(&Host::default(), self.now.wall)
    }

    fn restart_agent(&mut self, rebooted: bool) {
        self.restart(rebooted, false);
    }

    fn restart(&mut self, rebooted: bool, place_lost: bool) {
        let instance = |(container, attempt): &(String, u32)| Instance {
            container: container.clone(),
            attempt: *attempt,
            since: self.now.wall,
            exit: None,
        };
        let state = serde_json::to_vec(self.machine.state()).expect("plain data");
        let remains = Remains {
            state: Some(serde_json::from_slice(&state).expect("our own bytes")),
            instances: self.running.iter().map(instance).collect(),
            logged: Vec::new(),
            rebooted,
            sandbox_lost: !self.sandbox,
            place_lost,
        };
        if rebooted {
            self.running.clear();
            self.sandbox = false;
        }
        self.pending.clear();
        self.machine = PodMachine::restore(self.machine.pod.clone(), remains, self.now);
        self.feed(Event::Timer);
    }
}

fn deleted(pod: &Pod, grace: i64) -> Arc<Pod> {
    let mut pod = pod.clone();
    pod.metadata.deletion_timestamp = Some("2026-11-22T07:16:17Z".to_owned());
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    Arc::new(pod)
}

#[test]
fn comes_up_and_is_ready() {
    let mut board = Board::new(one(json!({"name": "c", "image": "busybox"})));
    assert_eq!(board.status()["phase"], "Pending");
    let waiting = &board.status()["containerStatuses"][0]["state"]["waiting"]["reason"];
    assert_eq!(waiting, "ContainerCreating");
    board.settle();
    let status = board.status();
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["containerStatuses"][0]["ready"], true);
    assert_eq!(status["containerStatuses"][0]["containerID"], format!("kumquat://{UID}_c_0"));
    for condition in status["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["status"], "True", "{condition}");
    }
    assert_eq!(board.machine.next_wake(), None, "an idle pod wakes nobody");
}

#[test]
fn crash_loop_has_kubelets_words_and_delays() {
    let mut board = Board::new(one(json!({"name": "c", "image": "busybox"})));
    board.settle();
    let mut delays = Vec::new();
    for _ in 0..7 {
        board.exit("c", 1);
        let before = board.now.ticks;
        if board.running.is_empty()
            && board.pending.iter().all(|e| !matches!(e, Effect::EnsureImage { .. }))
        {
            let state = &board.status()["containerStatuses"][0];
            assert_eq!(state["state"]["waiting"]["reason"], "CrashLoopBackOff");
            assert_eq!(state["lastState"]["terminated"]["reason"], "Error");
            board.wake();
        }
        delays.push((board.now.ticks - before) / 1_000);
        board.settle();
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300]);
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 7);
    let text = format!("Back-off restarting failed container c in pod p_default({UID})");
    assert!(board.reports.contains(&("BackOff", text)));
}

#[test]
fn init_containers_run_one_after_the_other() {
    let spec = json!({"initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    for (name, next) in [("a", "b"), ("b", "c")] {
        board.settle();
        assert_eq!(board.running.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [name]);
        let state = board.status()["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
        assert_eq!(state, "PodInitializing", "before {next}");
        board.exit(name, 0);
    }
    board.settle();
    assert_eq!(board.status()["phase"], "Running");
}

#[test]
fn a_sidecar_starts_before_and_stops_after() {
    let spec = json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    assert_eq!(board.running.len(), 2);
    let gone = deleted(board.machine.pod(), 30);
    board.feed(Event::Desired(gone));
    let signals: Vec<&Effect> = board.pending.iter().collect();
    assert!(matches!(signals[..], [Effect::Signal { container, .. }] if container == "c"));
    board.settle();
    assert!(board.machine.is_removable());
}

#[test]
fn stop_is_graceful_then_forced() {
    let mut board = Board::new(one(json!({"name": "c", "image": "busybox"})));
    board.settle();
    let gone = deleted(board.machine.pod(), 5);
    board.feed(Event::Desired(gone));
    let term = board.pending.remove(0);
    assert!(matches!(&term, Effect::Signal { signal, .. } if signal == "SIGTERM"));
    board.answer(term, false);
    let before = board.now.ticks;
    board.wake();
    assert_eq!(board.now.ticks - before, 5_000);
    assert!(matches!(&board.pending[0], Effect::Signal { signal, .. } if signal == "SIGKILL"));
    board.settle();
    assert!(board.machine.is_removable());
    assert_eq!(board.status()["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert_eq!(board.status()["phase"], "Failed");
}

#[test]
fn a_missing_image_waits_for_an_import() {
    let mut board = Board::new(one(json!({"name": "c", "image": "busybox"})));
    while let Some(effect) = board.pending.pop() {
        let good = !matches!(effect, Effect::EnsureImage { .. });
        board.answer(effect, good);
    }
    let reason = |board: &mut Board| {
        board.status()["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
    };
    assert_eq!(reason(&mut board), "ErrImagePull");
    board.wake();
    assert_eq!(reason(&mut board), "ImagePullBackOff");
    assert_eq!(board.machine.next_wake(), None, "only an import can help");
    board.feed(Event::ImagesChanged);
    board.settle();
    assert_eq!(board.status()["phase"], "Running");
}

#[test]
fn a_finished_pod_succeeds_and_keeps_its_log() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    board.exit("c", 0);
    board.settle();
    let status = board.status();
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(!board.sandbox && !board.machine.is_removable());
    board.restart_agent(true);
    board.settle();
    assert_eq!(board.status()["phase"], "Succeeded", "a reboot does not run it again");
}

#[test]
fn readiness_follows_the_probe_and_liveness_restarts() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 2});
    let mut board = Board::new(one(
        json!({"name": "c", "image": "i", "readinessProbe": probe, "livenessProbe": probe}),
    ));
    let mut failing = false;
    let mut step = |board: &mut Board, fail: bool| {
        failing |= fail;
        while let Some(effect) = board.pending.pop() {
            let good = !(failing && matches!(effect, Effect::Probe { .. }));
            board.answer(effect, good);
        }
        board.wake();
    };
    (0..6).for_each(|_| step(&mut board, false));
    assert_eq!(board.status()["containerStatuses"][0]["ready"], true);
    while board.status()["containerStatuses"][0]["restartCount"] == 0 {
        step(&mut board, true);
    }
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 1);
    assert!(board.reports.iter().any(|(reason, text)| *reason == "Killing"
        && text == "Container c failed liveness probe, will be restarted"));
}

#[test]
fn a_reboot_counts_as_a_restart() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.restart_agent(false);
    board.settle();
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 0);
    board.restart_agent(true);
    board.settle();
    let status = board.status();
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(status["phase"], "Running");
}

#[test]
fn logs_tell_the_restart_count_when_the_state_is_lost() {
    let pod = one(json!({"name": "c", "image": "i"}));
    let now = Moment { wall: Timestamp::from_seconds(START), ticks: 5 };
    let logged = vec![("c".to_owned(), 4)];
    let remains = Remains { logged, rebooted: true, ..Remains::default() };
    let mut board = Board::new(pod.clone());
    board.pending.clear();
    board.machine = PodMachine::restore(pod, remains, now);
    board.feed(Event::Timer);
    board.settle();
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 5);
}

#[test]
fn a_pod_that_a_power_cut_has_ended_for_good_has_failed() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}));
    let logged = vec![("c".to_owned(), 0)];
    let remains = Remains { logged, rebooted: true, ..Remains::default() };
    let mut board = Board::new(pod.clone());
    board.pending.clear();
    board.machine = PodMachine::restore(pod, remains, board.now);
    board.feed(Event::Timer);
    board.settle();
    let status = board.status();
    let reason = &status["containerStatuses"][0]["state"]["terminated"]["reason"];
    assert_eq!((&status["phase"], reason), (&json!("Failed"), &json!("ContainerStatusUnknown")));
}

#[test]
fn within_a_boot_a_log_is_no_start() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    let state = Some(board.machine.state().clone());
    // The agent was killed between making the log and asking the keeper.
    let logged = vec![("c".to_owned(), 0)];
    let remains = Remains { state, logged, ..Remains::default() };
    board.pending.clear();
    board.machine = PodMachine::restore(board.machine.pod.clone(), remains, board.now);
    board.feed(Event::Timer);
    board.settle();
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn a_sandbox_that_the_keeper_lost_is_made_again() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.running.clear();
    board.sandbox = false;
    board.restart_agent(false);
    assert!(board.pending.contains(&Effect::CreateSandbox), "{:?}", board.pending);
    board.settle();
    assert_eq!(board.status()["phase"], "Running");
}

#[test]
fn a_stop_goes_on_after_the_agent_was_killed() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(Event::Desired(deleted(board.machine.pod(), 30)));
    let begun = board.now.ticks;
    board.advance(2_000);
    // The signal is lost with the agent that was to send it.
    board.restart_agent(false);
    let term =
        |effect: &Effect| matches!(effect, Effect::Signal { signal, .. } if signal == "SIGTERM");
    assert!(board.pending.iter().any(term), "{:?}", board.pending);
    board.pending.clear();
    board.wake();
    assert_eq!(board.now.ticks - begun, 30_000, "the grace is the same one");
    board.settle();
    assert!(board.machine.is_removable());
}

/// A small generator (Marsaglia's xorshift): the seed alone decides the walk.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn random_pod(dice: &mut Dice) -> Arc<Pod> {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1 + dice.roll(5)});
    let mut container = json!({"name": "c", "image": "i"});
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        if dice.roll(2) == 0 {
            container[kind] = probe.clone();
        }
    }
    if dice.roll(3) == 0 {
        let hook = json!({"exec": {"command": ["x"]}});
        container["lifecycle"] = json!({"preStop": hook, "postStart": hook});
    }
    let policy = ["Always", "OnFailure", "Never"][dice.roll(3) as usize];
    let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": dice.roll(20),
        "containers": [container, {"name": "d", "image": "i"}]});
    if dice.roll(2) == 0 {
        let sidecar = json!({"name": "s", "image": "i", "restartPolicy": "Always"});
        spec["initContainers"] = json!([{"name": "a", "image": "i"}, sidecar]);
    }
    pod(spec)
}

fn walk(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut board = Board::new(random_pod(&mut dice));
    let mut restarts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        match dice.roll(12) {
            0..=5 if !board.pending.is_empty() => {
                let index = dice.roll(board.pending.len() as u64) as usize;
                let effect = board.pending.swap_remove(index);
                let good = dice.roll(4) > 0;
                board.answer(effect, good);
            }
            6 | 7 => drop(board.wake()),
            8 if !board.running.is_empty() => {
                let index = dice.roll(board.running.len() as u64) as usize;
                let name = board.running.iter().nth(index).expect("in range").0.clone();
                board.exit(&name, dice.roll(2) as i32);
            }
            9 if dice.roll(4) == 0 => board.feed(Event::NetworkReady),
            9 if dice.roll(9) == 0 => board.feed(Event::PlaceLost),
            9 => board.feed(Event::ImagesChanged),
            10 if dice.roll(2) == 0 => {
                board.feed(Event::Served { calls: dice.roll(2) == 0, led: dice.roll(2) == 0 })
            }
            10 => board.feed(Event::ObjectsChanged),
            11 if dice.roll(10) == 0 => board.restart(dice.roll(3) == 0, dice.roll(3) == 0),
            11 if board.machine.refreshes_volumes() => {
                let retry = dice.roll(2) == 0;
                board.feed(Event::VolumesFailed { message: "no".to_owned(), retry });
                board.feed(Event::ObjectsChanged);
            }
            _ => board.advance(dice.roll(3_000)),
        }
        for container in &board.machine.state().containers {
            let before = restarts.insert(container.name.clone(), container.attempt).unwrap_or(0);
            assert!(container.attempt >= before, "the restart count went back");
        }
    }
    heal(&mut board);
}

fn served(calls: bool) -> Event {
    Event::Served { calls, led: true }
}

/// Everything works from here on: it must run (or be over), then go away.
fn heal(board: &mut Board) {
    board.feed(Event::ImagesChanged);
    for _ in 0..60 {
        board.settle();
        let init: Vec<String> = board.running.iter().map(|(name, _)| name.clone()).collect();
        if init.contains(&"a".to_owned()) {
            board.exit("a", 0);
            continue;
        }
        board.wake();
        board.settle();
    }
    let phase = board.status()["phase"].clone();
    let expected =
        if board.machine.is_terminal() { &["Succeeded", "Failed"][..] } else { &["Running"] };
    assert!(expected.iter().any(|word| phase == *word), "{phase}: {:#?}", board.machine.state());
    assert_eq!(board.sandbox, !board.machine.is_terminal(), "{:#?}", board.machine.state());
    let gone = deleted(board.machine.pod(), 1);
    board.feed(served(true));
    board.feed(Event::Desired(gone));
    for _ in 0..30 {
        board.settle();
        board.wake();
    }
    assert!(board.machine.is_removable(), "{:#?}", board.machine.state());
    assert!(board.running.is_empty() && !board.sandbox);
}

#[test]
fn random_walks_keep_the_invariants_and_converge() {
    for seed in 1..=150 {
        let result = std::panic::catch_unwind(|| walk(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_refused_pod_fails_at_once_and_goes() {
    let sysctls = json!([{"name": "kernel.core_pattern", "value": "|/bin/sh"}]);
    let mut board = Board::new(pod(json!({
        "securityContext": {"sysctls": sysctls}, "containers": [{"name": "a", "image": "i"}],
    })));
    board.settle();
    let status = board.status();
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Failed"), &json!("SysctlForbidden"))
    );
    assert_eq!(status["containerStatuses"], json!([]));
    assert!(board.reports.iter().all(|(reason, _)| *reason == "SysctlForbidden"));
    assert_eq!(board.reports.len(), 1);
    assert!(!board.sandbox && board.machine.next_wake().is_none());
    let state = serde_json::to_vec(board.machine.state()).expect("plain data");
    let remains = Remains { state: serde_json::from_slice(&state).ok(), ..Remains::default() };
    let again = PodMachine::restore(board.machine.shared_pod(), remains, board.now);
    assert_eq!(again.state().failure, board.machine.state().failure);
    board.feed(Event::Desired(deleted(board.machine.pod(), 1)));
    board.settle();
    assert!(board.machine.is_removable());
}

#[test]
fn a_pod_that_cannot_be_read_fails_and_goes() {
    let json = br#"{"metadata":{"name":"p","namespace":"n","labels":7},"spec":{"containers":3}}"#;
    let error = Pod::parse(json).expect_err("unreadable");
    let pod = Pod::unreadable(json, model::ids::Uid([7; 16]), error.to_string());
    assert_eq!((pod.metadata.name.as_str(), pod.metadata.namespace.as_str()), ("p", "n"));
    let mut board = Board::new(Arc::new(pod.clone()));
    assert_eq!(board.status()["phase"], "Failed");
    assert_eq!(board.status()["reason"], "UnreadablePod");
    board.feed(Event::Desired(deleted(&pod, 1)));
    board.settle();
    assert!(board.machine.is_removable());
}

#[test]
fn a_deadline_ends_what_runs_and_what_waits() {
    let spec = json!({"activeDeadlineSeconds": 5, "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 2,
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    board.exit("b", 1);
    assert_eq!(board.status()["phase"], "Running");
    board.advance(4_000);
    board.feed(Event::Timer);
    board.settle();
    let wake = board.machine.next_wake().expect("the deadline");
    assert!(wake <= board.now.ticks + 1_000, "{wake} at {}", board.now.ticks);
    board.advance(1_000);
    board.feed(Event::Timer);
    let status = board.status();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Running"), &Value::Null));
    assert_eq!(condition(&status, "Ready"), json!({"status": "False", "reason": "PodFailed"}));
    for _ in 0..4 {
        board.settle();
        board.wake();
    }
    assert!(board.running.is_empty() && !board.sandbox, "{:?}", board.running);
    let status = board.status();
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
    for container in status["containerStatuses"].as_array().expect("list") {
        assert!(container["state"]["terminated"].is_object(), "{container}");
    }
}
