//! Rows as kubectl shows them.

use serde_json::{Value, json};

use super::{columns, conditions, row};
use crate::resource;
use crate::timestamp::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_795_331_777);

/// The time `seconds` before [`NOW`].
fn ago(seconds: i64) -> String {
    Timestamp::from_seconds(NOW.seconds() - seconds).to_string()
}

fn check(kind: &str, object: &Value, expected: Value) {
    let resource = resource::by_kind_key(kind).expect("served");
    let cells = row(resource, object, NOW);
    assert_eq!(cells.len(), columns(resource).len(), "{kind}: a cell for each column");
    assert_eq!(Value::from(cells), expected, "{kind}");
}

/// Ready, status and restarts of a pod.
fn pod(spec: Value, status: Value, deleted: bool) -> String {
    let mut object = json!({"metadata": {"name": "p", "creationTimestamp": ago(60)},
        "spec": spec, "status": status});
    if deleted {
        object["metadata"]["deletionTimestamp"] = ago(1).into();
    }
    let cells = row(resource::by_kind_key("/pods").expect("served"), &object, NOW);
    let texts: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
    texts.join(" ")
}

fn one() -> Value {
    json!({"containers": [{"name": "c"}]})
}

fn state(state: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{"name": "c", "state": state}]})
}

#[test]
fn pods_say_how_they_are() {
    let running = json!({"phase": "Running", "containerStatuses": [
        {"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    assert_eq!(pod(one(), json!({"phase": "Pending"}), false), "0/1 Pending 0");
    assert_eq!(pod(one(), running.clone(), false), "1/1 Running 0");
    assert_eq!(pod(one(), running, true), "1/1 Terminating 0");
    for (waiting_or_not, expected) in [
        (json!({"waiting": {"reason": "ContainerCreating"}}), "0/1 ContainerCreating 0"),
        (json!({"terminated": {"reason": "Completed"}}), "0/1 Completed 0"),
        (json!({"terminated": {"reason": "Error", "exitCode": 1}}), "0/1 Error 0"),
        (json!({"terminated": {"exitCode": 7}}), "0/1 ExitCode:7 0"),
        (json!({"terminated": {"signal": 9}}), "0/1 Signal:9 0"),
    ] {
        assert_eq!(pod(one(), state(waiting_or_not), false), expected);
    }
    let evicted = json!({"phase": "Failed", "reason": "Evicted"});
    assert_eq!(pod(one(), evicted.clone(), false), "0/1 Evicted 0");
    assert_eq!(pod(one(), evicted, true), "0/1 Evicted 0");
    let lost = json!({"phase": "Running", "reason": "NodeLost"});
    assert_eq!(pod(one(), lost, true), "0/1 Unknown 0");
    let gated = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
    assert_eq!(pod(one(), gated, false), "0/1 SchedulingGated 0");
}

#[test]
fn pods_count_restarts() {
    let crashing = json!({"phase": "Running", "containerStatuses": [{"name": "c",
        "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": ago(300)}}}]});
    assert_eq!(pod(one(), crashing, false), "0/1 CrashLoopBackOff 4 (5m ago)");
}

#[test]
fn pods_show_their_init_containers() {
    let spec = json!({"containers": [{"name": "c"}],
        "initContainers": [{"name": "a"}, {"name": "b"}, {"name": "s", "restartPolicy": "Always"}]});
    let status = |list: Value| {
        json!({"phase": "Pending", "initContainerStatuses": list,
            "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}}]})
    };
    let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0}}});
    for (list, expected) in [
        (json!([{"name": "a", "state": {"running": {}}}]), "0/2 Init:0/3 0"),
        (
            json!([done, {"name": "b", "state": {"waiting": {"reason": "PodInitializing"}}}]),
            "0/2 Init:1/3 0",
        ),
        (
            json!([done, {"name": "b", "restartCount": 2, "state": {"waiting":
            {"reason": "CrashLoopBackOff"}}}]),
            "0/2 Init:CrashLoopBackOff 2",
        ),
        (
            json!([{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]),
            "0/2 Init:Error 0",
        ),
        (json!([{"name": "a", "state": {"terminated": {"exitCode": 3}}}]), "0/2 Init:ExitCode:3 0"),
        (
            json!([done, {"name": "b", "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}]),
            "1/2 PodInitializing 1",
        ),
    ] {
        assert_eq!(pod(spec.clone(), status(list), false), expected);
    }
}

#[test]
fn a_completed_container_beside_a_running_one() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let status = |ready: &str| {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [
                {"name": "a", "state": {"terminated": {"reason": "Completed"}}},
                {"name": "b", "ready": true, "state": {"running": {}}}]})
    };
    assert_eq!(pod(spec.clone(), status("True"), false), "1/2 Running 0");
    assert_eq!(pod(spec, status("False"), false), "1/2 NotReady 0");
}

#[test]
fn wide_pods() {
    let object = json!({"metadata": {"name": "p", "creationTimestamp": ago(7_200)},
        "spec": {"nodeName": "pi-3", "containers": [{}], "readinessGates": [
            {"conditionType": "a"}, {"conditionType": "b"}]},
        "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.42.0.7"}],
            "conditions": [{"type": "a", "status": "True"}]}});
    check(
        "/pods",
        &object,
        json!(["p", "0/1", "Succeeded", "0", "120m", "10.42.0.7", "pi-3", "<none>", "1/2"]),
    );
    let pods = resource::by_kind_key("/pods").expect("served");
    let done = conditions(pods, &object).expect("the pod is done");
    assert_eq!(done[0]["reason"], "Succeeded");
    check(
        "/pods",
        &json!({}),
        json!(["", "0/0", "", "0", "<unknown>", "<none>", "<none>", "<none>", "<none>"]),
    );
}

