//! The Node object and the Lease of a board.

use logic::controller::Op;
use model::ids::{KindKey, ObjectKey};
use model::join::BOARD_KEY;
use model::masters::ROLE;
use model::token::TokenRole;
use model::view::kind;
use serde_json::{Value, json};

use super::session::Session;
use super::{DispatchError, text};
use crate::io::store::Record;
use crate::master::keys::Keys;

const LEASES: KindKey = KindKey::Borrowed("coordination.k8s.io/leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: u32 = 40;

/// Conditions that a board reports only while they are true; those that others set stay.
const WHILE_TRUE: [&str; 8] = [
    "MasterDiskFailed",
    "MemoryLimitsMissing",
    "Undervoltage",
    "Throttling",
    "ReadOnlyRoot",
    "ClockUnsynced",
    "PodNetworkUnreachable",
    "NetworkUnavailable",
];

/// The name in a board's Node object.
pub(super) fn name_of(node: &[u8]) -> Option<String> {
    let node: Value = serde_json::from_slice(node).ok()?;
    let name = node["metadata"]["name"].as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

pub(super) fn node_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::NODES, namespace: String::new(), name: name.to_owned() }
}

/// Whether the board's name belongs to another key than the board has shown.
pub(super) fn is_anothers(session: &Session, name: &str) -> Result<bool, DispatchError> {
    let Some(key) = session.key() else { return Ok(false) };
    let record = session.registry.store().get(&node_key(name)).map_err(DispatchError::Read)?;
    let Some(record) = record else { return Ok(false) };
    let node: Value = serde_json::from_slice(&record.body).unwrap_or_default();
    let known = node["metadata"]["annotations"][BOARD_KEY].as_str();
    Ok(known.is_some_and(|known| known != key))
}

/// Creates the board's Node, or brings labels and status of the existing one up to date. What
/// people and controllers set (cordon, taints, the block of pods, labels of their own) stays; of what
/// the board says, labels and status count.
pub(super) fn register(session: &Session, said: &Value) -> Result<Vec<Op>, DispatchError> {
    let name = session.name();
    let mut labels = said["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert("kubernetes.io/hostname".into(), name.into());
    let mut status = said["status"].clone();
    let record = session.registry.store().get(&node_key(name)).map_err(DispatchError::Read)?;
    let Some(record) = record else {
        let mut metadata = json!({ "name": name, "labels": labels });
        if let Some(key) = session.key() {
            let keys = Keys::new(session.registry.clone());
            if keys.is_evicted(&key).map_err(DispatchError::Read)? {
                // What it still says must not bring its Node back.
                return Ok(Vec::new());
            }
            if keys.is_worker(&key).map_err(DispatchError::Read)? {
                metadata["annotations"] = json!({ ROLE: TokenRole::Worker.to_string() });
            }
            // Or a card of the same name that was replaced could come back into a deleted Node.
            metadata["annotations"][BOARD_KEY] = key.into();
        }
        let now = text(session.registry.clock().now());
        stamp_conditions(&mut status, &[], &now);
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {},
            "status": status });
        return Ok(vec![Op::Create { kind: kind::NODES, object }]);
    };
    let mut ops = Vec::new();
    let have: Value = serde_json::from_slice(&record.body).unwrap_or_default();
    labels.retain(|name, value| have["metadata"]["labels"][name.as_str()] != *value);
    let mut merge = json!({});
    if !labels.is_empty() {
        merge["metadata"]["labels"] = labels.into();
    }
    if let Some(key) =
        session.key().filter(|_| have["metadata"]["annotations"][BOARD_KEY].is_null())
    {
        merge["metadata"]["annotations"] = json!({ BOARD_KEY: key });
    }
    if merge["metadata"].is_object() {
        let (key, base) = (record.key.clone(), record.version);
        ops.push(Op::Patch { key, base, subresource: None, merge });
    }
    ops.extend(status_patch(session, &record, status));
    Ok(ops)
}

/// Brings the status of a Node up to date; conditions are merged by type.
pub(super) fn status_patch(session: &Session, record: &Record, mut status: Value) -> Option<Op> {
    if !status.is_object() {
        return None;
    }
    let have: Value = serde_json::from_slice(&record.body).unwrap_or_default();
    let now = text(session.registry.clock().now());
    let before = have["status"]["conditions"].as_array().cloned().unwrap_or_default();
    stamp_conditions(&mut status, &before, &now);
    let fields = status.as_object_mut()?;
    fields.retain(|name, value| have["status"][name.as_str()] != *value);
    if fields.is_empty() {
        return None;
    }
    Some(Op::Patch {
        key: record.key.clone(),
        base: record.version,
        subresource: Some("status"),
        merge: json!({ "status": status }),
    })
}

/// Merges conditions by type; the transition time of one that keeps its status stays.
fn stamp_conditions(status: &mut Value, before: &[Value], now: &str) {
    let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    // A board may say anything.
    conditions.retain(Value::is_object);
    for condition in conditions.iter_mut() {
        let old = before.iter().find(|old| old["type"] == condition["type"]);
        let kept = old.filter(|old| old["status"] == condition["status"]);
        let since = kept.map_or_else(|| now.into(), |old| old["lastTransitionTime"].clone());
        condition["lastTransitionTime"] = since;
        // Beats are heard in memory; the object is not written for them, so its heartbeat time
        // moves only when the condition says something else.
        let same = |field: &str| old.is_some_and(|old| old[field] == condition[field]);
        let heard = if same("status") && same("reason") && same("message") {
            old.map(|old| old["lastHeartbeatTime"].clone())
        } else {
            None
        };
        condition["lastHeartbeatTime"] = heard.unwrap_or_else(|| now.into());
    }
    let reported: Vec<Value> = conditions.iter().map(|it| it["type"].clone()).collect();
    let remedied = |old: &Value| WHILE_TRUE.iter().any(|name| old["type"] == *name);
    let others = before.iter().filter(|old| !reported.contains(&old["type"]) && !remedied(old));
    conditions.extend(others.cloned());
}

/// Renews the board's Lease, which lives in memory.
pub(super) fn lease(session: &Session, name: &str) -> Result<Vec<Op>, DispatchError> {
    let key = ObjectKey { kind: LEASES, namespace: LEASE_NAMESPACE.into(), name: name.to_owned() };
    let store = session.registry.store();
    let now = session.registry.clock().now().micro();
    if let Some(record) = store.get(&key).map_err(DispatchError::Read)? {
        return Ok(vec![Op::Patch {
            key,
            base: record.version,
            subresource: None,
            merge: json!({ "spec": { "renewTime": now } }),
        }]);
    }
    let Some(node) = store.get(&node_key(name)).map_err(DispatchError::Read)? else {
        return Ok(Vec::new());
    };
    Ok(vec![Op::Create {
        kind: LEASES,
        object: json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name, "namespace": LEASE_NAMESPACE,
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": name,
                    "uid": node.uid.to_string() }],
            },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": now },
        }),
    }])
}
