//! Faults beside the recorded answers (those are replayed in `tests/recorded.rs`).

use serde_json::{Value, json};

use super::{validate, validate_status};
use crate::{defaulting, resource, schema};

/// The faults of creating `object`, after schema check and defaults.
fn faults(kind: &str, mut object: Value) -> Vec<String> {
    let resource = resource::by_kind_key(kind).expect("served");
    schema::check(resource, &mut object).expect("of the schema");
    defaulting::create(resource, &mut object);
    validate(resource, &object, None).iter().map(ToString::to_string).collect()
}

/// The faults of replacing `old` by `new`.
fn update_faults(kind: &str, old: &Value, new: &Value) -> Vec<String> {
    let resource = resource::by_kind_key(kind).expect("served");
    let (mut old, mut new) = (old.clone(), new.clone());
    for object in [&mut old, &mut new] {
        schema::check(resource, object).expect("of the schema");
        defaulting::apply(resource, object);
    }
    validate(resource, &new, Some(&old)).iter().map(ToString::to_string).collect()
}

fn merge(object: &mut Value, patch: Value) {
    crate::patch::merge(object, patch).expect("a merge patch");
}

/// A pod whose spec is `spec` over one sound container.
fn pod(spec: Value) -> Value {
    let mut whole = json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
    merge(&mut whole, json!({"spec": spec}));
    whole
}

/// A pod whose container is `container` over a sound one.
fn container(container: Value) -> Value {
    let mut sound = json!({"name": "c", "image": "a:1"});
    merge(&mut sound, container);
    pod(json!({"containers": [sound]}))
}

#[track_caller]
fn check_pod(spec: Value, expected: &[&str]) {
    assert_eq!(faults("/pods", pod(spec)), expected);
}

#[track_caller]
fn check_container(fields: Value, expected: &[&str]) {
    assert_eq!(faults("/pods", container(fields)), expected);
}

const C: &str = "spec.containers[0]";

#[test]
fn sound_objects_have_no_faults() {
    check_pod(json!({}), &[]);
    check_container(
        json!({"env": [{"name": "A", "value": "b"}, {"name": "N", "valueFrom": {"fieldRef":
            {"fieldPath": "metadata.labels['app']"}}}],
            "ports": [{"name": "web", "containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"}},
            "readinessProbe": {"tcpSocket": {"port": "web"}}}),
        &[],
    );
}

#[test]
fn metadata() {
    let map = |metadata: Value| faults("/configmaps", json!({"metadata": metadata}));
    assert_eq!(map(json!({"namespace": "d", "name": "a..b"})).len(), 1);
    assert_eq!(map(json!({"name": "a"})), ["metadata.namespace: Required value"]);
    assert_eq!(map(json!({"namespace": "d", "generateName": "a-", "name": "a-x"})).len(), 0);
    assert_eq!(
        map(json!({"namespace": "d", "name": "a", "annotations": {"k": "x".repeat(262_144)}})),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
    assert_eq!(
        map(json!({"namespace": "d", "name": "a", "finalizers": ["mine"]})),
        ["metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer \
             name nor is it fully qualified"]
    );
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
    let two =
        map(json!({"namespace": "d", "name": "a", "ownerReferences": [owner("x"), owner("y")]}));
    assert!(two[0].ends_with(
        "Only one reference can have Controller set to true. Found \"true\" in references for x and y"
    ), "{two:?}");
    assert_eq!(
        faults("/nodes", json!({"metadata": {"name": "n", "namespace": "d"}})),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
}

#[test]
fn containers_and_their_ports() {
    check_container(
        json!({"ports": [{"containerPort": 0, "name": "80"}, {"containerPort": 1, "protocol": "X",
            "hostPort": 70000}]}),
        &[
            &format!(
                "{C}.ports[0].name: Invalid value: \"80\": must contain at least one letter (a-z)"
            ),
            &format!("{C}.ports[0].containerPort: Required value"),
            &format!(
                "{C}.ports[1].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
            ),
            &format!(
                "{C}.ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \
                 \"TCP\", \"UDP\""
            ),
        ],
    );
    check_container(
        json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}),
        &[&format!("{C}.ports[1].hostPort: Duplicate value: \"TCP//5\"")],
    );
    check_container(
        json!({"image": " a ", "imagePullPolicy": "Sometimes"}),
        &[
            &format!(
                "{C}.imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \
                 \"Always\", \"IfNotPresent\", \"Never\""
            ),
            &format!(
                "{C}.image: Invalid value: \" a \": must not have leading or trailing whitespace"
            ),
        ],
    );
    check_pod(
        json!({"initContainers": [{"name": "c", "image": "a:1", "livenessProbe": {"exec":
            {"command": ["x"]}}}]}),
        &[
            "spec.initContainers[0].name: Duplicate value: \"c\"",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers \
             without restartPolicy=Always",
        ],
    );
}