#[test]
fn workloads() {
    let object = json!({"metadata": {"name": "w", "creationTimestamp": ago(45)},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"}},
            "template": {"spec": {"containers": [
                {"name": "x", "image": "i:1"}, {"name": "y", "image": "j:2"}]}}},
        "status": {"replicas": 2, "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}});
    check(
        "apps/deployments",
        &object,
        json!(["w", "1/3", 2, 1, "45s", "x,y", "i:1,j:2", "a=1,b=2"]),
    );
    check("apps/replicasets", &object, json!(["w", 3, 2, 1, "45s", "x,y", "i:1,j:2", "a=1,b=2"]));
    let mut controller = object;
    controller["spec"]["selector"] = json!({"a": "1"});
    check(
        "/replicationcontrollers",
        &controller,
        json!(["w", 3, 2, 1, "45s", "x,y", "i:1,j:2", "a=1"]),
    );
    check(
        "/replicationcontrollers",
        &json!({}),
        json!(["", 0, 0, 0, "<unknown>", "", "", "<none>"]),
    );
}

#[test]
fn services() {
    let service = |spec: Value, status: Value| json!({"metadata": {"name": "s", "creationTimestamp": ago(0)}, "spec": spec, "status": status});
    check(
        "/services",
        &service(
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP"},
            {"port": 53, "nodePort": 30053, "protocol": "UDP"}]}),
            json!({}),
        ),
        json!(["s", "ClusterIP", "10.43.0.9", "<none>", "80/TCP,53:30053/UDP", "0s", "a=b"]),
    );
    check(
        "/services",
        &service(json!({"type": "ExternalName", "externalName": "a.b"}), json!({})),
        json!(["s", "ExternalName", "<none>", "a.b", "<none>", "0s", "<none>"]),
    );
    let balancer = json!({"type": "LoadBalancer", "clusterIP": "None"});
    check(
        "/services",
        &service(balancer.clone(), json!({})),
        json!(["s", "LoadBalancer", "None", "<pending>", "<none>", "0s", "<none>"]),
    );
    let status = json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "1.x"}]}});
    check(
        "/services",
        &service(balancer, status),
        json!(["s", "LoadBalancer", "None", "1.x,2.2.2.2", "<none>", "0s", "<none>"]),
    );
}

#[test]
fn endpoints_show_three() {
    let addresses: Vec<Value> = (1..=4).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    let object = json!({"metadata": {"name": "e"},
        "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    check(
        "/endpoints",
        &object,
        json!(["e", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 1 more...", "<unknown>"]),
    );
    check("/endpoints", &json!({"metadata": {"name": "e"}}), json!(["e", "<none>", "<unknown>"]));
    let six = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "::1"}],
        "ports": [{"port": 80}]}, {"addresses": [{"ip": "1.1.1.1"}]}]});
    check("/endpoints", &six, json!(["e", "[::1]:80,1.1.1.1", "<unknown>"]));
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4",
        "ports": [{"port": 80}, {"name": "x"}, {}],
        "endpoints": [{"addresses": ["1.1.1.1", "1.1.1.2"]}, {"addresses": ["1.1.1.3", "1.1.1.4"]}]});
    check(
        "discovery.k8s.io/endpointslices",
        &slice,
        json!(["e", "IPv4", "80,x,*", "1.1.1.1,1.1.1.2,1.1.1.3 + 1 more...", "<unknown>"]),
    );
    check(
        "discovery.k8s.io/endpointslices",
        &json!({"addressType": "IPv4"}),
        json!(["", "IPv4", "<unset>", "<unset>", "<unknown>"]),
    );
}

