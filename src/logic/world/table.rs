//! Views of one kind by namespace and name.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Views by namespace, then name.
#[derive(Debug)]
pub(super) struct Table<T>(BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(namespace)?.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values().flat_map(BTreeMap::values)
    }

    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = &T> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn insert(&mut self, (namespace, name): (Arc<str>, Arc<str>), view: T) {
        self.0.entry(namespace).or_default().insert(name, view);
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<T> {
        let names = self.0.get_mut(namespace)?;
        let view = names.remove(name);
        if names.is_empty() {
            self.0.remove(namespace);
        }
        view
    }
}
