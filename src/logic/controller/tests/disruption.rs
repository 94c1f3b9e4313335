//! What disruption budgets allow.

use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, DisruptionController, Propagation, ReplicasController};

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> =
        vec![Box::new(DisruptionController), Box::new(ReplicasController::REPLICA_SETS)];
    let mut cluster = Cluster::new(seed, controllers);
    cluster.create(
        kind::REPLICA_SETS,
        "web",
        json!({ "metadata": {}, "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}} } }),
    );
    cluster
}

fn budget(limit: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}});
    spec.as_object_mut().expect("an object").extend(limit.as_object().cloned().unwrap_or_default());
    json!({"metadata": {}, "spec": spec})
}

fn status(cluster: &Cluster) -> Value {
    cluster.body(&key(kind::DISRUPTION_BUDGETS, "web")).expect("it exists")["status"].clone()
}

/// Allowed, healthy, desired, expected.
fn counts(cluster: &Cluster) -> [i64; 4] {
    let status = status(cluster);
    ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]
        .map(|field| status[field].as_i64().unwrap_or(-1))
}

#[test]
fn a_budget_counts_its_pods() {
    for (limit, expected) in [
        (json!({"minAvailable": 3}), [1, 4, 3, 4]),
        (json!({"minAvailable": "50%"}), [2, 4, 2, 4]),
        (json!({"maxUnavailable": 1}), [1, 4, 3, 4]),
        (json!({"maxUnavailable": "30%"}), [2, 4, 2, 4]),
        (json!({"minAvailable": 9}), [0, 4, 9, 4]),
    ] {
        let mut cluster = cluster(5);
        cluster.create(kind::DISRUPTION_BUDGETS, "web", budget(limit.clone()));
        cluster.rest();
        assert_eq!(counts(&cluster), expected, "{limit}");
        let condition = &status(&cluster)["conditions"][0];
        let (word, reason) = match expected[0] {
            0 => ("False", "InsufficientPods"),
            _ => ("True", "SufficientPods"),
        };
        assert_eq!((&condition["status"], &condition["reason"]), (&json!(word), &json!(reason)));
        assert_eq!(status(&cluster)["observedGeneration"], 1);
    }
}

#[test]
fn a_pod_that_goes_is_counted_once() {
    let mut cluster = cluster(6);
    cluster.create(kind::DISRUPTION_BUDGETS, "web", budget(json!({"minAvailable": 2})));
    cluster.rest();
    assert_eq!(counts(&cluster)[0], 2);
    // As the eviction of a pod leaves it.
    let pod = cluster.keys("/pods").remove(0);
    let web = key(kind::DISRUPTION_BUDGETS, "web");
    let since = cluster.now.to_string();
    cluster.patch(
        &web,
        json!({"status": {"disruptionsAllowed": 1, "disruptedPods": {&pod.name: since}}}),
    );
    cluster.settle();
    assert_eq!(counts(&cluster), [1, 3, 2, 4]);
    cluster.delete(&pod, Propagation::Background);
    cluster.settle();
    assert_eq!(status(&cluster)["disruptedPods"], Value::Null);
    assert_eq!(counts(&cluster)[..3], [1, 3, 2]);
    cluster.remove(&pod);
    cluster.rest();
    assert_eq!(counts(&cluster), [2, 4, 2, 4]);
    // One that was allowed to go and stays counts again after two minutes.
    let pod = cluster.keys("/pods").remove(0);
    let since = cluster.now.to_string();
    cluster.patch(&web, json!({"status": {"disruptedPods": {&pod.name: since}}}));
    cluster.settle();
    assert_eq!(counts(&cluster)[0], 1);
    cluster.now = cluster.now.plus_millis(121_000);
    cluster.settle();
    assert_eq!(counts(&cluster)[0], 2);
    assert_eq!(cluster.settle(), 0, "it rests");
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let mut cluster = cluster(8);
    cluster.create(kind::DISRUPTION_BUDGETS, "web", budget(json!({"maxUnavailable": 1})));
    cluster.rest();
    assert_eq!(counts(&cluster)[0], 1);
    let owner = json!([{"apiVersion": "x/v1", "kind": "Robot", "name": "r", "controller": true,
        "uid": "00000000-0000-4000-8000-000000000001"}]);
    cluster.create(
        kind::PODS,
        "robot",
        json!({"metadata": {"labels": {"app": "web"}, "ownerReferences": owner}}),
    );
    cluster.rest();
    assert_eq!(counts(&cluster)[0], 0);
    assert_eq!(status(&cluster)["conditions"][0]["reason"], "SyncFailed");
    cluster.remove(&key(kind::PODS, "robot"));
    cluster.rest();
    assert_eq!(counts(&cluster)[0], 1);
}
