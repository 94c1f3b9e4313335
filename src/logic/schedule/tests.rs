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

/// How many pods each board of `names` has.
fn shares(cluster: &Cluster, names: &[&str]) -> Vec<usize> {
    names.iter().map(|name| cluster.world.pods_on(name).count()).collect()
}

#[test]
fn replicas_are_even_also_after_a_board_was_away() {
    let names = ["pi-1", "pi-2", "pi-3"];
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
        "uid": "00000000-0000-4000-8000-000000000001", "controller": true}]);
    let roomy = json!({"status": {
        "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}] }});
    for (replicas, expected) in [(3, [1, 1, 1]), (6, [2, 2, 2]), (7, [2, 2, 3])] {
        for seed in 1..=10 {
            let mut cluster = cluster(seed);
            for name in names {
                cluster.create(kind::NODES, name, node(json!({}), roomy.clone()));
            }
            // The master's board also runs something else.
            let other = json!({"spec": {"nodeName": "pi-1",
                "containers": [{"resources": {"requests": {"cpu": "500m"}}}]}, "metadata": {}});
            cluster.create(kind::PODS, "other", other);
            let pod = json!({"metadata": {"ownerReferences": owners.clone()}, "spec": {}});
            let web = |number: usize| format!("web-{number}");
            for number in 0..replicas {
                cluster.create(kind::PODS, &web(number), pod.clone());
            }
            cluster.settle();
            let mut have = shares(&cluster, &names);
            have[0] -= 1;
            have.sort_unstable();
            assert_eq!(have, expected, "{replicas} replicas, seed {seed}");
            // One board is lost, its pods are replaced on the others; then it is back.
            cluster.patch(&key(kind::NODES, "pi-3"), json!({"spec": {"unschedulable": true}}));
            let lost: Vec<_> =
                cluster.world.pods_on("pi-3").map(|pod| pod.meta.key(kind::PODS)).collect();
            for (number, pod) in lost.iter().enumerate() {
                cluster.remove(pod);
                cluster.create(
                    kind::PODS,
                    &web(replicas + number),
                    json!({"metadata": {"ownerReferences": owners.clone()}, "spec": {}}),
                );
            }
            cluster.settle();
            cluster.patch(&key(kind::NODES, "pi-3"), json!({"spec": {"unschedulable": null}}));
            let have = shares(&cluster, &names);
            assert!(have[0].abs_diff(have[1] + 1) <= 1 && have[2] == 0, "{have:?}");
            // What is new goes where little is.
            for number in 0..replicas / 3 {
                cluster.create(kind::PODS, &web(100 + number), pod.clone());
            }
            cluster.settle();
            assert_eq!(shares(&cluster, &names)[2], replicas / 3, "seed {seed}");
        }
    }
}

#[test]
fn pods_that_leave_are_no_siblings() {
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
        "uid": "00000000-0000-4000-8000-000000000001", "controller": true}]);
    for seed in 1..=10 {
        let mut cluster = cluster(seed);
        for name in ["pi-1", "pi-2", "pi-3"] {
            cluster.create(kind::NODES, name, node(json!({}), json!({})));
        }
        for (name, board) in [("a", "pi-1"), ("b", "pi-2"), ("c", "pi-3"), ("d", "pi-3")] {
            let metadata = json!({"ownerReferences": owners.clone()});
            let body = json!({"metadata": metadata, "spec": {"nodeName": board}});
            cluster.create(kind::PODS, name, body);
        }
        // They were replaced while their board was away, and it has not let go of them yet.
        for name in ["c", "d"] {
            cluster.delete(&key(kind::PODS, name), crate::controller::Propagation::Background);
        }
        let body = json!({"metadata": {"ownerReferences": owners.clone()}, "spec": {}});
        cluster.create(kind::PODS, "new", body);
        cluster.settle();
        let new = cluster.world.pod("shop", "new").expect("it exists");
        assert_eq!(&*new.node, "pi-3", "seed {seed}");
    }
}

/// Five boards in two zones, the last one in none.
fn zones(seed: u64) -> Cluster {
    let mut cluster = cluster(seed);
    for (name, zone) in [("pi-1", "a"), ("pi-2", "a"), ("pi-3", "b"), ("pi-4", "b"), ("pi-5", "")] {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if !zone.is_empty() {
            labels["zone"] = zone.into();
        }
        cluster.create(kind::NODES, name, node(labels, json!({})));
    }
    cluster
}

fn labelled(app: &str, spec: Value) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}

fn spread(key: &str, how: &str, skew: u64) -> Value {
    json!([{"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": how,
        "labelSelector": {"matchLabels": {"app": "web"}}}])
}

const BOARDS: [&str; 5] = ["pi-1", "pi-2", "pi-3", "pi-4", "pi-5"];

