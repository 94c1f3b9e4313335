//! A random walk compares the indexes with brute force.

use serde_json::{Value, json};

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn uid(number: u64) -> Uid {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Uid(bytes)
}

#[derive(Debug)]
struct Known {
    uid: Uid,
    body: Value,
}

type Oracle = BTreeMap<ObjectKey, Known>;

fn random_body(random: &mut Random, kind: &str) -> Value {
    let mut owners = Vec::new();
    for _ in 0..random.below(3) {
        owners.push(json!({ "apiVersion": "v1", "kind": "X", "name": "x",
            "uid": uid(1 + random.below(60)).to_string(), "controller": random.below(2) == 0 }));
    }
    let mut body = json!({ "metadata": { "ownerReferences": owners } });
    if kind == "/pods" {
        let node = ["", "", "a", "b"][random.below(4) as usize];
        body["spec"] = json!({ "nodeName": node, "volumes": [
            {"configMap": {"name": format!("n{}", random.below(3))}}] });
        let phase = ["Pending", "Running", "Failed"][random.below(3) as usize];
        body["status"] = json!({ "phase": phase });
    } else if kind == kind::ENDPOINT_SLICES {
        let service = format!("n{}", random.below(3));
        body["metadata"]["labels"] = json!({ "kubernetes.io/service-name": service });
    }
    body
}

fn step(random: &mut Random, world: &mut World, oracle: &mut Oracle, number: u64) {
    let kinds = [
        "/pods",
        "/pods",
        "apps/replicasets",
        "apps/deployments",
        "/configmaps",
        "x/ys",
        "/services",
        "/endpoints",
        "discovery.k8s.io/endpointslices",
        "discovery.k8s.io/endpointslices",
        "policy/poddisruptionbudgets",
    ];
    let kind = kinds[random.below(kinds.len() as u64) as usize];
    let key = ObjectKey {
        kind: kind.into(),
        namespace: ["one", "two"][random.below(2) as usize].into(),
        name: format!("n{}", random.below(6)),
    };
    let version = Version(number);
    if random.below(3) == 0 {
        if let Some(known) = oracle.remove(&key) {
            let changed = world.apply(&key, version, known.uid, None).expect("a deletion");
            assert!(changed.gone && changed.old.is_some());
        }
        return;
    }
    // Now and then the object was replaced by another of the same name in one step.
    let known = oracle.get(&key).filter(|_| !random.0.is_multiple_of(5));
    let uid = known.map_or(uid(number), |known| known.uid);
    let body = random_body(random, kind);
    world.apply(&key, version, uid, Some(body.to_string().as_bytes())).expect("a good shape");
    oracle.insert(key, Known { uid, body });
}

