//! Sets of pods that policies select, kept up to date pod by pod.
//!
//! Policies that say the same share a set. A pod that changes is held against every set once; which
//! policies have to be compiled anew follows from the sets that it came to or left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::ids::Uid;
use model::view::{NamedPort, PodView, Selector};

use crate::world::World;

/// Namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);

/// What selects a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PodQuery {
    pub(super) namespaces: Namespaces,
    pub(super) pods: Selector,
}

/// The namespaces that pods are selected from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Namespaces {
    /// This one.
    One(Arc<str>),
    /// Those with these labels.
    Labelled(Selector),
}

/// A pod of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) uid: Uid,
    /// A board starts it, or has.
    pub(super) is_bound: bool,
    /// Not before its board has told it.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) named_ports: Box<[NamedPort]>,
}

/// One set.
#[derive(Debug, Default)]
pub(super) struct PodSet {
    pub(super) members: BTreeMap<Name, Member>,
    /// Policies that use it.
    users: BTreeSet<Name>,
}

/// All sets.
#[derive(Debug, Default)]
pub(super) struct PodSets {
    sets: HashMap<Arc<PodQuery>, PodSet>,
    /// Queries of one namespace.
    of_one: HashMap<Arc<str>, Vec<Arc<PodQuery>>>,
    /// Queries by labels of namespaces.
    labelled: Vec<Arc<PodQuery>>,
}

impl PodQuery {
    fn takes_namespace(&self, world: &World, namespace: &str) -> bool {
        match &self.namespaces {
            Namespaces::One(one) => **one == *namespace,
            Namespaces::Labelled(selector) => {
                world.namespace(namespace).is_some_and(|it| selector.matches(&it.meta.labels))
            }
        }
    }

    /// The pod as a member, if it is one. Pods on the network of their board have no address of
    /// their own, and finished ones none any more.
    fn member(&self, world: &World, pod: &PodView) -> Option<Member> {
        let taken = !pod.host_network
            && !pod.finished()
            && self.pods.matches(&pod.meta.labels)
            && self.takes_namespace(world, &pod.meta.namespace);
        taken.then(|| Member {
            uid: pod.meta.uid,
            is_bound: !pod.node.is_empty(),
            address: pod.address,
            named_ports: pod.named_ports.clone(),
        })
    }
}

impl PodSets {
    /// A set that somebody uses.
    pub(super) fn get(&self, query: &PodQuery) -> Option<&PodSet> {
        self.sets.get(query)
    }

    /// From here on `user` uses exactly these sets.
    pub(super) fn set_uses(&mut self, world: &World, user: &Name, before: &Queries, now: &Queries) {
        for query in now {
            self.sets
                .entry(query.clone())
                .or_insert_with(|| fill(world, query, &mut self.of_one, &mut self.labelled))
                .users
                .insert(user.clone());
        }
        for query in before.iter().filter(|query| !now.contains(*query)) {
            let Some(set) = self.sets.get_mut(query) else { continue };
            set.users.remove(user);
            if set.users.is_empty() {
                self.sets.remove(query);
                self.forget(query);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(
            self.sets.len(),
            self.labelled.len() + self.of_one.values().map(Vec::len).sum::<usize>()
        );
        self.sets.len()
    }

    fn forget(&mut self, query: &Arc<PodQuery>) {
        match &query.namespaces {
            Namespaces::Labelled(_) => self.labelled.retain(|other| other != query),
            Namespaces::One(one) => {
                let Some(queries) = self.of_one.get_mut(one) else { return };
                queries.retain(|other| other != query);
                if queries.is_empty() {
                    self.of_one.remove(one);
                }
            }
        }
    }

    /// A pod changed, came or went; gives the policies that this matters to.
    pub(super) fn pod_changed(
        &mut self,
        world: &World,
        (namespace, name): (&str, &str),
        dirty: &mut BTreeSet<Name>,
    ) {
        if self.sets.is_empty() {
            return;
        }
        let pod = world.pod(namespace, name);
        let key: Name = match pod {
            Some(pod) => pod.meta.names(),
            None => (namespace.into(), name.into()),
        };
        let own = self.of_one.get(namespace).into_iter().flatten();
        for query in own.chain(&self.labelled) {
            let Some(set) = self.sets.get_mut(query) else { continue };
            let member = pod.and_then(|pod| query.member(world, pod));
            set.put(&key, member, dirty);
        }
    }

    /// The labels of a namespace changed, or it came or went.
    pub(super) fn namespace_changed(
        &mut self,
        world: &World,
        namespace: &str,
        dirty: &mut BTreeSet<Name>,
    ) {
        for query in &self.labelled {
            let Some(set) = self.sets.get_mut(query) else { continue };
            for pod in world.pods_in(namespace) {
                set.put(&pod.meta.names(), query.member(world, pod), dirty);
            }
        }
    }
}

/// Queries, each once.
pub(super) type Queries = HashSet<Arc<PodQuery>>;

impl PodSet {
    fn put(&mut self, key: &Name, member: Option<Member>, dirty: &mut BTreeSet<Name>) {
        if self.members.get(key) == member.as_ref() {
            return;
        }
        match member {
            Some(member) => drop(self.members.insert(key.clone(), member)),
            None => drop(self.members.remove(key)),
        }
        dirty.extend(self.users.iter().cloned());
    }
}

/// A new set with its members, noted where changes look for it.
fn fill(
    world: &World,
    query: &Arc<PodQuery>,
    of_one: &mut HashMap<Arc<str>, Vec<Arc<PodQuery>>>,
    labelled: &mut Vec<Arc<PodQuery>>,
) -> PodSet {
    let mut set = PodSet::default();
    let mut add = |pod: &PodView| {
        if let Some(member) = query.member(world, pod) {
            set.members.insert(pod.meta.names(), member);
        }
    };
    match &query.namespaces {
        Namespaces::One(one) => {
            world.pods_in(one).for_each(add);
            of_one.entry(one.clone()).or_default().push(query.clone());
        }
        Namespaces::Labelled(_) => {
            world.pods().for_each(&mut add);
            labelled.push(query.clone());
        }
    }
    set
}

/// Whether a change of a pod can matter to any set.
pub(super) fn matters(old: &PodView, new: &PodView) -> bool {
    fn shown(pod: &PodView) -> impl PartialEq + '_ {
        let network = (pod.address, pod.host_network, &pod.named_ports);
        (network, pod.meta.uid, pod.node.is_empty(), pod.finished(), &pod.meta.labels)
    }
    shown(old) != shown(new)
}
