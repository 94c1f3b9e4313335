//! The first roles and bindings: made when they are missing, completed when they lack something, on
//! becoming master. Writes nothing when nothing is missing.
//!
//! As upstream's reconciliation (`pkg/registry/rbac/reconciliation`): what somebody added stays, what is
//! missing comes back, and an object with the annotation `autoupdate: "false"` is left alone. A binding
//! to another role is made anew.

use logic::access::escalation::missing_rules;
use logic::controller::{Op, Propagation};
use model::access::{PolicyRule, bootstrap};
use model::ids::{KindKey, ObjectKey};
use serde_json::{Map, Value, json};

use crate::io::store::{Record, StoreError};
use crate::master::registry::{CommitError, Registry};

/// Says that an object is not to be reconciled, when it is `false`.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Attempts while others write the same objects.
const ATTEMPTS_MAX: u32 = 8;

/// Why the first roles could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RolesError {
    /// The store cannot be read.
    #[error("cannot read whether the first roles exist")]
    Read(#[source] StoreError),
    /// The store refuses the write.
    #[error("cannot write the first roles")]
    Write(#[source] CommitError),
}

/// Makes what is missing, all in one write.
///
/// # Errors
/// When the store or the API refuses it.
pub async fn ensure(registry: &Registry) -> Result<(), RolesError> {
    for attempt in 1.. {
        let mut ops = Vec::new();
        for (kind, object) in bootstrap::objects() {
            let key = key_of(kind, &object);
            let record = registry.store().get(&key).map_err(RolesError::Read)?;
            ops.extend(missing(key, record, object));
        }
        if ops.is_empty() {
            return Ok(());
        }
        let count = ops.len();
        match registry.commit(ops).await {
            Ok(_) => tracing::info!(count, "made the first roles and bindings, or mended them"),
            // A binding is removed first and made in the next round.
            Err(CommitError::Conflict) if attempt < ATTEMPTS_MAX => (),
            Err(error) => return Err(RolesError::Write(error)),
        }
        if attempt >= ATTEMPTS_MAX {
            break;
        }
    }
    Ok(())
}

fn key_of(kind: KindKey, object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    ObjectKey { kind, namespace: text("namespace"), name: text("name") }
}

/// What has to be done for an object.
fn missing(key: ObjectKey, record: Option<Record>, wanted: Value) -> Option<Op> {
    let Some(record) = record else {
        return Some(Op::Create { kind: key.kind, object: wanted });
    };
    let have: Value = serde_json::from_slice(&record.body).unwrap_or_default();
    let meta = &have["metadata"];
    if meta["annotations"][AUTO_UPDATE] == "false" || meta["deletionTimestamp"].is_string() {
        return None;
    }
    let base = record.version;
    if wanted.get("roleRef").is_some_and(|role| have["roleRef"] != *role) {
        let (uid, propagation) = (record.uid, Propagation::Background);
        return Some(Op::Delete { key, base, uid, grace_seconds: None, propagation });
    }
    let mut merge = Map::new();
    let lacking = |field: &str| {
        let wanted = wanted["metadata"][field].as_object().into_iter().flatten();
        let lacking = wanted.filter(|(name, value)| meta[field].get(*name) != Some(*value));
        let lacking: Map<_, _> =
            lacking.map(|(name, value)| (name.clone(), value.clone())).collect();
        (!lacking.is_empty()).then_some((field.to_owned(), Value::Object(lacking)))
    };
    let of_meta: Map<_, _> = ["labels", "annotations"].into_iter().filter_map(lacking).collect();
    if !of_meta.is_empty() {
        merge.insert("metadata".into(), Value::Object(of_meta));
    }
    match wanted.get("aggregationRule") {
        // Its rules are the controller's.
        Some(rule) if have["aggregationRule"] != *rule => {
            merge.insert("aggregationRule".into(), rule.clone());
        }
        Some(_) => {}
        None => {
            merge.extend(more_rules(&have, &wanted).map(|rules| ("rules".into(), rules)));
            merge.extend(more_subjects(&have, &wanted).map(|all| ("subjects".into(), all)));
        }
    }
    let merge = Value::Object(merge);
    let needed = merge.as_object().is_some_and(|fields| !fields.is_empty());
    needed.then_some(Op::Patch { key, base, subresource: None, merge })
}

/// All rules, when some of those wanted are not covered.
fn more_rules(have: &Value, wanted: &Value) -> Option<Value> {
    let read = |object: &Value| -> Vec<PolicyRule> {
        let rules = object["rules"].as_array().into_iter().flatten();
        rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
    };
    let mut rules = read(have);
    let lacking = missing_rules(&rules, &read(wanted));
    if lacking.is_empty() {
        return None;
    }
    rules.extend(lacking);
    Some(json!(rules))
}

/// All subjects, when some of those wanted are not there.
fn more_subjects(have: &Value, wanted: &Value) -> Option<Value> {
    let list = |object: &Value| object["subjects"].as_array().cloned().unwrap_or_default();
    let mut subjects = list(have);
    let before = subjects.len();
    for subject in list(wanted) {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    (subjects.len() > before).then_some(Value::Array(subjects))
}

#[cfg(test)]
mod tests {
    use model::ids::{Uid, Version};
    use model::view::kind;

    use super::*;

    fn check(have: Value, wanted: Value, expected: Option<Value>) {
        let key = ObjectKey { kind: kind::CLUSTER_ROLES, namespace: "".into(), name: "x".into() };
        let body = have.to_string().into();
        let record = Record { key: key.clone(), version: Version(7), uid: Uid([1; 16]), body };
        let found = match missing(key, Some(record), wanted) {
            Some(Op::Patch { merge, base, .. }) => {
                assert_eq!(base, Version(7));
                Some(merge)
            }
            Some(Op::Delete { .. }) => Some("delete".into()),
            Some(other) => unreachable!("{other:?}"),
            None => None,
        };
        assert_eq!(found, expected, "{have}");
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let rule =
            |verbs: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": ["pods"]});
        let wanted =
            || json!({"metadata": {"labels": {"a": "b"}}, "rules": [rule(&["get", "list"])]});
        let with =
            |labels: Value, rules: Value| json!({"metadata": {"labels": labels}, "rules": rules});
        check(wanted(), wanted(), None);
        check(with(json!({"a": "b", "c": "d"}), json!([rule(&["*"])])), wanted(), None);
        check(
            with(json!({"a": "x"}), json!([rule(&["get"])])),
            wanted(),
            Some(json!({"metadata": {"labels": {"a": "b"}},
                "rules": [rule(&["get"]), rule(&["list"])]})),
        );
        let mut left_alone = with(json!({}), json!([]));
        left_alone["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        check(left_alone, wanted(), None);
    }

    #[test]
    fn bindings_keep_their_subjects_and_change_their_role() {
        let binding = |role: &str, subjects: &[&str]| {
            let subjects: Vec<Value> = subjects.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {}, "roleRef": {"name": role}, "subjects": subjects})
        };
        check(binding("r", &["a", "b"]), binding("r", &["b"]), None);
        let both = json!({"subjects": [{"name": "a"}, {"name": "b"}]});
        check(binding("r", &["a"]), binding("r", &["b"]), Some(both));
        check(binding("other", &["b"]), binding("r", &["b"]), Some("delete".into()));
    }
}
