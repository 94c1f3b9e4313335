//! Small typed views of stored objects: what controllers, scheduler and dispatcher need, no more.
//!
//! Input: the key, version, uid and stored JSON of one object. Output: a [`View`]. Fields that no
//! controller reads are not kept; templates stay raw JSON, shared. A body that does not have the
//! shape of its kind is an error, never a panic: the caller skips the object and says so.

mod binding;
mod company;
mod deployment;
mod disruption_budget;
mod endpoint_slice;
mod endpoints;
mod image;
mod labels;
mod meta;
mod namespace;
mod network_policy;
mod node;
mod plain;
mod pod;
mod replicas;
mod resources;
mod role;
mod scheduling;
mod selector;
mod service;
mod template;

pub use binding::{BindingView, RoleReference, Subject, SubjectKind};
pub use company::{Company, PodSet, PodTerm, Spread};
pub use deployment::{Amount, Condition, DeploymentStatus, DeploymentView, Strategy};
pub use disruption_budget::{
    DisruptionBudgetView, DisruptionCondition, DisruptionLimit, DisruptionStatus,
};
pub use endpoint_slice::{EndpointSliceView, SliceEndpoint, SlicePort, TargetReference};
pub use endpoints::{EndpointsView, Subset, SubsetAddress, SubsetPort};
pub use image::image_hash;
pub use labels::Labels;
pub use meta::{Meta, OwnerReference};
pub use namespace::NamespaceView;
pub use network_policy::{NetworkPolicyView, PolicyPeer, PolicyPort, PolicyRule};
pub use node::{NodeView, Taint, TaintEffect};
pub use plain::{PlainView, data_hash};
pub use pod::{HostPort, NamedPort, Phase, PodName, PodView};
pub use replicas::{ReplicasStatus, ReplicasView};
pub use resources::Resources;
pub use role::RoleView;
pub use scheduling::{NodeTerm, Scheduling, Toleration};
pub use selector::{Operator, Requirement, Selector};
pub use service::{ServicePort, ServiceType, ServiceView, TargetPort};
pub use template::{Template, safe_encode};

pub(crate) use meta::null_as_empty;

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
    /// Services.
    pub const SERVICES: KindKey = KindKey::Borrowed("/services");
    /// Endpoints.
    pub const ENDPOINTS: KindKey = KindKey::Borrowed("/endpoints");
    /// EndpointSlices.
    pub const ENDPOINT_SLICES: KindKey = KindKey::Borrowed("discovery.k8s.io/endpointslices");
    /// PodDisruptionBudgets.
    pub const DISRUPTION_BUDGETS: KindKey = KindKey::Borrowed("policy/poddisruptionbudgets");
    /// NetworkPolicies.
    pub const NETWORK_POLICIES: KindKey = KindKey::Borrowed("networking.k8s.io/networkpolicies");
    /// Roles.
    pub const ROLES: KindKey = KindKey::Borrowed("rbac.authorization.k8s.io/roles");
    /// ClusterRoles.
    pub const CLUSTER_ROLES: KindKey = KindKey::Borrowed("rbac.authorization.k8s.io/clusterroles");
    /// RoleBindings.
    pub const ROLE_BINDINGS: KindKey = KindKey::Borrowed("rbac.authorization.k8s.io/rolebindings");
    /// ClusterRoleBindings.
    pub const CLUSTER_ROLE_BINDINGS: KindKey =
        KindKey::Borrowed("rbac.authorization.k8s.io/clusterrolebindings");
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
    /// A Service.
    Service(ServiceView),
    /// An Endpoints object.
    Endpoints(EndpointsView),
    /// An EndpointSlice.
    EndpointSlice(EndpointSliceView),
    /// A PodDisruptionBudget.
    DisruptionBudget(DisruptionBudgetView),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicyView),
    /// A Role or ClusterRole.
    Role(RoleView),
    /// A RoleBinding or ClusterRoleBinding.
    Binding(BindingView),
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
            "/services" => service::parse(identity, body).map(Self::Service),
            "/endpoints" => endpoints::parse(identity, body).map(Self::Endpoints),
            "discovery.k8s.io/endpointslices" => {
                endpoint_slice::parse(identity, body).map(Self::EndpointSlice)
            }
            "policy/poddisruptionbudgets" => {
                disruption_budget::parse(identity, body).map(Self::DisruptionBudget)
            }
            "networking.k8s.io/networkpolicies" => {
                network_policy::parse(identity, body).map(Self::NetworkPolicy)
            }
            "rbac.authorization.k8s.io/roles" | "rbac.authorization.k8s.io/clusterroles" => {
                role::parse(identity, body).map(Self::Role)
            }
            "rbac.authorization.k8s.io/rolebindings"
            | "rbac.authorization.k8s.io/clusterrolebindings" => {
                binding::parse(identity, body).map(Self::Binding)
            }
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
            Self::Service(view) => &view.meta,
            Self::Endpoints(view) => &view.meta,
            Self::EndpointSlice(view) => &view.meta,
            Self::DisruptionBudget(view) => &view.meta,
            Self::NetworkPolicy(view) => &view.meta,
            Self::Role(view) => &view.meta,
            Self::Binding(view) => &view.meta,
            Self::Plain(view) => &view.meta,
        }
    }
}

#[cfg(test)]
mod tests;
