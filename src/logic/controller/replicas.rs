//! ReplicaSets and ReplicationControllers: keep as many pods of one template as wished.
//!
//! Pods that match and that nobody manages are adopted, own pods that no longer match are let go.
//! Which pods go first when there are too many: see `ranking`.

mod ranking;

use model::ids::{KindKey, ObjectKey};
use model::limits::PLAN_PODS_MAX;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::view::{Labels, PodView, ReplicasView, View, kind};
use serde_json::{Value, json};

use super::ownership::{Owner, claim, generated_name, open_for_new};
use super::{Controller, Op, Plan, Propagation};
use crate::world::{Changed, World};

/// The controller of one of the two kinds.
#[derive(Debug)]
pub struct ReplicasController {
    kind: KindKey,
    api_version: &'static str,
    object_kind: &'static str,
    component: &'static str,
}

impl ReplicasController {
    /// For ReplicaSets.
    pub const REPLICA_SETS: Self = Self {
        kind: kind::REPLICA_SETS,
        api_version: "apps/v1",
        object_kind: "ReplicaSet",
        component: "replicaset-controller",
    };
    /// For ReplicationControllers.
    pub const REPLICATION_CONTROLLERS: Self = Self {
        kind: kind::REPLICATION_CONTROLLERS,
        api_version: "v1",
        object_kind: "ReplicationController",
        component: "replication-controller",
    };

    fn owner<'a>(&self, set: &'a ReplicasView) -> Owner<'a> {
        Owner {
            api_version: self.api_version,
            kind: self.object_kind,
            meta: &set.meta,
            component: self.component,
        }
    }

    fn keys_for_pod(&self, world: &World, pod: &PodView, keys: &mut Vec<ObjectKey>) {
        match pod.meta.controller() {
            Some(owner) => {
                keys.extend(world.by_uid(owner.uid).filter(|key| key.kind == self.kind).cloned());
            }
            None => {
                let sets = world.replicas_in(&self.kind, &pod.meta.namespace);
                let selecting = sets.filter(|set| set.selector.matches(&pod.meta.labels));
                keys.extend(selecting.map(|set| set.meta.key(self.kind.clone())));
            }
        }
    }

    fn creations(
        &self,
        world: &World,
        set: &ReplicasView,
        count: usize,
        now: Timestamp,
        ops: &mut Vec<Op>,
    ) {
        let template = set.template.value();
        let owner = self.owner(set);
        let base = format!("{}-", set.meta.name);
        let mut made = std::collections::BTreeSet::new();
        for number in 0.. {
            if made.len() == count.min(PLAN_PODS_MAX) {
                break;
            }
            let name = generated_name(&base, set.meta.uid, world, now, number);
            let taken = world.pod(&set.meta.namespace, &name).is_some();
            if taken || !made.insert(name.clone()) {
                continue;
            }
            ops.push(Op::Create {
                kind: kind::PODS,
                object: pod_of(&template, &owner, &name, &base, set),
            });
            ops.push(owner.event(false, "SuccessfulCreate", format!("Created pod: {name}")));
        }
    }

    fn deletions(&self, world: &World, set: &ReplicasView, pods: Vec<&PodView>, ops: &mut Vec<Op>) {
        let surplus = pods.len() - set.replicas as usize;
        let related = ranking::related_pods(world, set);
        for pod in
            ranking::victims_first(pods, &related).into_iter().take(surplus.min(PLAN_PODS_MAX))
        {
            ops.push(Op::Delete {
                key: pod.meta.key(kind::PODS),
                base: pod.meta.version,
                uid: pod.meta.uid,
                grace_seconds: None,
                propagation: Propagation::Background,
            });
            let message = format!("Deleted pod: {}", pod.meta.name);
            ops.push(self.owner(set).event(false, "SuccessfulDelete", message));
        }
    }
}

/// A pod made of a template.
fn pod_of(
    template: &Value,
    owner: &Owner<'_>,
    name: &str,
    base: &str,
    set: &ReplicasView,
) -> Value {
    let mut metadata = json!({
        "name": name, "generateName": base, "namespace": &*set.meta.namespace,
        "ownerReferences": [owner.reference()],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
            metadata[field] = value.clone();
        }
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    })
}

