//! Replays what a real kube-apiserver 1.36.2 answered to 90 creations, for the kinds served here.
//!
//! Input: `tests/data/defaulting-and-validation.jsonl`. Each body goes through the schema check, the
//! defaults and the validation, and must come out as recorded. What other parts of the server add
//! (uid, creation time, generation, allocated addresses) is taken off both sides; whatever else
//! differs stands in [`JUSTIFIED`].

use std::collections::BTreeMap;

use model::resource::{self, Resource};
use model::{defaulting, schema, validation};
use serde_json::{Map, Value, json};

const RECORDED: &str = include_str!("../../../tests/data/defaulting-and-validation.jsonl");

/// Cases that this crate does not answer as recorded, and why.
const JUSTIFIED: &[(&str, &str)] = &[
    (
        "refused: service bad clusterIP",
        "which addresses can be had is the registry's to say, which allocates them",
    ),
    (
        "refused: name and namespace mismatch",
        "the registry compares the body with the path before it judges the object",
    ),
    ("refused: wrong kind", "the registry compares the body's kind with the path's"),
    ("refused: wrong version", "the registry compares the body's version with the path's"),
    ("refused: missing namespace", "whether a namespace exists is the registry's to know"),
];

struct Case {
    name: String,
    path: String,
    body: Value,
    status: u64,
    answer: Value,
}

fn cases() -> Vec<Case> {
    let read = |line: &str| {
        let mut value: Value = serde_json::from_str(line).expect("a line is JSON");
        Case {
            name: value["case"].as_str().expect("a case has a name").to_owned(),
            path: value["post"].as_str().expect("a case has a path").to_owned(),
            status: value["status"].as_u64().expect("a case has a status"),
            body: value["body"].take(),
            answer: value["answer"].take(),
        }
    };
    RECORDED.lines().map(read).collect()
}

/// The resource and namespace that a path names; `None` for a kind that is not served.
fn target(path: &str) -> Option<(&'static Resource, &str)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    match rest {
        ["namespaces", namespace, plural] => {
            Some((resource::find(group, version, plural)?, namespace))
        }
        [plural] => Some((resource::find(group, version, plural)?, "")),
        _ => None,
    }
}

/// What this crate answers: the object to store, or the Status.
fn answer(resource: &Resource, namespace: &str, mut body: Value) -> Value {
    let bad = |text: String| {
        json!({"code": 400, "message": format!(
            "{} in version {:?} cannot be handled as a {}: {text}",
            resource.kind, resource.version, resource.kind
        )})
    };
    match schema::check(resource, &mut body) {
        Err(text) => return bad(text),
        Ok(issues) if !issues.is_empty() => {
            let texts: Vec<String> = issues.iter().map(ToString::to_string).collect();
            return bad(format!("strict decoding error: {}", texts.join(", ")));
        }
        Ok(_) => {}
    }
    if !namespace.is_empty() {
        body["metadata"]["namespace"] = namespace.into();
    }
    defaulting::create(resource, &mut body);
    let errors = validation::validate(resource, &body, None);
    if errors.is_empty() {
        return body;
    }
    let name = body["metadata"]["name"].as_str().unwrap_or("");
    validation::invalid(resource, name, &errors).to_status()
}

/// Takes off what is not this crate's, and what differs on purpose.
fn comparable(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for stamped in ["uid", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(stamped);
        }
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    without_token_volume(spec);
    // A pod leaves a lost board after 25 s here, not after 300 s.
    for toleration in
        spec.get_mut("tolerations").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if toleration["tolerationSeconds"].is_number() {
            toleration["tolerationSeconds"] = json!("differs on purpose");
        }
    }
    let headless = spec.get("clusterIP") == Some(&json!("None"));
    if !headless {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    // Ports of the board are allocated, unless the body names one.
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].as_u64().is_some_and(|port| port >= 30_000) {
            port.as_object_mut().expect("a port is an object").remove("nodePort");
        }
    }
    object
}

/// Service account tokens do not exist yet, so no pod gets their volume.
fn without_token_volume(spec: &mut Map<String, Value>) {
    let is_token =
        |v: &Value| v["name"].as_str().is_some_and(|n| n.starts_with("kube-api-access-"));
    let clear = |fields: &mut Map<String, Value>, name: &str| {
        let Some(list) = fields.get_mut(name).and_then(Value::as_array_mut) else { return };
        list.retain(|item| !is_token(item));
        if list.is_empty() {
            fields.remove(name);
        }
    };
    clear(spec, "volumes");
    for name in ["containers", "initContainers"] {
        for container in spec.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            clear(container.as_object_mut().expect("a container is an object"), "volumeMounts");
        }
    }
}

#[test]
fn recorded_creations_come_out_equal() {
    let justified: BTreeMap<&str, &str> = JUSTIFIED.iter().copied().collect();
    let (mut equal, mut served, mut unserved, mut wrong) = (0, 0, 0, Vec::new());
    for case in cases() {
        let Some((resource, namespace)) = target(&case.path) else {
            unserved += 1;
            continue;
        };
        served += 1;
        let ours = answer(resource, namespace, case.body);
        let same = match case.status {
            201 => comparable(ours.clone()) == comparable(case.answer.clone()),
            400 => ours["message"] == case.answer["message"],
            _ => ours == case.answer,
        };
        match (same, justified.get(case.name.as_str())) {
            (true, None) => equal += 1,
            (false, Some(_)) => {}
            (true, Some(reason)) => wrong.push(format!("{}: equal, yet {reason}", case.name)),
            (false, None) => wrong.push(format!(
                "{}\n  ours:     {}\n  recorded: {}",
                case.name,
                comparable(ours),
                comparable(case.answer)
            )),
        }
    }
    println!(
        "{equal} of {served} equal, {} justified; {unserved} of kinds not served",
        JUSTIFIED.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(equal + JUSTIFIED.len(), served);
    assert!(served >= 66, "only {served} cases concern a served kind");
}
