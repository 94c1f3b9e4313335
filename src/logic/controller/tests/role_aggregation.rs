//! Aggregated ClusterRoles.

use model::access::PolicyRule;
use model::view::kind;
use serde_json::{Value, json};

use super::harness::{Cluster, key};
use crate::controller::RoleAggregationController;

fn role(labels: Value, resources: &[&str]) -> Value {
    let rules: Vec<Value> = resources
        .iter()
        .map(|resource| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]}))
        .collect();
    json!({"metadata": {"labels": labels}, "rules": rules})
}

fn gathering(label: &str, labels: Value) -> Value {
    json!({"metadata": {"labels": labels}, "rules": null, "aggregationRule": {
        "clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}})
}

/// What a role allows to get, in order.
fn resources(cluster: &Cluster, name: &str) -> Vec<String> {
    let role = cluster.world.role("", name).expect("exists");
    role.rules.iter().flat_map(|rule| PolicyRule::from(rule).resources).collect()
}

#[test]
fn roles_have_the_rules_of_those_that_they_choose() {
    let mut cluster = Cluster::new(7, vec![Box::new(RoleAggregationController)]);
    let roles = kind::CLUSTER_ROLES;
    cluster.create(roles.clone(), "admin", gathering("to-admin", json!({})));
    cluster.create(roles.clone(), "edit", gathering("to-edit", json!({"to-admin": "true"})));
    cluster.create(roles.clone(), "b", role(json!({"to-edit": "true"}), &["pods", "secrets"]));
    cluster.create(roles.clone(), "a", role(json!({"to-edit": "true"}), &["services", "pods"]));
    cluster.create(roles.clone(), "z", role(json!({}), &["nodes"]));
    cluster.settle();
    assert_eq!(resources(&cluster, "edit"), ["services", "pods", "secrets"]);
    assert_eq!(resources(&cluster, "admin"), ["services", "pods", "secrets"]);
    // A label that comes, a role that goes, and somebody who writes rules by hand.
    let b = key(roles.clone(), "b");
    cluster.patch(&b, json!({"metadata": {"labels": {"to-edit": null, "to-admin": "true"}}}));
    cluster.settle();
    assert_eq!(resources(&cluster, "edit"), ["services", "pods"]);
    assert_eq!(resources(&cluster, "admin"), ["pods", "secrets", "services"]);
    cluster.remove(&key(roles.clone(), "a"));
    cluster.patch(&key(roles, "admin"), json!({"rules": [{"verbs": ["*"], "resources": ["x"]}]}));
    cluster.settle();
    assert!(resources(&cluster, "edit").is_empty());
    assert_eq!(resources(&cluster, "admin"), ["pods", "secrets"]);
    assert_eq!(cluster.settle(), 0, "nothing is written twice");
}
