//! Deployments: one ReplicaSet per template, the newest one grown while the others shrink.
//!
//! ```text
//! adopt -> find or make the set of this template -> scale (rolling | recreate | proportional)
//!       -> remove history beyond the limit -> report
//! ```
//! Each plan does the first of these steps that has something to do; its change brings the key
//! back. Deliberately absent: `spec.rollbackTo` of the API groups before `apps/v1`.

mod newest;
mod proportional;
mod rolling;
mod status;

use model::ids::ObjectKey;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::view::{DeploymentView, ReplicasView, View, kind};

use super::ownership::{Owner, claim};
use super::{Controller, Op, Plan, Propagation};
use crate::world::{Changed, World};

const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
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
        let name = newest::set_name(deployment).0;
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
            let steps: [Step; 4] = [claim_sets, newest::step, rolling::scale, clean_up];
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

    fn refused(&self, world: &World, key: &ObjectKey, error: &ApiError, now: Timestamp) -> Vec<Op> {
        let Some(deployment) = world.deployment(&key.namespace, &key.name) else {
            return Vec::new();
        };
        newest::refused(&Family::of(world, deployment), error, now)
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

/// Removes the oldest sets beyond the history limit once the roll-out is complete, or paused.
fn clean_up(_: &World, family: &Family<'_>) -> Vec<Op> {
    if !family.deployment.paused && !status::complete(family) {
        return Vec::new();
    }
    let limit = family.deployment.history_limit.map_or(HISTORY_LIMIT, |limit| limit as usize);
    let alive = |set: &&&ReplicasView| set.meta.deleting.is_none();
    let idle = |set: &&ReplicasView| {
        set.replicas == 0
            && set.status.replicas == 0
            && set.status.observed_generation >= set.meta.generation
    };
    let mut sets: Vec<&ReplicasView> = family.old.iter().filter(alive).copied().collect();
    sets.sort_by_key(|set| revision(set));
    let surplus = sets.len().saturating_sub(limit);
    let delete = |set: &ReplicasView| Op::Delete {
        key: set.meta.key(kind::REPLICA_SETS),
        base: set.meta.version,
        uid: set.meta.uid,
        grace_seconds: None,
        propagation: Propagation::Background,
    };
    sets.into_iter().take(surplus).filter(idle).map(delete).collect()
}
