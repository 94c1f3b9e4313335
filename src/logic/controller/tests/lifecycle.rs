//! Silent boards: tables of what follows, and a walk with an oracle in which boards come and go.

use model::ids::ObjectKey;
use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::contact::{Contact, ContactBook, Patience};
use crate::controller::{
    Controller, GarbageCollector, NodeLifecycleController, NodeTaintController,
    PodGarbageCollector, ReplicasController, TaintEvictionController,
};
use crate::schedule::Scheduler;

fn controllers() -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(NodeLifecycleController),
        Box::new(NodeTaintController),
        Box::new(TaintEvictionController),
        Box::new(PodGarbageCollector),
        Box::new(ReplicasController::REPLICA_SETS),
        Box::new(Scheduler),
        Box::new(GarbageCollector),
    ]
}

fn node() -> Value {
    let known =
        |name: &str, status: &str| json!({"type": name, "status": status, "message": "fine"});
    json!({ "metadata": {}, "status": {
        "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"},
        "conditions": [known("Ready", "True"), known("MemoryPressure", "False"),
            known("DiskPressure", "False"), known("PIDPressure", "False"),
            known("ClockUnsynced", "False")] } })
}

fn tolerating(keys: &[(&str, Option<i64>)]) -> Value {
    let list: Vec<Value> = keys
        .iter()
        .map(|(key, seconds)| {
            let mut toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
            if let Some(seconds) = seconds {
                toleration["tolerationSeconds"] = (*seconds).into();
            }
            toleration
        })
        .collect();
    list.into()
}

