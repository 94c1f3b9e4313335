//! The world's network for boards, kept up to date key by key.
//!
//! ```text
//! every change of the world ──note──▶ keys that may look different ──advance──▶ state, message
//! ```
//! Input: changes in the order in which the world took them, and the world. Output: the state, and
//! the difference to the one before as a message. Invariant: after [`Feed::advance`] the state is what
//! the objects say (a random walk in the tests compares it with brute force); its revision is the
//! version of the world that it shows, so that it never goes back, not even over masters.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::network::{NetBoard, NetState};
use model::view::{NodeView, View, kind};
use model::wire::NetV1;

use super::pods::{Name, matters};
use super::policy::Policies;
use super::service;
use crate::world::{Changed, World};

/// What boards are told.
#[derive(Debug, Default)]
pub struct Feed {
    state: NetState,
    boards: BTreeSet<Arc<str>>,
    services: BTreeSet<Name>,
    policies: BTreeSet<Name>,
    compiled: Policies,
}

impl Feed {
    /// The state after the last [`Feed::advance`].
    pub fn state(&self) -> &NetState {
        &self.state
    }

    /// Takes note of a change that the world already shows. `true` when boards may have to hear of
    /// it.
    pub fn note(&mut self, world: &World, changed: &Changed) -> bool {
        let key = &changed.key;
        let name = || -> Name { (key.namespace.as_str().into(), key.name.as_str().into()) };
        if key.kind == kind::NODES {
            self.boards.insert(key.name.as_str().into());
        } else if key.kind == kind::SERVICES {
            self.services.insert(name());
        } else if key.kind == kind::ENDPOINT_SLICES {
            self.note_slice(world, changed);
        } else if key.kind == kind::NETWORK_POLICIES {
            self.policies.insert(name());
        } else if key.kind == kind::PODS {
            self.note_pod(world, changed);
        } else if key.kind == kind::NAMESPACES {
            self.compiled.sets.namespace_changed(world, &key.name, &mut self.policies);
        }
        self.is_behind()
    }

    /// Whether something was noted since the last [`Feed::advance`].
    pub fn is_behind(&self) -> bool {
        !(self.boards.is_empty() && self.services.is_empty() && self.policies.is_empty())
    }

    #[cfg(test)]
    pub(super) fn sets(&self) -> usize {
        self.compiled.sets.len()
    }

    fn note_slice(&mut self, world: &World, changed: &Changed) {
        let (namespace, name) = (changed.key.namespace.as_str(), changed.key.name.as_str());
        let old = match &changed.old {
            Some(View::EndpointSlice(old)) => Some(old),
            _ => None,
        };
        for slice in old.into_iter().chain(world.slice(namespace, name)) {
            if !slice.service().is_empty() {
                self.services.insert((namespace.into(), slice.service().into()));
            }
        }
    }

    fn note_pod(&mut self, world: &World, changed: &Changed) {
        let (namespace, name) = (changed.key.namespace.as_str(), changed.key.name.as_str());
        if let (Some(View::Pod(old)), Some(new)) = (&changed.old, world.pod(namespace, name))
            && !matters(old, new)
        {
            return;
        }
        self.compiled.sets.pod_changed(world, (namespace, name), &mut self.policies);
    }

    /// Brings the state up to date; `None` when boards already know all of it.
    pub fn advance(&mut self, world: &World) -> Option<NetV1> {
        let mut new = self.state.clone();
        for name in std::mem::take(&mut self.boards) {
            put(&mut new.boards, name.clone(), world.node(&name).map(board));
        }
        for name in std::mem::take(&mut self.services) {
            let service = world.service(&name.0, &name.1);
            let compiled =
                service.map(|service| service::compile(service, world.slices_of(&name.0, &name.1)));
            put(&mut new.services, key(&name), compiled);
        }
        for name in std::mem::take(&mut self.policies) {
            let compiled = self.compiled.compile(world, &name);
            put(&mut new.policies, key(&name), compiled);
        }
        // Never the same twice, whatever the world says.
        new.revision = world.version().0.max(self.state.revision + 1);
        let change = self.state.change_to(&new);
        if change.is_empty() && self.state.revision != 0 {
            return None;
        }
        self.state = new;
        Some(change)
    }
}

fn board(node: &NodeView) -> NetBoard {
    NetBoard {
        name: node.meta.name.to_string(),
        address: node.address,
        pods: node.pods,
        prefix: 0,
        ready: node.ready,
    }
}

fn key((namespace, name): &Name) -> Arc<str> {
    format!("{namespace}/{name}").into()
}

/// Replaces a value, unless it is as it was.
fn put<T: PartialEq>(
    values: &mut std::collections::BTreeMap<Arc<str>, Arc<T>>,
    key: Arc<str>,
    value: Option<T>,
) {
    match value {
        None => drop(values.remove(&key)),
        Some(value) if values.get(&key).is_some_and(|old| **old == value) => {}
        Some(value) => drop(values.insert(key, Arc::new(value))),
    }
}
