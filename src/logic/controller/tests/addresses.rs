//! Blocks of Nodes, and the addresses of load balancers.

use std::collections::BTreeSet;

use model::network::{Ipv4Block, Protocol};
use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, LoadBalancerController, NodeIpamController};

fn node(address: &str, ready: &str) -> Value {
    json!({ "metadata": {}, "spec": {}, "status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": ready}] } })
}

fn ipam(seed: u64, range: &str) -> Cluster {
    let range: Ipv4Block = range.parse().expect("a block");
    let controllers: Vec<Box<dyn Controller>> = vec![Box::new(NodeIpamController::new(range))];
    Cluster::new(seed, controllers)
}

fn block(cluster: &Cluster, name: &str) -> Option<Ipv4Block> {
    let body = cluster.body(&key(kind::NODES, name)).expect("it exists");
    let text = body["spec"]["podCIDR"].as_str()?;
    assert_eq!(body["spec"]["podCIDRs"], json!([text]));
    Some(text.parse().expect("a block"))
}

#[test]
fn every_node_has_a_block_of_its_own_for_life() {
    for seed in 1..=40 {
        let mut cluster = ipam(seed, "10.42.0.0/21");
        let mut known = std::collections::BTreeMap::new();
        for round in 0..60 {
            let nodes = cluster.keys("/nodes");
            if nodes.len() >= 16 || (round % 4 == 3 && !nodes.is_empty()) {
                let gone = nodes[cluster.random.below(nodes.len() as u64) as usize].clone();
                cluster.remove(&gone);
                known.remove(&gone.name);
            } else {
                let name = format!("n{round}");
                cluster.create(kind::NODES, &name, node("10.0.0.1", "True"));
            }
            if round % 3 == 0 {
                cluster.settle();
            }
            for key in cluster.keys("/nodes") {
                let Some(block) = block(&cluster, &key.name) else { continue };
                let before = *known.entry(key.name.clone()).or_insert(block);
                assert_eq!(before, block, "seed {seed}: {} moved", key.name);
            }
        }
        cluster.settle();
        let nodes = cluster.keys("/nodes");
        let blocks: BTreeSet<_> =
            nodes.iter().map(|key| block(&cluster, &key.name).expect("a block")).collect();
        assert_eq!(blocks.len(), nodes.len(), "seed {seed}: a block was given twice");
        let range: Ipv4Block = "10.42.0.0/21".parse().expect("a block");
        assert!(blocks.iter().all(|it| it.prefix == 25 && range.covers(it)));
    }
}

#[test]
fn a_node_that_comes_back_gets_its_block_back() {
    let mut cluster = ipam(1, "10.42.0.0/16");
    for name in ["a", "b", "c"] {
        cluster.create(kind::NODES, name, node("10.0.0.1", "True"));
    }
    cluster.settle();
    let before = block(&cluster, "b");
    cluster.remove(&key(kind::NODES, "b"));
    cluster.create(kind::NODES, "d", node("10.0.0.1", "True"));
    cluster.settle();
    cluster.create(kind::NODES, "b", node("10.0.0.1", "True"));
    cluster.settle();
    assert_eq!(block(&cluster, "b"), before);
}

#[test]
fn a_full_range_is_said_and_helped_by_a_node_that_goes() {
    let mut cluster = ipam(1, "10.42.0.0/24");
    for name in ["a", "b", "c"] {
        cluster.create(kind::NODES, name, node("10.0.0.1", "True"));
    }
    cluster.settle();
    let without: Vec<_> = cluster.keys("/nodes").into_iter().map(|it| it.name).collect();
    let without: Vec<_> = without.iter().filter(|it| block(&cluster, it).is_none()).collect();
    assert_eq!(without.len(), 1);
    assert!(cluster.events.iter().any(|it| it.reason == "CIDRNotAvailable"));
    let loser = without[0].clone();
    let winner = ["a", "b"].into_iter().find(|it| **it != loser).expect("one of two");
    cluster.remove(&key(kind::NODES, winner));
    cluster.settle();
    assert!(block(&cluster, &loser).is_some());
}