fn by_default() -> Value {
    tolerating(&[("node.kubernetes.io/not-ready", Some(25)), (UNREACHABLE, Some(25))])
}

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn running(node: &str, tolerations: Value) -> Value {
    json!({ "metadata": {}, "spec": {"nodeName": node, "tolerations": tolerations},
        "status": {"phase": "Running", "conditions": [
            {"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]} })
}

fn condition(cluster: &Cluster, key: &ObjectKey, name: &str) -> Value {
    let body = cluster.body(key).expect("it exists");
    let all = body["status"]["conditions"].as_array().expect("conditions");
    all.iter().find(|it| it["type"] == name).cloned().unwrap_or_default()
}

fn taints(cluster: &Cluster, node: &str) -> Vec<String> {
    let body = cluster.body(&key(kind::NODES, node)).expect("it exists");
    let taints = body["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let text = |it: &Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
    taints.iter().map(|it| format!("{}:{}", text(it, "key"), text(it, "effect"))).collect()
}

fn is_leaving(cluster: &Cluster, pod: &str) -> bool {
    let body = cluster.body(&key(kind::PODS, pod)).expect("it exists");
    body["metadata"]["deletionTimestamp"].is_string()
}

/// What is due now, with everything that follows from it.
fn work(cluster: &mut Cluster) {
    for steps in 0.. {
        assert!(steps < 20_000, "does not settle");
        if !cluster.step() {
            return;
        }
    }
}

fn pass(cluster: &mut Cluster, seconds: u64) {
    for _ in 0..seconds {
        cluster.now = cluster.now.plus_millis(1_000);
        work(cluster);
    }
}

fn silent_cluster(others: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(1, controllers());
    cluster.fails = false;
    for name in ["pi-1"].iter().chain(others) {
        cluster.create(kind::NODES, name, node());
        cluster.set_contact(name, Contact::Heard);
    }
    cluster
}

#[test]
fn a_lost_board_is_unknown_and_its_pods_are_not_ready() {
    let mut cluster = silent_cluster(&[]);
    cluster.create(kind::PODS, "web", running("pi-1", by_default()));
    pass(&mut cluster, 2);
    let (pi, web) = (key(kind::NODES, "pi-1"), key(kind::PODS, "web"));
    assert_eq!(condition(&cluster, &web, "Ready")["status"], "True");
    cluster.set_contact("pi-1", Contact::Lost);
    work(&mut cluster);
    for name in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let condition = condition(&cluster, &pi, name);
        assert_eq!(condition["status"], "Unknown", "{name}");
        assert_eq!(condition["reason"], "NodeStatusUnknown");
        assert_eq!(condition["message"], "Kubelet stopped posting node status.");
    }
    assert_eq!(condition(&cluster, &pi, "ClockUnsynced")["status"], "False");
    let ready = condition(&cluster, &web, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("NodeNotReady")));
    assert_eq!(condition(&cluster, &web, "Initialized")["status"], "True");
    let execute = format!("{UNREACHABLE}:NoExecute");
    assert_eq!(taints(&cluster, "pi-1"), [format!("{UNREACHABLE}:NoSchedule"), execute]);
    let told: Vec<(&str, &str)> =
        cluster.events.iter().map(|it| (it.reason, it.message.as_str())).collect();
    let node_told = ("NodeNotReady", "Node pi-1 status is now: NodeNotReady");
    assert_eq!(told, [node_told, ("NodeNotReady", "Node is not ready")]);
    pass(&mut cluster, 24);
    assert!(!is_leaving(&cluster, "web"));
    pass(&mut cluster, 1);
    assert!(is_leaving(&cluster, "web"));
    let disrupted = condition(&cluster, &web, "DisruptionTarget");
    assert_eq!(disrupted["reason"], "DeletionByTaintManager");
    let last = cluster.events.last().expect("an event");
    assert_eq!(last.message, "Marking for deletion Pod shop/web");
    // It is heard again, and says how it is.
    cluster.set_contact("pi-1", Contact::Heard);
    work(&mut cluster);
    assert_eq!(taints(&cluster, "pi-1"), [format!("{UNREACHABLE}:NoSchedule")]);
    cluster.patch(&pi, json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    work(&mut cluster);
    assert!(taints(&cluster, "pi-1").is_empty());
}

#[test]
fn pods_bear_taints_as_long_as_they_say() {
    let minute = Some(60);
    let table: &[(&str, Value, &[&str], Option<u64>)] = &[
        ("none", json!([]), &["a"], Some(0)),
        ("for ever", tolerating(&[("a", None)]), &["a"], None),
        ("a minute", tolerating(&[("a", minute)]), &["a"], Some(60)),
        ("no time at all", tolerating(&[("a", Some(0))]), &["a"], Some(0)),
        ("less than that", tolerating(&[("a", Some(-5))]), &["a"], Some(0)),
        ("the other one", tolerating(&[("b", None)]), &["a"], Some(0)),
        ("the earlier", tolerating(&[("a", minute), ("b", Some(10))]), &["a", "b"], Some(10)),
        ("one for ever", tolerating(&[("a", minute), ("b", None)]), &["a", "b"], Some(60)),
        ("one of two", tolerating(&[("a", minute)]), &["a", "b"], Some(0)),
        ("everything", json!([{"operator": "Exists"}]), &["a", "b"], None),
        (
            "another effect",
            json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]),
            &["a"],
            Some(0),
        ),
    ];
    for (name, tolerations, keys, expected) in table {
        let mut cluster = silent_cluster(&[]);
        cluster.create(kind::PODS, "web", running("pi-1", tolerations.clone()));
        let taints: Vec<Value> =
            keys.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
        cluster.patch(&key(kind::NODES, "pi-1"), json!({"spec": {"taints": taints}}));
        work(&mut cluster);
        let gone = (0..120).find(|_| {
            let leaving = is_leaving(&cluster, "web");
            if !leaving {
                pass(&mut cluster, 1);
            }
            leaving
        });
        assert_eq!(gone, *expected, "{name}");
    }
}

#[test]
fn nobody_is_evicted_on_an_earlier_leaders_word_or_while_most_are_silent() {
    let mut cluster = silent_cluster(&["pi-2", "pi-3"]);
    cluster.create(kind::PODS, "web", running("pi-1", by_default()));
    // Stored by an earlier leader, hours ago; this one has not judged yet.
    let stored =
        json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"});
    cluster.set_contact("pi-1", Contact::Unjudged);
    cluster.patch(
        &key(kind::NODES, "pi-1"),
        json!({"spec": {"taints": [stored]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
    );
    pass(&mut cluster, 60);
    assert!(!is_leaving(&cluster, "web"));
    // Judged, but most boards are silent: perhaps it is this one that is cut off.
    cluster.set_mass_silence(true);
    cluster.set_contact("pi-1", Contact::Lost);
    pass(&mut cluster, 60);
    assert!(!is_leaving(&cluster, "web"));
    assert_eq!(taints(&cluster, "pi-1"), [format!("{UNREACHABLE}:NoSchedule")]);
    cluster.set_mass_silence(false);
    pass(&mut cluster, 24);
    assert!(!is_leaving(&cluster, "web"), "the time begins anew");
    pass(&mut cluster, 2);
    assert!(is_leaving(&cluster, "web"));
}

#[test]
fn a_stored_taint_moves_nobody_before_its_board_was_judged() {
    // Without the controller that would take the taint off, as between two of its plans.
    let controllers: Vec<Box<dyn Controller>> = vec![Box::new(TaintEvictionController)];
    let mut cluster = Cluster::new(1, controllers);
    let mut lost = node();
    let since = "2020-01-01T00:00:00Z";
    lost["spec"]["taints"] =
        json!([{"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": since}]);
    cluster.create(kind::NODES, "pi-1", lost);
    cluster.create(kind::PODS, "web", running("pi-1", by_default()));
    for contact in [Contact::Unjudged, Contact::Heard] {
        cluster.set_contact("pi-1", contact);
        pass(&mut cluster, 60);
        assert!(!is_leaving(&cluster, "web"), "{contact:?}");
    }
    cluster.set_contact("pi-1", Contact::Lost);
    pass(&mut cluster, 31);
    assert!(is_leaving(&cluster, "web"));
}

#[test]
fn many_pods_leave_in_several_plans() {
    let mut cluster = silent_cluster(&[]);
    for number in 0..700 {
        cluster.create(kind::PODS, &format!("p-{number}"), running("pi-1", by_default()));
    }
    cluster.set_contact("pi-1", Contact::Lost);
    work(&mut cluster);
    assert!(cluster.world.pods().all(|pod| pod.ready_since.is_none()));
    pass(&mut cluster, 26);
    assert!(cluster.world.pods().all(|pod| pod.meta.deleting.is_some()));
}

#[test]
fn pods_of_a_node_that_is_no_more_go_after_a_while() {
    let mut cluster = silent_cluster(&["pi-2"]);
    cluster.create(kind::PODS, "web", running("pi-1", by_default()));
    let pi = key(kind::NODES, "pi-1");
    cluster.remove(&pi);
    pass(&mut cluster, 30);
    cluster.create(kind::NODES, "pi-1", node());
    pass(&mut cluster, 60);
    assert!(cluster.body(&key(kind::PODS, "web")).is_some(), "its board registered again");
    cluster.remove(&pi);
    pass(&mut cluster, 39);
    assert!(cluster.body(&key(kind::PODS, "web")).is_some());
    pass(&mut cluster, 2);
    assert!(cluster.body(&key(kind::PODS, "web")).is_none());
    // A board that people gave up: what is being deleted there is gone.
    cluster.create(kind::PODS, "db", running("pi-2", json!([{"operator": "Exists"}])));
    cluster.create(kind::PODS, "stays", running("pi-2", json!([{"operator": "Exists"}])));
    cluster.set_contact("pi-2", Contact::Lost);
    work(&mut cluster);
    cluster.delete(&key(kind::PODS, "db"), crate::controller::Propagation::Background);
    pass(&mut cluster, 60);
    assert!(is_leaving(&cluster, "db"), "it waits for its board");
    let given_up = json!({"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"});
    cluster.patch(&key(kind::NODES, "pi-2"), json!({"spec": {"taints": [given_up]}}));
    pass(&mut cluster, 1);
    assert!(cluster.body(&key(kind::PODS, "db")).is_none());
    assert!(cluster.body(&key(kind::PODS, "stays")).is_some());
}

/// Boards that live and die, the book that listens to them, and what an oracle knows.
struct Walk {
    cluster: Cluster,
    book: ContactBook,
    names: Vec<String>,
    alive: Vec<bool>,
    heard_at: Vec<u64>,
    seconds: u64,
    evictions: usize,
}

const BOARDS: usize = 5;
const REPLICAS: usize = 10;

impl Walk {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(seed, controllers());
        let names: Vec<String> = (1..=BOARDS).map(|number| format!("pi-{number}")).collect();
        let mut book = ContactBook::new(Patience::default());
        for name in &names {
            cluster.create(kind::NODES, name, node());
            book.node_exists(name, 0);
        }
        let template = json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [], "tolerations": by_default()}});
        cluster.create(
            kind::REPLICA_SETS,
            "web",
            json!({"spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": "web"}},
                "template": template}}),
        );
        let (alive, heard_at) = (vec![true; BOARDS], vec![0; BOARDS]);
        Self { cluster, book, names, alive, heard_at, seconds: 0, evictions: 0 }
    }

    fn show(&mut self) {
        for name in &self.names {
            let contact = self.book.contact(name);
            if self.cluster.world.contact(name) != contact {
                self.cluster.set_contact(name, contact);
            }
        }
        self.cluster.set_mass_silence(self.book.mass_silence());
    }

    /// A second passes: boards that live beat, run their pods and let go of those that leave.
    fn second(&mut self) {
        self.seconds += 1;
        self.cluster.now = self.cluster.now.plus_millis(1_000);
        let now = self.seconds * 1_000;
        while let Some(due) = self.book.deadline().filter(|due| *due <= now) {
            self.book.judge(due);
        }
        for at in 0..BOARDS {
            if self.alive[at] && (self.seconds + at as u64).is_multiple_of(5) {
                self.book.heard(&self.names[at], now);
                self.heard_at[at] = now;
                self.show();
                self.speak(at);
            }
        }
        self.show();
        let before = self.cluster.events.len();
        work(&mut self.cluster);
        self.check(before);
    }

    /// What a Hello and statuses do.
    fn speak(&mut self, at: usize) {
        let node = key(kind::NODES, &self.names[at]);
        if condition(&self.cluster, &node, "Ready")["status"] != "True" {
            self.cluster.patch(&node, json!({"status": node_status()}));
        }
        for pod in self.cluster.keys("/pods") {
            let body = self.cluster.body(&pod).expect("it exists");
            if body["spec"]["nodeName"] != self.names[at].as_str() {
                continue;
            }
            if body["metadata"]["deletionTimestamp"].is_string() {
                self.cluster.remove(&pod);
            } else if body["status"]["conditions"][0]["status"] != "True" {
                let ready = json!([{"type": "Ready", "status": "True"}]);
                self.cluster
                    .patch(&pod, json!({"status": {"phase": "Running", "conditions": ready}}));
            }
        }
    }

    fn check(&mut self, events_before: usize) {
        let now = self.seconds * 1_000;
        let silent = |at: &usize| {
            let limit = if self.heard_at[*at] == 0 { 15_250 } else { 9_250 };
            now - self.heard_at[*at] >= limit
        };
        let all_silent = (0..BOARDS).filter(silent).count();
        let evicted: Vec<String> = self.cluster.events[events_before..]
            .iter()
            .filter(|event| event.reason == "TaintManagerEviction")
            .map(|event| event.about.name.clone())
            .collect();
        for pod in evicted {
            self.evictions += 1;
            assert!(all_silent * 2 <= BOARDS, "second {}: {all_silent} are silent", self.seconds);
            // A commit that fails is repeated; the board may have come back and taken the pod away.
            let Some(body) = self.cluster.body(&key(kind::PODS, &pod)) else { continue };
            let at = self.names.iter().position(|name| body["spec"]["nodeName"] == name.as_str());
            let at = at.expect("one of ours");
            let silence = now - self.heard_at[at];
            assert!(silence >= 9_000 + 25_000, "second {}: {silence}", self.seconds);
        }
        if self.seconds <= 15 {
            let lost = (0..BOARDS)
                .filter(|at| self.heard_at[*at] == 0)
                .any(|at| self.book.contact(&self.names[at]) == Contact::Lost);
            assert!(!lost, "judged before its grace was over");
        }
    }

    fn healthy(&self) -> bool {
        let world = &self.cluster.world;
        let ready = world.pods().filter(|pod| pod.ready_since.is_some()).count();
        ready == REPLICAS
            && world.pods().count() == REPLICAS
            && world.nodes().all(|node| node.ready && node.taints.is_empty())
    }
}

fn node_status() -> Value {
    node()["status"].clone()
}

#[test]
fn boards_come_and_go_and_everything_heals() {
    let mut evictions = 0;
    for seed in 1..=25 {
        let mut walk = Walk::new(seed);
        for _ in 0..300 {
            if walk.cluster.random.below(20) == 0 {
                let at = walk.cluster.random.below(BOARDS as u64) as usize;
                // The board of the master is always heard.
                walk.alive[at] = at == 0 || !walk.alive[at];
            }
            walk.second();
        }
        walk.alive = vec![true; BOARDS];
        let healed = (0..90).any(|_| {
            walk.second();
            walk.healthy()
        });
        assert!(healed, "seed {seed}: not healed");
        evictions += walk.evictions;
    }
    assert!(evictions > 50, "only {evictions} evictions: the walk shows nothing");
}
