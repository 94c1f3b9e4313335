//! ReplicaSets and ReplicationControllers.

use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, Propagation, ReplicasController};

fn set(replicas: u64) -> Value {
    json!({ "metadata": {}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": { "metadata": {"labels": {"app": "web"}}, "spec": {"containers": []} } } })
}

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(ReplicasController::REPLICA_SETS),
        Box::new(ReplicasController::REPLICATION_CONTROLLERS),
    ];
    Cluster::new(seed, controllers)
}

fn status(cluster: &Cluster, field: &str) -> u64 {
    let body = cluster.body(&key(kind::REPLICA_SETS, "web")).expect("it exists");
    body["status"][field].as_u64().unwrap_or_default()
}

#[test]
fn as_many_pods_as_wished_from_any_start() {
    for seed in 1..=60 {
        let mut cluster = cluster(seed);
        cluster.create(kind::REPLICA_SETS, "web", set(3));
        for _ in 0..6 {
            let wanted = cluster.random.below(30);
            let web = key(kind::REPLICA_SETS, "web");
            cluster.patch(&web, json!({"spec": {"replicas": wanted}}));
            // Somebody kills a pod, breaks one off, adds a stray one.
            if let Some(pod) = cluster.keys("/pods").first().cloned() {
                match cluster.random.below(4) {
                    0 => cluster.remove(&pod),
                    1 => cluster.patch(&pod, json!({"metadata": {"labels": {"app": "x"}}})),
                    2 => cluster.patch(&pod, json!({"status": {"phase": "Failed"}})),
                    _ => cluster.delete(&pod, Propagation::Background),
                }
            }
            let name = format!("stray-{}", cluster.writes);
            cluster.create(kind::PODS, &name, json!({"metadata": {"labels": {"app": "web"}}}));
            cluster.rest();
            let uid = cluster.world.replicas(&web).expect("it exists").meta.uid;
            let active = cluster.world.pods_of(uid).filter(|pod| pod.active()).count() as u64;
            assert_eq!(active, wanted, "seed {seed}");
            for field in ["replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas"]
            {
                assert_eq!(status(&cluster, field), wanted, "seed {seed}: {field}");
            }
            assert_eq!(cluster.settle(), 0, "seed {seed}: it rests");
        }
    }
}

#[test]
fn a_pod_that_no_longer_matches_is_let_go() {
    let mut cluster = cluster(1);
    cluster.create(kind::REPLICA_SETS, "web", set(2));
    cluster.rest();
    let pod = cluster.keys("/pods").remove(0);
    cluster.patch(&pod, json!({"metadata": {"labels": {"app": "debug"}}}));
    cluster.rest();
    let body = cluster.body(&pod).expect("it stays");
    assert!(body["metadata"]["ownerReferences"].is_null(), "{body}");
    assert_eq!(cluster.keys("/pods").len(), 3);
    let created = cluster.events.iter().filter(|it| it.reason == "SuccessfulCreate").count();
    assert_eq!(created, 3);
    assert!(cluster.events[0].message.starts_with("Created pod: web-"));
}

#[test]
fn a_pod_counts_as_available_after_min_ready_seconds() {
    let mut cluster = cluster(2);
    let mut body = set(1);
    body["spec"]["minReadySeconds"] = 600.into();
    cluster.create(kind::REPLICA_SETS, "web", body);
    cluster.rest();
    assert_eq!((status(&cluster, "readyReplicas"), status(&cluster, "availableReplicas")), (1, 0));
    cluster.now = cluster.now.plus_millis(600_000);
    cluster.settle();
    assert_eq!(status(&cluster, "availableReplicas"), 1);
}

#[test]
fn the_pods_that_are_missed_least_go_first() {
    let mut cluster = cluster(3);
    cluster.fails = false;
    cluster.create(kind::REPLICA_SETS, "web", set(6));
    cluster.settle();
    let pods = cluster.keys("/pods");
    let ready =
        |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
    let old = "2026-01-01T00:00:00Z";
    let young = "2026-02-01T00:00:00Z";
    let states = [
        json!({"spec": {}, "status": {"phase": "Pending"}}),
        json!({"spec": {"nodeName": "a"}, "status": {"phase": "Pending"}}),
        json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}}),
        json!({"spec": {"nodeName": "b"}, "status": {"phase": "Running", "conditions": ready(old)},
            "metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}}),
        json!({"spec": {"nodeName": "b"}, "status": {"phase": "Running", "conditions": ready(young)}}),
        json!({"spec": {"nodeName": "b"}, "status": {"phase": "Running", "conditions": ready(old)}}),
    ];
    for (pod, state) in pods.iter().zip(&states) {
        cluster.patch(pod, state.clone());
    }
    for left in (0..6).rev() {
        let web = key(kind::REPLICA_SETS, "web");
        cluster.patch(&web, json!({"spec": {"replicas": left}}));
        cluster.settle();
        for pod in cluster.keys("/pods") {
            if cluster.body(&pod).expect("listed")["metadata"]["deletionTimestamp"].is_string() {
                cluster.remove(&pod);
            }
        }
        assert_eq!(cluster.keys("/pods"), pods[6 - left as usize..], "{left} left");
    }
}

#[test]
fn a_replication_controller_selects_by_plain_labels() {
    let mut cluster = cluster(4);
    cluster.create(
        kind::REPLICATION_CONTROLLERS,
        "old",
        json!({ "metadata": {}, "spec": { "replicas": 2, "selector": {"app": "old"},
            "template": {"metadata": {"labels": {"app": "old"}}, "spec": {}} } }),
    );
    cluster.rest();
    assert_eq!(cluster.keys("/pods").len(), 2);
    let owner =
        cluster.body(&cluster.keys("/pods")[0]).expect("listed")["metadata"]["ownerReferences"][0]
            .clone();
    assert_eq!(
        (&owner["kind"], &owner["apiVersion"]),
        (&json!("ReplicationController"), &json!("v1"))
    );
}

#[test]
fn a_leaving_namespace_gets_no_new_pods() {
    let mut cluster = cluster(5);
    cluster.delete(&key(kind::NAMESPACES, "shop"), Propagation::Background);
    cluster.create(kind::REPLICA_SETS, "web", set(2));
    cluster.rest();
    assert!(cluster.keys("/pods").is_empty());
}
