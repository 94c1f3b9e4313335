//! EndpointSlices of Services without a selector, from the Endpoints that somebody else writes
//! (upstream's `endpointslicemirroring_controller.go`).
//!
//! The Service must exist and select nothing; the Endpoints must not say `skip-mirror` or be the lock
//! of a leader election. IPv4 only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::ids::ObjectKey;
use model::limits::MIRRORED_ADDRESSES_MAX;
use model::timestamp::Timestamp;
use model::view::{
    EndpointsView, SliceEndpoint, SlicePort, Subset, SubsetAddress, SubsetPort, kind,
};

use super::super::ownership::Owner;
use super::super::{Controller, Plan};
use super::reconcile::{Endpoints, MANAGED_BY, SERVICE_NAME, Wanted, key_of, reconcile};
use super::{is_managed_by, services_of_slice};
use crate::world::{Changed, World};

const NAME: &str = "endpointslice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The controller of such slices; its keys are Services.
#[derive(Debug)]
pub struct SliceMirroringController;

impl Controller for SliceMirroringController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let key = &changed.key;
        if key.kind == kind::SERVICES || key.kind == kind::ENDPOINTS {
            keys.push(ObjectKey { kind: kind::SERVICES, ..key.clone() });
        } else if key.kind == kind::ENDPOINT_SLICES {
            keys.extend(services_of_slice(world, changed, MANAGER));
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let existing = world.slices_of(&key.namespace, &key.name);
        let existing: Vec<_> = existing.filter(|slice| is_managed_by(slice, MANAGER)).collect();
        let service = world.service(&key.namespace, &key.name);
        let service = service.filter(|service| service.selector.is_empty());
        let endpoints = world.endpoints(&key.namespace, &key.name);
        let endpoints = endpoints.filter(|it| service.is_some() && is_mirrored(it));
        let mut plan = Plan::default();
        let wanted = match endpoints {
            Some(endpoints) => wanted(endpoints),
            None if existing.is_empty() => return plan,
            None => nothing(key),
        };
        plan.ops = reconcile(world, existing, wanted, now);
        plan
    }
}

fn is_mirrored(endpoints: &EndpointsView) -> bool {
    endpoints.meta.deleting.is_none()
        && endpoints.meta.labels.get(SKIP) != Some("true")
        && endpoints.annotations.get(ELECTION).is_none()
}

fn wanted(endpoints: &EndpointsView) -> Wanted<'_> {
    let meta = &endpoints.meta;
    let owner = Owner { api_version: "v1", kind: "Endpoints", meta, component: NAME };
    let mut groups: BTreeMap<Vec<SlicePort>, Endpoints> = BTreeMap::new();
    for subset in &endpoints.subsets {
        let group = groups.entry(subset.ports.iter().map(slice_port).collect()).or_default();
        group.extend(subset_endpoints(subset).map(|it| (key_of(&it), it)));
    }
    groups.retain(|_, endpoints| !endpoints.is_empty());
    let mut labels: BTreeMap<&str, &str> = meta.labels.iter().collect();
    labels.insert(SERVICE_NAME, &meta.name);
    labels.insert(MANAGED_BY, MANAGER);
    Wanted {
        reference: owner.reference(),
        owner: meta.uid,
        labels,
        annotations: endpoints
            .annotations
            .iter()
            .filter(|(name, _)| *name != TRIGGER_TIME)
            .collect(),
        groups,
        ..nothing_of(&meta.namespace, &meta.name)
    }
}

fn nothing(key: &ObjectKey) -> Wanted<'_> {
    nothing_of(&key.namespace, &key.name)
}

fn nothing_of<'a>(namespace: &'a str, service: &'a str) -> Wanted<'a> {
    Wanted {
        namespace,
        service,
        owner: Default::default(),
        reference: Default::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        groups: BTreeMap::new(),
        placeholder: false,
    }
}

fn slice_port(port: &SubsetPort) -> SlicePort {
    SlicePort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

fn subset_endpoints(subset: &Subset) -> impl Iterator<Item = SliceEndpoint> {
    let ready = subset.ready.iter().map(|address| (address, true));
    let not_ready = subset.not_ready.iter().map(|address| (address, false));
    let is_four = |(address, _): &(&SubsetAddress, bool)| address.ip.parse::<Ipv4Addr>().is_ok();
    let few = ready.chain(not_ready).filter(is_four).take(MIRRORED_ADDRESSES_MAX);
    few.map(|(address, ready)| SliceEndpoint {
        addresses: [address.ip.clone()].into(),
        ready: Some(ready),
        hostname: address.hostname.clone(),
        node: address.node_name.clone(),
        target: address.target_ref.clone(),
        ..SliceEndpoint::default()
    })
}
