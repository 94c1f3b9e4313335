//! The views of all objects, kept in memory and indexed for controllers.
//!
//! Input: every object of the store and then every change, in order ([`World::apply`]). Invariant:
//! the indexes say exactly what the views say (a random walk in the tests compares them with a
//! brute-force answer). An object whose JSON does not have the shape of its kind has no view, but
//! its uid still counts as existing, so that nothing it owns is collected.

mod access;
mod dependents;
mod needs;
mod services;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::ids::{KindKey, ObjectKey, Uid, Version};
use model::timestamp::Timestamp;
use model::view::{
    DeploymentView, Meta, NamespaceView, NodeView, PlainView, PodView, ReplicasView, View,
    ViewError, kind,
};

use crate::contact::Contact;

use access::Access;
use dependents::Dependents;
use needs::Needs;
use services::Services;
use table::Table;

pub use services::selects;

/// Everything that controllers, scheduler and dispatcher know.
#[derive(Debug, Default)]
pub struct World {
    version: Version,
    pods: Table<PodView>,
    nodes: Table<NodeView>,
    namespaces: Table<NamespaceView>,
    replica_sets: Table<ReplicasView>,
    replication_controllers: Table<ReplicasView>,
    deployments: Table<DeploymentView>,
    services: Services,
    access: Access,
    plain: BTreeMap<KindKey, Table<PlainView>>,
    uids: HashMap<Uid, ObjectKey>,
    dependents: Dependents,
    needs: Needs,
    /// Bound pods that are not finished, and finished ones too: all pods of a node.
    pods_by_node: HashMap<Box<str>, BTreeSet<PodName>>,
    /// Pods that the scheduler has to place.
    waiting: BTreeSet<PodName>,
    /// Pods that no controller manages.
    orphans: BTreeSet<PodName>,
    /// Judgements on boards, by name of their Node. Not stored: a new leader has none.
    contacts: HashMap<Box<str>, Contact>,
    mass_silence: bool,
    /// Cluster time of the change that is being applied.
    time: Timestamp,
    /// Nodes that do not exist although pods are bound to them, and since when.
    absent: HashMap<Box<str>, Timestamp>,
}

/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

/// What [`World::apply`] did: the new state is in the world, the old one is here.
#[derive(Debug)]
pub struct Changed {
    /// The object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Uid,
    /// How it looked before; `None` when it is new.
    pub old: Option<View>,
    /// The object is gone.
    pub gone: bool,
}

impl World {
    /// Takes over one change: the whole stored object, or `None` when it is gone.
    ///
    /// # Errors
    /// When the object cannot be read. It then has no view until it is written in a good shape.
    pub fn apply(
        &mut self,
        key: &ObjectKey,
        version: Version,
        uid: Uid,
        body: Option<&[u8]>,
    ) -> Result<Changed, ViewError> {
        let key = ObjectKey { kind: canonical(&key.kind), ..key.clone() };
        self.version = self.version.max(version);
        let old = self.remove(&key);
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        match body {
            None => drop(self.uids.remove(&uid)),
            Some(body) => {
                // An object of the same name may have been deleted and created in one entry.
                if let Some(old) = old.as_ref().filter(|old| old.meta().uid != uid) {
                    self.uids.remove(&old.meta().uid);
                }
                self.uids.insert(uid, key.clone());
                let view = View::parse(&key, version, uid, body)?;
                self.index(&key, &view);
                self.insert(&key, view);
            }
        }
        if key.kind == kind::NODES {
            self.note_absence(&key.name);
        } else if key.kind == kind::PODS {
            let node = self.pod(&key.namespace, &key.name).map(|pod| pod.node.clone());
            node.iter().for_each(|node| self.note_absence(node));
            if let Some(View::Pod(old)) = old.as_ref().filter(|_| body.is_none()) {
                self.note_absence(&old.node);
            }
        }
        Ok(Changed { key, uid, old, gone: body.is_none() })
    }

    /// Says at what time the next changes happen.
    pub fn set_time(&mut self, now: Timestamp) {
        self.time = now;
    }

