//! Random worlds: the feed says what brute force over the objects says, and boards that get its
//! messages, or miss some, end with the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use model::ids::{ObjectKey, Uid, Version};
use model::limits::NET_POLICY_STARTING_MAX;
use model::network::{
    NetBoard, NetEndpoint, NetPeers, NetPolicy, NetPolicyPort, NetPort, NetRule, NetService,
    NetState, Protocol,
};
use serde_json::{Value, json};

use super::feed::Feed;
use crate::world::World;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len() as u64) as usize]
    }
}

const NAMESPACES: [&str; 3] = ["one", "two", "three"];
const LABELS: [&str; 3] = ["red", "green", "blue"];
const PORT_NAMES: [&str; 3] = ["", "web", "admin"];

type Objects = BTreeMap<ObjectKey, Value>;

fn labels(random: &mut Random) -> Value {
    let mut labels = json!({});
    for name in ["colour", "size"] {
        if random.chance(60) {
            labels[name] = (*random.of(&LABELS)).into();
        }
    }
    labels
}

fn selector(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!({}),
        1 => json!({ "matchLabels": { "colour": random.of(&LABELS) } }),
        2 => json!({ "matchExpressions": [
            { "key": "size", "operator": "In", "values": [random.of(&LABELS), "green"] }] }),
        _ => json!({ "matchExpressions": [{ "key": "size", "operator": "DoesNotExist" }] }),
    }
}

fn node(random: &mut Random, name: &str) -> Value {
    let ready = if random.chance(50) { "True" } else { "False" };
    let mut body = json!({ "metadata": {},
        "status": { "conditions": [{ "type": "Ready", "status": ready }] } });
    if random.chance(80) {
        body["status"]["addresses"] = json!([
            { "type": "Hostname", "address": name },
            { "type": "InternalIP", "address": format!("192.168.0.{}", random.below(9)) }]);
    }
    if random.chance(80) {
        body["spec"] = json!({ "podCIDR": format!("10.42.{}.0/25", random.below(9)) });
    }
    body
}

fn pod(random: &mut Random) -> Value {
    let phase = *random.of(&["Pending", "Running", "Running", "Succeeded"]);
    let mut body = json!({ "metadata": { "labels": labels(random) },
        "spec": { "containers": [{ "name": "c", "image": "i", "ports": [
            { "name": "web", "containerPort": 8000 + random.below(2) },
            { "name": random.of(&["admin", "dns"]), "containerPort": 53,
              "protocol": random.of(&["TCP", "UDP"]) }] }] },
        "status": { "phase": phase } });
    if random.chance(80) {
        body["status"]["podIP"] = format!("10.42.0.{}", random.below(60)).into();
    }
    if random.chance(10) {
        body["spec"]["hostNetwork"] = true.into();
    }
    body
}

fn service(random: &mut Random) -> Value {
    let kind = *random.of(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let ports: Vec<Value> = (0..1 + random.below(2))
        .map(|number| {
            json!({ "name": PORT_NAMES[1 + number as usize], "port": 80 + number,
                "nodePort": 30_000 + random.below(5), "protocol": random.of(&["TCP", "UDP"]) })
        })
        .collect();
    let mut body = json!({ "metadata": {}, "spec": { "type": kind, "ports": ports,
        "clusterIP": random.of(&["None", "10.43.0.1", "10.43.0.2"]),
        "publishNotReadyAddresses": random.chance(20) } });
    match kind {
        "ExternalName" => body["spec"]["externalName"] = "example.org".into(),
        "LoadBalancer" => {
            body["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.0/8"]);
            body["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.168.0.5" }] } });
        }
        _ => {}
    }
    body
}

