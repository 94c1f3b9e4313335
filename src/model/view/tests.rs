//! Tests of the views: what is read, what is refused.

use super::*;
use crate::timestamp::Timestamp;

fn view(kind: &'static str, body: serde_json::Value) -> Result<View, ViewError> {
    let key = ObjectKey { kind: kind.into(), namespace: "shop".into(), name: "web".into() };
    View::parse(&key, Version(7), Uid([1; 16]), body.to_string().as_bytes())
}

fn pod(body: serde_json::Value) -> PodView {
    match view("/pods", body) {
        Ok(View::Pod(pod)) => pod,
        other => panic!("not a pod: {other:?}"),
    }
}

#[test]
fn a_pod_shows_requests_needs_and_readiness() {
    let body = serde_json::json!({
        "metadata": { "labels": {"app": "web"}, "creationTimestamp": "2026-11-22T07:16:17Z" },
        "spec": {
            "containers": [
                { "name": "a", "image": "a", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}},
                  "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "TCP"}],
                  "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}],
                  "envFrom": [{"configMapRef": {"name": "c1"}}] },
                { "name": "b", "image": "b", "resources": {"requests": {"cpu": "1", "example.com/led": "2"}} }
            ],
            "initContainers": [
                { "name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}} },
                { "name": "i", "resources": {"requests": {"memory": "1Gi", "cpu": "50m"}} }
            ],
            "volumes": [
                { "name": "v", "configMap": {"name": "c1"} },
                { "name": "w", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c0"}}]} },
                { "name": "x", "secret": {"secretName": "s1"} }
            ],
            "imagePullSecrets": [{"name": "pull"}],
            "tolerations": [{"operator": "Exists"}]
        },
        "status": { "phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-22T07:16:20Z"}],
            "containerStatuses": [{"restartCount": 3}] }
    });
    let pod = pod(body);
    assert_eq!(pod.requests.cpu_milli, 1_350);
    assert_eq!(pod.requests.memory_bytes, 1 << 30);
    assert_eq!(pod.requests.other("example.com/led"), 2);
    assert_eq!(pod.host_ports[0].port, 8080);
    assert_eq!(pod.ready_since, Timestamp::parse("2026-11-22T07:16:20Z"));
    assert_eq!((pod.restarts, pod.phase), (3, Phase::Running));
    let needs: Vec<String> =
        pod.needs.iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
    assert_eq!(
        needs,
        ["/configmaps/c0", "/configmaps/c1", "/secrets/pull", "/secrets/s1", "/secrets/s2"]
    );
    assert!(pod.scheduling.is_some());
}

#[test]
fn a_board_is_told_of_wishes_not_of_statuses() {
    let with = |name: &str, phase: &str| {
        pod(serde_json::json!({
            "metadata": {"name": "web"}, "spec": {"nodeName": name}, "status": {"phase": phase}
        }))
    };
    assert_eq!(with("a", "Pending").wish_hash, with("a", "Running").wish_hash);
    assert_ne!(with("a", "Pending").wish_hash, with("b", "Pending").wish_hash);
    assert!(with("a", "Pending").scheduling.is_none());
}

#[test]
fn a_board_is_told_what_others_say_of_readiness_gates() {
    let gated = |status: &str, other: &str| {
        pod(serde_json::json!({
            "metadata": {"name": "web"}, "spec": {"readinessGates": [{"conditionType": "open"}]},
            "status": {"conditions": [{"type": "open", "status": status},
                {"type": "Ready", "status": other}]}
        }))
    };
    assert_ne!(gated("True", "True").wish_hash, gated("False", "True").wish_hash);
    assert_eq!(gated("True", "True").wish_hash, gated("True", "False").wish_hash);
}

#[test]
fn the_hash_label_does_not_change_a_template() {
    let template = |labels: serde_json::Value| match view(
        "apps/replicasets",
        serde_json::json!({ "metadata": {}, "spec": { "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": { "metadata": {"labels": labels}, "spec": {} } } }),
    ) {
        Ok(View::Replicas(view)) => view.template,
        other => panic!("not a replica set: {other:?}"),
    };
    let plain = template(serde_json::json!({"app": "web"}));
    let labelled = template(serde_json::json!({"app": "web", "pod-template-hash": "x"}));
    assert_eq!(plain.hash, labelled.hash);
    assert_ne!(plain.hash, template(serde_json::json!({"app": "api"})).hash);
    assert_ne!(plain.name_suffix(0), plain.name_suffix(1));
}

