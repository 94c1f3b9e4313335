//! What a request may change, kind by kind: the strategies of `k8s.io/kubernetes/pkg/registry`.

use model::access::RBAC_GROUP;
use model::resource::{Resource, Storage};
use model::timestamp::Timestamp;
use serde_json::{Map, Value, json};

use super::metadata::bump_generation;
use super::object::{child_mut, meta_mut};

/// Grace that a pod of which nothing is said gets on delete.
const POD_GRACE_SECONDS: i64 = 30;

/// What becomes of dependents when a delete does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GarbagePolicy {
    /// They are deleted.
    Delete,
    /// They stay.
    Orphan,
    /// Nothing depends on this kind.
    Unsupported,
}

/// Drops what a client may not set on create.
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    // A kubelet reports a new node's status together with the node.
    if resource.has_subresource("status") && resource.kind != "Node" {
        object.as_object_mut().map(|fields| fields.remove("status"));
    }
}

/// Keeps what a request to `subresource` may not change as it was. Both have the server's metadata
/// already.
pub(super) fn prepare_update(
    resource: &Resource,
    subresource: Option<&str>,
    old: &Value,
    new: &mut Value,
) {
    match subresource {
        Some("status") => keep_all_but_status(resource, old, new),
        Some("finalize") => {
            let finalizers = new["spec"]["finalizers"].take();
            let meta = new["metadata"].take();
            *new = old.clone();
            new["metadata"] = meta;
            child_mut(new, "spec").insert("finalizers".into(), finalizers);
        }
        _ => {
            if resource.has_subresource("status") {
                restore(old, new, "status");
            }
            if resource.kind == "Namespace" {
                let finalizers = old["spec"]["finalizers"].clone();
                child_mut(new, "spec").insert("finalizers".into(), finalizers);
            }
        }
    }
}

/// Counts the generation up when what the controllers of this kind look at has changed.
pub(super) fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.has_generation {
        return;
    }
    // A Deployment's rollback history lives in its annotations.
    let annotated = resource.kind == "Deployment"
        && old["metadata"]["annotations"] != new["metadata"]["annotations"];
    if annotated || old["spec"] != new["spec"] {
        bump_generation(new);
    }
}

fn keep_all_but_status(resource: &Resource, old: &Value, new: &mut Value) {
    let status = new["status"].take();
    let meta = new["metadata"].take();
    *new = old.clone();
    new["metadata"] = meta;
    if status.is_null() {
        new.as_object_mut().map(|fields| fields.remove("status"));
    } else {
        new["status"] = status;
    }
    let kept: &[&str] = match resource.kind {
        "Pod" => &["ownerReferences"],
        "Deployment" => &["labels"],
        _ => &[],
    };
    for field in kept {
        let value = old["metadata"].get(*field).cloned();
        let meta = meta_mut(new);
        match value {
            Some(value) => drop(meta.insert((*field).into(), value)),
            None => drop(meta.remove(*field)),
        }
    }
}

fn restore(old: &Value, new: &mut Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(fields.insert(field.into(), value.clone())),
        None => drop(fields.remove(field)),
    }
}

/// Whether a PUT to a name that does not exist creates the object.
pub(super) fn creates_on_update(resource: &Resource) -> bool {
    resource.group == RBAC_GROUP
        || matches!(resource.kind, "Service" | "Endpoints" | "Event" | "Lease")
}

/// Whether a PUT without a resourceVersion overwrites whatever is there.
pub(super) fn updates_unconditionally(resource: &Resource) -> bool {
    !matches!(resource.kind, "Lease")
}

/// Whether a delete answers with the deleted object instead of a Status.
pub(super) fn answers_with_object(resource: &Resource) -> bool {
    matches!(resource.kind, "Pod" | "Service" | "ServiceAccount")
}

/// The kind's default for dependents.
pub(super) fn garbage_policy(resource: &Resource) -> GarbagePolicy {
    match resource.kind {
        "Event" => GarbagePolicy::Unsupported,
        // Kept by v1 for clients from before garbage collection.
        "ReplicationController" => GarbagePolicy::Orphan,
        _ => GarbagePolicy::Delete,
    }
}

/// Seconds that an object is given to end; `None` for kinds that end at once.
pub(super) fn grace_seconds(
    resource: &Resource,
    object: &Value,
    asked: Option<i64>,
) -> Option<i64> {
    if resource.kind != "Pod" {
        return None;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
    let seconds = asked.or(own).unwrap_or(POD_GRACE_SECONDS);
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    Some(match seconds {
        _ if unscheduled || ended => 0,
        seconds if seconds < 0 => 1,
        seconds => seconds,
    })
}

/// Whether the kind lives in the master's memory.
pub(super) fn in_memory(resource: &Resource) -> bool {
    resource.storage == Storage::Memory
}

/// A pod condition that became true at `now`.
pub(super) fn set_condition(pod: &mut Value, kind: &str, now: Timestamp) {
    let generation = pod["metadata"]["generation"].as_i64();
    let status = child_mut(pod, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    let mut condition = Map::new();
    condition.insert("type".into(), kind.into());
    condition.insert("status".into(), "True".into());
    condition.insert("lastTransitionTime".into(), now.to_string().into());
    if let Some(generation) = generation {
        condition.insert("observedGeneration".into(), generation.into());
    }
    list.retain(|condition| condition["type"] != kind);
    list.push(Value::Object(condition));
}
