//! Deployments over ReplicaSets.

use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, DeploymentController, GarbageCollector, ReplicasController};

fn deployment(replicas: u64, image: &str) -> Value {
    json!({ "metadata": {}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
        "template": { "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": image}]} } } })
}

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(DeploymentController),
        Box::new(ReplicasController::REPLICA_SETS),
        Box::new(GarbageCollector),
    ];
    Cluster::new(seed, controllers)
}

fn web() -> model::ids::ObjectKey {
    key(kind::DEPLOYMENTS, "web")
}

fn image(name: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"image": name}]}}}})
}

fn condition(cluster: &Cluster, name: &str) -> Value {
    let body = cluster.body(&web()).expect("it exists");
    let conditions = body["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().find(|it| it["type"] == name).cloned().unwrap_or_default()
}

/// What a finished roll-out looks like to `kubectl rollout status`.
fn assert_complete(cluster: &Cluster, wanted: u64, wanted_image: &str, context: &str) {
    let body = cluster.body(&web()).expect("it exists");
    let status = &body["status"];
    assert_eq!(status["observedGeneration"], body["metadata"]["generation"], "{context}");
    let count = |field: &str| status[field].as_u64().unwrap_or_default();
    for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        assert_eq!(count(field), wanted, "{context}: {field} {status}");
    }
    assert_eq!(count("unavailableReplicas"), 0, "{context}");
    assert_eq!(condition(cluster, "Available")["status"], "True", "{context}");
    assert_eq!(condition(cluster, "Progressing")["reason"], "NewReplicaSetAvailable", "{context}");
    let images: Vec<String> = cluster
        .keys("/pods")
        .iter()
        .map(|pod| cluster.body(pod).expect("listed"))
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(images.len() as u64, wanted, "{context}");
    assert!(images.iter().all(|it| it == wanted_image), "{context}: {images:?}");
}

#[test]
fn every_change_rolls_out_from_any_state() {
    for seed in 1..=60 {
        let mut cluster = cluster(seed);
        cluster.create(kind::DEPLOYMENTS, "web", deployment(3, "v0"));
        let (mut wanted, mut wanted_image) = (3, "v0".to_owned());
        for round in 0..5 {
            // Some steps of an unfinished roll-out, then the next change.
            for _ in 0..cluster.random.below(40) {
                cluster.step();
                cluster.boards(4);
            }
            if cluster.random.below(2) == 0 {
                wanted = cluster.random.below(12);
                cluster.patch(&web(), json!({"spec": {"replicas": wanted}}));
            }
            wanted_image = format!("v{}", cluster.random.below(4));
            cluster.patch(&web(), image(&wanted_image));
            if round % 2 == 1 {
                cluster.rest();
                assert_complete(&cluster, wanted, &wanted_image, &format!("seed {seed} {round}"));
            }
        }
        cluster.rest();
        assert_complete(&cluster, wanted, &wanted_image, &format!("seed {seed}"));
        assert!(cluster.keys("apps/replicasets").len() <= 3, "seed {seed}: history is kept short");
        assert_eq!(cluster.settle(), 0, "seed {seed}: it rests");
    }
}

#[test]
fn a_rolling_replacement_keeps_the_promised_pods() {
    for seed in 1..=40 {
        let mut cluster = cluster(seed);
        let wanted = 1 + cluster.random.below(10) as i64;
        let (surge, unavailable) =
            [(1, 0), (0, 1), (2, 1), (3, 0)][cluster.random.below(4) as usize];
        let mut body = deployment(wanted as u64, "v1");
        body["spec"]["strategy"]["rollingUpdate"] =
            json!({"maxSurge": surge, "maxUnavailable": unavailable});
        cluster.create(kind::DEPLOYMENTS, "web", body);
        cluster.rest();
        cluster.patch(&web(), image("v2"));
        for steps in 0.. {
            assert!(steps < 5_000, "seed {seed}: does not finish");
            let moved = cluster.step();
            let active = cluster.world.pods().filter(|pod| pod.active()).count() as i64;
            let ready = cluster
                .world
                .pods()
                .filter(|pod| pod.active() && pod.ready_since.is_some())
                .count() as i64;
            assert!(active <= wanted + surge, "seed {seed}: {active} pods of {wanted}+{surge}");
            assert!(ready >= wanted - unavailable, "seed {seed}: {ready} ready of {wanted}");
            let grown = cluster.boards(5);
            if !moved && grown == 0 && cluster.boards(1) == 0 && cluster.settle() == 0 {
                break;
            }
            cluster.now = cluster.now.plus_millis(50);
        }
        assert_complete(&cluster, wanted as u64, "v2", &format!("seed {seed}"));
    }
}