#[test]
fn probes() {
    check_container(
        json!({"livenessProbe": {"periodSeconds": -1, "successThreshold": 2}}),
        &[
            &format!("{C}.livenessProbe: Required value: must specify a handler type"),
            &format!(
                "{C}.livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal \
                 to 0"
            ),
            &format!("{C}.livenessProbe.successThreshold: Invalid value: 2: must be 1"),
        ],
    );
    check_container(
        json!({"readinessProbe": {"exec": {}, "tcpSocket": {"port": 1}}}),
        &[
            &format!("{C}.readinessProbe.exec.command: Required value"),
            &format!(
                "{C}.readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"
            ),
        ],
    );
    check_container(
        json!({"lifecycle": {"preStop": {"httpGet": {"port": "a_b", "scheme": "FTP"}}}}),
        &[
            &format!(
                "{C}.lifecycle.preStop.httpGet.port: Invalid value: \"a_b\": must contain only \
                 alpha-numeric characters (a-z, 0-9), and hyphens (-)"
            ),
            &format!(
                "{C}.lifecycle.preStop.httpGet.scheme: Unsupported value: \"FTP\": supported \
                 values: \"HTTP\", \"HTTPS\""
            ),
        ],
    );
}

#[test]
fn environment() {
    check_container(
        json!({"env": [{"name": ""}, {"name": "A", "value": "x", "valueFrom": {"fieldRef":
            {"fieldPath": "spec.x"}}}, {"name": "B", "valueFrom": {}}]}),
        &[
            &format!("{C}.env[0].name: Required value"),
            &format!(
                "{C}.env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error \
                 converting fieldPath: field label not supported: spec.x"
            ),
            &format!(
                "{C}.env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is \
                 not empty"
            ),
            &format!(
                "{C}.env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
                 `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            ),
        ],
    );
    check_container(
        json!({"envFrom": [{"configMapRef": {"name": ""}}, {}]}),
        &[
            &format!("{C}.envFrom[0].configMapRef.name: Required value"),
            &format!(
                "{C}.envFrom: Invalid value: \"\": must specify one of: `configMapRef` or \
                 `secretRef`"
            ),
        ],
    );
    check_container(
        json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu",
            "divisor": "3"}}}]}),
        &[&format!(
            "{C}.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only \
             divisor's values 1m and 1 are supported with the cpu resource"
        )],
    );
}

#[test]
fn resources() {
    check_container(
        json!({"resources": {"limits": {"cpu": "-1", "foo": "1", "example.com/gpu": "1500m"},
            "requests": {"cpu": "-1", "foo": "1", "example.com/gpu": "1"}}}),
        &[
            &format!(
                "{C}.resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to \
                 0"
            ),
            &format!(
                "{C}.resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"
            ),
            &format!(
                "{C}.resources.limits[foo]: Invalid value: \"foo\": must be a standard resource \
                 type or fully qualified"
            ),
            &format!(
                "{C}.resources.limits[foo]: Invalid value: \"foo\": must be a standard resource for \
                 containers"
            ),
            &format!(
                "{C}.resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal \
                 to 0"
            ),
            &format!(
                "{C}.resources.requests: Invalid value: \"1\": must be equal to example.com/gpu \
                 limit of 1500m"
            ),
            &format!(
                "{C}.resources.requests[foo]: Invalid value: \"foo\": must be a standard resource \
                 type or fully qualified"
            ),
            &format!(
                "{C}.resources.requests[foo]: Invalid value: \"foo\": must be a standard resource \
                 for containers"
            ),
        ],
    );
}

#[test]
fn volumes_and_mounts() {
    check_pod(
        json!({"volumes": [
            {"name": "a", "configMap": {"name": "", "items": [{"key": "", "path": "../x"}]}},
            {"name": "b", "secret": {"secretName": "s", "defaultMode": 512}},
            {"name": "c", "emptyDir": {}}, {"name": "c", "emptyDir": {}},
            {"name": "h", "hostPath": {"path": "/a/../b", "type": "Odd"}}]}),
        &[
            "spec.volumes[0].configMap.name: Required value",
            "spec.volumes[0].configMap.items[0].key: Required value",
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[1].secret.defaultMode: Invalid value: 512: must be a number between 0 and \
             0777 (octal), both inclusive",
            "spec.volumes[3].name: Duplicate value: \"c\"",
            "spec.volumes[4].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
            "spec.volumes[4].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \
             \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \
             \"FileOrCreate\", \"Socket\"",
        ],
    );
    let mut object = container(json!({"volumeMounts": [
        {"name": "v", "mountPath": "/x", "subPath": "/abs"}, {"name": "v", "mountPath": "/x"}]}));
    object["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    assert_eq!(
        faults("/pods", object),
        [
            format!("{C}.volumeMounts.subPath: Invalid value: \"/abs\": must be a relative path"),
            format!("{C}.volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique"),
        ]
    );
}

#[test]
fn pods_as_a_whole() {
    check_pod(
        json!({"dnsPolicy": "None", "activeDeadlineSeconds": 0, "hostname": "A",
            "hostNetwork": true, "nodeSelector": {"a b": "c"}}),
        &[
            "spec.nodeSelector: Invalid value: \"a b\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character \
             (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
             '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, \
             inclusive",
            "spec.hostname: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower \
             case alphanumeric characters or '-', and must start and end with an alphanumeric \
             character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check_pod(
        json!({"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Like",
            "effect": "Never", "tolerationSeconds": 1}]}),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when \
             `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].effect: Invalid value: \"Never\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
            "spec.tolerations[1].operator: Unsupported value: \"Like\": supported values: \
             \"Equal\", \"Exists\"",
            "spec.tolerations[1].effect: Unsupported value: \"Never\": supported values: \
             \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    check_pod(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}),
        &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
             nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified \
             when `operator` is 'In' or 'NotIn'"],
    );
}

#[test]
fn pods_change_little() {
    let old = pod(json!({"nodeName": "n", "tolerations": [{"key": "a", "operator": "Exists"}]}));
    let change = |patch: Value| {
        let mut new = old.clone();
        merge(&mut new, patch);
        update_faults("/pods", &old, &new)
    };
    assert_eq!(change(json!({"metadata": {"labels": {"a": "b"}}})), [""; 0]);
    assert_eq!(change(json!({"spec": {"containers": [{"name": "c", "image": "b:2"}]}})), [""; 0]);
    assert_eq!(change(json!({"spec": {"activeDeadlineSeconds": 5}})), [""; 0]);
    let added = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]);
    assert_eq!(change(json!({"spec": {"tolerations": added}})), [""; 0]);
    assert_eq!(
        change(json!({"spec": {"tolerations": null}})),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its \
          tolerationSeconds"]
    );
    let moved = change(json!({"spec": {"nodeName": "m"}}));
    // The first line of the real server's answer; it goes on with a difference of Go structs.
    assert!(
        moved[0].starts_with(
            "spec: Forbidden: pod updates may not change fields other than \
         `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
         `spec.tolerations` (only additions to existing tolerations),\
         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
         negative)\n"
        ),
        "{moved:?}"
    );
    assert!(moved[0].contains("- \"nodeName\": \"n\"\n+ \"nodeName\": \"m\""), "{moved:?}");
    let more = json!([{"name": "c", "image": "a:1"}, {"name": "d", "image": "a:1"}]);
    assert_eq!(
        change(json!({"spec": {"containers": more}})),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    assert_eq!(
        change(json!({"metadata": {"name": "q"}})),
        ["metadata.name: Invalid value: \"q\": field is immutable"]
    );
}

