//! Tables of the scheduler, and a walk in which no node is ever given more than it has.

use model::view::kind;
use serde_json::{Value, json};

use super::*;
use crate::controller::tests::harness::{Cluster, key};

fn node(labels: Value, extra: Value) -> Value {
    let mut node = json!({
        "metadata": { "labels": labels },
        "status": {
            "allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "5"},
            "conditions": [{"type": "Ready", "status": "True"}] }
    });
    for (field, value) in extra.as_object().cloned().unwrap_or_default() {
        node[field] = value;
    }
    node
}

fn pod(spec: Value) -> Value {
    json!({ "metadata": {}, "spec": spec })
}

fn asking(requests: Value) -> Value {
    json!({"containers": [{"resources": {"requests": requests}}]})
}

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![Box::new(Scheduler)];
    Cluster::new(seed, controllers)
}

/// Where a pod goes on one node, or the message it gets.
fn outcome(node_body: Value, spec: Value) -> Result<String, String> {
    let mut cluster = cluster(1);
    cluster.create(kind::NODES, "pi-1", node_body);
    cluster.create(kind::PODS, "web", pod(spec));
    cluster.settle();
    let body = cluster.body(&key(kind::PODS, "web")).expect("it exists");
    match body["spec"]["nodeName"].as_str() {
        Some(node) => Ok(node.to_owned()),
        None => Err(body["status"]["conditions"][0]["message"].as_str().expect("why").to_owned()),
    }
}

fn refused(reason: &str, preemption: &str) -> Result<String, String> {
    Err(format!(
        "0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 {preemption}."
    ))
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

#[test]
fn a_pod_goes_where_it_fits_or_is_told_why() {
    let fits = Ok("pi-1".to_owned());
    let plain = || node(json!({"kubernetes.io/arch": "arm64"}), json!({}));
    let spec_of = |spec: Value| node(json!({}), json!({"spec": spec}));
    let taint = json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]});
    let tolerating = |it: Value| json!({"containers": [], "tolerations": [it]});
    let required = |expression: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
    };
    let mismatch = || refused("node(s) didn't match Pod's node affinity/selector", NOT_HELPFUL);
    let cases = [
        (plain(), asking(json!({"cpu": "2", "memory": "1Gi"})), fits.clone()),
        (plain(), asking(json!({"cpu": "2001m"})), refused("Insufficient cpu", NOT_HELPFUL)),
        (plain(), asking(json!({"memory": "2Gi"})), refused("Insufficient memory", NOT_HELPFUL)),
        (
            plain(),
            asking(json!({"ephemeral-storage": "11Gi"})),
            refused("Insufficient ephemeral-storage", NOT_HELPFUL),
        ),
        (
            plain(),
            asking(json!({"example.com/led": "1"})),
            refused("Insufficient example.com/led", NOT_HELPFUL),
        ),
        (plain(), json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}}), fits.clone()),
        (plain(), json!({"nodeSelector": {"kubernetes.io/arch": "amd64"}}), mismatch()),
        (
            plain(),
            required(json!({"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]})),
            fits.clone(),
        ),
        (plain(), required(json!({"key": "disk", "operator": "Exists"})), mismatch()),
        (
            spec_of(json!({"unschedulable": true})),
            json!({}),
            refused("node(s) were unschedulable", NOT_HELPFUL),
        ),
        (
            spec_of(taint.clone()),
            json!({}),
            refused("node(s) had untolerated taint {gpu: yes}", NOT_HELPFUL),
        ),
        (spec_of(taint.clone()), tolerating(json!({"operator": "Exists"})), fits.clone()),
        (spec_of(taint.clone()), tolerating(json!({"key": "gpu", "value": "yes"})), fits.clone()),
        (
            spec_of(taint),
            tolerating(json!({"key": "gpu", "value": "no"})),
            refused("node(s) had untolerated taint {gpu: yes}", NOT_HELPFUL),
        ),
        (
            node(json!({}), json!({"status": {"allocatable": {"pods": "5"}}})),
            json!({}),
            refused("node(s) had untolerated taint {node.kubernetes.io/not-ready: }", NOT_HELPFUL),
        ),
    ];
    for (node, spec, expected) in cases {
        assert_eq!(outcome(node, spec.clone()), expected, "{spec}");
    }
}

#[test]
fn without_nodes_it_says_so_and_waits_for_one() {
    let mut cluster = cluster(2);
    cluster.create(kind::PODS, "web", pod(json!({})));
    cluster.settle();
    let web = key(kind::PODS, "web");
    let body = cluster.body(&web).expect("it exists");
    let condition = &body["status"]["conditions"][0];
    assert_eq!(condition["message"], "no nodes available to schedule pods");
    assert_eq!(condition["reason"], "Unschedulable");
    assert_eq!(cluster.settle(), 0, "it rests");
    cluster.create(kind::NODES, "pi-1", node(json!({}), json!({})));
    cluster.settle();
    assert_eq!(cluster.body(&web).expect("it exists")["spec"]["nodeName"], "pi-1");
    let reasons: Vec<&str> = cluster.events.iter().map(|it| it.reason).collect();
    assert_eq!(reasons, ["FailedScheduling", "Scheduled"]);
    assert_eq!(cluster.events[1].message, "Successfully assigned shop/web to pi-1");
}

#[test]
fn taken_room_and_ports_come_back_when_a_pod_goes() {
    for (spec, reason) in [
        (asking(json!({"cpu": "1500m"})), "Insufficient cpu"),
        (
            json!({"containers": [{"ports": [{"containerPort": 80, "hostPort": 80}]}]}),
            "node(s) didn't have free ports for the requested pod ports",
        ),
    ] {
        let mut cluster = cluster(3);
        cluster.create(kind::NODES, "pi-1", node(json!({}), json!({})));
        cluster.create(kind::PODS, "first", pod(spec.clone()));
        cluster.settle();
        cluster.create(kind::PODS, "second", pod(spec));
        cluster.settle();
        let second = key(kind::PODS, "second");
        let message = &cluster.body(&second).expect("it exists")["status"]["conditions"][0];
        let expected = refused(reason, "No preemption victims found for incoming pod");
        assert_eq!(message["message"].as_str(), expected.err().as_deref());
        cluster.remove(&key(kind::PODS, "first"));
        cluster.settle();
        assert_eq!(cluster.body(&second).expect("it exists")["spec"]["nodeName"], "pi-1");
    }
}

#[test]
fn pods_of_one_owner_are_spread() {
    let mut cluster = cluster(4);
    for name in ["pi-1", "pi-2", "pi-3"] {
        cluster.create(kind::NODES, name, node(json!({}), json!({})));
    }
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
        "uid": "00000000-0000-4000-8000-000000000001", "controller": true}]);
    for number in 0..6 {
        let body = json!({"metadata": {"ownerReferences": owners.clone()}, "spec": {}});
        cluster.create(kind::PODS, &format!("web-{number}"), body);
    }
    cluster.settle();
    for name in ["pi-1", "pi-2", "pi-3"] {
        assert_eq!(cluster.world.pods_on(name).count(), 2, "{name}");
    }
}