impl Controller for ReplicasController {
    fn name(&self) -> &'static str {
        self.component
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind == self.kind {
            keys.push(changed.key.clone());
        } else if changed.key.kind == kind::PODS {
            if let Some(View::Pod(old)) = &changed.old {
                self.keys_for_pod(world, old, keys);
            }
            if let Some(pod) = world.pod(&changed.key.namespace, &changed.key.name) {
                self.keys_for_pod(world, pod, keys);
            }
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(set) = world.replicas(key) else { return plan };
        let owned = world.pods_of(set.meta.uid).filter(|pod| pod.active());
        if set.meta.deleting.is_none() {
            let orphans = world.orphan_pods(&set.meta.namespace).filter(|pod| pod.active());
            let owner = self.owner(set);
            let candidates = world.pods_of(set.meta.uid).filter(|pod| pod.active()).chain(orphans);
            plan.ops.extend(
                candidates
                    .filter_map(|pod| claim(&owner, &set.selector, kind::PODS, &pod.meta))
                    .take(PLAN_PODS_MAX),
            );
            if !plan.ops.is_empty() {
                return plan;
            }
        }
        let pods: Vec<&PodView> = owned.collect();
        let (have, wanted) = (pods.len(), set.replicas as usize);
        if set.meta.deleting.is_none() && have != wanted {
            if have > wanted {
                self.deletions(world, set, pods.clone(), &mut plan.ops);
            } else if open_for_new(world, &set.meta.namespace) {
                self.creations(world, set, wanted - have, now, &mut plan.ops);
            }
        }
        // With pods to make or remove, the status follows in the plan after them.
        if plan.ops.is_empty() {
            let going = world.pods_of(set.meta.uid).filter(|pod| pod.going()).count();
            report(set, &pods, going, now, &mut plan);
        }
        plan
    }

    fn refused(&self, world: &World, key: &ObjectKey, error: &ApiError, now: Timestamp) -> Vec<Op> {
        let Some(set) = world.replicas(key) else { return Vec::new() };
        let message = format!("Error creating: {}", error.message);
        let mut ops = vec![self.owner(set).event(true, "FailedCreate", message)];
        if set.status.conditions.iter().all(|it| &*it.r#type != "ReplicaFailure") {
            let condition = json!([{
                "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": error.message, "lastTransitionTime": now.to_string(),
            }]);
            ops.push(Op::Patch {
                key: key.clone(),
                base: set.meta.version,
                subresource: Some("status"),
                merge: json!({ "status": { "conditions": condition } }),
            });
        }
        ops
    }
}

/// Plans a status update when what is reported is no longer true.
fn report(set: &ReplicasView, pods: &[&PodView], going: usize, now: Timestamp, plan: &mut Plan) {
    let labels = set.template.value();
    let labels: Labels = labels
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    let wait_millis = i64::from(set.min_ready_seconds) * 1_000;
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    for pod in pods {
        let carries = |(name, value)| pod.meta.labels.get(name) == Some(value);
        labelled += u32::from(labels.iter().all(carries));
        let Some(since) = pod.ready_since else { continue };
        ready += 1;
        let due = since.plus_millis(wait_millis);
        if due <= now {
            available += 1;
        } else {
            plan.again(due);
        }
    }
    let replicas = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    // ReplicationControllers have no such field.
    let counts_going = set.kind == kind::REPLICA_SETS;
    let terminating = counts_going.then(|| u32::try_from(going).unwrap_or(u32::MAX));
    let before = &set.status;
    let same = before.replicas == replicas
        && before.fully_labeled_replicas == labelled
        && before.ready_replicas == ready
        && before.available_replicas == available
        && before.terminating_replicas == terminating
        && before.observed_generation == set.meta.generation
        && before.conditions.is_empty();
    if same {
        return;
    }
    // A rolling update goes by what is available.
    plan.reports = plan.ops.is_empty()
        && before.available_replicas == available
        && before.observed_generation == set.meta.generation;
    // Zero is "absent" in all but the first, as upstream's omitempty.
    let count = |count: u32| if count == 0 { Value::Null } else { count.into() };
    plan.ops.push(Op::Patch {
        key: set.meta.key(set.kind.clone()),
        base: set.meta.version,
        subresource: Some("status"),
        merge: json!({ "status": {
            "replicas": replicas,
            "fullyLabeledReplicas": count(labelled),
            "readyReplicas": count(ready),
            "availableReplicas": count(available),
            "terminatingReplicas": terminating,
            "observedGeneration": set.meta.generation,
            "conditions": null,
        } }),
    });
}
