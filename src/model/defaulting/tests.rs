//! Defaults beside the recorded answers (those are replayed in `tests/recorded.rs`).

use serde_json::{Value, json};

use crate::resource;

fn apply(kind: &str, object: &mut Value) {
    super::apply(resource::by_kind_key(kind).expect("served"), object);
}

fn create(kind: &str, object: &mut Value) {
    super::create(resource::by_kind_key(kind).expect("served"), object);
}

fn check(kind: &str, mut object: Value, pointer: &str, expected: Value) {
    apply(kind, &mut object);
    assert_eq!(object.pointer(pointer), Some(&expected), "{pointer} of {object}");
}

#[test]
fn pull_policy_follows_the_tag() {
    for (image, expected) in [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.37", "IfNotPresent"),
        ("registry:5000/busybox", "Always"),
        ("busybox@sha256:abc", "IfNotPresent"),
        ("busybox:latest@sha256:abc", "Always"),
    ] {
        let pod = json!({"spec": {"containers": [{"image": image}]}});
        check("/pods", pod, "/spec/containers/0/imagePullPolicy", json!(expected));
    }
}

#[test]
fn nothing_is_defaulted_twice() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c",
        "image": "a:1", "resources": {"limits": {"cpu": "1000m"}}}]}});
    create("/pods", &mut pod);
    let once = pod.clone();
    create("/pods", &mut pod);
    assert_eq!(pod, once);
}

#[test]
fn numbers_are_quantities_too() {
    let pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 2}}}]}});
    check("/pods", pod, "/spec/containers/0/resources/limits/cpu", json!("2"));
}

#[test]
fn headless_without_selector_is_dual_stack() {
    let service = json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let mut object = service;
    create("/services", &mut object);
    assert_eq!(object["spec"]["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(object["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[test]
fn only_a_node_that_says_nothing_is_tainted() {
    let mut silent = json!({"metadata": {"name": "n"}});
    create("/nodes", &mut silent);
    assert_eq!(silent["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let mut board = json!({"metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    create("/nodes", &mut board);
    assert_eq!(board["spec"].get("taints"), None);
}
