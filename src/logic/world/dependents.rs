//! Which objects name which owner.

use std::collections::{BTreeSet, HashMap};

use model::ids::{ObjectKey, Uid};
use model::view::OwnerReference;

/// Keys of dependents by the uid of an owner, whether or not that owner exists.
#[derive(Debug, Default)]
pub(super) struct Dependents(HashMap<Uid, BTreeSet<ObjectKey>>);

impl Dependents {
    pub(super) fn of(&self, owner: Uid) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(&owner).into_iter().flatten()
    }

    pub(super) fn add(&mut self, key: &ObjectKey, owners: &[OwnerReference]) {
        for owner in owners {
            self.0.entry(owner.uid).or_default().insert(key.clone());
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, owners: &[OwnerReference]) {
        for owner in owners {
            let Some(keys) = self.0.get_mut(&owner.uid) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(&owner.uid);
            }
        }
    }
}
