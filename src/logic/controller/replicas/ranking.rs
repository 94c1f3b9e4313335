//! Which pods go first when there are too many (upstream's `ActivePodsWithRanks`).

use std::cmp::Reverse;
use std::collections::HashMap;

use model::timestamp::Timestamp;
use model::view::{PodView, ReplicasView, kind};

use crate::world::World;

/// Active pods per node of all sets with the same owner as `set`: a node that has many can spare
/// one.
pub(super) fn related_pods<'a>(world: &'a World, set: &ReplicasView) -> HashMap<&'a str, usize> {
    let mut uids = vec![set.meta.uid];
    if let Some(owner) = set.meta.controller() {
        let siblings = world.dependents_of(owner.uid).filter(|key| key.kind == kind::REPLICA_SETS);
        uids.extend(siblings.filter_map(|key| world.replicas(key)).map(|it| it.meta.uid));
        uids.sort();
        uids.dedup();
    }
    let mut counts = HashMap::new();
    for pod in uids.into_iter().flat_map(|uid| world.pods_of(uid)).filter(|pod| pod.active()) {
        *counts.entry(pod.node.as_ref()).or_default() += 1;
    }
    counts
}

/// Sorts pods so that those that are missed least come first.
pub(super) fn victims_first<'a>(
    mut pods: Vec<&'a PodView>,
    related: &HashMap<&str, usize>,
) -> Vec<&'a PodView> {
    pods.sort_by_cached_key(|pod| rank(pod, related));
    pods
}

type Rank = (
    bool,
    u8,
    bool,
    i32,
    Reverse<usize>,
    Reverse<Timestamp>,
    Reverse<u32>,
    Reverse<Timestamp>,
    String,
);

/// Not bound before bound, pending before unknown before running, not ready before ready, cheaper
/// before dearer, crowded before lonely, ready for a short time before long, more restarts before
/// fewer, young before old; the name last, so that the choice is the same on every run.
fn rank(pod: &PodView, related: &HashMap<&str, usize>) -> Rank {
    (
        !pod.node.is_empty(),
        pod.phase as u8,
        pod.ready_since.is_some(),
        pod.deletion_cost,
        Reverse(related.get(&*pod.node).copied().unwrap_or_default()),
        Reverse(pod.ready_since.unwrap_or_default()),
        Reverse(pod.restarts),
        Reverse(pod.meta.created),
        pod.meta.name.to_string(),
    )
}
