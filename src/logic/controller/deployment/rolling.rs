//! How many replicas each set of a Deployment gets next (upstream's `rolling.go`, `recreate.go`).
//!
//! Invariant of a rolling replacement: never more pods than wished plus surge, and old pods that
//! are available go only while more than wished minus `maxUnavailable` are.

use model::view::{DeploymentView, ReplicasView, Strategy, kind};
use serde_json::{Value, json};

use super::super::Op;
use super::{Family, scale_annotations};
use crate::world::World;

/// Surge and unavailability in pods. Both zero would never move: then one may be unavailable.
pub(super) fn bounds(deployment: &DeploymentView) -> (u32, u32) {
    let Strategy::Rolling { max_surge, max_unavailable } = deployment.strategy else {
        return (0, 0);
    };
    let surge = max_surge.of(deployment.replicas, true);
    let unavailable = max_unavailable.of(deployment.replicas, false);
    (surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable })
}

/// Pods that may be missing while the Deployment still counts as available.
pub(super) fn tolerated(deployment: &DeploymentView) -> u32 {
    bounds(deployment).1.min(deployment.replicas)
}

/// What the set of the present template should have at once.
pub(super) fn replicas_of_new(family: &Family<'_>) -> u32 {
    let wished = family.deployment.replicas;
    let have = family.new.map_or(0, |set| set.replicas);
    match family.deployment.strategy {
        Strategy::Recreate if family.new.is_none() && old_replicas(family) > 0 => 0,
        Strategy::Recreate => wished,
        Strategy::Rolling { .. } if have >= wished => wished,
        Strategy::Rolling { .. } => {
            let (surge, _) = bounds(family.deployment);
            // A set that was told to shrink still has its pods until it reports.
            let most = |set: &ReplicasView| set.replicas.max(set.status.replicas);
            let all = family.all().fold(0_u32, |sum, set| sum.saturating_add(most(set)));
            have + wished.saturating_add(surge).saturating_sub(all).min(wished - have)
        }
    }
}

fn old_replicas(family: &Family<'_>) -> u32 {
    family.old.iter().fold(0, |sum, set| sum.saturating_add(set.replicas))
}

/// Changes of `spec.replicas`, with the events that tell of them.
pub(super) fn scale(world: &World, family: &Family<'_>) -> Vec<Op> {
    let deployment = family.deployment;
    if deployment.paused {
        return scale_paused(family);
    }
    let Some(new) = family.new else { return Vec::new() };
    match deployment.strategy {
        Strategy::Recreate => {
            let down: Vec<Op> =
                family.old.iter().flat_map(|set| scale_one(family, set, 0)).collect();
            if !down.is_empty() || old_pods_run(world, family) {
                return down;
            }
            scale_one(family, new, deployment.replicas)
        }
        Strategy::Rolling { .. } => {
            let up = scale_one(family, new, replicas_of_new(family));
            if up.is_empty() { scale_down_old(family, new) } else { up }
        }
    }
}

/// A paused Deployment still follows `spec.replicas` with its only, or its newest, set.
fn scale_paused(family: &Family<'_>) -> Vec<Op> {
    let mut active = family.all().filter(|set| set.replicas > 0);
    let set = match (active.next(), active.next()) {
        (Some(_), Some(_)) => return Vec::new(),
        (Some(only), None) => Some(only),
        (None, _) => family.new.or(family.old.last().copied()),
    };
    set.map_or(Vec::new(), |set| scale_one(family, set, family.deployment.replicas))
}

fn old_pods_run(world: &World, family: &Family<'_>) -> bool {
    family.old.iter().flat_map(|set| world.pods_of(set.meta.uid)).any(|pod| !pod.finished())
}

/// Shrinks the old sets: first what is not available anyway, then what can be spared.
fn scale_down_old(family: &Family<'_>, new: &ReplicasView) -> Vec<Op> {
    let deployment = family.deployment;
    let (_, unavailable) = bounds(deployment);
    let least = i64::from(deployment.replicas) - i64::from(unavailable);
    let sum =
        |of: fn(&ReplicasView) -> u32| family.all().map(|set| i64::from(of(set))).sum::<i64>();
    let missing = i64::from(new.replicas) - i64::from(new.status.available_replicas);
    let mut spare = sum(|set| set.replicas) - least - missing;
    if spare <= 0 {
        return Vec::new();
    }
    let mut left: Vec<i64> = family.old.iter().map(|set| i64::from(set.replicas)).collect();
    for (left, set) in left.iter_mut().zip(&family.old) {
        let sick = (*left - i64::from(sure(set))).clamp(0, spare.max(0));
        *left -= sick;
        spare -= sick;
    }
    let mut spare = sum(sure) - least;
    for left in &mut left {
        let fewer = (*left).clamp(0, spare.max(0));
        *left -= fewer;
        spare -= fewer;
    }
    let targets = family.old.iter().zip(left);
    targets
        .flat_map(|(set, left)| scale_one(family, set, u32::try_from(left).unwrap_or_default()))
        .collect()
}

/// Pods that are available and stay: a set that was told to shrink may still report the others.
fn sure(set: &ReplicasView) -> u32 {
    set.status.available_replicas.min(set.replicas)
}

fn scale_one(family: &Family<'_>, set: &ReplicasView, replicas: u32) -> Vec<Op> {
    if set.replicas == replicas || set.meta.deleting.is_some() {
        return Vec::new();
    }
    let annotations: serde_json::Map<String, Value> = scale_annotations(family.deployment)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let direction = if replicas > set.replicas { "up" } else { "down" };
    let message = format!(
        "Scaled {direction} replica set {} from {} to {replicas}",
        set.meta.name, set.replicas
    );
    vec![
        Op::Patch {
            key: set.meta.key(kind::REPLICA_SETS),
            base: set.meta.version,
            subresource: None,
            merge: json!({
                "metadata": { "annotations": annotations }, "spec": { "replicas": replicas },
            }),
        },
        family.owner().event(false, "ScalingReplicaSet", message),
    ]
}