#[test]
fn topology_spread_constraints_are_kept() {
    let host = "kubernetes.io/hostname";
    let mismatch = "node(s) didn't match pod topology spread constraints";
    for seed in 1..=10 {
        let mut cluster = zones(seed);
        for number in 0..4 {
            let spec = json!({"topologySpreadConstraints": spread("zone", "DoNotSchedule", 1)});
            cluster.create(kind::PODS, &format!("web-{number}"), labelled("web", spec));
        }
        cluster.settle();
        let have = shares(&cluster, &BOARDS);
        assert_eq!((have[0] + have[1], have[2] + have[3], have[4]), (2, 2, 0), "{have:?}");
        // Zone b is closed: one more fits zone a, the next would be two too many.
        for name in ["pi-3", "pi-4"] {
            cluster.patch(&key(kind::NODES, name), json!({"spec": {"unschedulable": true}}));
        }
        for name in ["more", "much"] {
            let spec = json!({"topologySpreadConstraints": spread("zone", "DoNotSchedule", 1)});
            cluster.create(kind::PODS, name, labelled("web", spec));
            cluster.settle();
        }
        assert!(cluster.world.pod("shop", "more").is_some_and(|pod| !pod.node.is_empty()));
        let why = cluster.world.pod("shop", "much").and_then(|pod| pod.unschedulable.clone());
        let expected = format!(
            "0/5 nodes are available: 1 {mismatch} (missing required label), 2 {mismatch}, 2 node(s) were unschedulable. \
             preemption: 0/5 nodes are available: 2 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling."
        );
        assert_eq!(why.as_deref(), Some(&*expected));

        let mut cluster = zones(seed);
        for number in 0..10 {
            let spec = json!({"topologySpreadConstraints": spread(host, "ScheduleAnyway", 1)});
            cluster.create(kind::PODS, &format!("web-{number}"), labelled("web", spec));
        }
        cluster.settle();
        assert_eq!(shares(&cluster, &BOARDS), [2; 5], "seed {seed}");
    }
}

#[test]
fn pods_seek_and_avoid_each_other() {
    let term = |app: &str, key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
    let required = |kind: &str, term: Value| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let preferred = |kind: &str, term: Value| {
        let weighted = json!([{"weight": 100, "podAffinityTerm": term}]);
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": weighted}}})
    };
    let host = "kubernetes.io/hostname";
    let (near, apart) = ("podAffinity", "podAntiAffinity");
    for seed in 1..=10 {
        let mut cluster = zones(seed);
        let node_of = |cluster: &Cluster, name: &str| -> String {
            cluster.world.pod("shop", name).expect("it exists").node.to_string()
        };
        let mut place = |name: &str, app: &str, spec: Value| {
            cluster.create(kind::PODS, name, labelled(app, spec));
            cluster.settle();
            let pod = cluster.world.pod("shop", name).expect("it exists");
            pod.unschedulable.as_deref().filter(|_| pod.node.is_empty()).map(str::to_owned)
        };
        assert_eq!(place("db", "db", json!({"nodeName": "pi-3"})), None);
        assert_eq!(place("web", "web", required(near, term("db", "zone"))), None);
        assert_eq!(place("close", "web", preferred(near, term("db", host))), None);
        assert_eq!(place("away", "web", required(apart, term("db", "zone"))), None);
        assert_eq!(place("shy", "web", preferred(apart, term("db", host))), None);
        // The first of a group that wants to be together, and one that nobody can join.
        assert_eq!(place("first", "group", required(near, term("group", host))), None);
        assert_eq!(place("second", "group", required(near, term("group", host))), None);
        let nobody = place("lonely", "web", required(near, term("nobody", host))).expect("refused");
        assert!(nobody.contains("5 node(s) didn't match pod affinity rules."), "{nobody}");
        // One per board, and those who were there first repel, too.
        for number in 0..5 {
            assert_eq!(
                place(&format!("one-{number}"), "one", required(apart, term("one", host))),
                None
            );
        }
        let full = place("one-5", "one", required(apart, term("one", host))).expect("refused");
        assert!(full.contains("5 node(s) didn't match pod anti-affinity rules"), "{full}");
        let repelled = place("one-6", "one", json!({})).expect("refused");
        assert!(
            repelled.contains("didn't satisfy existing pods anti-affinity rules"),
            "{repelled}"
        );
        assert!(["pi-3", "pi-4"].contains(&&*node_of(&cluster, "web")));
        assert_eq!(node_of(&cluster, "close"), "pi-3");
        assert!(!["pi-3", "pi-4"].contains(&&*node_of(&cluster, "away")));
        assert_ne!(node_of(&cluster, "shy"), "pi-3");
        assert_eq!(node_of(&cluster, "first"), node_of(&cluster, "second"));
    }
}

