//! Tests of strategic merge patches, in the cases of apimachinery's own test table.

use serde_json::json;

use super::*;
use crate::resource::by_kind;

#[track_caller]
fn check(kind: &str, object: Value, patch: Value, expected: Value) {
    let group = if kind == "Deployment" { "apps" } else { "" };
    let resource = by_kind(group, "v1", kind).unwrap();
    let mut patched = object;
    strategic(resource, &mut patched, patch).unwrap();
    assert_eq!(patched, expected);
}

#[track_caller]
fn refused(patch: Value, code: u16, text: &str) {
    let mut object = json!({
        "metadata": {"finalizers": ["a/b"]},
        "spec": {"containers": [{"name": "c", "image": "a"}]},
    });
    let resource = by_kind("", "v1", "Pod").unwrap();
    let error = strategic(resource, &mut object, patch).unwrap_err();
    assert_eq!((error.code, error.text.as_str()), (code, text));
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

#[test]
fn maps_merge_and_null_removes() {
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}, "name": "p"}}),
        json!({"metadata": {"labels": {"b": null, "c": "3", "d": null}, "annotations": {"x": "y", "z": null}}}),
        json!({"metadata": {"labels": {"a": "1", "c": "3"}, "annotations": {"x": "y"}, "name": "p"}}),
    );
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1"}}}),
        json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
        json!({"metadata": {"labels": {"b": "2"}}}),
    );
    check(
        "Pod",
        json!({"metadata": {"labels": {"a": "1"}}}),
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        json!({"metadata": {"labels": {}}}),
    );
    check("ConfigMap", json!({"data": {"a": "1"}}), json!({"data": "x"}), json!({"data": "x"}));
    // A directive where there is nothing to direct leaves nothing behind.
    let directive =
        json!({"spec": {"affinity": {"$patch": "delete"}, "volumes": [{"$patch": "replace"}]}});
    check("Pod", json!({}), directive.clone(), json!({"spec": {"volumes": []}}));
    check("Pod", json!({"spec": {"affinity": "x"}}), directive, json!({"spec": {"volumes": []}}));
}

#[test]
fn lists_merge_by_key() {
    let original = || pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
    check(
        "Pod",
        original(),
        pod(json!([{"name": "b", "image": "3"}, {"name": "n", "image": "9", "stdin": null}])),
        pod(json!([
            {"name": "a", "image": "1"}, {"name": "b", "image": "3"}, {"name": "n", "image": "9"},
        ])),
    );
    check(
        "Pod",
        original(),
        pod(json!([{"name": "a", "$patch": "delete"}])),
        pod(json!([{"name": "b", "image": "2"}])),
    );
    check(
        "Pod",
        original(),
        pod(json!([{"$patch": "replace"}, {"name": "z"}])),
        pod(json!([{"name": "z"}])),
    );
    check(
        "Pod",
        pod(json!([{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}])),
        pod(
            json!([{"name": "a", "ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]}]),
        ),
        pod(json!([{"name": "a", "ports": [
            {"containerPort": 80, "protocol": "TCP", "name": "web"}, {"containerPort": 81},
        ]}])),
    );
    check(
        "Pod",
        pod(json!([{"name": "a", "args": ["x", "y"], "env": [{"name": "E", "value": "1"}]}])),
        pod(json!([{"name": "a", "args": ["z"], "env": [{"name": "E", "value": "2"}]}])),
        pod(json!([{"name": "a", "args": ["z"], "env": [{"name": "E", "value": "2"}]}])),
    );
}

#[test]
fn primitive_lists_merge_as_sets() {
    check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"finalizers": ["b", "c"]}}),
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
    );
    check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}}),
        json!({"metadata": {"finalizers": ["a", "c"]}}),
    );
    check(
        "Pod",
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"],
        }}),
        json!({"metadata": {"finalizers": ["c", "d", "a"]}}),
    );
    check(
        "Pod",
        json!({}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
        json!({"metadata": {}}),
    );
}

