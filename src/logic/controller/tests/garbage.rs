//! Garbage collection.

use model::ids::{KindKey, ObjectKey, Uid};
use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, GarbageCollector, Propagation};

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![Box::new(GarbageCollector)];
    Cluster::new(seed, controllers)
}

fn owned_by(owners: &[(&str, Uid, bool)]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(name, uid, blocks)| {
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name,
                "uid": uid.to_string(), "blockOwnerDeletion": blocks })
        })
        .collect();
    json!({ "metadata": { "ownerReferences": owners } })
}

fn map(name: &str) -> ObjectKey {
    key(kind::CONFIG_MAPS, name)
}

const MAPS: KindKey = kind::CONFIG_MAPS;

#[test]
fn dependents_follow_their_last_owner() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        let a = cluster.create(MAPS, "a", json!({"metadata": {}}));
        let b = cluster.create(MAPS, "b", json!({"metadata": {}}));
        let one = cluster.create(MAPS, "one", owned_by(&[("a", a, false)]));
        cluster.create(MAPS, "two", owned_by(&[("a", a, false), ("b", b, false)]));
        cluster.create(MAPS, "deep", owned_by(&[("one", one, false)]));
        cluster.delete(&map("a"), Propagation::Background);
        cluster.rest();
        assert!(cluster.body(&map("one")).is_none(), "seed {seed}");
        assert!(cluster.body(&map("deep")).is_none(), "seed {seed}");
        let two = cluster.body(&map("two")).expect("b still owns it");
        assert_eq!(two["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));
        cluster.delete(&map("b"), Propagation::Background);
        cluster.rest();
        assert!(cluster.body(&map("two")).is_none(), "seed {seed}");
    }
}

#[test]
fn an_owner_of_the_same_name_with_another_uid_is_no_owner() {
    let mut cluster = cluster(1);
    cluster.create(MAPS, "a", json!({"metadata": {}}));
    cluster.create(MAPS, "one", owned_by(&[("a", Uid([9; 16]), false)]));
    cluster.rest();
    assert!(cluster.body(&map("one")).is_none());
}

#[test]
fn an_owner_of_an_unknown_kind_is_left_alone() {
    let mut cluster = cluster(1);
    let mut body = owned_by(&[("a", Uid([9; 16]), false)]);
    body["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1".into();
    body["metadata"]["ownerReferences"][0]["kind"] = "Widget".into();
    cluster.create(MAPS, "one", body);
    cluster.rest();
    assert!(cluster.body(&map("one")).is_some());
}

#[test]
fn orphans_stay_without_their_reference() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        let a = cluster.create(MAPS, "a", json!({"metadata": {}}));
        cluster.create(MAPS, "one", owned_by(&[("a", a, true)]));
        cluster.delete(&map("a"), Propagation::Orphan);
        cluster.rest();
        assert!(cluster.body(&map("a")).is_none(), "seed {seed}");
        let one = cluster.body(&map("one")).expect("it stays");
        assert!(one["metadata"]["ownerReferences"].is_null(), "seed {seed}: {one}");
    }
}

#[test]
fn a_foreground_deletion_waits_for_what_blocks_it() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        let a = cluster.create(MAPS, "a", json!({"metadata": {}}));
        let mut pod = owned_by(&[("a", a, true)]);
        pod["spec"] = json!({"nodeName": "n"});
        cluster.create(kind::PODS, "p", pod);
        let b = cluster.create(MAPS, "b", owned_by(&[("a", a, true)]));
        cluster.create(MAPS, "c", owned_by(&[("b", b, true)]));
        cluster.delete(&map("a"), Propagation::Foreground);
        cluster.settle();
        assert!(cluster.body(&map("a")).is_some(), "seed {seed}: its pod still stops");
        assert!(cluster.body(&map("b")).is_none(), "seed {seed}");
        assert!(cluster.body(&map("c")).is_none(), "seed {seed}");
        cluster.remove(&key(kind::PODS, "p"));
        cluster.settle();
        assert!(cluster.body(&map("a")).is_none(), "seed {seed}");
    }
}
