//! The desired set in memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::ids::Uid;
use model::wire::{DesiredPodV1, DesiredV1, ObjectV1};

use crate::node::object::Objects;

/// The message is a difference to a revision that this board does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the difference is to revision {base}, this board holds {held}")]
pub(crate) struct Mismatch {
    pub(crate) base: u64,
    pub(crate) held: u64,
}

/// What a message changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) pods: BTreeSet<Uid>,
    pub(crate) pods_gone: BTreeSet<Uid>,
    pub(crate) objects: BTreeSet<String>,
}

/// Pods and the objects they need.
#[derive(Clone, Debug, Default)]
pub(crate) struct DesiredSet {
    pub(crate) revision: u64,
    pub(crate) pods: BTreeMap<Uid, DesiredPodV1>,
    objects: BTreeMap<String, ObjectV1>,
}

impl DesiredSet {
    /// Checks that a message can be applied.
    pub(crate) fn fits(&self, message: &DesiredV1) -> Result<(), Mismatch> {
        match message.base {
            0 => Ok(()),
            base if base == self.revision => Ok(()),
            base => Err(Mismatch { base, held: self.revision }),
        }
    }

    /// Applies a message that fits.
    pub(crate) fn apply(&mut self, message: DesiredV1) -> Changes {
        let mut changes = Changes::default();
        let (pods_gone, objects_gone) = if message.base == 0 {
            let pods: BTreeSet<Uid> = message.pods.iter().map(|pod| pod.uid).collect();
            let objects: BTreeSet<&String> = message.objects.iter().map(|o| &o.key).collect();
            let pods_gone = self.pods.keys().filter(|uid| !pods.contains(uid)).copied().collect();
            let gone = self.objects.keys().filter(|key| !objects.contains(key));
            (pods_gone, gone.cloned().collect())
        } else {
            (message.pods_gone, message.objects_gone)
        };
        for uid in pods_gone {
            if self.pods.remove(&uid).is_some() {
                changes.pods_gone.insert(uid);
            }
        }
        for key in objects_gone {
            if self.objects.remove(&key).is_some() {
                changes.objects.insert(key);
            }
        }
        for pod in message.pods {
            let same = self.pods.get(&pod.uid).is_some_and(|held| held.pod == pod.pod);
            if !same {
                changes.pods.insert(pod.uid);
            }
            self.pods.insert(pod.uid, pod);
        }
        for object in message.objects {
            let same = self.objects.get(&object.key).is_some_and(|o| o.object == object.object);
            if !same {
                changes.objects.insert(object.key.clone());
            }
            self.objects.insert(object.key.clone(), object);
        }
        self.revision = message.revision;
        changes
    }

    /// The whole set as one message.
    pub(crate) fn snapshot(&self) -> DesiredV1 {
        DesiredV1 {
            revision: self.revision,
            base: 0,
            pods: self.pods.values().cloned().collect(),
            pods_gone: Vec::new(),
            objects: self.objects.values().cloned().collect(),
            objects_gone: Vec::new(),
        }
    }

    /// The objects with these keys.
    pub(crate) fn objects(&self, keys: &BTreeSet<String>) -> Objects {
        let found = keys.iter().filter_map(|key| {
            let object: Bytes = self.objects.get(key)?.object.clone();
            Some((key.clone(), object))
        });
        Objects::new(found.collect())
    }
}