#[test]
fn element_order_is_set() {
    let named = |names: &[&str]| pod(names.iter().map(|n| json!({"name": n})).collect());
    let order = |names: &[&str]| {
        let items: Value = names.iter().map(|n| json!({"name": n})).collect();
        json!({"spec": {"$setElementOrder/containers": items}})
    };
    check("Pod", named(&["1", "2", "3"]), order(&["3", "2", "1"]), named(&["3", "2", "1"]));
    check("Pod", named(&["1", "2", "3"]), order(&["3", "1"]), named(&["2", "3", "1"]));
    check("Pod", json!({"spec": {}}), order(&["3"]), json!({"spec": {}}));
    let mut patch = order(&["n", "1"]);
    patch["spec"]["containers"] = json!([{"name": "n", "image": "i"}]);
    check(
        "Pod",
        named(&["1", "2"]),
        patch.clone(),
        pod(json!([{"name": "n", "image": "i"}, {"name": "1"}, {"name": "2"}])),
    );
    check("Pod", json!({}), patch, json!({"spec": {"containers": [{"name": "n", "image": "i"}]}}));
    // kubectl apply removes a container: it is named by neither list, and deleted.
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "1"}],
        "containers": [{"$patch": "delete", "name": "2"}],
    }});
    check("Pod", named(&["1", "2"]), patch, named(&["1"]));
}

#[test]
fn retain_keys_clear_the_rest() {
    let strategy = |strategy: Value| json!({"spec": {"strategy": strategy}});
    check(
        "Deployment",
        strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
        strategy(json!({"$retainKeys": ["type"], "type": "Recreate"})),
        strategy(json!({"type": "Recreate"})),
    );
    check(
        "Deployment",
        json!({"spec": {}}),
        strategy(json!({"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": null})),
        strategy(json!({"type": "Recreate"})),
    );
}

#[test]
fn bad_patches_are_refused_in_the_servers_words() {
    refused(json!([]), 400, "invalid JSON document");
    refused(json!({"spec": {"$patch": "what"}}), 500, "unknown patch type: what in map: map[]");
    refused(
        pod(json!([{"image": "x"}])),
        500,
        "map: map[image:x] does not contain declared merge key: name",
    );
    refused(
        pod(json!([{"$patch": "odd", "name": "c"}])),
        500,
        "unknown patch type: odd in map: map[$patch:odd name:c]",
    );
    refused(
        pod(json!([{"$patch": "merge", "name": "c"}])),
        500,
        "merging lists cannot yet be specified in the patch",
    );
    refused(pod(json!([["x"]])), 422, "lists of lists are not supported");
    refused(pod(json!(["x"])), 500, "list element types are not identical");
    refused(
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}),
        400,
        "invalid patch format of primitive list",
    );
    refused(json!({"spec": {"$retainKeys": "x"}}), 400, "invalid patch format of retainKeys");
    refused(
        json!({"spec": {"$retainKeys": ["nodeName"], "hostname": "x"}}),
        400,
        "invalid patch format of retainKeys",
    );
    refused(
        json!({"spec": {"$setElementOrder/containers": "x"}}),
        400,
        "invalid patch format of setElementOrder list",
    );
    refused(
        json!({"spec": {"$setElementOrder/containers": [{"name": "d"}], "containers": [{"name": "c"}]}}),
        500,
        "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:d]]\n",
    );
}

#[test]
fn long_lists_merge_in_reasonable_time() {
    let names =
        |from: usize| -> Value { (from..from + 20_000).map(|n| json!(format!("f{n}"))).collect() };
    let object = json!({"metadata": {"finalizers": names(0)}});
    let patch = json!({"metadata": {"finalizers": names(10_000)}});
    check(
        "Pod",
        object,
        patch,
        json!({"metadata": {"finalizers": (0..30_000).map(|n| format!("f{n}")).collect::<Vec<_>>()}}),
    );
}
