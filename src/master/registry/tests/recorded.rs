//! Replays what a real kube-apiserver 1.36.2 answered to 90 creations (dry runs, strict), for the
//! kinds served here. Each has to come out equal but for what is stamped and what [`comparable`]
//! names.

use serde_json::Map;

use super::*;

const RECORDED: &str = include_str!("../../../../tests/data/defaulting-and-validation.jsonl");

/// The place that a path names; `None` for a kind that is not served.
fn place(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    match rest {
        ["namespaces", namespace, plural] => {
            Some(Target::new(resource::find(group, version, plural)?, *namespace, ""))
        }
        [plural] => Some(Target::new(resource::find(group, version, plural)?, "", "")),
        _ => None,
    }
}

/// Takes off what is stamped, and what differs on purpose.
fn comparable(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for stamped in ["uid", "creationTimestamp"] {
            if let Some(value) = metadata.get_mut(stamped) {
                *value = "stamped".into();
            }
        }
        // Field owners are not kept yet.
        metadata.remove("managedFields");
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return object };
    name_token_volume(spec, "volumes");
    for name in ["containers", "initContainers"] {
        for container in spec.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
            name_token_volume(container.as_object_mut().expect("a container"), "volumeMounts");
        }
    }
    // A pod leaves a lost board after 25 s here, not after 300 s.
    let tolerations = spec.get_mut("tolerations").and_then(Value::as_array_mut);
    for toleration in tolerations.into_iter().flatten() {
        if toleration["tolerationSeconds"] == 300 {
            toleration["tolerationSeconds"] = 25.into();
        }
    }
    object
}

/// Its name ends in random letters.
fn name_token_volume(fields: &mut Map<String, Value>, name: &str) {
    for item in fields.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
        if item["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-")) {
            item["name"] = "stamped".into();
        }
    }
}

#[tokio::test]
async fn recorded_creations_come_out_equal() {
    let bed = Bed::new().await;
    let options = WriteOptions {
        dry_run: true,
        field_validation: FieldValidation::Strict,
        ..WriteOptions::default()
    };
    let (mut equal, mut different) = (0, Vec::new());
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).expect("a line is JSON");
        let path = case["post"].as_str().expect("a path");
        let Some(place) = place(path) else { continue };
        let (code, answer) = match bed.registry.create(&place, case["body"].clone(), &options).await
        {
            Ok(written) => (201, value(&written.object)),
            Err(error) => (error.code, error.to_status()),
        };
        let (answer, expected) = (comparable(answer), comparable(case["answer"].clone()));
        if answer == expected && case["status"] == code {
            equal += 1;
        } else {
            different.push(format!("{}\n  expected {expected}\n  answered {answer}", case["case"]));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert!(equal >= 60, "only {equal} cases were replayed");
}
