//! The kinds that kumquat serves. A line removed here (and `cargo xtask generate`) removes the
//! kind everywhere: routes, discovery, OpenAPI, schemas, protobuf, tables.

/// A kind by its path, and what the recorded data does not say about it.
#[derive(Clone)]
pub(super) struct Kind {
    /// `""` is the core group.
    pub group: &'static str,
    pub plural: &'static str,
    /// Those of its subresources that are served.
    pub subresources: &'static [&'static str],
    /// A variant of `model::resource::Storage`.
    pub storage: &'static str,
    /// What field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Whether `metadata.generation` counts spec changes.
    pub has_generation: bool,
}

const fn kind(group: &'static str, plural: &'static str) -> Kind {
    let (subresources, selectable) = (&[], &[]);
    Kind { group, plural, subresources, storage: "Log", selectable, has_generation: false }
}

impl Kind {
    const fn with(mut self, subresources: &'static [&'static str]) -> Self {
        self.subresources = subresources;
        self
    }

    const fn stored(mut self, storage: &'static str) -> Self {
        self.storage = storage;
        self
    }

    const fn selected_by(mut self, paths: &'static [&'static str]) -> Self {
        self.selectable = paths;
        self
    }

    const fn counted(mut self) -> Self {
        self.has_generation = true;
        self
    }
}

const PODS: &[&str] = &["attach", "binding", "eviction", "exec", "log", "portforward", "status"];
const STATUS: &[&str] = &["status"];
const SCALED: &[&str] = &["scale", "status"];

/// Every kind served. Discovery lists them in the order of the recorded data.
pub(super) const KINDS: &[Kind] = &[
    kind("", "bindings").stored("Nowhere"),
    kind("", "configmaps"),
    kind("", "endpoints"),
    kind("", "events").stored("Memory").selected_by(&[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ]),
    kind("", "namespaces").with(&["finalize", "status"]).selected_by(&["status.phase"]),
    kind("", "nodes").with(STATUS).selected_by(&["spec.unschedulable"]),
    kind("", "pods").with(PODS).counted().selected_by(&[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ]),
    kind("", "replicationcontrollers").with(SCALED).counted().selected_by(&["status.replicas"]),
    kind("", "secrets").selected_by(&["type"]),
    kind("", "serviceaccounts").with(&["token"]),
    kind("", "services").with(STATUS).selected_by(&["spec.clusterIP", "spec.type"]),
    kind("apps", "deployments").with(SCALED).counted(),
    kind("apps", "replicasets").with(SCALED).counted().selected_by(&["status.replicas"]),
    kind("authentication.k8s.io", "selfsubjectreviews").stored("Nowhere"),
    kind("authentication.k8s.io", "tokenreviews").stored("Nowhere"),
    kind("authorization.k8s.io", "localsubjectaccessreviews").stored("Nowhere"),
    kind("authorization.k8s.io", "selfsubjectaccessreviews").stored("Nowhere"),
    kind("authorization.k8s.io", "selfsubjectrulesreviews").stored("Nowhere"),
    kind("authorization.k8s.io", "subjectaccessreviews").stored("Nowhere"),
    kind("coordination.k8s.io", "leases").stored("Memory"),
    kind("discovery.k8s.io", "endpointslices").counted(),
    kind("networking.k8s.io", "networkpolicies").counted(),
    kind("policy", "poddisruptionbudgets").with(STATUS).counted(),
    kind("rbac.authorization.k8s.io", "clusterrolebindings"),
    kind("rbac.authorization.k8s.io", "clusterroles"),
    kind("rbac.authorization.k8s.io", "rolebindings"),
    kind("rbac.authorization.k8s.io", "roles"),
];

/// Kinds that are only a query: they have no schema.
pub(super) const CONNECT_KINDS: &[&str] =
    &["PodAttachOptions", "PodExecOptions", "PodPortForwardOptions"];

/// Schemas wanted besides those of the kinds and their subresources.
pub(super) const EXTRA_SCHEMAS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
];
