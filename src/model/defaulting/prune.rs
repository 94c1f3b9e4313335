//! What Go leaves out when it writes an object back as JSON.

use serde_json::Value;

/// Lists that are written even when empty.
const LISTS_KEPT: [&str; 5] = ["containers", "endpoints", "addresses", "ports", "subsets"];
/// Maps from text to text: a null in them is an empty text, and an empty map is left out.
const TEXT_MAPS: [&str; 8] = [
    "annotations",
    "binaryData",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "selector",
    "stringData",
];
/// Maps that are left out when empty.
const MAPS_OMITTED: [&str; 2] = ["limits", "requests"];
/// Fields that are left out at their zero (empty text, 0, false), wherever they occur.
const ZEROS_OMITTED: [&str; 35] = [
    "clusterIP",
    "deletionGracePeriodSeconds",
    "externalName",
    "externalTrafficPolicy",
    "generateName",
    "healthCheckNodePort",
    "hostIP",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "hostname",
    "initialDelaySeconds",
    "loadBalancerIP",
    "minReadySeconds",
    "namespace",
    "nodeName",
    "nodePort",
    "nominatedNodeName",
    "paused",
    "podCIDR",
    "priorityClassName",
    "providerID",
    "publishNotReadyAddresses",
    "resourceVersion",
    "selfLink",
    "serviceAccount",
    "serviceAccountName",
    "stdin",
    "stdinOnce",
    "subPath",
    "subdomain",
    "tty",
    "unschedulable",
    "workingDir",
];

/// Drops nulls, empty lists and maps, and zeros, as the fields of `kind` are declared.
pub(super) fn prune(kind: &str, object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|name, value| {
        // The only top-level maps that differ by kind.
        if kind == "/configmaps" && name == "immutable" {
            !value.is_null()
        } else {
            keep(name, value)
        }
    });
}

/// Prunes inside `value` and says whether it stays under `name`.
fn keep(name: &str, value: &mut Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth || !ZEROS_OMITTED.contains(&name),
        Value::Number(number) => number.as_i64() != Some(0) || !ZEROS_OMITTED.contains(&name),
        Value::String(text) => !text.is_empty() || !ZEROS_OMITTED.contains(&name),
        Value::Array(list) => {
            for item in list.iter_mut() {
                keep("", item);
            }
            !list.is_empty() || LISTS_KEPT.contains(&name)
        }
        Value::Object(map) if TEXT_MAPS.contains(&name) && is_text_map(map) => {
            for text in map.values_mut().filter(|text| text.is_null()) {
                *text = "".into();
            }
            !map.is_empty() || name == "selector"
        }
        Value::Object(map) => {
            map.retain(|name, value| keep(name, value));
            !map.is_empty() || !MAPS_OMITTED.contains(&name)
        }
    }
}

fn is_text_map(map: &serde_json::Map<String, Value>) -> bool {
    map.values().all(|value| value.is_string() || value.is_null())
}