fn balanced() -> Cluster {
    let controllers: Vec<Box<dyn Controller>> =
        vec![Box::new(LoadBalancerController::new([(Protocol::Tcp, 6443)]))];
    let mut cluster = Cluster::new(3, controllers);
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        cluster.create(kind::NODES, name, node(address, "True"));
    }
    cluster
}

fn service(port: u16, more: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": port, "protocol": "TCP"}]});
    spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    json!({ "metadata": {}, "spec": spec, "status": {"loadBalancer": {}} })
}

fn ingress(cluster: &Cluster, name: &str) -> Vec<String> {
    let body = cluster.body(&key(kind::SERVICES, name)).expect("it exists");
    let all = body["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    all.iter().map(|it| it["ip"].as_str().expect("an address").to_owned()).collect()
}

#[test]
fn a_load_balancer_is_every_ready_board() {
    let mut cluster = balanced();
    cluster.create(kind::SERVICES, "web", service(80, json!({})));
    cluster.create(kind::SERVICES, "foreign", service(81, json!({"loadBalancerClass": "x/y"})));
    cluster.settle();
    assert_eq!(ingress(&cluster, "web"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert!(ingress(&cluster, "foreign").is_empty());
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    cluster.patch(&key(kind::NODES, "b"), unknown);
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    cluster.patch(&key(kind::NODES, "c"), json!({"metadata": {"labels": {label: ""}}}));
    cluster.settle();
    assert_eq!(ingress(&cluster, "web"), ["10.0.0.1"]);
    cluster.patch(&key(kind::SERVICES, "web"), json!({"spec": {"type": "ClusterIP"}}));
    cluster.settle();
    assert!(ingress(&cluster, "web").is_empty());
}

#[test]
fn with_a_local_policy_only_boards_with_endpoints_take_traffic() {
    let mut cluster = balanced();
    cluster.create(kind::SERVICES, "web", service(80, json!({"externalTrafficPolicy": "Local"})));
    cluster.settle();
    assert!(ingress(&cluster, "web").is_empty());
    let endpoint = |node: &str, ready: bool| json!({"addresses": ["10.42.0.2"], "nodeName": node, "conditions": {"ready": ready}});
    cluster.create(
        kind::ENDPOINT_SLICES,
        "web-1",
        json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [endpoint("a", false), endpoint("c", true)]}),
    );
    cluster.settle();
    assert_eq!(ingress(&cluster, "web"), ["10.0.0.3"]);
}

#[test]
fn a_port_belongs_to_the_oldest_service() {
    let mut cluster = balanced();
    cluster.fails = false;
    let condition = |cluster: &Cluster, name: &str| {
        cluster.body(&key(kind::SERVICES, name)).expect("it exists")["status"]["conditions"][0]
            ["message"]
            .clone()
    };
    cluster.create(kind::SERVICES, "web", service(80, json!({})));
    cluster.now = cluster.now.plus_millis(2_000);
    cluster.create(kind::SERVICES, "late", service(80, json!({})));
    cluster.create(kind::SERVICES, "api", service(6443, json!({})));
    cluster.settle();
    assert!(ingress(&cluster, "late").is_empty() && ingress(&cluster, "api").is_empty());
    assert_eq!(condition(&cluster, "late"), "port 80/TCP is taken by service shop/web");
    assert_eq!(condition(&cluster, "api"), "port 6443/TCP of the boards belongs to the cluster");
    let failed = |cluster: &Cluster| {
        cluster.events.iter().filter(|it| it.reason == "SyncLoadBalancerFailed").count()
    };
    assert_eq!(failed(&cluster), 2, "each is said once");
    cluster.remove(&key(kind::SERVICES, "web"));
    cluster.settle();
    assert_eq!(ingress(&cluster, "late").len(), 3);
    assert_eq!(condition(&cluster, "late"), Value::Null);
    assert_eq!((failed(&cluster), cluster.settle()), (2, 0));
}