fn slice(random: &mut Random) -> Value {
    let endpoints: Vec<Value> = (0..random.below(4))
        .map(|_| {
            let mut conditions = json!({});
            for name in ["ready", "serving", "terminating"] {
                if random.chance(50) {
                    conditions[name] = random.chance(50).into();
                }
            }
            json!({ "addresses": [format!("10.42.0.{}", random.below(6))],
                "conditions": conditions, "nodeName": random.of(&["a", "b"]),
                "targetRef": { "kind": "Pod", "name": format!("n{}", random.below(6)) } })
        })
        .collect();
    let name = |random: &mut Random| *random.of(&["web", "admin"]);
    let mut labels = json!({});
    if random.chance(90) {
        labels["kubernetes.io/service-name"] = format!("n{}", random.below(3)).into();
    }
    json!({ "metadata": { "labels": labels }, "addressType": random.of(&["IPv4", "IPv4", "IPv6"]),
        "endpoints": endpoints,
        "ports": [{ "name": name(random), "port": 8000, "protocol": "TCP" },
            { "name": name(random), "port": 8001 + random.below(2), "protocol": "UDP" }] })
}

fn policy(random: &mut Random) -> Value {
    let mut rules = |direction: &str| -> Vec<Value> {
        (0..random.below(3))
            .map(|_| {
                let peers: Vec<Value> = (0..random.below(3))
                    .map(|_| match random.below(4) {
                        0 => json!({ "podSelector": selector(random) }),
                        1 => json!({ "namespaceSelector": selector(random) }),
                        2 => json!({ "namespaceSelector": selector(random),
                            "podSelector": selector(random) }),
                        _ => json!({ "ipBlock": { "cidr": "10.0.0.0/8",
                            "except": ["10.1.0.0/16"] } }),
                    })
                    .collect();
                let ports: Vec<Value> = (0..random.below(3))
                    .map(|_| match random.below(4) {
                        0 => json!({ "protocol": "UDP" }),
                        1 => json!({ "port": 80, "endPort": 90 }),
                        2 => json!({ "port": "web" }),
                        _ => json!({ "port": "admin", "protocol": "UDP" }),
                    })
                    .collect();
                json!({ direction: peers, "ports": ports })
            })
            .collect()
    };
    let (ingress, egress) = (rules("from"), rules("to"));
    let mut spec = json!({ "ingress": ingress, "egress": egress });
    if random.chance(80) {
        spec["podSelector"] = selector(random);
    }
    if random.chance(70) {
        spec["policyTypes"] = random
            .of(&[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])])
            .clone();
    }
    json!({ "metadata": {}, "spec": spec })
}

fn uid(key: &ObjectKey) -> Uid {
    let mut bytes = [0_u8; 16];
    for (at, byte) in key.to_string().bytes().enumerate() {
        bytes[at % 16] = bytes[at % 16].wrapping_mul(31).wrapping_add(byte);
    }
    Uid(bytes)
}

/// Creates, changes or deletes something.
fn step(random: &mut Random, objects: &mut Objects) -> (ObjectKey, Option<Value>) {
    let kinds = [
        "/pods",
        "/pods",
        "/pods",
        "/nodes",
        "/services",
        "discovery.k8s.io/endpointslices",
        "networking.k8s.io/networkpolicies",
        "/namespaces",
    ];
    let kind = *random.of(&kinds);
    let (namespace, name) = match kind {
        "/nodes" => ("", (*random.of(&["a", "b", "c"])).to_owned()),
        "/namespaces" => ("", (*random.of(&NAMESPACES)).to_owned()),
        "/services" => (*random.of(&NAMESPACES), format!("n{}", random.below(3))),
        _ => (*random.of(&NAMESPACES), format!("n{}", random.below(6))),
    };
    let key = ObjectKey { kind: kind.into(), namespace: namespace.to_owned(), name };
    if random.chance(25) && objects.remove(&key).is_some() {
        return (key, None);
    }
    let body = match kind {
        "/nodes" => node(random, &key.name),
        "/namespaces" => json!({ "metadata": { "labels": labels(random) } }),
        "/services" => service(random),
        "discovery.k8s.io/endpointslices" => slice(random),
        "networking.k8s.io/networkpolicies" => policy(random),
        _ => pod(random),
    };
    objects.insert(key.clone(), body.clone());
    (key, Some(body))
}

