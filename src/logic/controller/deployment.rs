//! Deployments: one ReplicaSet per template, the newest one grown while the others shrink.
//!
//! ```text
//! adopt -> find or make the set of this template -> scale (rolling | recreate | paused)
//!       -> remove history beyond the limit -> report
//! ```
//! Each plan does the first of these steps that has something to do; its change brings the key
//! back. Deliberately absent: proportional scaling of several sets while a roll-out is under way
//! (the newest set takes the difference, within surge).

mod rolling;
mod status;

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::{DeploymentView, ReplicasView, View, kind};
use serde_json::{Value, json};

use super::ownership::{Owner, claim, open_for_new};
use super::{Controller, Op, Plan, Propagation};
use crate::world::{Changed, World};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const HASH_LABEL: &str = "pod-template-hash";
/// History that is kept when the Deployment does not say.
const HISTORY_LIMIT: usize = 10;

/// The Deployment controller.
#[derive(Debug)]
pub struct DeploymentController;

/// A Deployment and its ReplicaSets.
pub(super) struct Family<'a> {
    pub(super) deployment: &'a DeploymentView,
    /// The set of the present template.
    pub(super) new: Option<&'a ReplicasView>,
    /// The others, oldest first.
    pub(super) old: Vec<&'a ReplicasView>,
}

impl<'a> Family<'a> {
    fn of(world: &'a World, deployment: &'a DeploymentView) -> Self {
        let mut sets: Vec<&ReplicasView> = world
            .dependents_of(deployment.meta.uid)
            .filter(|key| key.kind == kind::REPLICA_SETS)
            .filter_map(|key| world.replicas(key))
            .filter(|set| set.meta.controller().is_some_and(|by| by.uid == deployment.meta.uid))
            .collect();
        sets.sort_by_key(|set| (set.meta.created, set.meta.name.clone()));
        let same = sets.iter().position(|set| set.template.hash == deployment.template.hash);
        // A set that we made for this template is its set, even if the API changed a detail of it:
        // else there would be no end of sets.
        let name = set_name(deployment).0;
        let new = same.or_else(|| sets.iter().position(|set| *set.meta.name == *name));
        let new = new.map(|at| sets.remove(at));
        Self { deployment, new, old: sets }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a ReplicasView> {
        self.old.iter().copied().chain(self.new)
    }

    fn owner(&self) -> Owner<'a> {
        Owner {
            api_version: "apps/v1",
            kind: "Deployment",
            meta: &self.deployment.meta,
            component: "deployment-controller",
        }
    }
}

