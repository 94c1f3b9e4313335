//! Faults of boards and links on a cluster of three: how soon they are noticed, what takes over, and
//! that nothing is restarted, lost or left behind.
//!
//! One test per kind of fault, each on a cluster of its own: few rounds here, many in
//! `cargo xtask soak faults [KIND]`. In each round a board has a pod that ends while nobody can hear
//! it, whose status must arrive later; a Deployment whose pods must be replaced; and on every board a
//! steady pod whose container must stay the same.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/switch.rs"]
mod switch;
#[path = "harness/traces.rs"]
mod traces;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use board::{Lost, possible, rounds};
use serde_json::{Value, json};
use switch::{Cluster, is_ready};
use traces::Footprint;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const BOARDS: u8 = 3;
const REPLICAS: usize = 4;
/// Generous, for a machine that is busy; what was measured is printed.
const WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(50);

/// What happens to a board, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    LinkDown,
    OneWay,
    Rebooted,
}

#[test]
fn killed() {
    trial(Fault::Killed);
}

#[test]
fn frozen() {
    trial(Fault::Frozen);
}

#[test]
fn link_down() {
    trial(Fault::LinkDown);
}

#[test]
fn one_way_drop() {
    trial(Fault::OneWay);
}

#[test]
fn rebooted() {
    trial(Fault::Rebooted);
}

fn trial(fault: Fault) {
    let name = format!("{fault:?}").to_lowercase();
    let Some(mut bed) = Bed::new(&name) else { return };
    let (mut detected, mut replaced, mut returned) = (Times::new(), Times::new(), Times::new());
    for round in 0..rounds(3) {
        let victim = 1 + round % (usize::from(BOARDS) - 1);
        bed.spread_anew(victim);
        let steady = bed.steady();
        let last = bed.create_last(round, victim);
        let began = Instant::now();
        bed.inflict(fault, victim, round);
        if fault != Fault::Rebooted {
            bed.end_process(&last, victim);
        }
        bed.wait_node(victim, false);
        detected.add(began);
        bed.wait_deployment(|pods| {
            let node = bed.node(victim);
            pods.iter()
                .filter(|pod| is_ready(pod) == Some(true) && pod["spec"]["nodeName"] != node)
                .count()
                >= REPLICAS
        });
        replaced.add(began);
        let healed = Instant::now();
        bed.heal(fault, victim);
        bed.wait_node(victim, true);
        bed.wait_settled();
        returned.add(healed);
        bed.wait_failed(&last);
        bed.check_steady(&steady, (fault == Fault::Rebooted).then_some(victim));
        bed.delete_pod(&last);
    }
    bed.check_footprints();
    println!("{name}: detected {detected}; replaced {replaced}; returned {returned}");
}

#[test]
fn master_killed_and_restarted() {
    let Some(mut bed) = Bed::new("master") else { return };
    let mut returned = Times::new();
    for round in 0..rounds(3) {
        let victim = 1 + round % (usize::from(BOARDS) - 1);
        let steady = bed.steady();
        let replicas = bed.containers("app=spread");
        let last = bed.create_last(round, victim);
        bed.cluster.boards[0].kill();
        bed.end_process(&last, victim);
        let began = Instant::now();
        bed.cluster.boards[0].up(&[]);
        bed.wait_all_ready();
        returned.add(began);
        bed.wait_failed(&last);
        bed.check_steady(&steady, None);
        assert_eq!(bed.containers("app=spread"), replicas, "no pod is replaced or restarted");
        bed.delete_pod(&last);
    }
    bed.check_footprints();
    println!("master killed and restarted: all ready again {returned}");
}

#[test]
fn worker_reboots_without_master() {
    let Some(mut bed) = Bed::new("island") else { return };
    let (mut alone, mut returned) = (Times::new(), Times::new());
    for round in 0..rounds(3) {
        let victim = 1 + round % (usize::from(BOARDS) - 1);
        let steady = bed.steady();
        let last = bed.create_last(round, victim);
        bed.cluster.boards[0].kill();
        bed.cluster.boards[victim].pull_the_plug();
        let began = Instant::now();
        bed.cluster.boards[victim].start(&[]);
        bed.wait_process(&format!("steady-{}", bed.node(victim)), victim);
        alone.add(began);
        let began = Instant::now();
        bed.cluster.boards[0].up(&[]);
        bed.wait_all_ready();
        bed.wait_settled();
        returned.add(began);
        bed.wait_failed(&last);
        bed.check_steady(&steady, Some(victim));
        bed.delete_pod(&last);
    }
    bed.check_footprints();
    println!(
        "worker rebooted without its master: its pods run {alone}; all ready again {returned}"
    );
}