#[test]
fn selectors_match_as_upstream_does() {
    let labels: Labels = [("app", "web"), ("tier", "front")].into_iter().collect();
    let check = |selector: serde_json::Value, expected: bool| {
        let body = serde_json::json!({"metadata": {}, "spec": {"selector": selector.clone()}});
        let Ok(View::Deployment(view)) = view("apps/deployments", body) else {
            panic!("not a deployment")
        };
        assert_eq!(view.selector.matches(&labels), expected, "{selector}");
    };
    let expression = |operator: &str, values: &[&str]| {
        serde_json::json!({"matchExpressions": [
            {"key": "app", "operator": operator, "values": values}]})
    };
    check(serde_json::Value::Null, false);
    check(serde_json::json!({}), true);
    check(serde_json::json!({"matchLabels": {"app": "web"}}), true);
    check(serde_json::json!({"matchLabels": {"app": "api"}}), false);
    check(expression("In", &["web", "x"]), true);
    check(expression("NotIn", &["web"]), false);
    check(expression("NotIn", &["x"]), true);
    check(expression("Exists", &[]), true);
    check(expression("DoesNotExist", &[]), false);
}

#[test]
fn amounts_round_as_upstream_does() {
    assert_eq!(Amount::Percent(25).of(3, true), 1);
    assert_eq!(Amount::Percent(25).of(3, false), 0);
    assert_eq!(Amount::Percent(25).of(10, true), 3);
    assert_eq!(Amount::Count(2).of(10, false), 2);
    assert_eq!(Amount::Percent(u32::MAX).of(u32::MAX, true), u32::MAX);
}

#[test]
fn a_policy_says_what_it_limits_and_nothing_more() {
    let policy = |spec: serde_json::Value| {
        let body = serde_json::json!({"metadata": {}, "spec": spec});
        match view("networking.k8s.io/networkpolicies", body) {
            Ok(View::NetworkPolicy(policy)) => policy,
            other => panic!("not a policy: {other:?}"),
        }
    };
    let nothing = policy(serde_json::json!({}));
    assert!(nothing.pods.matches(&Labels::default()), "it is for all pods");
    assert!(nothing.ingress.is_some_and(|rules| rules.is_empty()), "nothing may come in");
    assert!(nothing.egress.is_none());
    let both = policy(serde_json::json!({"egress": [{}]}));
    assert!(both.ingress.is_some() && both.egress.is_some_and(|rules| rules.len() == 1));
    let out = policy(serde_json::json!({"policyTypes": ["Egress"], "ingress": [{}]}));
    assert!(out.ingress.is_none() && out.egress.is_some_and(|rules| rules.is_empty()));
    // What cannot be understood must not open more than what was meant.
    for ports in [
        serde_json::json!([{"port": 0}]),
        serde_json::json!([{"port": ""}]),
        serde_json::json!([{"port": 80, "protocol": "ICMP"}]),
    ] {
        let policy = policy(serde_json::json!({"ingress": [{"ports": ports}]}));
        assert!(policy.ingress.is_some_and(|rules| rules.is_empty()), "{ports}");
    }
    let peers = serde_json::json!([{"ipBlock": {"cidr": "2001:db8::/32"}}, {"podSelector": {}}]);
    let policy = policy(serde_json::json!({"ingress": [{"from": peers}]}));
    let rules = policy.ingress.expect("ingress is limited");
    assert_eq!(rules[0].peers[0], PolicyPeer::Nobody);
    let pods = Selector { present: true, ..Selector::default() };
    assert_eq!(rules[0].peers[1], PolicyPeer::Pods { namespaces: None, pods });
}

#[test]
fn a_wrong_shape_is_an_error() {
    for (kind, body) in [
        ("/pods", serde_json::json!({"metadata": {}, "spec": {"containers": 5}})),
        ("/pods", serde_json::json!([])),
        ("/nodes", serde_json::json!({"metadata": {"labels": ["x"]}})),
        ("apps/deployments", serde_json::json!({"metadata": {}, "spec": {"replicas": -1}})),
        ("/configmaps", serde_json::json!("x")),
    ] {
        assert!(view(kind, body.clone()).is_err(), "{kind} {body}");
    }
    let key = ObjectKey { kind: kind::PODS, namespace: "shop".into(), name: "web".into() };
    for bytes in [&b""[..], b"{", b"\xff\xff", b"{\"metadata\":"] {
        assert!(View::parse(&key, Version(1), Uid::default(), bytes).is_err());
    }
}