#[test]
fn recreate_never_mixes_old_and_new() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        let mut body = deployment(3, "v1");
        body["spec"]["strategy"] = json!({"type": "Recreate"});
        cluster.create(kind::DEPLOYMENTS, "web", body);
        cluster.rest();
        cluster.patch(&web(), image("v2"));
        for _ in 0..600 {
            cluster.step();
            cluster.boards(4);
            cluster.now = cluster.now.plus_millis(20);
            let images: std::collections::BTreeSet<String> = cluster
                .keys("/pods")
                .iter()
                .filter_map(|pod| cluster.body(pod))
                .map(|pod| pod["spec"]["containers"][0]["image"].to_string())
                .collect();
            assert!(images.len() <= 1, "seed {seed}: {images:?} at once");
        }
        cluster.rest();
        assert_complete(&cluster, 3, "v2", &format!("seed {seed}"));
    }
}

#[test]
fn a_rollback_takes_the_old_set_and_the_next_revision() {
    let mut cluster = cluster(1);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    cluster.rest();
    cluster.patch(&web(), image("v2"));
    cluster.rest();
    cluster.patch(&web(), image("v1"));
    cluster.rest();
    assert_complete(&cluster, 2, "v1", "rolled back");
    let sets = cluster.keys("apps/replicasets");
    assert_eq!(sets.len(), 2);
    let mut revisions: Vec<String> = sets
        .iter()
        .map(|set| cluster.body(set).expect("listed"))
        .map(|set| set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].to_string())
        .collect();
    revisions.sort();
    assert_eq!(revisions, ["\"2\"", "\"3\""]);
    let annotations = &cluster.body(&web()).expect("it exists")["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn a_roll_out_that_stands_still_says_so_after_its_deadline() {
    let mut cluster = cluster(2);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    cluster.settle();
    assert_eq!(condition(&cluster, "Available")["status"], "False");
    assert_eq!(condition(&cluster, "Progressing")["reason"], "ReplicaSetUpdated");
    cluster.now = cluster.now.plus_millis(601_000);
    cluster.settle();
    let progressing = condition(&cluster, "Progressing");
    assert_eq!(progressing["reason"], "ProgressDeadlineExceeded");
    assert_eq!(progressing["status"], "False");
    // And it recovers when the boards do.
    cluster.rest();
    assert_complete(&cluster, 2, "v1", "after the deadline");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll_out() {
    let mut cluster = cluster(3);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    cluster.rest();
    cluster.patch(&web(), json!({"spec": {"paused": true, "replicas": 4}}));
    cluster.patch(&web(), image("v2"));
    cluster.rest();
    assert_eq!(cluster.keys("/pods").len(), 4);
    assert_eq!(cluster.keys("apps/replicasets").len(), 1);
    assert_eq!(condition(&cluster, "Progressing")["reason"], "DeploymentPaused");
    cluster.patch(&web(), json!({"spec": {"paused": false}}));
    cluster.rest();
    assert_complete(&cluster, 4, "v2", "resumed");
}

#[test]
fn a_taken_name_is_avoided() {
    let mut first = cluster(4);
    first.create(kind::DEPLOYMENTS, "web", deployment(1, "v1"));
    first.rest();
    let taken = first.keys("apps/replicasets").remove(0).name;
    let mut cluster = cluster(5);
    let foreign = json!({ "metadata": {}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"app": "foreign"}}} });
    cluster.create(kind::REPLICA_SETS, &taken, foreign);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(1, "v1"));
    cluster.rest();
    assert_complete(&cluster, 1, "v1", "collision");
    assert_eq!(cluster.body(&web()).expect("it exists")["status"]["collisionCount"], 1);
}

#[test]
fn the_events_are_worded_as_upstream() {
    let mut cluster = cluster(6);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(3, "v1"));
    cluster.rest();
    let set = cluster.keys("apps/replicasets").remove(0).name;
    let texts: Vec<&str> = cluster
        .events
        .iter()
        .filter(|it| it.reason == "ScalingReplicaSet")
        .map(|it| it.message.as_str())
        .collect();
    assert_eq!(texts, [format!("Scaled up replica set {set} from 0 to 3")]);
}

