//! Garbage collection by owner references (upstream's `garbagecollector.go`).
//!
//! - *Background*: an object all of whose owners are gone is deleted; references to some that are
//!   gone are removed.
//! - *Foreground*: an owner with the finalizer `foregroundDeletion` goes after its dependents.
//! - *Orphan*: an owner with the finalizer `orphan` goes after the references to it were removed.
//!
//! An owner is known by its uid alone; a reference of a kind that this API does not serve counts as
//! present, so that nothing is collected on a guess.

use model::ids::ObjectKey;
use model::limits::PLAN_PODS_MAX;
use model::resource::by_kind;
use model::timestamp::Timestamp;
use model::view::{Meta, OwnerReference, View};

use super::ownership::{without_finalizer, without_owners};
use super::{Controller, Op, Plan, Propagation};
use crate::world::{Changed, World};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The garbage collector.
#[derive(Debug)]
pub struct GarbageCollector;

/// How an owner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// There, or of a kind that we cannot judge.
    Solid,
    /// Gone.
    Absent,
    /// Waits for its dependents to go before it.
    Waiting,
}

fn standing(world: &World, object: &Meta, owner: &OwnerReference) -> Standing {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    if by_kind(group, version, &owner.kind).is_none() {
        return Standing::Solid;
    }
    let reachable = |key: &&ObjectKey| {
        (key.namespace.is_empty() || *key.namespace == *object.namespace)
            && *key.name == *owner.name
    };
    let Some(key) = world.by_uid(owner.uid).filter(reachable) else { return Standing::Absent };
    match world.meta(key) {
        Some(meta) if waits(meta) => Standing::Waiting,
        _ => Standing::Solid,
    }
}

fn waits(meta: &Meta) -> bool {
    meta.deleting.is_some() && meta.has_finalizer(FOREGROUND)
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let old = changed.old.as_ref().map(View::meta);
        let new = world.meta(&changed.key);
        if let Some(meta) = new
            && (!meta.owners.is_empty() || (meta.deleting.is_some() && !meta.finalizers.is_empty()))
        {
            keys.push(changed.key.clone());
        }
        if changed.gone {
            keys.extend(world.dependents_of(changed.uid).cloned());
        }
        let owners = old.into_iter().chain(new).flat_map(|meta| &meta.owners);
        let owners = owners.filter_map(|owner| world.by_uid(owner.uid));
        let held =
            |meta: &Meta| waits(meta) || (meta.deleting.is_some() && meta.has_finalizer(ORPHAN));
        keys.extend(owners.filter(|key| world.meta(key).is_some_and(held)).cloned());
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let Some(meta) = world.meta(key) else { return plan };
        plan.ops = if meta.deleting.is_none() {
            judge(world, key, meta).into_iter().collect()
        } else if meta.has_finalizer(ORPHAN) {
            let ops: Vec<Op> = dependents(world, meta)
                .map(|(key, it)| without_owners(key.kind.clone(), it, |uid| uid == meta.uid))
                .take(PLAN_PODS_MAX)
                .collect();
            if ops.is_empty() { vec![without_finalizer(key.clone(), meta, ORPHAN)] } else { ops }
        } else if meta.has_finalizer(FOREGROUND) {
            let blocked = dependents(world, meta).any(|(_, it)| {
                it.owners.iter().any(|owner| owner.uid == meta.uid && owner.blocks_deletion)
            });
            let ops: Vec<Op> = dependents(world, meta)
                .filter(|(_, it)| it.deleting.is_none())
                .filter_map(|(key, it)| judge(world, key, it))
                .take(PLAN_PODS_MAX)
                .collect();
            if ops.is_empty() && !blocked {
                vec![without_finalizer(key.clone(), meta, FOREGROUND)]
            } else {
                ops
            }
        } else {
            Vec::new()
        };
        plan
    }
}

fn dependents<'a>(
    world: &'a World,
    owner: &Meta,
) -> impl Iterator<Item = (&'a ObjectKey, &'a Meta)> + use<'a> {
    world.dependents_of(owner.uid).filter_map(|key| Some((key, world.meta(key)?)))
}

/// What to do with an object that nobody deletes, because of how its owners stand.
fn judge(world: &World, key: &ObjectKey, meta: &Meta) -> Option<Op> {
    let standings: Vec<Standing> =
        meta.owners.iter().map(|owner| standing(world, meta, owner)).collect();
    if standings.iter().all(|it| *it == Standing::Solid) {
        return None;
    }
    if standings.contains(&Standing::Solid) {
        let gone = |uid| {
            let mut with = meta.owners.iter().zip(&standings);
            with.any(|(owner, it)| owner.uid == uid && *it != Standing::Solid)
        };
        return Some(without_owners(key.kind.clone(), meta, gone));
    }
    let has_dependents = world.dependents_of(meta.uid).next().is_some();
    let propagation = if meta.has_finalizer(ORPHAN) {
        Propagation::Orphan
    } else if meta.has_finalizer(FOREGROUND)
        || (standings.contains(&Standing::Waiting) && has_dependents)
    {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Some(Op::Delete {
        key: key.clone(),
        base: meta.version,
        uid: meta.uid,
        grace_seconds: None,
        propagation,
    })
}
