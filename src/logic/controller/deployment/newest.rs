//! The set of a Deployment's present template: made, named, numbered (upstream's `sync.go`,
//! `getNewReplicaSet`).
//!
//! Revisions are counted in an annotation of the sets: the newest set has the highest. `kubectl
//! rollout history` and `undo` read it, and the list of numbers that a set had before.

use model::ids::ObjectKey;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::view::{DeploymentView, ReplicasView, kind};
use serde_json::{Map, Value, json};

use super::super::Op;
use super::super::ownership::open_for_new;
use super::{DESIRED, Family, MAX, REVISION, REVISION_HISTORY, proportional, revision, rolling};
use crate::world::World;

const HASH_LABEL: &str = "pod-template-hash";
/// What a set says of its own, and what is no business of a set.
const ANNOTATIONS_OWN: [&str; 6] = [
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
];
/// A longer list of earlier revisions loses its oldest ones.
const HISTORY_BYTES_MAX: usize = 2_000;

/// Makes the ReplicaSet of the present template, or brings the one that exists up to date.
pub(super) fn step(world: &World, family: &Family<'_>) -> Vec<Op> {
    let deployment = family.deployment;
    let wanted = family.old.iter().map(|set| revision(set)).max().unwrap_or_default() + 1;
    let Some(new) = family.new else {
        return if may_create(world, family) { create(world, family, wanted) } else { Vec::new() };
    };
    if let Some(op) = refresh(deployment, new, wanted) {
        return vec![op];
    }
    let text = revision(new).to_string();
    match deployment.meta.annotations.get(REVISION) != Some(&text) {
        true => vec![note_revision(deployment, &text)],
        false => Vec::new(),
    }
}

/// A paused Deployment gets no new set; one that is scaled finishes that first; "Recreate" waits
/// for the end of the old pods.
fn may_create(world: &World, family: &Family<'_>) -> bool {
    !family.deployment.paused
        && !proportional::is_due(family)
        && (rolling::is_rolling(family) || !rolling::old_pods_run(world, family))
}

/// Annotations, revision and `minReadySeconds` of the set that exists already. A rolled back
/// template: its set becomes the newest again and remembers what it was.
fn refresh(deployment: &DeploymentView, new: &ReplicasView, wanted: u64) -> Option<Op> {
    let mut annotations = Map::new();
    for (name, value) in copied_annotations(deployment) {
        if new.meta.annotations.get(name) != Some(value) {
            annotations.insert(name.to_owned(), value.into());
        }
    }
    if revision(new) < wanted {
        annotations.insert(REVISION.to_owned(), wanted.to_string().into());
        if let Some(before) = new.meta.annotations.get(REVISION) {
            let history = new.meta.annotations.get(REVISION_HISTORY);
            let history = appended(history.unwrap_or_default(), before);
            annotations.insert(REVISION_HISTORY.to_owned(), history.into());
        }
    }
    let mut merge = json!({});
    if !annotations.is_empty() {
        merge["metadata"]["annotations"] = annotations.into();
    }
    if new.min_ready_seconds != deployment.min_ready_seconds {
        merge["spec"]["minReadySeconds"] = deployment.min_ready_seconds.into();
    }
    let changes = merge.as_object().is_some_and(|merge| !merge.is_empty());
    changes.then(|| Op::Patch {
        key: new.meta.key(kind::REPLICA_SETS),
        base: new.meta.version,
        subresource: None,
        merge,
    })
}

/// A list of revisions with one more, without the oldest ones when it would be too long.
fn appended(history: &str, revision: &str) -> String {
    let mut numbers: Vec<&str> = history.split(',').filter(|number| !number.is_empty()).collect();
    numbers.push(revision);
    let mut bytes = numbers.iter().map(|number| number.len() + 1).sum::<usize>();
    let dropped = numbers.iter().take_while(|number| {
        let drop = bytes > HISTORY_BYTES_MAX + 1;
        bytes -= if drop { number.len() + 1 } else { 0 };
        drop
    });
    let dropped = dropped.count();
    numbers[dropped..].join(",")
}

/// What a Deployment says that its newest set says too.
fn copied_annotations(deployment: &DeploymentView) -> impl Iterator<Item = (&str, &str)> {
    let annotations = deployment.meta.annotations.iter();
    annotations.filter(|(name, _)| !ANNOTATIONS_OWN.contains(name))
}