    /// Since when a node does not exist that pods are bound to.
    pub fn absent_since(&self, node: &str) -> Option<Timestamp> {
        self.absent.get(node).copied()
    }

    fn note_absence(&mut self, node: &str) {
        if self.pods_by_node.contains_key(node) && self.node(node).is_none() {
            self.absent.entry(node.into()).or_insert(self.time);
        } else {
            self.absent.remove(node);
        }
    }

    /// The store is at this version, whatever the newest object that is left has: without it a world
    /// read back after a restart would bear a version that an earlier one had with other objects.
    pub fn raise_version(&mut self, version: Version) {
        self.version = self.version.max(version);
    }

    /// Newest version that was applied or told.
    pub fn version(&self) -> Version {
        self.version
    }

    /// One pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodView> {
        self.pods.get(namespace, name)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &PodView> {
        self.pods.iter()
    }

    /// The pods of a namespace.
    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &PodView> {
        self.pods.within(namespace)
    }

    /// The pods bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &PodView> {
        let names = self.pods_by_node.get(node).into_iter().flatten();
        names.filter_map(|(namespace, name)| self.pods.get(namespace, name))
    }

    /// The pods that the scheduler has to place.
    pub fn pods_waiting(&self) -> impl Iterator<Item = &PodView> {
        self.waiting.iter().filter_map(|(namespace, name)| self.pods.get(namespace, name))
    }

    /// The pods of a namespace that no controller manages.
    pub fn orphan_pods(&self, namespace: &str) -> impl Iterator<Item = &PodView> {
        let from: PodName = (namespace.into(), "".into());
        self.orphans
            .range(from.clone()..)
            .take_while(move |(other, _)| *other == from.0)
            .filter_map(|(namespace, name)| self.pods.get(namespace, name))
    }

    /// The pods that the object with this uid manages.
    pub fn pods_of(&self, owner: Uid) -> impl Iterator<Item = &PodView> {
        self.dependents_of(owner)
            .filter(|key| key.kind == kind::PODS)
            .filter_map(|key| self.pods.get(&key.namespace, &key.name))
            .filter(move |pod| pod.meta.controller().is_some_and(|it| it.uid == owner))
    }

    /// Names of the nodes with a pod that mentions this ConfigMap or Secret.
    pub fn nodes_needing(&self, need: &ObjectKey) -> BTreeSet<&str> {
        self.needs.of(need).collect()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.get("", name)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter()
    }

    /// Whether a node's board is heard.
    pub fn contact(&self, node: &str) -> Contact {
        self.contacts.get(node).copied().unwrap_or_default()
    }

    /// Whether so many boards are silent that nobody is to be evicted for it.
    pub fn mass_silence(&self) -> bool {
        self.mass_silence
    }

    /// Takes over a judgement on a board. `true` when it is another one.
    pub fn set_contact(&mut self, node: &str, contact: Contact) -> bool {
        let before = match contact {
            Contact::Unjudged => self.contacts.remove(node),
            known => self.contacts.insert(node.into(), known),
        };
        before.unwrap_or_default() != contact
    }

    /// Takes over whether most boards are silent. `true` when that is new.
    pub fn set_mass_silence(&mut self, silence: bool) -> bool {
        std::mem::replace(&mut self.mass_silence, silence) != silence
    }

    /// One namespace.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceView> {
        self.namespaces.get("", name)
    }

    /// All namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &NamespaceView> {
        self.namespaces.iter()
    }

    /// One ReplicaSet or ReplicationController.
    pub fn replicas(&self, key: &ObjectKey) -> Option<&ReplicasView> {
        self.replicas_table(&key.kind).get(&key.namespace, &key.name)
    }

    /// The ReplicaSets or ReplicationControllers of a namespace.
    pub fn replicas_in(
        &self,
        kind: &KindKey,
        namespace: &str,
    ) -> impl Iterator<Item = &ReplicasView> {
        self.replicas_table(kind).within(namespace)
    }

    /// One Deployment.
    pub fn deployment(&self, namespace: &str, name: &str) -> Option<&DeploymentView> {
        self.deployments.get(namespace, name)
    }

    /// The Deployments of a namespace.
    pub fn deployments_in(&self, namespace: &str) -> impl Iterator<Item = &DeploymentView> {
        self.deployments.within(namespace)
    }

    /// One object of a kind without a view of its own.
    pub fn plain(&self, kind: &str, namespace: &str, name: &str) -> Option<&PlainView> {
        self.plain.get(kind)?.get(namespace, name)
    }

    /// Metadata of any object.
    pub fn meta(&self, key: &ObjectKey) -> Option<&Meta> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        match key.kind.as_ref() {
            "/pods" => self.pods.get(namespace, name).map(|it| &it.meta),
            "/nodes" => self.nodes.get(namespace, name).map(|it| &it.meta),
            "/namespaces" => self.namespaces.get(namespace, name).map(|it| &it.meta),
            "apps/deployments" => self.deployments.get(namespace, name).map(|it| &it.meta),
            "apps/replicasets" | "/replicationcontrollers" => self.replicas(key).map(|it| &it.meta),
            other if services::keeps(other) => self.services.meta(other, namespace, name),
            other if access::keeps(other) => self.access.meta(other, namespace, name),
            other => self.plain(other, namespace, name).map(|it| &it.meta),
        }
    }

    /// The object with this uid, if it exists.
    pub fn by_uid(&self, uid: Uid) -> Option<&ObjectKey> {
        self.uids.get(&uid)
    }

    /// Every object that names this uid among its owners, by key.
    pub fn dependents_of(&self, owner: Uid) -> impl Iterator<Item = &ObjectKey> {
        self.dependents.of(owner)
    }

    /// Key and metadata of every object in a namespace, pods first.
    pub fn contents(&self, namespace: &str) -> impl Iterator<Item = (ObjectKey, &Meta)> {
        let pods = self.pods.within(namespace).map(|it| (it.meta.key(kind::PODS), &it.meta));
        let deployments = self.deployments.within(namespace);
        let deployments = deployments.map(|it| (it.meta.key(kind::DEPLOYMENTS), &it.meta));
        let sets = [&self.replica_sets, &self.replication_controllers].into_iter();
        let sets = sets
            .flat_map(move |table| table.within(namespace))
            .map(|it| (it.meta.key(it.kind.clone()), &it.meta));
        let plain = self.plain.iter().flat_map(move |(kind, table)| {
            table.within(namespace).map(|it| (it.meta.key(kind.clone()), &it.meta))
        });
        let services = self.services.metas(Some(namespace));
        let services = services.chain(self.access.metas(Some(namespace)));
        let services = services.map(|(kind, meta)| (meta.key(kind), meta));
        pods.chain(deployments).chain(sets).chain(services).chain(plain)
    }

    /// The keys of all objects, in a fixed order.
    pub fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        let pods = self.pods.iter().map(|it| it.meta.key(kind::PODS));
        let nodes = self.nodes.iter().map(|it| it.meta.key(kind::NODES));
        let namespaces = self.namespaces.iter().map(|it| it.meta.key(kind::NAMESPACES));
        let deployments = self.deployments.iter().map(|it| it.meta.key(kind::DEPLOYMENTS));
        let sets = self.replica_sets.iter().chain(self.replication_controllers.iter());
        let sets = sets.map(|it| it.meta.key(it.kind.clone()));
        let plain = self.plain.iter();
        let plain =
            plain.flat_map(|(kind, table)| table.iter().map(|it| it.meta.key(kind.clone())));
        let services = self.services.metas(None).chain(self.access.metas(None));
        let services = services.map(|(kind, meta)| meta.key(kind));
        pods.chain(nodes)
            .chain(namespaces)
            .chain(deployments)
            .chain(sets)
            .chain(services)
            .chain(plain)
    }

    fn replicas_table(&self, kind: &KindKey) -> &Table<ReplicasView> {
        if *kind == kind::REPLICATION_CONTROLLERS {
            &self.replication_controllers
        } else {
            &self.replica_sets
        }
    }

    fn insert(&mut self, key: &ObjectKey, view: View) {
        match view {
            View::Pod(view) => self.pods.insert(view.meta.names(), view),
            View::Node(view) => self.nodes.insert(view.meta.names(), view),
            View::Namespace(view) => self.namespaces.insert(view.meta.names(), view),
            View::Replicas(view) if view.kind == kind::REPLICATION_CONTROLLERS => {
                self.replication_controllers.insert(view.meta.names(), view);
            }
            View::Replicas(view) => self.replica_sets.insert(view.meta.names(), view),
            View::Deployment(view) => self.deployments.insert(view.meta.names(), view),
            View::Service(_)
            | View::Endpoints(_)
            | View::EndpointSlice(_)
            | View::DisruptionBudget(_)
            | View::NetworkPolicy(_) => self.services.insert(view),
            View::Role(view) => self.access.insert_role(view),
            View::Binding(view) => self.access.insert_binding(view),
            View::Plain(view) => {
                let table = self.plain.entry(key.kind.clone()).or_default();
                table.insert(view.meta.names(), view);
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<View> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        match key.kind.as_ref() {
            "/pods" => self.pods.remove(namespace, name).map(View::Pod),
            "/nodes" => self.nodes.remove(namespace, name).map(View::Node),
            "/namespaces" => self.namespaces.remove(namespace, name).map(View::Namespace),
            "apps/deployments" => self.deployments.remove(namespace, name).map(View::Deployment),
            "apps/replicasets" => self.replica_sets.remove(namespace, name).map(View::Replicas),
            "/replicationcontrollers" => {
                self.replication_controllers.remove(namespace, name).map(View::Replicas)
            }
            other if services::keeps(other) => self.services.remove(other, namespace, name),
            other if access::keeps(other) => self.access.remove(other, namespace, name),
            other => self.plain.get_mut(other)?.remove(namespace, name).map(View::Plain),
        }
    }

    fn index(&mut self, key: &ObjectKey, view: &View) {
        self.dependents.add(key, &view.meta().owners);
        if let View::Pod(pod) = view {
            self.needs.add(pod);
            let name = pod.meta.names();
            if pod.meta.controller().is_none() {
                self.orphans.insert(name.clone());
            }
            if !pod.node.is_empty() {
                self.pods_by_node.entry(pod.node.clone()).or_default().insert(name);
            } else if pod.scheduling.is_some() && pod.active() {
                self.waiting.insert(name);
            }
        }
    }

    fn unindex(&mut self, key: &ObjectKey, view: &View) {
        self.dependents.remove(key, &view.meta().owners);
        if let View::Pod(pod) = view {
            self.needs.remove(pod);
            let name = pod.meta.names();
            self.orphans.remove(&name);
            self.waiting.remove(&name);
            if let Some(names) = self.pods_by_node.get_mut(&pod.node) {
                names.remove(&name);
                if names.is_empty() {
                    self.pods_by_node.remove(&pod.node);
                }
            }
        }
    }
}

/// The kind as a static text where we know it, so that a key costs no allocation for it.
fn canonical(kind: &KindKey) -> KindKey {
    const KNOWN: [KindKey; 20] = [
        kind::PODS,
        kind::NODES,
        kind::NAMESPACES,
        kind::REPLICATION_CONTROLLERS,
        kind::REPLICA_SETS,
        kind::DEPLOYMENTS,
        kind::CONFIG_MAPS,
        kind::SECRETS,
        kind::SERVICE_ACCOUNTS,
        kind::SERVICES,
        kind::ENDPOINTS,
        kind::ENDPOINT_SLICES,
        kind::DISRUPTION_BUDGETS,
        kind::NETWORK_POLICIES,
        kind::ROLES,
        kind::CLUSTER_ROLES,
        kind::ROLE_BINDINGS,
        kind::CLUSTER_ROLE_BINDINGS,
        KindKey::Borrowed("/events"),
        KindKey::Borrowed("coordination.k8s.io/leases"),
    ];
    KNOWN.into_iter().find(|known| known == kind).unwrap_or_else(|| kind.clone())
}

#[cfg(test)]
mod tests;
