//! A pod's `status` as kubelet writes it (`kubelet_pods.go`, `status/generate.go`).

use std::collections::BTreeMap;

use model::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::container::{ContainerState, Ended, Role, Stage};
use super::machine::{PodMachine, Step};
use super::restore::last_ended;
use super::spec::{Pod, ReadinessGate};

/// When each condition took its present value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions(BTreeMap<String, (bool, Timestamp)>);

/// The board that the pod is on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `hostIP`; empty for none.
    pub address: String,
}

/// Scheme of `containerID`.
pub const CONTAINER_ID_SCHEME: &str = "kumquat://";

/// The name of a start of a container: its id in the keeper and, with the scheme, in the API.
pub fn container_id(pod_uid: &str, container: &str, attempt: u32) -> String {
    format!("{pod_uid}_{container}_{attempt}")
}

/// Splits a container id into pod uid, container name and start.
pub fn parse_container_id(id: &str) -> Option<(&str, &str, u32)> {
    let (uid, rest) = id.split_once('_')?;
    let (container, attempt) = rest.rsplit_once('_')?;
    Some((uid, container, attempt.parse().ok()?))
}

/// Whether a condition holds, its reason and its message.
type Verdict = (bool, &'static str, String);

struct Condition {
    kind: &'static str,
    good: bool,
    reason: &'static str,
    message: String,
}

impl PodMachine {
    /// Renders the status; remembers when conditions changed.
    pub fn status(&mut self, host: &Host, now: Timestamp) -> Value {
        let phase = self.phase();
        let conditions = self.conditions(phase);
        let conditions = self.stamp(conditions, now);
        let mut status = Map::new();
        let mut put = |key: &str, value: Value| drop(status.insert(key.to_owned(), value));
        put("phase", json!(phase));
        if let Some(failure) = self.state.failure.as_ref().filter(|_| phase == "Failed") {
            put("reason", json!(failure.reason));
            put("message", json!(failure.message));
        }
        put("conditions", conditions);
        if !host.address.is_empty() {
            put("hostIP", json!(host.address));
            put("hostIPs", json!([{"ip": host.address}]));
        }
        let own = self.state.address.map(|address| address.to_string());
        let address = match self.pod.spec.host_network {
            // It follows the board's, which may change.
            true => Some(host.address.clone()).filter(|_| self.state.sandbox == Step::Done),
            false => own,
        };
        if let Some(address) = address.filter(|address| !address.is_empty()) {
            put("podIP", json!(address));
            put("podIPs", json!([{"ip": address}]));
        }
        put("startTime", json!(self.state.start_time.to_string()));
        put("qosClass", json!(self.qos_class()));
        if self.pod.metadata.generation > 0 {
            put("observedGeneration", json!(self.pod.metadata.generation));
        }
        let statuses = |main: bool| -> Vec<Value> {
            let of_kind = |c: &&ContainerState| (c.role == Role::Main) == main;
            // A container that was never made does not wait in a pod that has failed.
            let failed = self.state.failure.is_some();
            let said = |c: &&ContainerState| {
                !failed || c.is_running() || c.ended.is_some() || c.last.is_some()
            };
            self.state
                .containers
                .iter()
                .filter(of_kind)
                .filter(said)
                .map(|c| self.container_status(c))
                .collect()
        };
        let init = statuses(false);
        if !init.is_empty() {
            put("initContainerStatuses", json!(init));
        }
        put("containerStatuses", json!(statuses(true)));
        Value::Object(status)
    }

    /// `phase`, by the rules of kubelet's `getPhase`; a pod is over only when nothing of it runs
    /// (`mergePodStatus`).
    pub fn phase(&self) -> &'static str {
        let policy = self.pod.spec.restart_policy;
        let containers = &self.state.containers;
        let init_failed = |c: &ContainerState| {
            let over = c.role == Role::Init && matches!(c.stage, Stage::Ended { .. });
            over && !c.has_succeeded() && !c.wants_restart(policy)
        };
        let init_failed = containers.iter().any(init_failed);
        let mains = || containers.iter().filter(|c| c.role == Role::Main);
        let busy = containers.iter().any(|c| c.is_running() || c.is_starting());
        let over = self.state.stop.is_some() || init_failed || self.is_terminal();
        // A pod that was over before a power cut is over, although its sandbox is not set up again.
        if !busy && over {
            let failed = self.state.failure.is_some() || init_failed;
            // What never started has not succeeded.
            return match !failed && mains().all(ContainerState::has_succeeded) {
                true => "Succeeded",
                false => "Failed",
            };
        }
        let stopped = |c: &ContainerState| c.ended.is_some() || c.last.is_some();
        if !self.state.initialized || mains().any(|c| !c.is_running() && !stopped(c)) {
            return "Pending";
        }
        "Running"
    }

    fn conditions(&self, phase: &str) -> Vec<Condition> {
        let over = matches!(phase, "Succeeded" | "Failed");
        let completed = phase == "Succeeded";
        let containers = &self.state.containers;
        let names = |missing: &dyn Fn(&ContainerState) -> bool| {
            let names: Vec<&str> =
                containers.iter().filter(|c| missing(c)).map(|c| c.name.as_str()).collect();
            names.join(" ")
        };
        let init_missing = names(&|c| match c.role {
            Role::Init => !c.has_succeeded() && !self.state.initialized,
            Role::Sidecar => !c.is_started() && !self.state.initialized,
            Role::Main => false,
        });
        let unready = names(&|c| c.role != Role::Init && !c.is_ready());
        let initialized = match init_missing.is_empty() {
            true => (true, if completed { "PodCompleted" } else { "" }, String::new()),
            false => {
                let message = format!("containers with incomplete status: [{init_missing}]");
                (false, "ContainersNotInitialized", message)
            }
        };
        let phase = if self.state.failure.is_some() { "Failed" } else { phase };
        let ready = match (phase, unready.is_empty()) {
            ("Succeeded", _) => (false, "PodCompleted", String::new()),
            ("Failed", _) => (false, "PodFailed", String::new()),
            (_, true) => (true, "", String::new()),
            _ => {
                let message = format!("containers with unready status: [{unready}]");
                (false, "ContainersNotReady", message)
            }
        };
        let sandbox = self.state.sandbox == Step::Done && !over;
        let condition =
            |kind, (good, reason, message): Verdict| Condition { kind, good, reason, message };
        vec![
            condition("PodReadyToStartContainers", (sandbox, "", String::new())),
            condition("Initialized", initialized),
            condition("Ready", self.gated(&ready)),
            condition("ContainersReady", ready),
            condition("PodScheduled", (true, "", String::new())),
        ]
    }

    /// A pod whose containers are ready is so when its readiness gates are open.
    fn gated(&self, ready: &Verdict) -> Verdict {
        let closed = |gate: &ReadinessGate| {
            let name = &gate.condition_type;
            let said = self.pod.status.conditions.iter().find(|it| it.r#type == *name);
            match said.map(|said| said.status.as_str()) {
                Some("True") => None,
                Some(other) => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {other}"
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
            }
        };
        let closed: Vec<String> = self.pod.spec.readiness_gates.iter().filter_map(closed).collect();
        match ready.0 && !closed.is_empty() {
            true => (false, "ReadinessGatesNotReady", closed.join(", ")),
            false => ready.clone(),
        }
    }

    fn stamp(&mut self, conditions: Vec<Condition>, now: Timestamp) -> Value {
        let scheduled = self.pod.status.conditions.iter().find(|c| c.r#type == "PodScheduled");
        let scheduled = scheduled.and_then(|c| Timestamp::parse(c.last_transition_time.as_ref()?));
        let known = &mut self.state.conditions.0;
        let mut rendered = Vec::with_capacity(conditions.len());
        for Condition { kind, good, reason, message } in conditions {
            let entry = known.entry(kind.to_owned()).or_insert((good, now));
            if entry.0 != good {
                *entry = (good, now);
            }
            let since = scheduled.filter(|_| kind == "PodScheduled").unwrap_or(entry.1);
            let mut value = json!({
                "type": kind,
                "status": if good { "True" } else { "False" },
                "lastProbeTime": null,
                "lastTransitionTime": since.to_string(),
            });
            if self.pod.metadata.generation > 0 {
                value["observedGeneration"] = json!(self.pod.metadata.generation);
            }
            if !reason.is_empty() {
                value["reason"] = json!(reason);
            }
            if !message.is_empty() {
                value["message"] = json!(message);
            }
            rendered.push(value);
        }
        Value::Array(rendered)
    }

    fn container_status(&self, container: &ContainerState) -> Value {
        let spec_image = self.pod.container(&container.name).map(|c| c.image.as_str());
        let image = container.image.as_ref();
        let uid = &self.pod.metadata.uid;
        let last = last_ended(container).filter(|_| !shows_ended(container));
        let last = last.or(container.last.as_ref().filter(|_| shows_ended(container)));
        let exists =
            container.is_running() || container.ended.is_some() || container.last.is_some();
        let id_attempt = match (container.is_running(), &container.ended, &container.last) {
            (true, _, _) => container.attempt,
            (_, Some(ended), _) | (_, None, Some(ended)) => ended.attempt,
            _ => container.attempt,
        };
        let mut value = json!({
            "name": container.name,
            "image": image.map(|image| image.name.as_str()).or(spec_image).unwrap_or_default(),
            "imageID": image.map(|image| image.id.as_str()).unwrap_or_default(),
            "restartCount": container.attempt,
            "started": container.is_started(),
            "ready": container.is_ready(),
            "state": self.container_state(container),
            "lastState": match last {
                Some(ended) => json!({"terminated": terminated(uid, &container.name, ended)}),
                None => json!({}),
            },
        });
        if exists {
            let id = container_id(uid, &container.name, id_attempt);
            value["containerID"] = json!(format!("{CONTAINER_ID_SCHEME}{id}"));
        }
        value
    }

    fn container_state(&self, container: &ContainerState) -> Value {
        if let Stage::Running { since } = container.stage {
            return json!({"running": {"startedAt": since.to_string()}});
        }
        if let (Some(ended), true) = (&container.ended, shows_ended(container)) {
            let uid = &self.pod.metadata.uid;
            return json!({"terminated": terminated(uid, &container.name, ended)});
        }
        if let Some(waiting) = &container.waiting {
            let mut value = json!({"reason": waiting.reason});
            if !waiting.message.is_empty() {
                value["message"] = json!(waiting.message);
            }
            return json!({ "waiting": value });
        }
        let has_init = self.state.containers.iter().any(|c| c.role != Role::Main);
        let reason = match self.state.initialized || !has_init {
            true => "ContainerCreating",
            false => "PodInitializing",
        };
        json!({"waiting": {"reason": reason}})
    }

    /// `qosClass`: the API's own word, else by its rules (`ComputePodQOS`).
    pub fn qos_class(&self) -> String {
        match &self.pod.status.qos_class {
            Some(class) => class.clone(),
            None => computed_qos(&self.pod).to_owned(),
        }
    }
}

/// An end is shown as such until the back-off is.
fn shows_ended(container: &ContainerState) -> bool {
    container.ended.is_some() && container.waiting.is_none()
}

fn terminated(uid: &str, name: &str, ended: &Ended) -> Value {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let mut value = json!({
        "exitCode": ended.code,
        "reason": ended.reason,
        "startedAt": time(ended.started),
        "finishedAt": ended.finished.to_string(),
        "containerID": format!("{CONTAINER_ID_SCHEME}{}", container_id(uid, name, ended.attempt)),
    });
    if !ended.message.is_empty() {
        value["message"] = json!(ended.message);
    }
    value
}

fn computed_qos(pod: &Pod) -> &'static str {
    let resources = || pod.containers().map(|container| &container.resources);
    if resources().all(|r| r.limits.is_empty() && r.requests.is_empty()) {
        return "BestEffort";
    }
    let guaranteed = resources().all(|resources| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = resources.limits.get(*name);
            limit.is_some() && resources.requests.get(*name).is_none_or(|r| Some(r) == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_come_back() {
        let uid = "30313233-3435-4637-b839-616263646566";
        let id = container_id(uid, "my-app", 12);
        assert_eq!(parse_container_id(&id), Some((uid, "my-app", 12)));
        assert_eq!(parse_container_id("x"), None);
    }
}