#[test]
fn ended_containers_stay_ended() {
    let pods = resource::by_kind_key("/pods").expect("served");
    let status = |state: Value| json!({"containerStatuses": [{"name": "c", "state": state}]});
    let mut old = pod(json!({"restartPolicy": "Never"}));
    old["status"] = status(json!({"terminated": {"exitCode": 1}}));
    let mut new = old.clone();
    new["status"] = status(json!({"running": {}}));
    let texts: Vec<String> =
        validate_status(pods, &new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated \
          state"
        ]
    );
    old["spec"]["restartPolicy"] = "OnFailure".into();
    assert_eq!(validate_status(pods, &new, &old), []);
}

fn deployment(spec: Value) -> Value {
    let mut whole = json!({"metadata": {"name": "d", "namespace": "default"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
    merge(&mut whole, json!({"spec": spec}));
    whole
}

#[test]
fn workloads() {
    let check = |spec: Value, expected: &[&str]| {
        assert_eq!(faults("apps/deployments", deployment(spec)), expected);
    };
    check(json!({}), &[]);
    check(
        json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
        &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is \
           'Recreate'"],
    );
    check(
        json!({"strategy": {"type": "Odd"}}),
        &["spec.strategy.type: Unsupported value: \"Odd\": supported values: \"Recreate\", \
           \"RollingUpdate\""],
    );
    check(
        json!({"strategy": {"rollingUpdate": {"maxUnavailable": "x", "maxSurge": -1}}}),
        &[
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"x\": a valid percent \
             string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex \
             used for validation is '[0-9]+%')",
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal \
             to 0",
        ],
    );
    check(
        json!({"minReadySeconds": 600}),
        &["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
    );
    check(
        json!({"selector": {"matchLabels": null, "matchExpressions": [
            {"key": "a", "operator": "Near"}]}}),
        &[
            "spec.selector.matchExpressions[0].operator: Invalid value: \"Near\": not a valid \
             selector operator",
            "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"a\",\"operator\":\
             \"Near\"}]}: invalid label selector",
        ],
    );
    let old = deployment(json!({}));
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"] = json!({"a": "b", "c": "d"});
    new["spec"]["template"]["metadata"]["labels"] = json!({"a": "b", "c": "d"});
    assert_eq!(
        update_faults("apps/deployments", &old, &new),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is \
          immutable"]
    );
    assert_eq!(
        faults(
            "/replicationcontrollers",
            json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {}})
        ),
        ["spec.selector: Required value", "spec.template: Required value"]
    );
}

fn service(spec: Value) -> Value {
    let mut whole = json!({"metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]}});
    merge(&mut whole, json!({"spec": spec}));
    whole
}

#[test]
fn services() {
    let check = |spec: Value, expected: &[&str]| {
        assert_eq!(faults("/services", service(spec)), expected);
    };
    check(json!({}), &[]);
    check(
        json!({"type": "Odd"}),
        &["spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \
           \"ExternalName\", \"LoadBalancer\", \"NodePort\""],
    );
    check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
    check(
        json!({"type": "NodePort", "clusterIP": "None"}),
        &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort \
           services"],
    );
    check(
        json!({"clusterIP": "abc"}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"abc\": must be a valid IP address, (e.g. 10.9.8.7 \
           or 2001:db8::ffff)",
        ],
    );
    check(
        json!({"ports": [{"port": 80, "nodePort": 30000}], "sessionAffinity": "Sticky"}),
        &[
            "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \
             \"None\"",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ],
    );
    check(
        json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 0}]}),
        &[
            "spec.ports[1].name: Duplicate value: \"a\"",
            "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ],
    );
    let addressed = |address: &str| service(json!({"clusterIP": address, "clusterIPs": [address]}));
    assert_eq!(
        update_faults("/services", &addressed("10.0.0.1"), &addressed("10.0.0.2")),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    assert_eq!(
        update_faults("/services", &addressed("10.0.0.1"), &service(json!({})))[0],
        "spec.clusterIPs[0]: Invalid value: null: primary clusterIP can not be unset"
    );
}

#[test]
fn configuration_can_be_sealed() {
    let map = |data: &str, sealed: bool| json!({"metadata": {"name": "m", "namespace": "d"}, "data": {"a": data}, "immutable": sealed});
    assert_eq!(update_faults("/configmaps", &map("1", false), &map("2", true)), [""; 0]);
    assert_eq!(
        update_faults("/configmaps", &map("1", true), &map("2", false)),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ]
    );
    assert_eq!(
        faults("/configmaps", map(&"x".repeat(1_048_577), false)),
        ["[]: Too long: may not be more than 1048576 bytes"]
    );
    let secret = |kind: &str, data: Value| json!({"metadata": {"name": "s", "namespace": "d"}, "type": kind, "data": data});
    assert_eq!(
        update_faults("/secrets", &secret("a", json!({})), &secret("b", json!({}))),
        ["type: Invalid value: \"b\": field is immutable"]
    );
    assert_eq!(
        faults("/secrets", secret("kubernetes.io/tls", json!({"tls.crt": ""}))),
        ["data[tls.key]: Required value"]
    );
    assert_eq!(
        faults(
            "/secrets",
            secret("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="}))
        ),
        [""; 0]
    );
}

