//! The row of a pod: its status in one word.
//!
//! The word is the last that applies of: phase, reason, scheduling gate, the state of the first init
//! container that is not done, the state of the first container that is not running, deletion.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NONE, age, duration, list, name, number, or, text};
use crate::timestamp::Timestamp;

/// What a pod's containers add up to.
struct Summary {
    word: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|c| is_sidecar(c)).count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => {
            let ago = duration::human(now.0.saturating_sub(at.0) / 1_000_000);
            format!("{} ({ago} ago)", summary.restarts)
        }
        _ => summary.restarts.to_string(),
    };
    let address = or(text(pod, "/status/podIPs/0/ip"), text(pod, "/status/podIP"));
    vec![
        name(pod),
        format!("{}/{total}", summary.ready).into(),
        summary.word.into(),
        restarts.into(),
        age(pod, now),
        or(address, NONE).into(),
        or(text(pod, "/spec/nodeName"), NONE).into(),
        or(text(pod, "/status/nominatedNodeName"), NONE).into(),
        readiness_gates(pod).into(),
    ]
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn summary(pod: &Value) -> Summary {
    let phase = text(pod, "/status/phase");
    let mut word = or(text(pod, "/status/reason"), phase).to_owned();
    let gated =
        |c: &Value| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated";
    if list(pod, "/status/conditions").iter().any(gated) {
        word = "SchedulingGated".into();
    }
    let mut init = init_containers(pod);
    let initializing = init.word.is_some();
    if let Some(init_word) = init.word.take() {
        word = init_word;
    }
    let mut summary =
        Summary { word, ready: init.ready, restarts: init.all.count, last_restart: init.all.last };
    if !initializing || has_condition(pod, "Initialized") {
        summary.restarts = init.sidecars.count;
        summary.last_restart = init.sidecars.last;
        main_containers(pod, &mut summary);
    }
    let deleted = pod.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    if deleted && text(pod, "/status/reason") == "NodeLost" {
        summary.word = "Unknown".into();
    } else if deleted && !matches!(phase, "Succeeded" | "Failed") {
        summary.word = "Terminating".into();
    }
    summary
}

/// Restarts of some containers, and when the last one was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count = self.count.saturating_add(number(status, "/restartCount"));
        let finished = Timestamp::parse(text(status, "/lastState/terminated/finishedAt"));
        self.last = self.last.max(finished);
    }
}

/// What the init containers add up to.
#[derive(Default)]
struct Init {
    word: Option<String>,
    ready: usize,
    all: Restarts,
    sidecars: Restarts,
}

fn init_containers(pod: &Value) -> Init {
    let specs = list(pod, "/spec/initContainers");
    let sidecars: BTreeSet<&str> =
        specs.iter().filter(|c| is_sidecar(c)).map(|c| text(c, "/name")).collect();
    let mut init = Init::default();
    for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        init.all.add(status);
        let sidecar = sidecars.contains(text(status, "/name"));
        if sidecar {
            init.sidecars.add(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|s| !s.is_null());
        if terminated.is_some_and(|state| number(state, "/exitCode") == 0) {
            continue;
        }
        if sidecar && status.get("started") == Some(&Value::Bool(true)) {
            init.ready += usize::from(is_ready(status));
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        init.word = Some(match terminated {
            Some(state) => format!("Init:{}", terminated_word(state)),
            None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
            None => format!("Init:{index}/{}", specs.len()),
        });
        break;
    }
    init
}

fn main_containers(pod: &Value, summary: &mut Summary) {
    let mut restarts = Restarts { count: summary.restarts, last: summary.last_restart };
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        restarts.add(status);
        let waiting = text(status, "/state/waiting/reason");
        let terminated = status.pointer("/state/terminated").filter(|s| !s.is_null());
        if !waiting.is_empty() {
            summary.word = waiting.to_owned();
        } else if let Some(state) = terminated {
            summary.word = terminated_word(state);
        } else if is_ready(status) && status.pointer("/state/running").is_some_and(Value::is_object)
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.word == "Completed" && running {
        let ready = has_condition(pod, "Ready");
        summary.word = if ready { "Running" } else { "NotReady" }.into();
    }
    summary.restarts = restarts.count;
    summary.last_restart = restarts.last;
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

fn terminated_word(state: &Value) -> String {
    let (reason, signal) = (text(state, "/reason"), number(state, "/signal"));
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", number(state, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    list(pod, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == kind && text(c, "/status") == "True")
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates.iter().filter(|g| has_condition(pod, text(g, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}