fn set_named(cluster: &Cluster, wanted_image: &str) -> Value {
    let sets = cluster.keys("apps/replicasets");
    let bodies = sets.iter().map(|set| cluster.body(set).expect("listed"));
    let image = |set: &&Value| set["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    bodies.clone().find(|set| image(set) == wanted_image).expect("a set of this image").clone()
}

/// The example of the documentation: a bad image stands still at 8 + 5, and then ten become fifteen.
#[test]
fn scaling_in_the_middle_of_a_roll_out_is_proportional() {
    let mut cluster = cluster(7);
    cluster.fails = false;
    let mut body = deployment(10, "v1");
    body["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    cluster.create(kind::DEPLOYMENTS, "web", body);
    cluster.rest();
    cluster.patch(&web(), image("bad"));
    settle_without_readiness(&mut cluster);
    let sizes = |cluster: &Cluster| {
        ["v1", "bad"].map(|image| set_named(cluster, image)["spec"]["replicas"].clone())
    };
    assert_eq!(sizes(&cluster), [8, 5]);
    cluster.patch(&web(), json!({"spec": {"replicas": 15}}));
    settle_without_readiness(&mut cluster);
    assert_eq!(sizes(&cluster), [11, 7]);
    let desired = &set_named(&cluster, "bad")["metadata"]["annotations"];
    assert_eq!(desired["deployment.kubernetes.io/desired-replicas"], "15");
    assert_eq!(desired["deployment.kubernetes.io/max-replicas"], "18");
    cluster.patch(&web(), json!({"spec": {"replicas": 0}}));
    settle_without_readiness(&mut cluster);
    assert_eq!(sizes(&cluster), [0, 0]);
}

/// Old pods stop at once and new ones never become ready.
fn settle_without_readiness(cluster: &mut Cluster) {
    while cluster.settle() > 0 {
        for pod in cluster.keys("/pods") {
            let gone = &cluster.body(&pod).expect("listed")["metadata"]["deletionTimestamp"];
            if gone.is_string() {
                cluster.remove(&pod);
            }
        }
    }
}

#[test]
fn scaling_at_any_moment_keeps_within_the_surge_and_ends() {
    for seed in 1..=40 {
        let mut cluster = cluster(seed);
        let body = deployment(4, "v0");
        cluster.create(kind::DEPLOYMENTS, "web", body);
        let mut wanted = 4_u64;
        let wished = |cluster: &Cluster| {
            let sets = cluster.keys("apps/replicasets");
            let bodies = sets.iter().map(|set| cluster.body(set).expect("listed"));
            bodies.map(|set| set["spec"]["replicas"].as_u64().unwrap_or_default()).sum::<u64>()
        };
        let mut round_image = String::new();
        for round in 0..6 {
            round_image = format!("v{}", cluster.random.below(3));
            cluster.patch(&web(), image(&round_image));
            if round % 2 == 1 {
                wanted = cluster.random.below(15);
                cluster.patch(&web(), json!({"spec": {"replicas": wanted}}));
            }
            for _ in 0..cluster.random.below(60) {
                let before = wished(&cluster);
                cluster.step();
                let allowed = wanted + wanted.div_ceil(4);
                let after = wished(&cluster);
                assert!(after <= allowed.max(before), "seed {seed}: {after} of {allowed}");
                cluster.boards(4);
            }
        }
        cluster.rest();
        assert_complete(&cluster, wanted, &round_image, &format!("seed {seed}"));
        assert_eq!(cluster.settle(), 0, "seed {seed}: it rests");
    }
}

#[test]
fn the_newest_set_follows_annotations_and_min_ready_seconds() {
    let mut cluster = cluster(8);
    let mut body = deployment(2, "v1");
    body["metadata"]["annotations"] = json!({"team": "a", "kubernetes.io/change-cause": "first",
        "kubectl.kubernetes.io/last-applied-configuration": "{}"});
    cluster.create(kind::DEPLOYMENTS, "web", body);
    cluster.rest();
    let set = set_named(&cluster, "v1");
    let annotations = &set["metadata"]["annotations"];
    assert_eq!(
        (&annotations["team"], &annotations["kubernetes.io/change-cause"]),
        (&json!("a"), &json!("first"))
    );
    assert!(annotations["kubectl.kubernetes.io/last-applied-configuration"].is_null());
    cluster.patch(
        &web(),
        json!({"metadata": {"annotations": {"team": "b"}},
        "spec": {"minReadySeconds": 30}}),
    );
    cluster.rest();
    let set = set_named(&cluster, "v1");
    assert_eq!(set["metadata"]["annotations"]["team"], "b");
    assert_eq!(set["spec"]["minReadySeconds"], 30);
    assert_eq!(cluster.keys("apps/replicasets").len(), 1, "no new template, no new set");
}

#[test]
fn a_roll_out_waits_for_pods_to_be_available() {
    let mut cluster = cluster(9);
    cluster.fails = false;
    let mut body = deployment(1, "v1");
    body["spec"]["minReadySeconds"] = 600.into();
    body["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 1, "maxUnavailable": 0});
    cluster.create(kind::DEPLOYMENTS, "web", body);
    cluster.rest();
    cluster.now = cluster.now.plus_millis(601_000);
    cluster.rest();
    cluster.patch(&web(), image("v2"));
    cluster.rest();
    let old = || set_named(&cluster, "v1")["spec"]["replicas"].clone();
    assert_eq!(old(), 1, "the new pod is ready, but not for long enough");
    cluster.now = cluster.now.plus_millis(601_000);
    cluster.rest();
    assert_complete(&cluster, 1, "v2", "available");
}

#[test]
fn recreate_makes_the_new_set_when_the_old_pods_have_ended() {
    let mut cluster = cluster(10);
    cluster.fails = false;
    let mut body = deployment(3, "v1");
    body["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.create(kind::DEPLOYMENTS, "web", body);
    cluster.rest();
    cluster.patch(&web(), image("v2"));
    cluster.settle();
    assert_eq!(cluster.keys("apps/replicasets").len(), 1);
    let status = &cluster.body(&web()).expect("it exists")["status"];
    assert_eq!((&status["terminatingReplicas"], &status["replicas"]), (&json!(3), &Value::Null));
    assert_eq!(set_named(&cluster, "v1")["status"]["terminatingReplicas"], 3);
    cluster.rest();
    assert_complete(&cluster, 3, "v2", "recreated");
    assert_eq!(cluster.body(&web()).expect("it exists")["status"]["terminatingReplicas"], 0);
}

#[test]
fn a_pause_does_not_hide_that_a_roll_out_stood_still() {
    let mut cluster = cluster(11);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    cluster.settle();
    cluster.now = cluster.now.plus_millis(601_000);
    cluster.settle();
    assert_eq!(condition(&cluster, "Progressing")["reason"], "ProgressDeadlineExceeded");
    cluster.patch(&web(), json!({"spec": {"paused": true}}));
    cluster.settle();
    assert_eq!(condition(&cluster, "Progressing")["reason"], "ProgressDeadlineExceeded");
}

#[test]
fn what_keeps_a_set_from_making_pods_is_said_by_the_deployment() {
    let mut cluster = Cluster::new(12, vec![Box::new(DeploymentController)]);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    cluster.settle();
    let set = cluster.keys("apps/replicasets").remove(0);
    let failure = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "exceeded quota", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    cluster.patch(&set, json!({"status": {"conditions": failure}}));
    cluster.settle();
    let said = condition(&cluster, "ReplicaFailure");
    assert_eq!(
        (&said["reason"], &said["message"]),
        (&json!("FailedCreate"), &json!("exceeded quota"))
    );
    cluster.patch(&set, json!({"status": {"conditions": null}}));
    cluster.settle();
    assert!(condition(&cluster, "ReplicaFailure").is_null());
}

#[test]
fn a_refused_set_is_told_of() {
    let mut cluster = Cluster::new(13, vec![Box::new(DeploymentController)]);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(2, "v1"));
    let error = model::status::ApiError::forbidden("apps", "replicasets", "web", "no");
    let ops = DeploymentController.refused(&cluster.world, &web(), &error, cluster.now);
    assert!(matches!(&ops[0], crate::controller::Op::Event(event)
        if event.reason == "ReplicaSetCreateError"));
    let crate::controller::Op::Conditions { set, .. } = &ops[1] else { unreachable!("{ops:?}") };
    assert_eq!(
        (&set[0]["status"], &set[0]["reason"]),
        (&json!("False"), &json!("ReplicaSetCreateError"))
    );
}

#[test]
fn a_long_history_of_rollbacks_is_remembered() {
    let mut cluster = cluster(14);
    cluster.create(kind::DEPLOYMENTS, "web", deployment(1, "v0"));
    for round in 1..=4 {
        cluster.rest();
        cluster.patch(&web(), image(&format!("v{}", round % 2)));
    }
    cluster.rest();
    let annotations = set_named(&cluster, "v0")["metadata"]["annotations"].clone();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "5");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1,3");
}