#[test]
fn cluster_objects() {
    let node = |taints: Value| json!({"metadata": {"name": "n"}, "spec": {"taints": taints}});
    assert_eq!(
        faults("/nodes", node(json!([{"key": "a", "effect": ""}, {"key": "a", "effect": "Odd"}]))),
        [
            "metadata.taints[0].effect: Required value",
            "metadata.taints[1].effect: Unsupported value: \"Odd\": supported values: \
             \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ]
    );
    let event = json!({"metadata": {"name": "e", "namespace": "a"},
        "involvedObject": {"namespace": "b"}});
    assert_eq!(
        faults("/events", event),
        ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
    );
    let event = json!({"metadata": {"name": "A_B", "namespace": "default"},
        "eventTime": "2026-11-22T07:16:17.000000Z", "reason": "R", "reportingComponent": "a.b/c"});
    assert_eq!(
        faults("/events", event),
        ["reportingInstance: Required value", "action: Required value"]
    );
    let lease = json!({"metadata": {"name": "l", "namespace": "a"},
        "spec": {"leaseDurationSeconds": 0}});
    assert_eq!(
        faults("coordination.k8s.io/leases", lease),
        ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
    );
    let endpoints = json!({"metadata": {"name": "e", "namespace": "a"}, "subsets": [
        {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "x"}]}, {}]});
    assert_eq!(
        faults("/endpoints", endpoints),
        [
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback \
             range (127.0.0.0/8, ::1/128)",
            "subsets[0].ports[0].name: Required value",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ]
    );
    let slice = json!({"metadata": {"name": "e", "namespace": "a"}, "addressType": "IPv4",
        "endpoints": [{"addresses": []}, {"addresses": ["::2"]}], "ports": []});
    assert_eq!(
        faults("discovery.k8s.io/endpointslices", slice),
        [
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses[0]: Invalid value: \"::2\": must be a valid IPv4 address",
        ]
    );
}

