//! What a board should run, and the difference to what it was told last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use logic::world::World;
use model::ids::{ObjectKey, Uid, Version};
use model::limits::PODS_GONE_MAX;
use model::view::kind;
use model::wire::{DesiredPodV1, DesiredV1, ObjectV1};

use crate::io::store::{Store, StoreError};

/// What a board was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Revision of it; 0 when it was told nothing in this session.
    pub(super) revision: u64,
    /// Pods, with the hash of what was wished of them.
    pods: BTreeMap<Uid, (ObjectKey, u64)>,
    /// ConfigMaps and Secrets.
    objects: BTreeMap<ObjectKey, Version>,
    /// Pods that it was told to run before, the oldest first.
    gone: VecDeque<Uid>,
}

/// What has to be said, as keys; the bodies come from the store.
#[derive(Debug, Default)]
pub(super) struct Difference {
    revision: u64,
    base: u64,
    pods: Vec<(Uid, ObjectKey)>,
    pods_gone: Vec<Uid>,
    objects: Vec<ObjectKey>,
    objects_gone: Vec<ObjectKey>,
}

impl Told {
    /// Whether the board was told of this pod.
    pub(super) fn knows(&self, pod: Uid) -> bool {
        self.pods.contains_key(&pod)
    }

    /// Whether the board was told of this pod, now or not long ago.
    pub(super) fn has_known(&self, pod: Uid) -> bool {
        self.knows(pod) || self.gone.contains(&pod)
    }

    /// Forgets what it was told: the next difference is the whole set, with a revision above `floor`.
    pub(super) fn forget(&mut self, floor: u64) {
        let (revision, gone) = (self.revision.max(floor), std::mem::take(&mut self.gone));
        *self = Self { revision, gone, ..Self::default() };
    }

    fn remember_gone(&mut self, pods: &BTreeMap<Uid, (ObjectKey, u64)>) {
        self.gone.extend(self.pods.keys().filter(|uid| !pods.contains_key(uid)));
        let excess = self.gone.len().saturating_sub(PODS_GONE_MAX);
        self.gone.drain(..excess);
    }

    /// Compares with the world and takes its state over; `None` when the board knows it all.
    /// `whole` says everything again; `also_gone` are pods that the board has but should not.
    pub(super) fn advance(
        &mut self,
        world: &World,
        node: &str,
        whole: bool,
        also_gone: &BTreeSet<Uid>,
    ) -> Option<Difference> {
        let mut pods = BTreeMap::new();
        let mut needs = BTreeSet::new();
        for pod in world.pods_on(node) {
            pods.insert(pod.meta.uid, (pod.meta.key(kind::PODS), pod.wish_hash));
            let namespace = pod.meta.namespace.to_string();
            needs.extend(pod.needs.iter().map(|(kind, name)| ObjectKey {
                kind: kind.clone(),
                namespace: namespace.clone(),
                name: name.to_string(),
            }));
        }
        let objects: BTreeMap<ObjectKey, Version> = needs
            .into_iter()
            .filter_map(|key| Some((key.clone(), world.meta(&key)?.version)))
            .collect();
        self.remember_gone(&pods);
        if whole {
            self.pods.clear();
            self.objects.clear();
        }
        let mut difference = Difference {
            revision: 0,
            base: if whole { 0 } else { self.revision },
            pods: Vec::new(),
            pods_gone: also_gone.iter().filter(|uid| !pods.contains_key(uid)).copied().collect(),
            objects: Vec::new(),
            objects_gone: Vec::new(),
        };
        for (uid, (key, hash)) in &pods {
            if self.pods.get(uid).is_none_or(|(_, told)| told != hash) {
                difference.pods.push((*uid, key.clone()));
            }
        }
        let gone = self.pods.keys().filter(|uid| !pods.contains_key(uid));
        difference.pods_gone.extend(gone);
        for (key, version) in &objects {
            if self.objects.get(key) != Some(version) {
                difference.objects.push(key.clone());
            }
        }
        let gone = self.objects.keys().filter(|key| !objects.contains_key(key));
        difference.objects_gone.extend(gone.cloned());
        if !whole && difference.is_empty() {
            return None;
        }
        self.pods = pods;
        self.objects = objects;
        // Versions only grow, over restarts too, so a revision never means two things.
        self.revision = world.version().0.max(self.revision + 1);
        difference.revision = self.revision;
        Some(difference)
    }
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.pods_gone.is_empty()
            && self.objects.is_empty()
            && self.objects_gone.is_empty()
    }

    /// The message, with bodies from the store. An object that vanished meanwhile is left out: the
    /// next difference says that it is gone.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn message(self, store: &Store) -> Result<DesiredV1, StoreError> {
        let mut message = DesiredV1 {
            revision: self.revision,
            base: self.base,
            pods: Vec::with_capacity(self.pods.len()),
            pods_gone: self.pods_gone,
            objects: Vec::with_capacity(self.objects.len()),
            objects_gone: self.objects_gone.iter().map(object_name).collect(),
        };
        for (uid, key) in self.pods {
            if let Some(record) = store.get(&key)?.filter(|record| record.uid == uid) {
                let version = record.version.0;
                message.pods.push(DesiredPodV1 { uid, version, pod: record.body });
            }
        }
        for key in self.objects {
            if let Some(record) = store.get(&key)? {
                message.objects.push(ObjectV1 {
                    key: object_name(&key),
                    version: record.version.0,
                    object: record.body,
                });
            }
        }
        Ok(message)
    }
}

/// `configmaps ns/name`, as the wire names them.
fn object_name(key: &ObjectKey) -> String {
    let plural = key.kind.rsplit('/').next().unwrap_or_default();
    format!("{plural} {}/{}", key.namespace, key.name)
}
