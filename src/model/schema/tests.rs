//! Tests of the schema check against recorded answers of a real server.

use serde_json::{Value, json};

use super::*;
use crate::resource::{RESOURCES, Resource, by_kind};

const RECORDED: &str = include_str!("../../../tests/data/defaulting-and-validation.jsonl");

fn pods() -> &'static Resource {
    by_kind("", "v1", "Pod").unwrap()
}

/// Checks `body` and answers `{error}` or `{object, issues}`.
fn checked(resource: &Resource, body: Value) -> Value {
    let mut object = body;
    match check(resource, &mut object) {
        Err(error) => json!({"error": error}),
        Ok(issues) => {
            let issues: Vec<String> = issues.iter().map(ToString::to_string).collect();
            json!({"object": object, "issues": issues})
        }
    }
}

#[track_caller]
fn refused(kind: &str, body: Value, expected: &str) {
    let resource = RESOURCES.iter().find(|r| r.kind == kind).unwrap();
    assert_eq!(checked(resource, body), json!({ "error": expected }));
}

#[track_caller]
fn accepted(kind: &str, body: Value, expected: Value, issues: &[&str]) {
    let resource = RESOURCES.iter().find(|r| r.kind == kind).unwrap();
    let first = checked(resource, body);
    assert_eq!(first, json!({"object": expected, "issues": issues}));
    let again = checked(resource, first["object"].clone());
    assert_eq!(again["object"], first["object"], "checking twice changes nothing");
}

/// Paths at which `part` is not contained in `whole`.
fn beyond(part: &Value, whole: &Value, path: &str, found: &mut Vec<String>) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            for (name, value) in part {
                let path = format!("{path}.{name}");
                match whole.get(name) {
                    Some(other) => beyond(value, other, &path, found),
                    None => found.push(format!("{path}: {value} is not written")),
                }
            }
        }
        (Value::Array(part), Value::Array(whole)) if part.len() <= whole.len() => {
            for (index, value) in part.iter().enumerate() {
                beyond(value, &whole[index], &format!("{path}[{index}]"), found);
            }
        }
        _ if part == whole => {}
        _ => found.push(format!("{path}: {part}, recorded {whole}")),
    }
}

#[test]
fn recorded_bodies_come_out_as_the_real_server_writes_them() {
    let (mut seen, mut odd) = (0, Vec::new());
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (body, answer) = (case["body"].clone(), &case["answer"]);
        let api = body["apiVersion"].as_str().unwrap_or("");
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        let resource = by_kind(group, version, body["kind"].as_str().unwrap_or(""));
        let (Some(resource), 201) = (resource, case["status"].as_u64().unwrap_or(0)) else {
            continue;
        };
        let result = checked(resource, body);
        assert_eq!(result["error"], Value::Null, "{}", case["case"]);
        let mut found = Vec::new();
        beyond(&result["object"], answer, "", &mut found);
        // Written into `data` by the strategy of secrets.
        found.retain(|text| !text.starts_with(".stringData"));
        odd.extend(found.into_iter().map(|text| format!("{}: {text}", case["case"])));
        seen += 1;
    }
    assert!(seen > 25, "{seen}");
    assert_eq!(odd, Vec::<String>::new());
}