#[test]
fn deleted_objects_get_no_new_finalizers() {
    let map = |finalizers: Value| {
        json!({"metadata": {"name": "m", "namespace": "d", "finalizers": finalizers,
            "deletionTimestamp": "2026-11-22T07:16:17Z"}})
    };
    assert_eq!(
        update_faults("/configmaps", &map(json!(["a.b/c"])), &map(json!(["a.b/c", "a.b/d"])))[0],
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being \
         deleted, found new finalizers []string{\"a.b/d\"}"
    );
    assert_eq!(update_faults("/configmaps", &map(json!(["a.b/c"])), &map(json!([]))), [""; 0]);
}

#[test]
fn a_body_of_faults_costs_little() {
    let labels: serde_json::Map<String, Value> =
        (0..100_000).map(|n| (format!("-{n}"), Value::from("-"))).collect();
    let map = json!({"metadata": {"name": "m", "namespace": "d", "labels": labels}});
    assert_eq!(faults("/configmaps", map).len(), crate::limits::FAULTS_MAX);
}

#[test]
fn network_policies() {
    let policy = |rule: Value| {
        faults(
            "networking.k8s.io/networkpolicies",
            json!({"metadata": {"name": "p", "namespace": "d"},
                "spec": {"podSelector": {}, "egress": [rule]}}),
        )
    };
    let to = |peer: Value| policy(json!({"to": [peer]}));
    let port = |port: Value| policy(json!({"ports": [port]}));
    let here = "spec.egress[0]";
    assert!(to(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})).is_empty());
    assert!(to(json!({"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/32"]}})).is_empty());
    for except in ["10.0.0.0/8", "11.0.0.0/16", "fd00::/64"] {
        let found = to(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [except]}}));
        let expected = format!(
            "{here}.to[0].ipBlock.except[0]: Invalid value: {except:?}: must be a strict subset of \
             `cidr`"
        );
        assert_eq!(found, [expected]);
    }
    assert_eq!(to(json!({})), [format!("{here}.to[0]: Required value: must specify a peer")]);
    assert_eq!(to(json!({"ipBlock": {}})), [format!("{here}.to[0].ipBlock.cidr: Required value")]);
    assert!(port(json!({"port": 1, "endPort": 1})).is_empty());
    assert!(port(json!({"port": "web", "protocol": "SCTP"})).is_empty());
    for (fields, fault) in [
        (
            json!({"port": 5, "endPort": 4}),
            "endPort: Invalid value: 4: must be greater than or equal to `port`",
        ),
        (
            json!({"endPort": 4}),
            "endPort: Invalid value: 4: may not be specified when `port` is not specified",
        ),
        (json!({"port": 0}), "port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    ] {
        assert_eq!(port(fields), [format!("{here}.ports[0].{fault}")]);
    }
}
