//! Services, what leads to their endpoints, and policies.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use model::ids::KindKey;
use model::view::{
    DisruptionBudgetView, EndpointSliceView, EndpointsView, Labels, Meta, NetworkPolicyView,
    ServiceView, View, kind,
};

use super::World;
use super::table::Table;

/// The tables; slices are also found by the Service that they belong to.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: Table<ServiceView>,
    endpoints: Table<EndpointsView>,
    slices: Table<EndpointSliceView>,
    budgets: Table<DisruptionBudgetView>,
    policies: Table<NetworkPolicyView>,
    slices_by_service: HashMap<ServiceName, BTreeSet<Arc<str>>>,
}

/// Namespace and name of a Service, which need not exist.
type ServiceName = (Arc<str>, Box<str>);

impl Services {
    pub(super) fn meta(&self, kind: &str, namespace: &str, name: &str) -> Option<&Meta> {
        match kind {
            "/services" => self.services.get(namespace, name).map(|it| &it.meta),
            "/endpoints" => self.endpoints.get(namespace, name).map(|it| &it.meta),
            "policy/poddisruptionbudgets" => self.budgets.get(namespace, name).map(|it| &it.meta),
            "networking.k8s.io/networkpolicies" => {
                self.policies.get(namespace, name).map(|it| &it.meta)
            }
            _ => self.slices.get(namespace, name).map(|it| &it.meta),
        }
    }

    pub(super) fn insert(&mut self, view: View) {
        match view {
            View::Service(view) => self.services.insert(view.meta.names(), view),
            View::Endpoints(view) => self.endpoints.insert(view.meta.names(), view),
            View::DisruptionBudget(view) => self.budgets.insert(view.meta.names(), view),
            View::NetworkPolicy(view) => self.policies.insert(view.meta.names(), view),
            View::EndpointSlice(view) => {
                let (namespace, name) = view.meta.names();
                let service = (namespace, view.service().into());
                self.slices_by_service.entry(service).or_default().insert(name);
                self.slices.insert(view.meta.names(), view);
            }
            _ => (),
        }
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) -> Option<View> {
        match kind {
            "/services" => self.services.remove(namespace, name).map(View::Service),
            "/endpoints" => self.endpoints.remove(namespace, name).map(View::Endpoints),
            "policy/poddisruptionbudgets" => {
                self.budgets.remove(namespace, name).map(View::DisruptionBudget)
            }
            "networking.k8s.io/networkpolicies" => {
                self.policies.remove(namespace, name).map(View::NetworkPolicy)
            }
            _ => {
                let slice = self.slices.remove(namespace, name)?;
                let service = (slice.meta.namespace.clone(), slice.service().into());
                if let Some(names) = self.slices_by_service.get_mut(&service) {
                    names.remove(name);
                    if names.is_empty() {
                        self.slices_by_service.remove(&service);
                    }
                }
                Some(View::EndpointSlice(slice))
            }
        }
    }

    /// Kind and metadata of everything, in one namespace or all.
    pub(super) fn metas<'a, 'n>(
        &'a self,
        namespace: Option<&'n str>,
    ) -> impl Iterator<Item = (KindKey, &'a Meta)> + use<'a, 'n> {
        fn of<'a, 'n, T>(
            table: &'a Table<T>,
            namespace: Option<&'n str>,
            kind: KindKey,
            meta: fn(&'a T) -> &'a Meta,
        ) -> impl Iterator<Item = (KindKey, &'a Meta)> + use<'a, 'n, T> {
            let all = namespace.is_none().then(|| table.iter()).into_iter().flatten();
            let within = namespace.map(|namespace| table.within(namespace));
            all.chain(within.into_iter().flatten()).map(move |it| (kind.clone(), meta(it)))
        }
        of(&self.services, namespace, kind::SERVICES, |it| &it.meta)
            .chain(of(&self.endpoints, namespace, kind::ENDPOINTS, |it| &it.meta))
            .chain(of(&self.slices, namespace, kind::ENDPOINT_SLICES, |it| &it.meta))
            .chain(of(&self.budgets, namespace, kind::DISRUPTION_BUDGETS, |it| &it.meta))
            .chain(of(&self.policies, namespace, kind::NETWORK_POLICIES, |it| &it.meta))
    }
}

/// Whether objects of a kind are kept here.
pub(super) fn keeps(kind: &str) -> bool {
    matches!(
        kind,
        "/services"
            | "/endpoints"
            | "discovery.k8s.io/endpointslices"
            | "policy/poddisruptionbudgets"
            | "networking.k8s.io/networkpolicies"
    )
}

impl World {
    /// One Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&ServiceView> {
        self.services.services.get(namespace, name)
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceView> {
        self.services.services.iter()
    }

    /// The Services of a namespace whose selector chooses pods with these labels.
    pub fn services_selecting(
        &self,
        namespace: &str,
        labels: &Labels,
    ) -> impl Iterator<Item = &ServiceView> {
        let within = self.services.services.within(namespace);
        within.filter(|service| selects(&service.selector, labels))
    }

    /// One Endpoints object.
    pub fn endpoints(&self, namespace: &str, name: &str) -> Option<&EndpointsView> {
        self.services.endpoints.get(namespace, name)
    }

    /// One EndpointSlice.
    pub fn slice(&self, namespace: &str, name: &str) -> Option<&EndpointSliceView> {
        self.services.slices.get(namespace, name)
    }

    /// The EndpointSlices that belong to a Service, whoever made them, by name. The Service need not
    /// exist.
    pub fn slices_of(
        &self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = &EndpointSliceView> {
        let service: ServiceName = (namespace.into(), service.into());
        let names = self.services.slices_by_service.get(&service).into_iter().flatten();
        let namespace = service.0;
        names.filter_map(move |name| self.services.slices.get(&namespace, name))
    }

    /// One NetworkPolicy.
    pub fn policy(&self, namespace: &str, name: &str) -> Option<&NetworkPolicyView> {
        self.services.policies.get(namespace, name)
    }

    /// All NetworkPolicies.
    pub fn policies(&self) -> impl Iterator<Item = &NetworkPolicyView> {
        self.services.policies.iter()
    }

    /// One PodDisruptionBudget.
    pub fn budget(&self, namespace: &str, name: &str) -> Option<&DisruptionBudgetView> {
        self.services.budgets.get(namespace, name)
    }

    /// The PodDisruptionBudgets of a namespace.
    pub fn budgets_in(&self, namespace: &str) -> impl Iterator<Item = &DisruptionBudgetView> {
        self.services.budgets.within(namespace)
    }
}

/// Whether a Service's selector chooses these labels; an empty one chooses nothing.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