#[test]
fn a_preferred_node_wins() {
    let mut cluster = cluster(5);
    cluster.create(kind::NODES, "pi-1", node(json!({}), json!({})));
    cluster.create(kind::NODES, "pi-2", node(json!({"disk": "ssd"}), json!({})));
    for number in 0..3 {
        let spec = json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10,
                "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}});
        cluster.create(kind::PODS, &format!("web-{number}"), pod(spec));
    }
    cluster.settle();
    assert_eq!(cluster.world.pods_on("pi-2").count(), 3);
}

#[test]
fn pods_for_another_scheduler_or_behind_a_gate_are_left_alone() {
    let mut cluster = cluster(6);
    cluster.create(kind::NODES, "pi-1", node(json!({}), json!({})));
    cluster.create(kind::PODS, "other", pod(json!({"schedulerName": "other"})));
    cluster.create(kind::PODS, "gated", pod(json!({"schedulingGates": [{"name": "x"}]})));
    assert_eq!(cluster.settle(), 0);
}

#[test]
fn no_node_is_ever_given_more_than_it_has() {
    for seed in 1..=30 {
        let mut cluster = cluster(seed);
        for name in ["pi-1", "pi-2"] {
            cluster.create(kind::NODES, name, node(json!({}), json!({})));
        }
        for number in 0..60 {
            if cluster.random.below(3) == 0 {
                if let Some(pod) = cluster.keys("/pods").first().cloned() {
                    cluster.remove(&pod);
                }
            } else {
                let cpu = format!("{}m", 100 + cluster.random.below(900));
                let body = pod(asking(json!({"cpu": cpu})));
                cluster.create(kind::PODS, &format!("p-{number}"), body);
            }
            if cluster.random.below(2) == 0 {
                cluster.settle();
            }
            for name in ["pi-1", "pi-2"] {
                let pods: Vec<_> = cluster.world.pods_on(name).collect();
                let cpu: u64 = pods.iter().map(|pod| pod.requests.cpu_milli).sum();
                assert!(cpu <= 2_000 && pods.len() <= 5, "seed {seed}: {name} {cpu}");
            }
        }
        cluster.settle();
        // Whoever still waits fits nowhere.
        for pod in cluster.world.pods_waiting() {
            let wish = pod.scheduling.as_deref().expect("it waits");
            for node in cluster.world.nodes() {
                let board = Board::new(node, cluster.world.pods_on(&node.meta.name));
                assert!(board.check(pod, wish).is_err(), "seed {seed}");
            }
        }
    }
}
