//! Which pods serve a Service, and on which ports: what both kinds of endpoints are made of.

use model::ids::ObjectKey;
use model::view::{PodView, ServicePort, ServiceView, TargetPort, View, kind};

use crate::world::{Changed, World, selects};

/// The zone of a board.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The pods that are endpoints of a Service: those it selects that have an address and have not
/// ended. Those that are being deleted are among them.
pub(super) fn pods<'a>(
    world: &'a World,
    service: &'a ServiceView,
) -> impl Iterator<Item = &'a PodView> {
    let pods = world.pods_in(&service.meta.namespace);
    pods.filter(|pod| {
        pod.address.is_some() && !pod.finished() && selects(&service.selector, &pod.meta.labels)
    })
}

/// The port of a pod that a port of its Service leads to; `None` when the pod has none of that name.
pub(super) fn target(pod: &PodView, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod.named_port(name, port.protocol),
    }
}

/// The name in DNS that a pod has as an endpoint of a headless Service.
pub(super) fn hostname<'a>(pod: &'a PodView, service: &ServiceView) -> Option<&'a str> {
    let name = pod.dns_name.as_ref()?;
    let belongs = *name.subdomain == *service.meta.name && !name.hostname.is_empty();
    belongs.then_some(&*name.hostname)
}

/// Keys of the Services whose endpoints a change of a pod or a Node may change.
pub(super) fn services_concerned(world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
    let key = &changed.key;
    if key.kind == kind::PODS {
        let old = match &changed.old {
            Some(View::Pod(old)) => Some(old),
            _ => None,
        };
        let new = world.pod(&key.namespace, &key.name);
        if matches!((old, new), (Some(old), Some(new)) if is_same_endpoint(old, new)) {
            return;
        }
        old.into_iter().chain(new).for_each(|pod| selecting(world, pod, keys));
    } else if key.kind == kind::NODES {
        let zone_before = match &changed.old {
            Some(View::Node(old)) => Some(old.meta.labels.get(ZONE_LABEL)),
            _ => None,
        };
        let zone = world.node(&key.name).map(|node| node.meta.labels.get(ZONE_LABEL));
        if zone_before != zone {
            world.pods_on(&key.name).for_each(|pod| selecting(world, pod, keys));
        }
    }
}

fn selecting(world: &World, pod: &PodView, keys: &mut Vec<ObjectKey>) {
    let services = world.services_selecting(&pod.meta.namespace, &pod.meta.labels);
    keys.extend(services.map(|service| service.meta.key(kind::SERVICES)));
}

/// Whether two states of a pod make the same endpoint. Most changes of a status do.
fn is_same_endpoint(old: &PodView, new: &PodView) -> bool {
    old.meta.uid == new.meta.uid
        && old.address == new.address
        && old.ready_since.is_some() == new.ready_since.is_some()
        && old.meta.deleting.is_some() == new.meta.deleting.is_some()
        && old.finished() == new.finished()
        && old.node == new.node
        && old.meta.labels == new.meta.labels
        && old.dns_name == new.dns_name
        && old.named_ports == new.named_ports
}
