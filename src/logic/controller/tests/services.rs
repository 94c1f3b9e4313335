//! Endpoints of Services in all their forms: a walk with an oracle, and what one change costs.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::SLICE_ENDPOINTS_MAX;
use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{
    Controller, EndpointSliceController, EndpointsController, GarbageCollector, Propagation,
    SliceMirroringController,
};

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(EndpointSliceController),
        Box::new(EndpointsController),
        Box::new(SliceMirroringController),
        Box::new(GarbageCollector),
    ];
    let mut cluster = Cluster::new(seed, controllers);
    for (node, zone) in [("a", "z1"), ("b", "z2")] {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        cluster.create(kind::NODES, node, json!({"metadata": {"labels": labels}}));
    }
    cluster
}

fn quiet() -> Cluster {
    let mut cluster = cluster(7);
    cluster.fails = false;
    cluster
}

fn service(spec: Value) -> Value {
    let mut whole = json!({
        "selector": {"app": "web"}, "clusterIP": "10.43.0.9",
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().cloned().unwrap_or_default());
    json!({"metadata": {"labels": {"team": "x"}}, "spec": whole})
}

fn ready(status: &str) -> Value {
    json!([{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn pod(number: u64, node: &str, is_ready: bool) -> Value {
    let status = if is_ready { "True" } else { "False" };
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
            {"name": "web", "containerPort": 9000 + number % 2, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "conditions": ready(status),
            "podIP": format!("10.42.{}.{}", number / 200, 2 + number % 200)},
    })
}

fn slices(cluster: &Cluster) -> Vec<Value> {
    let keys = cluster.keys("discovery.k8s.io/endpointslices");
    keys.iter().map(|key| cluster.body(key).expect("listed").clone()).collect()
}

fn endpoints_of(slice: &Value) -> &[Value] {
    slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Name of pod -> (address, ready, serving, terminating, ports), as the slices say.
fn said(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut said = BTreeMap::new();
    for slice in slices(cluster) {
        assert!(endpoints_of(&slice).len() <= SLICE_ENDPOINTS_MAX);
        for endpoint in endpoints_of(&slice) {
            let it = json!([
                endpoint["addresses"][0],
                endpoint["conditions"],
                slice["ports"],
                endpoint["nodeName"],
                endpoint["zone"]
            ]);
            let name = endpoint["targetRef"]["name"].as_str().expect("a pod").to_owned();
            assert!(said.insert(name, it).is_none(), "an endpoint is in two slices");
        }
    }
    said
}

/// The same from the pods alone.
fn expected(cluster: &Cluster, service: &Value) -> BTreeMap<String, Value> {
    let mut expected = BTreeMap::new();
    let published = service["spec"]["publishNotReadyAddresses"] == true;
    for key in cluster.keys("/pods") {
        let pod = cluster.body(&key).expect("listed");
        let done = pod["status"]["phase"] == "Failed" || pod["status"]["podIP"].is_null();
        if done || pod["metadata"]["labels"]["app"] != "web" {
            continue;
        }
        let node = pod["spec"]["nodeName"].as_str().expect("bound").to_owned();
        let zone = cluster.body(&super::harness::key(kind::NODES, &node));
        if zone.is_none() && !published {
            continue;
        }
        let zone = zone.map(|it| &it["metadata"]["labels"]["topology.kubernetes.io/zone"]);
        let serving = pod["status"]["conditions"][0]["status"] == "True";
        let terminating = pod["metadata"]["deletionTimestamp"].is_string();
        let mut ports = Vec::new();
        for port in service["spec"]["ports"].as_array().expect("ports") {
            let number = match &port["targetPort"] {
                Value::String(name) if name == "web" => {
                    pod["spec"]["containers"][0]["ports"][0]["containerPort"].clone()
                }
                Value::String(_) => continue,
                number => number.clone(),
            };
            ports.push(json!({"name": port["name"], "protocol": "TCP", "port": number}));
        }
        let conditions = json!({"ready": published || (serving && !terminating),
            "serving": serving, "terminating": terminating});
        let it = json!([pod["status"]["podIP"], conditions, ports, node, zone]);
        expected.insert(key.name, it);
    }
    expected
}

/// Ready and other addresses, as the Endpoints object says.
fn legacy(cluster: &Cluster) -> (BTreeSet<String>, BTreeSet<String>) {
    let body = cluster.body(&key(kind::ENDPOINTS, "web")).expect("it exists");
    let mut lists = (BTreeSet::new(), BTreeSet::new());
    for subset in body["subsets"].as_array().into_iter().flatten() {
        for (field, list) in [("addresses", &mut lists.0), ("notReadyAddresses", &mut lists.1)] {
            for address in subset[field].as_array().into_iter().flatten() {
                list.insert(address["targetRef"]["name"].as_str().expect("a pod").to_owned());
            }
        }
    }
    lists
}

fn disturb(cluster: &mut Cluster, number: u64) {
    let web = key(kind::SERVICES, "web");
    let pods = cluster.keys("/pods");
    let some =
        (!pods.is_empty()).then(|| pods[cluster.random.below(pods.len() as u64) as usize].clone());
    match (cluster.random.below(12), some) {
        (0..=4, _) | (_, None) => {
            let node = ["a", "b"][cluster.random.below(2) as usize];
            let is_ready = cluster.random.below(2) == 0;
            cluster.create(kind::PODS, &format!("p{number}"), pod(number, node, is_ready));
        }
        (5, Some(pod)) => cluster.remove(&pod),
        (6, Some(pod)) => cluster.delete(&pod, Propagation::Background),
        (7, Some(pod)) => {
            let status = ["True", "False"][cluster.random.below(2) as usize];
            cluster.patch(&pod, json!({"status": {"conditions": ready(status)}}));
        }
        (8, Some(pod)) => cluster.patch(&pod, json!({"metadata": {"labels": {"app": "other"}}})),
        (9, Some(pod)) => cluster.patch(&pod, json!({"status": {"phase": "Failed"}})),
        (10, Some(_)) => {
            let target = [json!(8080), json!("web"), json!("none")]
                [cluster.random.below(3) as usize]
                .clone();
            let ports =
                json!([{"name": "http", "protocol": "TCP", "port": 80, "targetPort": target}]);
            cluster.patch(&web, json!({"spec": {"ports": ports}}));
        }
        (_, Some(_)) => {
            let published = cluster.random.below(2) == 0;
            cluster.patch(&web, json!({"spec": {"publishNotReadyAddresses": published}}));
            // Somebody breaks a slice.
            if let Some(slice) = cluster.keys("discovery.k8s.io/endpointslices").first().cloned() {
                match cluster.random.below(3) {
                    0 => cluster.remove(&slice),
                    1 => cluster.patch(&slice, json!({"endpoints": null})),
                    _ => cluster.patch(&slice, json!({"metadata": {"labels": {"team": "y"}}})),
                }
            }
        }
    }
}

#[test]
fn slices_say_what_the_pods_are() {
    for seed in 1..=40 {
        let mut cluster = cluster(seed);
        cluster.create(kind::SERVICES, "web", service(json!({})));
        for number in 0..60 {
            disturb(&mut cluster, number);
            if number % 3 != 0 {
                continue;
            }
            cluster.settle();
            let service = cluster.body(&key(kind::SERVICES, "web")).expect("it exists").clone();
            let expected = expected(&cluster, &service);
            assert_eq!(said(&cluster), expected, "seed {seed}");
            let with_ports = |it: &&Value| it[2].as_array().is_some_and(|ports| !ports.is_empty());
            let published = service["spec"]["publishNotReadyAddresses"] == true;
            let (ready, other) = legacy(&cluster);
            let wanted = |ready: bool| -> BTreeSet<String> {
                let is = |it: &Value| {
                    (published || it[1]["serving"] == true) == ready
                        && (published || it[1]["terminating"] == false)
                };
                let all = expected.iter().filter(|(_, it)| with_ports(it) && is(it));
                all.map(|(name, _)| name.clone()).collect()
            };
            assert_eq!((ready, other), (wanted(true), wanted(false)), "seed {seed}");
            for slice in slices(&cluster) {
                let labels = &slice["metadata"]["labels"];
                assert_eq!(labels["kubernetes.io/service-name"], "web");
                assert_eq!(labels["team"], "x", "seed {seed}");
                let empty = endpoints_of(&slice).is_empty();
                assert!(!empty || expected.is_empty(), "seed {seed}: an empty slice is left");
            }
            assert_eq!(cluster.settle(), 0, "seed {seed}: it rests");
        }
    }
}

/// A Service with so many ready pods, settled.
fn with_pods(count: u64) -> Cluster {
    let mut cluster = quiet();
    cluster.create(kind::SERVICES, "web", service(json!({})));
    for number in 0..count {
        cluster.create(kind::PODS, &format!("p{number:03}"), pod(number, "a", true));
    }
    cluster.settle();
    cluster
}

#[test]
fn one_pod_changes_one_slice() {
    let mut cluster = with_pods(250);
    let sizes = |cluster: &Cluster| -> Vec<usize> {
        let mut sizes: Vec<usize> =
            slices(cluster).iter().map(|it| endpoints_of(it).len()).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&cluster), [50, 100, 100]);
    // The slice and the Endpoints object.
    cluster.patch(&key(kind::PODS, "p007"), json!({"status": {"conditions": ready("False")}}));
    assert_eq!(cluster.settle(), 2);
    cluster.remove(&key(kind::PODS, "p107"));
    assert_eq!(cluster.settle(), 2);
    cluster.create(kind::PODS, "new", pod(107, "a", true));
    assert_eq!(cluster.settle(), 2);
    // A status that makes the same endpoint changes nothing.
    cluster.patch(&key(kind::PODS, "new"), json!({"status": {"startTime": "x"}}));
    assert_eq!(cluster.settle(), 0);
}

#[test]
fn a_pod_that_is_being_deleted_is_not_ready_at_once() {
    let mut cluster = with_pods(1);
    cluster.delete(&key(kind::PODS, "p000"), Propagation::Background);
    cluster.settle();
    let conditions = endpoints_of(&slices(&cluster)[0])[0]["conditions"].clone();
    assert_eq!(conditions, json!({"ready": false, "serving": true, "terminating": true}));
    assert_eq!(legacy(&cluster), (BTreeSet::new(), BTreeSet::new()));
    cluster.remove(&key(kind::PODS, "p000"));
    cluster.settle();
    let slices = slices(&cluster);
    assert_eq!(slices.len(), 1, "an empty slice stays");
    assert!(endpoints_of(&slices[0]).is_empty());
}

#[test]
fn a_slice_looks_as_kubernetes_makes_it() {
    let mut cluster = quiet();
    cluster.create(kind::SERVICES, "web", service(json!({"clusterIP": "None"})));
    let mut body = pod(1, "a", true);
    body["spec"]["hostname"] = "db-0".into();
    body["spec"]["subdomain"] = "web".into();
    let pod_uid = cluster.create(kind::PODS, "db-0", body).to_string();
    cluster.settle();
    let keys = cluster.keys("discovery.k8s.io/endpointslices");
    let name = &keys[0].name;
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    let slice = slices(&cluster).remove(0);
    assert_eq!(slice["metadata"]["generateName"], "web-");
    assert_eq!(
        slice["metadata"]["labels"],
        json!({
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "", "team": "x",
        })
    );
    let owner = &slice["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["controller"]), (&json!("Service"), &json!(true)));
    let target = json!({"kind": "Pod", "namespace": "shop", "name": "db-0", "uid": pod_uid});
    assert_eq!(
        endpoints_of(&slice)[0],
        json!({
            "addresses": ["10.42.0.3"], "hostname": "db-0", "nodeName": "a", "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": target,
        })
    );
    let endpoints = cluster.body(&key(kind::ENDPOINTS, "web")).expect("it exists");
    assert_eq!(
        endpoints["subsets"],
        json!([{
            "addresses": [{"ip": "10.42.0.3", "hostname": "db-0", "nodeName": "a",
                "targetRef": target}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }])
    );
    assert_eq!(
        endpoints["metadata"]["labels"],
        json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller",
            "service.kubernetes.io/headless": "", "team": "x"})
    );
}

#[test]
fn endpoints_and_slices_go_with_their_service() {
    let mut cluster = with_pods(3);
    cluster.delete(&key(kind::SERVICES, "web"), Propagation::Background);
    cluster.settle();
    assert!(slices(&cluster).is_empty());
    assert!(cluster.keys("/endpoints").is_empty());
}

#[test]
fn too_many_addresses_are_cut_and_it_is_said() {
    let mut cluster = with_pods(1_100);
    let body = cluster.body(&key(kind::ENDPOINTS, "web")).expect("it exists").clone();
    assert_eq!(body["subsets"][0]["addresses"].as_array().map(Vec::len), Some(1_000));
    let note = "endpoints.kubernetes.io/over-capacity";
    assert_eq!(body["metadata"]["annotations"][note], "truncated");
    for number in 0..100 {
        cluster.remove(&key(kind::PODS, &format!("p{number:03}")));
    }
    cluster.settle();
    let body = cluster.body(&key(kind::ENDPOINTS, "web")).expect("it exists");
    assert!(body["metadata"]["annotations"][note].is_null());
    assert_eq!(slices(&cluster).iter().map(|it| endpoints_of(it).len()).sum::<usize>(), 1_000);
}

#[test]
fn endpoints_of_somebody_else_are_mirrored() {
    let mut cluster = quiet();
    let mut without = service(json!({}));
    without["spec"]["selector"] = Value::Null;
    cluster.create(
        kind::ENDPOINTS,
        "web",
        json!({"metadata": {"labels": {"own": "1"}},
        "subsets": [{"addresses": [{"ip": "192.168.1.5"}], "notReadyAddresses": [
            {"ip": "192.168.1.6"}], "ports": [{"name": "http", "port": 81, "protocol": "TCP"}]}]}),
    );
    cluster.settle();
    assert!(slices(&cluster).is_empty(), "there is no Service yet");
    assert_eq!(cluster.keys("/endpoints").len(), 1, "they may come first");
    cluster.create(kind::SERVICES, "web", without);
    cluster.settle();
    let slice = slices(&cluster).remove(0);
    assert_eq!(
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["192.168.1.5"], "conditions": {"ready": true}},
            {"addresses": ["192.168.1.6"], "conditions": {"ready": false}}])
    );
    let skip = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}});
    cluster.patch(&key(kind::ENDPOINTS, "web"), skip);
    cluster.settle();
    assert!(slices(&cluster).is_empty());
    let again = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}});
    cluster.patch(&key(kind::ENDPOINTS, "web"), again);
    cluster.settle();
    assert_eq!(slices(&cluster).len(), 1);
    cluster.delete(&key(kind::SERVICES, "web"), Propagation::Background);
    cluster.settle();
    assert!(slices(&cluster).is_empty() && cluster.keys("/endpoints").is_empty());
}