fn revision(set: &ReplicasView) -> u64 {
    set.meta.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let old = changed.old.as_ref().map(View::meta);
        if changed.key.kind == kind::DEPLOYMENTS {
            keys.push(changed.key.clone());
        } else if changed.key.kind == kind::REPLICA_SETS {
            for meta in old.into_iter().chain(world.meta(&changed.key)) {
                match meta.controller() {
                    Some(owner) => keys.extend(world.by_uid(owner.uid).cloned()),
                    None => {
                        let all = world.deployments_in(&meta.namespace);
                        let selecting = all.filter(|it| it.selector.matches(&meta.labels));
                        keys.extend(selecting.map(|it| it.meta.key(kind::DEPLOYMENTS)));
                    }
                }
            }
            keys.retain(|key| key.kind == kind::DEPLOYMENTS);
        } else if changed.key.kind == kind::PODS {
            // "Recreate" waits for the last old pod.
            let (Some(old), None) = (old, world.meta(&changed.key)) else { return };
            let set = old.controller().and_then(|owner| world.by_uid(owner.uid));
            let set = set.and_then(|key| world.replicas(key));
            let owner = set.and_then(|set| set.meta.controller());
            let deployment = owner.and_then(|owner| world.by_uid(owner.uid));
            keys.extend(deployment.filter(|key| key.kind == kind::DEPLOYMENTS).cloned());
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(deployment) = world.deployment(&key.namespace, &key.name) else { return plan };
        let family = Family::of(world, deployment);
        if deployment.meta.deleting.is_none() {
            type Step = fn(&World, &Family<'_>) -> Vec<Op>;
            let steps: [Step; 4] = [claim_sets, new_set, rolling::scale, clean_up];
            for step in steps {
                plan.ops = step(world, &family);
                if !plan.ops.is_empty() {
                    return plan;
                }
            }
        }
        status::report(&family, now, &mut plan);
        plan
    }
}

fn claim_sets(world: &World, family: &Family<'_>) -> Vec<Op> {
    let deployment = family.deployment;
    let owner = family.owner();
    world
        .replicas_in(&kind::REPLICA_SETS, &deployment.meta.namespace)
        .filter_map(|set| claim(&owner, &deployment.selector, kind::REPLICA_SETS, &set.meta))
        .collect()
}

/// Makes the ReplicaSet of the present template, or gives the one that exists the newest revision.
fn new_set(world: &World, family: &Family<'_>) -> Vec<Op> {
    let deployment = family.deployment;
    let wanted = family.old.iter().map(|set| revision(set)).max().unwrap_or_default() + 1;
    let Some(new) = family.new else {
        return if deployment.paused { Vec::new() } else { create_set(world, family, wanted) };
    };
    if revision(new) < wanted {
        return vec![raise_revision(family, new, wanted)];
    }
    let text = revision(new).to_string();
    let cause = new.meta.annotations.get(CHANGE_CAUSE);
    let wished_cause = deployment.meta.annotations.get(CHANGE_CAUSE);
    if deployment.meta.annotations.get(REVISION) != Some(&text) {
        return vec![note_revision(deployment, &text)];
    }
    if wished_cause.is_some() && cause != wished_cause {
        return vec![Op::Patch {
            key: new.meta.key(kind::REPLICA_SETS),
            base: new.meta.version,
            subresource: None,
            merge: json!({ "metadata": { "annotations": { CHANGE_CAUSE: wished_cause } } }),
        }];
    }
    Vec::new()
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

/// A rolled back template: its set becomes the newest again and remembers what it was.
fn raise_revision(family: &Family<'_>, new: &ReplicasView, wanted: u64) -> Op {
    let mut annotations = json!({ REVISION: wanted.to_string() });
    if let Some(before) = new.meta.annotations.get(REVISION) {
        let history = new.meta.annotations.get(REVISION_HISTORY);
        let history = history.map_or(before.to_owned(), |history| format!("{history},{before}"));
        annotations[REVISION_HISTORY] = history.into();
    }
    if let Some(cause) = family.deployment.meta.annotations.get(CHANGE_CAUSE) {
        annotations[CHANGE_CAUSE] = cause.into();
    }
    Op::Patch {
        key: new.meta.key(kind::REPLICA_SETS),
        base: new.meta.version,
        subresource: None,
        merge: json!({ "metadata": { "annotations": annotations } }),
    }
}

fn create_set(world: &World, family: &Family<'_>, revision: u64) -> Vec<Op> {
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

/// Name and hash label of the set of the present template.
fn set_name(deployment: &DeploymentView) -> (String, String) {
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
    for (name, value) in scale_annotations(deployment) {
        annotations[name] = value.into();
    }
    if let Some(cause) = deployment.meta.annotations.get(CHANGE_CAUSE) {
        annotations[CHANGE_CAUSE] = cause.into();
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
fn scale_annotations(deployment: &DeploymentView) -> [(&'static str, String); 2] {
    let (surge, _) = rolling::bounds(deployment);
    let most = deployment.replicas.saturating_add(surge);
    [(DESIRED, deployment.replicas.to_string()), (MAX, most.to_string())]
}

/// Removes the oldest sets beyond the history limit once the roll-out is complete.
fn clean_up(_: &World, family: &Family<'_>) -> Vec<Op> {
    if !status::complete(family) {
        return Vec::new();
    }
    let limit = family.deployment.history_limit.map_or(HISTORY_LIMIT, |limit| limit as usize);
    let idle = |set: &&&ReplicasView| {
        set.replicas == 0
            && set.status.replicas == 0
            && set.status.observed_generation >= set.meta.generation
            && set.meta.deleting.is_none()
    };
    let mut sets: Vec<&ReplicasView> = family.old.iter().filter(idle).copied().collect();
    sets.sort_by_key(|set| revision(set));
    let surplus = sets.len().saturating_sub(limit);
    let delete = |set: &ReplicasView| Op::Delete {
        key: set.meta.key(kind::REPLICA_SETS),
        base: set.meta.version,
        uid: set.meta.uid,
        grace_seconds: None,
        propagation: Propagation::Background,
    };
    sets.into_iter().take(surplus).map(delete).collect()
}
