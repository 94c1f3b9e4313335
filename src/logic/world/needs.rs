//! Which boards need which ConfigMap or Secret.

use std::collections::{BTreeMap, HashMap};

use model::ids::ObjectKey;
use model::view::PodView;

/// Bound pods that mention an object, counted by node.
#[derive(Debug, Default)]
pub(super) struct Needs(HashMap<ObjectKey, BTreeMap<Box<str>, u32>>);

impl Needs {
    /// The nodes with a pod that mentions this object.
    pub(super) fn of(&self, need: &ObjectKey) -> impl Iterator<Item = &str> {
        self.0.get(need).into_iter().flat_map(|nodes| nodes.keys()).map(|node| &**node)
    }

    pub(super) fn add(&mut self, pod: &PodView) {
        for key in keys(pod) {
            *self.0.entry(key).or_default().entry(pod.node.clone()).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, pod: &PodView) {
        for key in keys(pod) {
            let Some(nodes) = self.0.get_mut(&key) else { continue };
            if let Some(count) = nodes.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.0.remove(&key);
            }
        }
    }
}

fn keys(pod: &PodView) -> impl Iterator<Item = ObjectKey> {
    let bound = !pod.node.is_empty();
    pod.needs.iter().filter(move |_| bound).map(|(kind, name)| ObjectKey {
        kind: kind.clone(),
        namespace: pod.meta.namespace.to_string(),
        name: name.to_string(),
    })
}
