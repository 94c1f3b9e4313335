//! Scaling a Deployment whose `spec.replicas` changed, or that is paused (upstream's `scale`).
//!
//! With one active set that set takes the whole difference. While several are active, each gets the
//! part of the difference that its size is of the whole, so that a wide roll-out stays as far as it
//! is and a bad new template does not take all new pods. What a set was scaled by is noted on it:
//! where that differs from what is wished now, scaling is due.

use std::cmp::Reverse;

use model::view::{ReplicasView, Strategy};

use super::super::Op;
use super::{DESIRED, Family, MAX, rolling};

/// Whether some active set was scaled by another wish than the present one.
pub(super) fn is_due(family: &Family<'_>) -> bool {
    let wished = family.deployment.replicas;
    let rolls = matches!(family.deployment.strategy, Strategy::Rolling { .. });
    rolls && active(family).any(|set| noted(set, DESIRED).is_some_and(|desired| desired != wished))
}

fn active<'a>(family: &Family<'a>) -> impl Iterator<Item = &'a ReplicasView> {
    family.all().filter(|set| set.replicas > 0)
}

fn noted(set: &ReplicasView, name: &str) -> Option<u32> {
    set.meta.annotations.get(name)?.parse().ok()
}

/// Brings the sets to the present wish.
pub(super) fn scale(family: &Family<'_>) -> Vec<Op> {
    let wished = family.deployment.replicas;
    let mut sets: Vec<&ReplicasView> = active(family).collect();
    if sets.len() <= 1 {
        let newest = family.new.or(family.old.last().copied());
        let set = sets.first().copied().or(newest);
        return set.map_or(Vec::new(), |set| rolling::resize(family, set, wished, true));
    }
    if family.new.is_some_and(|new| is_saturated(new, wished)) {
        let old = family.old.iter().filter(|set| set.replicas > 0);
        return old.flat_map(|set| rolling::resize(family, set, 0, true)).collect();
    }
    if !rolling::is_rolling(family) {
        return Vec::new();
    }
    let (surge, _) = rolling::bounds(family.deployment);
    let allowed = if wished > 0 { i64::from(wished.saturating_add(surge)) } else { 0 };
    let total: i64 = sets.iter().map(|set| i64::from(set.replicas)).sum();
    // A set that was told to shrink still has its pods until it reports.
    let most: i64 = sets.iter().map(|set| i64::from(set.replicas.max(set.status.replicas))).sum();
    let change = if allowed > total { (allowed - most).max(0) } else { allowed - total };
    // The largest first; of two that are as large the newer one grows, the older one shrinks.
    sets.sort_by_key(|set| (Reverse(set.replicas), set.meta.created, set.meta.name.clone()));
    if change > 0 {
        sets.reverse();
        sets.sort_by_key(|set| Reverse(set.replicas));
    }
    let sizes = shares(family, &sets, change);
    let resized = sets.iter().zip(sizes);
    resized.flat_map(|(set, size)| rolling::resize(family, set, size, true)).collect()
}

/// The new size of each set; the first one takes what rounding leaves.
fn shares(family: &Family<'_>, sets: &[&ReplicasView], change: i64) -> Vec<u32> {
    let mut left = change;
    let mut sizes: Vec<i64> = Vec::with_capacity(sets.len());
    for set in sets {
        let wanted = fraction(family, set);
        let part = match change {
            0 => 0,
            1.. => wanted.min(left),
            _ => wanted.max(left),
        };
        left -= part;
        sizes.push(i64::from(set.replicas) + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first += left;
    }
    sizes.into_iter().map(|size| u32::try_from(size.max(0)).unwrap_or(u32::MAX)).collect()
}

/// By how much a set changes when the whole does (upstream's `getReplicaSetFraction`).
fn fraction(family: &Family<'_>, set: &ReplicasView) -> i64 {
    let deployment = family.deployment;
    let size = i64::from(set.replicas);
    if deployment.replicas == 0 {
        return -size;
    }
    let (surge, _) = rolling::bounds(deployment);
    let most = i64::from(deployment.replicas.saturating_add(surge));
    let before = noted(set, MAX).filter(|most| *most > 0).unwrap_or(deployment.status.replicas);
    match i64::from(before) {
        0 => 0,
        before => (2 * size * most + before) / (2 * before) - size,
    }
}

fn is_saturated(new: &ReplicasView, wished: u32) -> bool {
    new.replicas == wished
        && noted(new, DESIRED) == Some(wished)
        && new.status.available_replicas == wished
}
