//! Taints that follow from conditions.

use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::{Controller, NodeTaintController};

#[test]
fn taints_follow_conditions_and_leave_those_of_people() {
    for seed in 1..=10 {
        let controllers: Vec<Box<dyn Controller>> = vec![Box::new(NodeTaintController)];
        let mut cluster = Cluster::new(seed, controllers);
        let mine = json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"});
        let new = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        cluster.create(kind::NODES, "pi", json!({"metadata": {}, "spec": {"taints": [new, mine]}}));
        let pi = key(kind::NODES, "pi");
        let taints = |cluster: &Cluster| -> Vec<String> {
            let taints = cluster.body(&pi).expect("it exists")["spec"]["taints"].clone();
            let taints = taints.as_array().cloned().unwrap_or_default();
            taints.iter().map(|it| it["key"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let condition = |name: &str, status: &str| -> Value {
            json!({"status": {"conditions": [{"type": name, "status": status}]}})
        };
        cluster.settle();
        assert_eq!(taints(&cluster), ["node.kubernetes.io/not-ready", "gpu"]);
        cluster.patch(&pi, condition("Ready", "True"));
        cluster.settle();
        assert_eq!(taints(&cluster), ["gpu"]);
        cluster.patch(&pi, condition("Ready", "Unknown"));
        cluster.patch(&pi, json!({"spec": {"unschedulable": true}}));
        cluster.settle();
        let cordoned = "node.kubernetes.io/unschedulable";
        assert_eq!(taints(&cluster), ["gpu", "node.kubernetes.io/unreachable", cordoned]);
        cluster.patch(&pi, condition("Ready", "True"));
        cluster.patch(&pi, json!({"spec": {"unschedulable": null}}));
        cluster.settle();
        assert_eq!(taints(&cluster), ["gpu"]);
        assert_eq!(cluster.settle(), 0);
    }
}
