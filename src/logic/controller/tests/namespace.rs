//! Namespaces, their ServiceAccount and their root certificate.

use model::view::kind;
use serde_json::json;

use super::harness::{Cluster, key};
use crate::controller::{
    Controller, GarbageCollector, NamespaceController, Propagation, ReplicasController,
    RootCaController, ServiceAccountController,
};

fn cluster(seed: u64) -> Cluster {
    let controllers: Vec<Box<dyn Controller>> = vec![
        Box::new(NamespaceController),
        Box::new(ServiceAccountController),
        Box::new(RootCaController::new("PEM")),
        Box::new(ReplicasController::REPLICA_SETS),
        Box::new(GarbageCollector),
    ];
    Cluster::new(seed, controllers)
}

#[test]
fn every_namespace_gets_its_account_and_certificate_back() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        cluster.rest();
        let account = key(kind::SERVICE_ACCOUNTS, "default");
        let map = key(kind::CONFIG_MAPS, "kube-root-ca.crt");
        assert_eq!(cluster.body(&map).expect("published")["data"]["ca.crt"], "PEM");
        cluster.delete(&account, Propagation::Background);
        cluster.patch(&map, json!({"data": {"ca.crt": "forged", "more": "x"}}));
        cluster.rest();
        assert!(cluster.body(&account).is_some(), "seed {seed}");
        assert_eq!(cluster.body(&map).expect("published")["data"], json!({"ca.crt": "PEM"}));
    }
}

#[test]
fn a_deleted_namespace_is_emptied_and_goes() {
    for seed in 1..=20 {
        let mut cluster = cluster(seed);
        cluster.create(
            kind::REPLICA_SETS,
            "web",
            json!({ "metadata": {}, "spec": { "replicas": 5,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}} } }),
        );
        cluster.create(kind::SECRETS, "s", json!({"metadata": {}}));
        cluster.rest();
        cluster.delete(&key(kind::NAMESPACES, "shop"), Propagation::Background);
        cluster.settle();
        let running = cluster.keys("/pods").len();
        assert_eq!(running, 5, "seed {seed}: its pods stop in their own time");
        assert!(cluster.body(&key(kind::NAMESPACES, "shop")).is_some(), "seed {seed}");
        cluster.rest();
        assert!(cluster.body(&key(kind::NAMESPACES, "shop")).is_none(), "seed {seed}");
        assert_eq!(cluster.world.contents("shop").count(), 0, "seed {seed}");
    }
}
