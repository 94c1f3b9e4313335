//! How many replicas each set of a Deployment gets next (upstream's `rolling.go`, `recreate.go`).
//!
//! Invariant of a rolling replacement: never more pods than wished plus surge, and old pods that
//! are available go only while more than wished minus `maxUnavailable` are.

use model::view::{DeploymentView, ReplicasView, Strategy, kind};
use serde_json::json;

use super::super::Op;
use super::newest::scale_annotations;
use super::{Family, proportional};
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

/// Whether pods are replaced a few at a time.
pub(super) fn is_rolling(family: &Family<'_>) -> bool {
    matches!(family.deployment.strategy, Strategy::Rolling { .. })
}

/// What the set of the present template should have at once.
pub(super) fn replicas_of_new(family: &Family<'_>) -> u32 {
    let wished = family.deployment.replicas;
    let have = family.new.map_or(0, |set| set.replicas);
    match family.deployment.strategy {
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

/// Changes of `spec.replicas`, with the events that tell of them.
pub(super) fn scale(world: &World, family: &Family<'_>) -> Vec<Op> {
    let deployment = family.deployment;
    if deployment.paused || proportional::is_due(family) {
        return proportional::scale(family);
    }
    match deployment.strategy {
        Strategy::Recreate => {
            let down: Vec<Op> =
                family.old.iter().flat_map(|set| resize(family, set, 0, false)).collect();
            if !down.is_empty() || old_pods_run(world, family) {
                return down;
            }
            let new = family.new;
            new.map_or(Vec::new(), |new| resize(family, new, deployment.replicas, false))
        }
        Strategy::Rolling { .. } => {
            let Some(new) = family.new else { return Vec::new() };
            let up = resize(family, new, replicas_of_new(family), false);
            if up.is_empty() { scale_down_old(family, new) } else { up }
        }
    }
}

/// Whether a pod of an old template is left that has not ended.
pub(super) fn old_pods_run(world: &World, family: &Family<'_>) -> bool {
    let sets = || family.old.iter();
    sets().any(|set| set.replicas > 0)
        || sets().flat_map(|set| world.pods_of(set.meta.uid)).any(|pod| !pod.finished())
}

/// Shrinks the old sets: first what is not available anyway, then what can be spared.
fn scale_down_old(family: &Family<'_>, new: &ReplicasView) -> Vec<Op> {
    let deployment = family.deployment;
    let least = i64::from(deployment.replicas - tolerated(deployment));
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
        .flat_map(|(set, left)| resize(family, set, u32::try_from(left).unwrap_or_default(), false))
        .collect()
}

/// Pods that are available and stay: a set that was told to shrink may still report the others.
fn sure(set: &ReplicasView) -> u32 {
    set.status.available_replicas.min(set.replicas)
}

/// Gives a set another size; `notes` also when only what is noted on it is out of date.
pub(super) fn resize(
    family: &Family<'_>,
    set: &ReplicasView,
    replicas: u32,
    notes: bool,
) -> Vec<Op> {
    let annotations = scale_annotations(family.deployment).into_iter();
    let same_notes =
        annotations.clone().all(|(name, text)| set.meta.annotations.get(name) == Some(&text));
    let same = set.replicas == replicas && (same_notes || !notes);
    if same || set.meta.deleting.is_some() {
        return Vec::new();
    }
    let mut merge = json!({ "metadata": { "annotations": {} } });
    annotations.for_each(|(name, text)| merge["metadata"]["annotations"][name] = text.into());
    if set.replicas != replicas {
        merge["spec"]["replicas"] = replicas.into();
    }
    let key = set.meta.key(kind::REPLICA_SETS);
    let mut ops = vec![Op::Patch { key, base: set.meta.version, subresource: None, merge }];
    if set.replicas != replicas {
        let direction = if replicas > set.replicas { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} replica set {} from {} to {replicas}",
            set.meta.name, set.replicas
        );
        ops.push(family.owner().event(false, "ScalingReplicaSet", message));
    }
    ops
}
