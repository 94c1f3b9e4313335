//! EndpointSlices of Services that select pods (upstream's `endpointslice_controller.go`).
//!
//! In: Services, pods, and the zones of Nodes. Out: slices of at most `SLICE_ENDPOINTS_MAX`
//! endpoints. A pod that is being deleted is not `ready` from that moment on, but `serving` as long
//! as it answers. Slices of somebody else (without the label of this controller) are left alone; they
//! go with their Service through their owner reference.

mod mirroring;
mod reconcile;

use std::collections::BTreeMap;

use model::ids::ObjectKey;
use model::timestamp::Timestamp;
use model::view::{
    EndpointSliceView, PodView, ServiceType, ServiceView, SliceEndpoint, SlicePort,
    TargetReference, View, kind,
};

use super::ownership::Owner;
use super::{Controller, Plan, serving};
use crate::world::{Changed, World};
use reconcile::{Endpoints, MANAGED_BY, SERVICE_NAME, Wanted, key_of, reconcile};

pub use mirroring::SliceMirroringController;
pub(super) use reconcile::target_value;

const NAME: &str = "endpointslice-controller";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of slices and Endpoints of headless Services.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
const FOREGROUND: &str = "foregroundDeletion";

/// The controller of slices of Services with a selector; its keys are Services.
#[derive(Debug)]
pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let key = &changed.key;
        if key.kind == kind::SERVICES {
            keys.push(key.clone());
        } else if key.kind == kind::ENDPOINT_SLICES {
            keys.extend(services_of_slice(world, changed, MANAGER));
        } else {
            serving::services_concerned(world, changed, keys);
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(service) = world.service(&key.namespace, &key.name) else { return plan };
        let is_ours = !service.selector.is_empty() && service.kind != ServiceType::ExternalName;
        // Somebody waits for the slices of this one to be gone.
        let leaves = service.meta.deleting.is_some() && service.meta.has_finalizer(FOREGROUND);
        if !is_ours || leaves {
            return plan;
        }
        let existing = world.slices_of(&key.namespace, &key.name);
        let existing = existing.filter(|slice| is_managed_by(slice, MANAGER)).collect();
        plan.ops = reconcile(world, existing, wanted(world, service), now);
        plan
    }
}

/// The Services that a slice of `manager` belongs to, or did before.
fn services_of_slice(world: &World, changed: &Changed, manager: &str) -> Vec<ObjectKey> {
    let old = match &changed.old {
        Some(View::EndpointSlice(old)) => Some(old),
        _ => None,
    };
    let new = world.slice(&changed.key.namespace, &changed.key.name);
    let ours = old.into_iter().chain(new).filter(|slice| is_managed_by(slice, manager));
    ours.map(|slice| ObjectKey {
        kind: kind::SERVICES,
        namespace: slice.meta.namespace.to_string(),
        name: slice.service().to_owned(),
    })
    .collect()
}

fn is_managed_by(slice: &EndpointSliceView, manager: &str) -> bool {
    slice.meta.labels.get(MANAGED_BY) == Some(manager)
}

fn wanted<'a>(world: &World, service: &'a ServiceView) -> Wanted<'a> {
    let owner = Owner { api_version: "v1", kind: "Service", meta: &service.meta, component: NAME };
    let mut groups: BTreeMap<Vec<SlicePort>, Endpoints> = BTreeMap::new();
    for pod in serving::pods(world, service) {
        let Some(endpoint) = endpoint(world, service, pod) else { continue };
        let ports = ports(service, pod);
        groups.entry(ports).or_default().insert(key_of(&endpoint), endpoint);
    }
    let reserved = [MANAGED_BY, SERVICE_NAME, HEADLESS];
    let own = service.meta.labels.iter().filter(|(name, _)| !reserved.contains(name));
    let mut labels: BTreeMap<&str, &str> = own.collect();
    labels.insert(SERVICE_NAME, &service.meta.name);
    labels.insert(MANAGED_BY, MANAGER);
    if service.headless {
        labels.insert(HEADLESS, "");
    }
    Wanted {
        namespace: &service.meta.namespace,
        service: &service.meta.name,
        owner: service.meta.uid,
        reference: owner.reference(),
        labels,
        annotations: BTreeMap::new(),
        groups,
        placeholder: true,
    }
}

/// The ports of a Service as this pod has them; those that it lacks are left out.
fn ports(service: &ServiceView, pod: &PodView) -> Vec<SlicePort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(SlicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: Some(serving::target(pod, port)?),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

/// A pod as an endpoint; `None` for one on a Node that does not exist, unless it is to be published
/// whatever its state.
fn endpoint(world: &World, service: &ServiceView, pod: &PodView) -> Option<SliceEndpoint> {
    let node = world.node(&pod.node);
    if node.is_none() && !service.publish_not_ready {
        return None;
    }
    let serving = pod.ready_since.is_some();
    let terminating = pod.meta.deleting.is_some();
    let zone = node.and_then(|node| node.meta.labels.get(serving::ZONE_LABEL));
    Some(SliceEndpoint {
        addresses: [pod.address?.to_string().into()].into(),
        ready: Some(service.publish_not_ready || (serving && !terminating)),
        serving: Some(serving),
        terminating: Some(terminating),
        hostname: serving::hostname(pod, service).map(Into::into),
        node: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        zone: zone.filter(|zone| !zone.is_empty()).map(Into::into),
        target: Some(TargetReference {
            kind: "Pod".into(),
            namespace: (&*pod.meta.namespace).into(),
            name: (&*pod.meta.name).into(),
            uid: pod.meta.uid.to_string().into(),
        }),
    })
}