#[test]
fn recorded_refusals_have_the_recorded_words() {
    let mut seen = 0;
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (kind, message) = (case["body"]["kind"].as_str(), case["answer"]["message"].as_str());
        let prefix = " cannot be handled as a ";
        let Some((_, text)) = message.and_then(|m| m.split_once(prefix)) else { continue };
        let text = text.split_once(": ").unwrap().1;
        let Some(resource) = RESOURCES.iter().find(|r| Some(r.kind) == kind) else { continue };
        if text.starts_with("converting") || text.starts_with("no kind") {
            continue; // The body's kind is another than the path's: seen before the schema.
        }
        let result = checked(resource, case["body"].clone());
        let said = match result["issues"].as_array() {
            Some(issues) => {
                let issues: Vec<&str> = issues.iter().filter_map(Value::as_str).collect();
                format!("strict decoding error: {}", issues.join(", "))
            }
            None => result["error"].as_str().unwrap().to_owned(),
        };
        assert_eq!(said, text, "{}", case["case"]);
        seen += 1;
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn wrong_types_are_refused_in_go_words() {
    refused(
        "ConfigMap",
        json!({"metadata": {"name": true}}),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string",
    );
    refused(
        "ConfigMap",
        json!({"data": {"a": 1}}),
        "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
    );
    refused(
        "ConfigMap",
        json!({"data": []}),
        "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
    );
    refused(
        "ConfigMap",
        json!([]),
        "json: cannot unmarshal array into Go value of type v1.ConfigMap",
    );
    refused(
        "Pod",
        json!({"spec": {"containers": "x"}}),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
    );
    refused(
        "Pod",
        json!({"spec": {"containers": [{"ports": [{"containerPort": 4294967296u64}]}]}}),
        "json: cannot unmarshal number 4294967296 into Go struct field \
         ContainerPort.spec.containers.ports.containerPort of type int32",
    );
    refused(
        "Pod",
        json!({"spec": {"terminationGracePeriodSeconds": 1.5}}),
        "json: cannot unmarshal number 1.5 into Go struct field \
         PodSpec.spec.terminationGracePeriodSeconds of type int64",
    );
    refused(
        "Pod",
        json!({"spec": {"restartPolicy": 1}}),
        "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
    );
    refused(
        "Pod",
        json!({"spec": {"containers": [{"args": [1]}]}}),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.args of type string",
    );
    refused(
        "Pod",
        json!({"spec": {"containers": ["x"]}}),
        "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
    );
    refused(
        "Pod",
        json!({"spec": {"volumes": [{"emptyDir": 1}]}}),
        "json: cannot unmarshal number into Go struct field Volume.spec.volumes.emptyDir of type v1.EmptyDirVolumeSource",
    );
    refused(
        "Deployment",
        json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": true}}}}),
        "json: cannot unmarshal bool into Go struct field \
         RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
    );
    refused(
        "Pod",
        json!({"metadata": {"creationTimestamp": 5}}),
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
    );
    refused(
        "Pod",
        json!({"metadata": {"creationTimestamp": "x"}}),
        "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
    );
    refused(
        "Secret",
        json!({"data": {"a": "YQ=="}, "type": 1}),
        "json: cannot unmarshal number into Go struct field Secret.type of type v1.SecretType",
    );
    refused("Secret", json!({"data": {"a": "Y*=="}}), "illegal base64 data at input byte 1");
    refused("Secret", json!({"data": {"a": "YWE"}}), "illegal base64 data at input byte 0");
    let quantity = "quantities must match the regular expression \
                    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    refused("Node", json!({"status": {"capacity": {"cpu": "abc"}}}), quantity);
    refused("Node", json!({"status": {"capacity": {"cpu": {}}}}), quantity);
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    accepted(
        "ConfigMap",
        json!({"dat": {"x": "1"}, "data": {"x": "1"}, "metadata": {"name": "a", "labelz": {}}}),
        json!({"data": {"x": "1"}, "metadata": {"name": "a"}}),
        &["unknown field \"dat\"", "unknown field \"metadata.labelz\""],
    );
    let body = json!({"spec": {"containers": [{"name": "c"}, {"name": "d", "foo": null}]}});
    let result = checked(pods(), body);
    assert_eq!(result["issues"], json!(["unknown field \"spec.containers[1].foo\""]));
}

#[test]
fn values_take_the_form_that_go_writes() {
    accepted(
        "Pod",
        json!({
            "metadata": {"creationTimestamp": null, "labels": {"a": null}, "annotations": {}},
            "spec": {
                "containers": [{
                    "name": "c", "command": [], "args": [null], "tty": false, "stdin": true,
                    "resources": {"limits": {"cpu": 2, "memory": "1024Mi"}},
                    "ports": [{"containerPort": 80, "hostPort": 0}],
                    "livenessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 0},
                }, null],
                "hostNetwork": false, "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0, "nodeName": "", "tolerations": null,
                "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {"startTime": "2026-11-22T08:16:17.25+01:00"},
        }),
        json!({
            "metadata": {"labels": {"a": ""}},
            "spec": {
                "containers": [{
                    "name": "c", "args": [""], "stdin": true,
                    "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
                    "ports": [{"containerPort": 80}],
                    "livenessProbe": {"tcpSocket": {"port": "web"}},
                }, {"name": "", "resources": {}}],
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {"startTime": "2026-11-22T07:16:17Z"},
        }),
        &[],
    );
    accepted(
        "Lease",
        json!({"spec": {"renewTime": "2026-11-22T07:16:17Z"}}),
        json!({"metadata": {}, "spec": {"renewTime": "2026-11-22T07:16:17.000000Z"}}),
        &[],
    );
    accepted(
        "Secret",
        json!({"data": {"a": "aGV\nsbG8=", "b": null}}),
        json!({"metadata": {}, "data": {"a": "aGVsbG8=", "b": ""}}),
        &[],
    );
    accepted(
        "ReplicaSet",
        json!({"spec": {"replicas": 0}}),
        json!({"metadata": {}, "spec": {"replicas": 0, "template": {"metadata": {}, "spec": {}}},
               "status": {"replicas": 0}}),
        &[],
    );
}

#[test]
fn subresource_bodies_have_types() {
    for (group, version, kind) in [
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("", "v1", "Binding"),
        ("", "v1", "DeleteOptions"),
        ("", "v1", "Status"),
    ] {
        let id = TypeId::of_kind(group, version, kind).unwrap();
        let mut body = json!({"kind": kind, "x": 1});
        assert_eq!(check_type(id, &mut body).unwrap().len(), 1, "{kind}");
    }
}