fn compare(world: &World, oracle: &Oracle, seed: u64) {
    let owners = |known: &Known| known.body["metadata"]["ownerReferences"].as_array().cloned();
    let names_owner = |known: &Known, owner: Uid, controller: bool| {
        let text = owner.to_string();
        owners(known).unwrap_or_default().iter().any(|reference| {
            reference["uid"] == text.as_str() && (!controller || reference["controller"] == true)
        })
    };
    for number in 1..60 {
        let owner = uid(number);
        let expected: Vec<_> =
            oracle.iter().filter(|(_, it)| names_owner(it, owner, false)).map(|it| it.0).collect();
        assert_eq!(world.dependents_of(owner).collect::<Vec<_>>(), expected, "seed {seed}");
    }
    let pods = || oracle.iter().filter(|(key, _)| key.kind == "/pods");
    let list = |pods: &mut dyn Iterator<Item = &PodView>| -> Vec<String> {
        pods.map(|pod| format!("{}/{}", pod.meta.namespace, pod.meta.name)).collect()
    };
    let keys = |wanted: &dyn Fn(&ObjectKey, &Known) -> bool| -> Vec<String> {
        pods()
            .filter(|(key, known)| wanted(key, known))
            .map(|(key, _)| format!("{}/{}", key.namespace, key.name))
            .collect()
    };
    for node in ["a", "b"] {
        let expected = keys(&|_, known| known.body["spec"]["nodeName"] == node);
        assert_eq!(list(&mut world.pods_on(node)), expected, "seed {seed}");
    }
    let expected = keys(&|_, known| {
        known.body["spec"]["nodeName"] == "" && known.body["status"]["phase"] != "Failed"
    });
    assert_eq!(list(&mut world.pods_waiting()), expected, "seed {seed}");
    for namespace in ["one", "two"] {
        let managed = |known: &Known| {
            owners(known).unwrap_or_default().iter().any(|it| it["controller"] == true)
        };
        let expected = keys(&|key, known| key.namespace == namespace && !managed(known));
        assert_eq!(list(&mut world.orphan_pods(namespace)), expected, "seed {seed}");
        for service in ["n0", "n1", "n2", "none"] {
            let label = "kubernetes.io/service-name";
            let slices = oracle.iter().filter(|(key, it)| {
                key.kind == kind::ENDPOINT_SLICES
                    && key.namespace == namespace
                    && it.body["metadata"]["labels"][label] == service
            });
            let expected: Vec<_> = slices.map(|(key, _)| key.name.as_str()).collect();
            let found = world.slices_of(namespace, service).map(|slice| &*slice.meta.name);
            assert_eq!(found.collect::<Vec<_>>(), expected, "seed {seed}");
        }
        let count = oracle.keys().filter(|key| key.namespace == namespace).count();
        assert_eq!(world.contents(namespace).count(), count, "seed {seed}");
    }
    assert_eq!(world.uids.len(), oracle.len(), "seed {seed}");
    for (key, known) in oracle {
        assert_eq!(world.by_uid(known.uid), Some(key), "seed {seed}");
        assert_eq!(world.meta(key).map(|meta| meta.uid), Some(known.uid), "seed {seed}");
    }
}

#[test]
fn the_indexes_say_what_the_objects_say() {
    for seed in 1..=40_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let (mut world, mut oracle) = (World::default(), Oracle::new());
        for number in 1..=240 {
            step(&mut random, &mut world, &mut oracle, 1_000 + number);
            if number % 20 == 0 {
                compare(&world, &oracle, seed);
            }
        }
    }
}

#[test]
fn a_bad_object_has_no_view_but_exists() {
    let mut world = World::default();
    let key = ObjectKey { kind: kind::DEPLOYMENTS, namespace: "one".into(), name: "web".into() };
    world.apply(&key, Version(1), uid(1), Some(b"{\"metadata\":{}}")).expect("a good shape");
    assert!(world.apply(&key, Version(2), uid(1), Some(b"{\"metadata\":3}")).is_err());
    assert!(world.deployment("one", "web").is_none());
    assert!(world.by_uid(uid(1)).is_some());
    world.apply(&key, Version(3), uid(1), None).expect("a deletion");
    assert!(world.by_uid(uid(1)).is_none());
}

#[test]
fn boards_that_need_a_config_map_are_found() {
    let mut world = World::default();
    for (name, node, map) in [("p", "a", "c"), ("q", "b", "other"), ("r", "", "c")] {
        let key = ObjectKey { kind: kind::PODS, namespace: "one".into(), name: name.into() };
        let body = json!({ "metadata": {}, "spec": {
            "nodeName": node, "volumes": [{"configMap": {"name": map}}] } });
        world
            .apply(
                &key,
                Version(1),
                uid(u64::from(name.as_bytes()[0])),
                Some(body.to_string().as_bytes()),
            )
            .expect("a good shape");
    }
    let need = ObjectKey { kind: kind::CONFIG_MAPS, namespace: "one".into(), name: "c".into() };
    assert_eq!(world.nodes_needing(&need).into_iter().collect::<Vec<_>>(), ["a"]);
    let p = ObjectKey { kind: kind::PODS, namespace: "one".into(), name: "p".into() };
    world.apply(&p, Version(2), uid(u64::from(b'p')), None).expect("a deletion");
    assert!(world.nodes_needing(&need).is_empty());
}