#[test]
fn nodes() {
    let node = json!({"metadata": {"name": "pi-3", "creationTimestamp": ago(90_000), "labels": {
            "node-role.kubernetes.io/master": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "pi-3"},
                {"type": "InternalIP", "address": "192.168.0.7"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "osImage": "Debian", "kernelVersion": "6.12",
                "containerRuntimeVersion": "kumquat://0.1"}}});
    check(
        "/nodes",
        &node,
        json!([
            "pi-3",
            "Ready,SchedulingDisabled",
            "edge,master",
            "25h",
            "v1.36.2",
            "192.168.0.7",
            "<none>",
            "Debian",
            "6.12",
            "kumquat://0.1"
        ]),
    );
    check(
        "/nodes",
        &json!({}),
        json!([
            "",
            "Unknown",
            "<none>",
            "<unknown>",
            "",
            "<none>",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]),
    );
}

#[test]
fn events() {
    let event = json!({"metadata": {"name": "p.1"}, "type": "Warning", "reason": "BackOff",
        "message": " back-off\n", "count": 5, "involvedObject": {"kind": "Pod", "name": "p",
            "fieldPath": "spec.containers{c}"}, "source": {"component": "kubelet", "host": "pi-3"},
        "firstTimestamp": ago(600), "lastTimestamp": ago(30)});
    check(
        "/events",
        &event,
        json!([
            "30s",
            "Warning",
            "BackOff",
            "pod/p",
            "spec.containers{c}",
            "kubelet, pi-3",
            "back-off",
            "10m",
            5,
            "p.1"
        ]),
    );
    let new_form = json!({"metadata": {"name": "n.1"}, "type": "Normal", "reason": "Scheduled",
        "involvedObject": {"kind": "Node"}, "source": {}, "reportingComponent": "scheduler",
        "firstTimestamp": null, "lastTimestamp": null, "eventTime": ago(20)});
    check(
        "/events",
        &new_form,
        json!(["20s", "Normal", "Scheduled", "node", "", "scheduler", "", "20s", 1, "n.1"]),
    );
}

#[test]
fn the_rest() {
    let meta = json!({"name": "x", "creationTimestamp": ago(7)});
    check(
        "/configmaps",
        &json!({"metadata": meta, "data": {"a": ""}, "binaryData": {"b": ""}}),
        json!(["x", 2, "7s"]),
    );
    check(
        "/secrets",
        &json!({"metadata": meta, "type": "Opaque"}),
        json!(["x", "Opaque", 0, "7s"]),
    );
    check("/serviceaccounts", &json!({"metadata": meta}), json!(["x", "7s"]));
    check(
        "/namespaces",
        &json!({"metadata": meta, "status": {"phase": "Active"}}),
        json!(["x", "Active", "7s"]),
    );
    check(
        "coordination.k8s.io/leases",
        &json!({"metadata": meta, "spec": {"holderIdentity": "h"}}),
        json!(["x", "h", "7s"]),
    );
}

#[test]
fn policies_and_budgets() {
    let metadata = json!({"name": "web", "creationTimestamp": ago(60)});
    let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]}]});
    let kind = "networking.k8s.io/networkpolicies";
    let policy = |selector: Value| json!({"metadata": metadata, "spec": {"podSelector": selector}});
    check(kind, &policy(selector), json!(["web", "app=web,tier in (a,b)", "60s"]));
    check(kind, &policy(json!({})), json!(["web", "<none>", "60s"]));
    let budget = |spec: Value| {
        json!({"metadata": metadata, "spec": spec,
        "status": {"disruptionsAllowed": 2}})
    };
    let kind = "policy/poddisruptionbudgets";
    check(kind, &budget(json!({"minAvailable": 1})), json!(["web", "1", "N/A", 2, "60s"]));
    check(kind, &budget(json!({"maxUnavailable": "5%"})), json!(["web", "N/A", "5%", 2, "60s"]));
}