mod oracle;

#[test]
fn the_feed_says_what_the_objects_say_and_boards_follow() {
    for seed in 1..=60_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (mut world, mut objects, mut feed) =
            (World::default(), Objects::new(), Feed::default());
        // One board hears all, the other misses some and then asks for all.
        let (mut good, mut bad) = (NetState::default(), NetState::default());
        for number in 1..=300_u64 {
            let (key, body) = step(&mut random, &mut objects);
            let text = body.map(|body| body.to_string().into_bytes());
            let changed = world
                .apply(&key, Version(1_000 * number), uid(&key), text.as_deref())
                .unwrap_or_else(|error| panic!("seed {seed}: {error}: {}", error.source));
            feed.note(&world, &changed);
            if random.chance(50) {
                continue;
            }
            let before = feed.state().revision;
            let Some(change) = feed.advance(&world) else { continue };
            assert!(change.revision > before && change.base == before, "seed {seed}");
            good = good.apply(change.clone()).expect("it has heard everything");
            if random.chance(70) {
                bad = bad.apply(change).unwrap_or(bad);
            } else if random.chance(30) {
                bad = bad.apply(feed.state().whole()).expect("whole");
            }
            let expected = oracle::state(&objects, feed.state().revision);
            assert_eq!(*feed.state(), expected, "seed {seed}, step {number}");
            assert_eq!(good, expected, "seed {seed}, step {number}");
        }
        feed.advance(&world);
        assert!(!feed.is_behind());
        bad = bad.apply(feed.state().whole()).expect("whole");
        assert_eq!(bad, oracle::state(&objects, feed.state().revision), "seed {seed}");
    }
}

#[test]
fn the_pods_that_boards_start_are_named_first_when_there_are_too_many() {
    let (mut world, mut feed) = (World::default(), Feed::default());
    let mut apply = |kind: &'static str, name: String, body: Value| {
        let key = ObjectKey { kind: kind.into(), namespace: "one".to_owned(), name };
        let (version, text) = (Version(world.version().0 + 1), body.to_string());
        let changed = world.apply(&key, version, uid(&key), Some(text.as_bytes()));
        feed.note(&world, &changed.expect("a good shape"));
        uid(&key)
    };
    let policy = json!({ "metadata": {}, "spec": { "podSelector": {} } });
    apply("networking.k8s.io/networkpolicies", "closed".to_owned(), policy);
    for number in 0..2 * NET_POLICY_STARTING_MAX {
        apply("/pods", format!("p{number}"), json!({ "metadata": {}, "spec": {} }));
    }
    let bound = json!({ "metadata": {}, "spec": { "nodeName": "a" } });
    let bound = apply("/pods", "bound".to_owned(), bound);
    feed.advance(&world);
    let starting = &feed.state().policies["one/closed"].starting;
    assert_eq!(starting.len(), NET_POLICY_STARTING_MAX);
    assert!(starting.is_sorted() && starting.contains(&bound));
}

#[test]
fn sets_of_pods_go_with_the_policies_that_use_them() {
    let mut random = Random(7);
    let (mut world, mut objects, mut feed) = (World::default(), Objects::new(), Feed::default());
    for number in 1..=500_u64 {
        let (key, body) = step(&mut random, &mut objects);
        let text = body.map(|body| body.to_string().into_bytes());
        let changed = world.apply(&key, Version(number), uid(&key), text.as_deref());
        feed.note(&world, &changed.expect("a good shape"));
        feed.advance(&world);
    }
    let policies: Vec<ObjectKey> =
        objects.keys().filter(|key| key.kind.contains("networkpolicies")).cloned().collect();
    assert!(!policies.is_empty() && feed.sets() > 0);
    for (number, key) in (501..).zip(policies) {
        let changed = world.apply(&key, Version(number), uid(&key), None).expect("a deletion");
        feed.note(&world, &changed);
    }
    feed.advance(&world);
    assert_eq!(feed.sets(), 0);
    assert!(feed.state().policies.is_empty());
}
