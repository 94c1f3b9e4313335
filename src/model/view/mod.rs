//! Small typed views of stored objects: what controllers, scheduler and dispatcher need, no more.
//!
//! Input: the key, version, uid and stored JSON of one object. Output: a [`View`]. Fields that no
//! controller reads are not kept; templates stay raw JSON, shared. A body that does not have the
//! shape of its kind is an error, never a panic: the caller skips the object and says so.

mod company;
mod deployment;
mod image;
mod labels;
mod meta;
mod namespace;
mod node;
mod plain;
mod pod;
mod replicas;
mod resources;
mod scheduling;
mod selector;
mod template;

pub use company::{Company, PodSet, PodTerm, Spread};
pub use deployment::{Amount, Condition, DeploymentStatus, DeploymentView, Strategy};
pub use image::image_hash;
pub use labels::Labels;
pub use meta::{Meta, OwnerReference};
pub use namespace::NamespaceView;
pub use node::{NodeView, Taint, TaintEffect};
pub use plain::{PlainView, data_hash};
pub use pod::{HostPort, Phase, PodView};
pub use replicas::{ReplicasStatus, ReplicasView};
pub use resources::Resources;
pub use scheduling::{NodeTerm, Scheduling, Toleration};
pub use selector::{Operator, Requirement, Selector};
pub use template::{Template, safe_encode};

use crate::ids::{ObjectKey, Uid, Version};

/// Storage prefixes of the kinds that have a view of their own.
pub mod kind {
    use crate::ids::KindKey;

    /// Pods.
    pub const PODS: KindKey = KindKey::Borrowed("/pods");
    /// Nodes.
    pub const NODES: KindKey = KindKey::Borrowed("/nodes");
    /// Namespaces.
    pub const NAMESPACES: KindKey = KindKey::Borrowed("/namespaces");
    /// ReplicationControllers.
    pub const REPLICATION_CONTROLLERS: KindKey = KindKey::Borrowed("/replicationcontrollers");
    /// ReplicaSets.
    pub const REPLICA_SETS: KindKey = KindKey::Borrowed("apps/replicasets");
    /// Deployments.
    pub const DEPLOYMENTS: KindKey = KindKey::Borrowed("apps/deployments");
    /// ConfigMaps.
    pub const CONFIG_MAPS: KindKey = KindKey::Borrowed("/configmaps");
    /// Secrets.
    pub const SECRETS: KindKey = KindKey::Borrowed("/secrets");
    /// ServiceAccounts.
    pub const SERVICE_ACCOUNTS: KindKey = KindKey::Borrowed("/serviceaccounts");
}

/// Why an object has no view.
#[derive(Debug, thiserror::Error)]
#[error("{key} is stored in a shape that its kind does not have")]
pub struct ViewError {
    /// The object.
    pub key: ObjectKey,
    /// What the decoder said.
    #[source]
    pub source: serde_json::Error,
}

/// The view of an object of any kind.
#[derive(Clone, Debug)]
pub enum View {
    /// A Pod.
    Pod(PodView),
    /// A Node.
    Node(NodeView),
    /// A Namespace.
    Namespace(NamespaceView),
    /// A ReplicaSet or ReplicationController.
    Replicas(ReplicasView),
    /// A Deployment.
    Deployment(DeploymentView),
    /// Any other kind.
    Plain(PlainView),
}

impl View {
    /// Reads a stored object.
    ///
    /// # Errors
    /// When `body` is not JSON of the shape of its kind.
    pub fn parse(
        key: &ObjectKey,
        version: Version,
        uid: Uid,
        body: &[u8],
    ) -> Result<Self, ViewError> {
        let identity = meta::Identity { key, version, uid };
        let view = match key.kind.as_ref() {
            "/pods" => pod::parse(identity, body).map(Self::Pod),
            "/nodes" => node::parse(identity, body).map(Self::Node),
            "/namespaces" => namespace::parse(identity, body).map(Self::Namespace),
            "apps/replicasets" | "/replicationcontrollers" => {
                replicas::parse(identity, body).map(Self::Replicas)
            }
            "apps/deployments" => deployment::parse(identity, body).map(Self::Deployment),
            _ => plain::parse(identity, body).map(Self::Plain),
        };
        view.map_err(|source| ViewError { key: key.clone(), source })
    }

    /// The metadata.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Pod(view) => &view.meta,
            Self::Node(view) => &view.meta,
            Self::Namespace(view) => &view.meta,
            Self::Replicas(view) => &view.meta,
            Self::Deployment(view) => &view.meta,
            Self::Plain(view) => &view.meta,
        }
    }
}

#[cfg(test)]
mod tests;