/// Through the status, as the real controller: the note is no new generation.
fn note_revision(deployment: &DeploymentView, revision: &str) -> Op {
    Op::Patch {
        key: deployment.meta.key(kind::DEPLOYMENTS),
        base: deployment.meta.version,
        subresource: Some("status"),
        merge: json!({ "metadata": { "annotations": { REVISION: revision } } }),
    }
}

fn create(world: &World, family: &Family<'_>, revision: u64) -> Vec<Op> {
    let deployment = family.deployment;
    if !open_for_new(world, &deployment.meta.namespace) {
        return Vec::new();
    }
    let (name, hash) = set_name(deployment);
    let key = ObjectKey {
        kind: kind::REPLICA_SETS,
        namespace: deployment.meta.namespace.to_string(),
        name: name.clone(),
    };
    if world.meta(&key).is_some() {
        return vec![Op::Patch {
            key: deployment.meta.key(kind::DEPLOYMENTS),
            base: deployment.meta.version,
            subresource: Some("status"),
            merge: json!({ "status": { "collisionCount": deployment.status.collision_count + 1 } }),
        }];
    }
    let replicas = rolling::replicas_of_new(family);
    let object = set_object(family, &name, &hash, replicas, revision);
    let mut ops = vec![Op::Create { kind: kind::REPLICA_SETS, object }];
    if replicas > 0 {
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        ops.push(family.owner().event(false, "ScalingReplicaSet", message));
    }
    let revision = revision.to_string();
    if deployment.meta.annotations.get(REVISION) != Some(&revision) {
        ops.push(note_revision(deployment, &revision));
    }
    ops
}

/// The API does not take the set of the present template: an event, and a condition.
pub(super) fn refused(family: &Family<'_>, error: &ApiError, now: Timestamp) -> Vec<Op> {
    let deployment = family.deployment;
    if family.new.is_some() || deployment.paused {
        return Vec::new();
    }
    let name = set_name(deployment).0;
    let message = format!("Failed to create new replica set {name:?}: {}", error.message);
    let mut ops = vec![family.owner().event(true, "ReplicaSetCreateError", message.clone())];
    let mut conditions = deployment.status.conditions.iter();
    let said = conditions.any(|it| &*it.r#type == "Progressing" && *it.message == *message);
    if deployment.progress_deadline_seconds.is_some() && !said {
        ops.push(Op::Conditions {
            key: deployment.meta.key(kind::DEPLOYMENTS),
            base: deployment.meta.version,
            set: vec![json!({
                "type": "Progressing", "status": "False", "reason": "ReplicaSetCreateError",
                "message": message, "lastUpdateTime": now.to_string(),
                "lastTransitionTime": now.to_string(),
            })],
        });
    }
    ops
}

/// Name and hash label of the set of the present template.
pub(super) fn set_name(deployment: &DeploymentView) -> (String, String) {
    let hash = deployment.template.name_suffix(deployment.status.collision_count);
    (format!("{}-{hash}", deployment.meta.name), hash)
}

fn set_object(family: &Family<'_>, name: &str, hash: &str, replicas: u32, revision: u64) -> Value {
    let deployment = family.deployment;
    let mut template = deployment.template.value();
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    template["metadata"]["labels"][HASH_LABEL] = hash.into();
    let mut annotations = json!({ REVISION: revision.to_string() });
    for (name, value) in copied_annotations(deployment) {
        annotations[name] = value.into();
    }
    for (name, value) in scale_annotations(deployment) {
        annotations[name] = value.into();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": &*deployment.meta.namespace,
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [family.owner().reference()],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": deployment.min_ready_seconds,
            "selector": deployment.selector.to_value_with(HASH_LABEL, hash),
            "template": template,
        },
    })
}

/// What upstream notes on every set that it scales.
pub(super) fn scale_annotations(deployment: &DeploymentView) -> [(&'static str, String); 2] {
    let (surge, _) = rolling::bounds(deployment);
    let most = deployment.replicas.saturating_add(surge);
    [(DESIRED, deployment.replicas.to_string()), (MAX, most.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_revisions_stays_short() {
        assert_eq!(appended("", "1"), "1");
        assert_eq!(appended("1,3", "5"), "1,3,5");
        let numbers: Vec<String> = (1_000..1_400).map(|number: u32| number.to_string()).collect();
        let full = numbers.join(",");
        assert_eq!(full.len(), 1_999);
        let next = appended(&full, "1400");
        assert_eq!(next.len(), 1_999);
        assert!(next.starts_with("1001,") && next.ends_with(",1399,1400"));
    }
}