/// A cluster with its workload.
struct Bed {
    cluster: Cluster,
    /// Of each board without pods.
    footprints: Vec<Footprint>,
}

impl Bed {
    fn new(name: &str) -> Option<Self> {
        if !possible(name) || !busybox::present(name) {
            return None;
        }
        let cluster = Cluster::new(&format!("f{name}"), BOARDS);
        for index in 0..cluster.boards.len() {
            cluster.import_busybox(index);
        }
        let mut bed = Self { cluster, footprints: Vec::new() };
        // What a first Deployment leaves open is no leak.
        bed.create_deployment();
        bed.delete_deployment();
        bed.footprints = bed.cluster.boards.iter().map(Footprint::settled).collect();
        for index in 0..bed.cluster.boards.len() {
            let name = format!("steady-{}", bed.node(index));
            let pod = bed.pinned(&name, index, "Always");
            bed.cluster.master().create(PODS, &pod);
            bed.wait_running(&name);
        }
        bed.create_deployment();
        Some(bed)
    }

    fn node(&self, index: usize) -> String {
        self.cluster.boards[index].node().to_owned()
    }

    /// A pod that stays on one board whatever happens to it.
    fn pinned(&self, name: &str, index: usize, policy: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": self.node(index),
                "restartPolicy": policy,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [self.container(name)],
            },
        })
    }

    /// Waits for its end; its command line names pod and cluster.
    fn container(&self, name: &str) -> Value {
        let script = format!("while true; do sleep 1; done; : {}", self.mark(name));
        json!({"name": "main", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script]})
    }

    fn mark(&self, name: &str) -> String {
        format!("{}/{name}/", self.cluster.switch.cluster())
    }

    fn create_deployment(&self) {
        let lost = |key: &str| {
            json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                   "effect": "NoExecute", "tolerationSeconds": 1})
        };
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "spread"},
            "spec": {
                "replicas": REPLICAS,
                "selector": {"matchLabels": {"app": "spread"}},
                "template": {"metadata": {"labels": {"app": "spread"}}, "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [lost("unreachable"), lost("not-ready")],
                    "containers": [self.container("spread")],
                }},
            },
        });
        self.cluster.master().create(DEPLOYMENTS, &deployment);
        self.wait_settled();
    }

    fn delete_deployment(&self) {
        let master = self.cluster.master();
        let path = format!("{DEPLOYMENTS}/spread");
        master.api("DELETE", &path, None).expect("deployment deleted");
        self.wait_deployment(<[Value]>::is_empty);
    }

    /// Spreads the Deployment again: a board that came back has none of its pods.
    fn spread_anew(&self, victim: usize) {
        self.delete_deployment();
        self.create_deployment();
        let node = self.node(victim);
        self.wait_deployment(|pods| pods.iter().any(|pod| pod["spec"]["nodeName"] == node));
    }

    fn wait_settled(&self) {
        self.wait_deployment(|pods| {
            let ready = |pod: &Value| {
                is_ready(pod) == Some(true) && pod["metadata"]["deletionTimestamp"].is_null()
            };
            pods.len() == REPLICAS && pods.iter().all(ready)
        });
    }

    fn wait_deployment(&self, accept: impl Fn(&[Value]) -> bool) {
        let path = format!("{PODS}?labelSelector=app%3Dspread");
        self.wait("pods of the Deployment", &path, |list| {
            accept(list["items"].as_array().map_or(&[], Vec::as_slice))
        });
    }

    fn wait(&self, what: &str, path: &str, accept: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WITHIN;
        loop {
            let answer = self.cluster.master().api("GET", path, None);
            match answer {
                Ok(answer) if accept(&answer) => return answer,
                answer if Instant::now() > deadline => {
                    for board in &self.cluster.boards {
                        eprintln!("log of {}:\n{}", board.node(), board.log());
                    }
                    panic!("{what}: not within {WITHIN:?}; last answer {answer:?}");
                }
                _ => std::thread::sleep(POLL_EVERY),
            }
        }
    }

    fn wait_node(&self, index: usize, ready: bool) {
        let path = format!("/api/v1/nodes/{}", self.node(index));
        let what = format!("board {index} {}", if ready { "ready" } else { "not ready" });
        self.wait(&what, &path, |node| (is_ready(node) == Some(true)) == ready);
    }

    fn wait_all_ready(&self) {
        (0..self.cluster.boards.len()).for_each(|index| self.wait_node(index, true));
    }

    fn wait_running(&self, name: &str) {
        self.wait(name, &format!("{PODS}/{name}"), |pod| is_ready(pod) == Some(true));
    }

    /// A status that came to be while nobody heard it arrives.
    fn wait_failed(&self, name: &str) {
        self.wait(name, &format!("{PODS}/{name}"), |pod| pod["status"]["phase"] == "Failed");
    }

    fn delete_pod(&self, name: &str) {
        let path = format!("{PODS}/{name}");
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.cluster.master().api("DELETE", &path, Some(&now)).expect("pod deleted");
    }

    /// A running pod on a board, which is not started again when it ends.
    fn create_last(&self, round: usize, index: usize) -> String {
        let name = format!("last-{round}");
        let pod = self.pinned(&name, index, "Never");
        self.cluster.master().create(PODS, &pod);
        self.wait_running(&name);
        name
    }

    /// Kills the process of a pod behind everybody's back.
    fn end_process(&self, name: &str, index: usize) {
        let pid = self.wait_process(name, index);
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    }

    /// The process of a pod, once there is one.
    fn wait_process(&self, name: &str, index: usize) -> i32 {
        let (mark, deadline) = (self.mark(name), Instant::now() + WITHIN);
        loop {
            let entries = std::fs::read_dir("/proc").expect("proc").flatten();
            let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            let found = pids.find(|pid: &i32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line);
                line.starts_with("/bin/sh") && line.contains(&mark)
            });
            if let Some(pid) = found {
                return pid;
            }
            let log = || self.cluster.boards[index].log();
            assert!(Instant::now() < deadline, "no process of {name}\n{}", log());
            std::thread::sleep(POLL_EVERY);
        }
    }

    fn inflict(&mut self, fault: Fault, victim: usize, round: usize) {
        let board = &mut self.cluster.boards[victim];
        match fault {
            Fault::Killed => board.kill(),
            Fault::Frozen => board.freeze(),
            Fault::LinkDown => board.unplug(),
            // Each board gets both directions.
            Fault::OneWay if (round / 2).is_multiple_of(2) => board.lose(Lost::Incoming),
            Fault::OneWay => board.lose(Lost::Outgoing),
            Fault::Rebooted => board.pull_the_plug(),
        }
    }

    fn heal(&mut self, fault: Fault, victim: usize) {
        let board = &mut self.cluster.boards[victim];
        match fault {
            Fault::Killed | Fault::Rebooted => board.start(&[]),
            Fault::Frozen => board.thaw(),
            Fault::LinkDown => board.replug(),
            Fault::OneWay => board.lose_nothing(),
        }
    }

    /// Container and restarts of each pod that a selector finds, by name.
    fn containers(&self, selector: &str) -> BTreeMap<String, (String, u64)> {
        let path = format!("{PODS}?labelSelector={}", selector.replace('=', "%3D"));
        let list = self.wait("pods", &path, |_| true);
        list["items"].as_array().into_iter().flatten().map(container_of).collect()
    }

    fn steady(&self) -> BTreeMap<String, (String, u64)> {
        let all = self.wait("pods", PODS, |_| true);
        let pods = all["items"].as_array().into_iter().flatten().map(container_of);
        pods.filter(|(name, _)| name.starts_with("steady-")).collect()
    }

    /// Steady pods have the containers that they had; that of a rebooted board another one.
    fn check_steady(&self, before: &BTreeMap<String, (String, u64)>, rebooted: Option<usize>) {
        let rebooted = rebooted.map(|index| format!("steady-{}", self.node(index)));
        if let Some(name) = &rebooted {
            let old = &before[name].0;
            self.wait(name, &format!("{PODS}/{name}"), |pod| {
                is_ready(pod) == Some(true) && container_of(pod).1.0 != *old
            });
        }
        for (name, (container, restarts)) in self.steady() {
            if Some(&name) != rebooted.as_ref() {
                assert_eq!((&container, restarts), (&before[&name].0, before[&name].1), "{name}");
            }
        }
    }

    fn check_footprints(&self) {
        self.delete_deployment();
        for index in 0..self.cluster.boards.len() {
            self.delete_pod(&format!("steady-{}", self.node(index)));
        }
        self.wait("no pods", PODS, |list| list["items"].as_array().is_some_and(Vec::is_empty));
        for (board, footprint) in self.cluster.boards.iter().zip(&self.footprints) {
            footprint.assert_same(board, board.node());
        }
    }
}

/// Name, container id and restarts of a pod.
fn container_of(pod: &Value) -> (String, (String, u64)) {
    let status = &pod["status"]["containerStatuses"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let restarts = status["restartCount"].as_u64().unwrap_or_default();
    (text(&pod["metadata"]["name"]), (text(&status["containerID"]), restarts))
}

/// Times of the rounds.
struct Times(Vec<Duration>);

impl Times {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, began: Instant) {
        self.0.push(began.elapsed());
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let last = sorted.last().copied().unwrap_or_default();
        write!(f, "p50 {middle:.2?} max {last:.2?}")
    }
}