#[test]
fn a_large_image_that_many_boards_have_draws_pods() {
    for seed in 1..=10 {
        let mut cluster = cluster(seed);
        for name in ["pi-1", "pi-2", "pi-3"] {
            let mut body = node(json!({}), json!({}));
            if name != "pi-2" {
                body["status"]["images"] =
                    json!([{"names": ["docker.io/library/big:1"], "sizeBytes": 900_000_000}]);
            }
            cluster.create(kind::NODES, name, body);
        }
        let spec = json!({"containers": [{"image": "big:1"}]});
        cluster.create(kind::PODS, "web", pod(spec));
        cluster.settle();
        assert_eq!(cluster.world.pods_on("pi-2").count(), 0, "seed {seed}");
    }
}

#[test]
fn more_pods_than_one_plan_places_are_all_placed() {
    let mut cluster = cluster(7);
    for number in 0..=PLAN_PODS_MAX / 5 {
        cluster.create(kind::NODES, &format!("pi-{number}"), node(json!({}), json!({})));
    }
    for number in 0..PLAN_PODS_MAX + 3 {
        cluster.create(kind::PODS, &format!("web-{number}"), pod(json!({})));
    }
    cluster.settle();
    assert_eq!(cluster.world.pods_waiting().count(), 0);
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

/// A thousand boards with ten pods each, and pods of one owner that wait.
fn crowd(spec: &Value, waiting: usize) -> World {
    let mut world = World::default();
    let mut number = 0_u64;
    let mut apply = |kind: &model::ids::KindKey, namespace: &str, name: String, body: Value| {
        number += 1;
        let key = ObjectKey { kind: kind.clone(), namespace: namespace.into(), name };
        let mut uid = [0; 16];
        uid[..8].copy_from_slice(&number.to_be_bytes());
        let (version, uid) = (model::ids::Version(number), model::ids::Uid(uid));
        world.apply(&key, version, uid, Some(body.to_string().as_bytes())).expect("a good shape");
    };
    let roomy = json!({"status": {
        "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True"}] }});
    for board in 0..1_000 {
        let name = format!("pi-{board}");
        let labels = json!({"kubernetes.io/hostname": name, "zone": format!("z-{}", board % 7)});
        apply(&kind::NODES, "", name.clone(), node(labels, roomy.clone()));
        for pod in 0..10 {
            let body = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"nodeName": name}});
            apply(&kind::PODS, "shop", format!("p-{board}-{pod}"), body);
        }
    }
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
        "uid": "00000000-0000-4000-8000-000000000001", "controller": true}]);
    for waiting in 0..waiting {
        let mut pod = labelled("web", spec.clone());
        pod["metadata"]["ownerReferences"] = owners.clone();
        apply(&kind::PODS, "shop", format!("w-{waiting}"), pod);
    }
    world
}

#[test]
fn one_pass_places_many_pods_over_a_thousand_boards() {
    let plain = json!({"containers": [{"image": "hello:1"}]});
    let mut even = plain.clone();
    even["topologySpreadConstraints"] = spread("kubernetes.io/hostname", "DoNotSchedule", 1);
    let term = json!({"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "one"}}});
    let mut alone = plain.clone();
    alone["affinity"] = json!({"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    for (name, spec) in [("plain", plain), ("spread", even), ("alone", alone)] {
        let world = crowd(&spec, PLAN_PODS_MAX);
        let start = std::time::Instant::now();
        let plan = Scheduler.plan(&world, &super::key(), Timestamp::default());
        println!("{name}: {} operations in {:?}", plan.ops.len(), start.elapsed());
        let bound: std::collections::BTreeSet<&str> = plan
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Bind { node, .. } => Some(node.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(bound.len(), PLAN_PODS_MAX, "{name}: each on a board of its own");
    }
}

#[test]
fn pods_without_room_are_looked_at_once() {
    let world = crowd(&asking(json!({"cpu": "64"})), 10_000);
    let start = std::time::Instant::now();
    let plan = Scheduler.plan(&world, &super::key(), Timestamp::default());
    println!("without room: {} operations in {:?}", plan.ops.len(), start.elapsed());
    let told = plan.ops.iter().filter(|op| matches!(op, Op::Patch { .. })).count();
    assert_eq!((told, plan.ops.len()), (PLAN_PODS_MAX, 2 * PLAN_PODS_MAX));
    let mut refused = Refused::default();
    let mut waiting = world.pods_waiting();
    let (first, second) = (waiting.next().expect("some"), waiting.next().expect("more"));
    assert_eq!(refused.like(first), None);
    refused.note(first, "no room");
    assert_eq!(refused.like(second).as_deref(), Some("no room"));
    let mut other = second.clone();
    other.requests.cpu_milli = 1;
    assert_eq!(refused.like(&other), None, "another wish is looked at");
}
