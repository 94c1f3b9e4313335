//! The addresses of LoadBalancer Services are those of the boards: `status.loadBalancer`.
//!
//! Every Ready board takes the Service's ports on its own address, with
//! `externalTrafficPolicy: Local` only boards with a ready endpoint. Of two Services that want the
//! same port the older one gets it; the other one, and whoever wants a port of the cluster itself, has
//! no address and says why in the condition `LoadBalancerPortsError`. Services with a
//! `loadBalancerClass` are somebody else's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use model::ids::ObjectKey;
use model::limits::BALANCER_ADDRESSES_MAX;
use model::network::Protocol;
use model::timestamp::Timestamp;
use model::view::{NodeView, ServiceType, ServiceView, View, kind};
use serde_json::{Value, json};

use super::{Controller, Event, ObjectReference, Op, Plan};
use crate::world::{Changed, World};

const COMPONENT: &str = "service-controller";
/// Boards with this label take no traffic from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const PORTS_ERROR: &str = "LoadBalancerPortsError";

/// The controller of load balancers; its keys are Services.
#[derive(Debug)]
pub struct LoadBalancerController {
    /// Ports of the boards that the cluster needs itself.
    reserved: BTreeSet<(Protocol, u16)>,
}

impl LoadBalancerController {
    /// With the ports that no Service may take on the address of a board.
    pub fn new(reserved: impl IntoIterator<Item = (Protocol, u16)>) -> Self {
        Self { reserved: reserved.into_iter().collect() }
    }

    /// Why a Service cannot have its ports.
    fn obstacle(&self, world: &World, service: &ServiceView) -> Option<String> {
        let ports = || service.ports.iter().map(|port| (port.protocol, port.port));
        if let Some((protocol, port)) = ports().find(|port| self.reserved.contains(port)) {
            return Some(format!("port {port}/{protocol} of the boards belongs to the cluster"));
        }
        let before = |other: &&ServiceView| place(other) < place(service);
        let mut older: Vec<&ServiceView> =
            world.services().filter(|it| is_balanced(it)).filter(before).collect();
        older.sort_by(|a, b| place(a).cmp(&place(b)));
        older.into_iter().find_map(|other| {
            let shared = |port: &(Protocol, u16)| {
                other.ports.iter().any(|it| (it.protocol, it.port) == *port)
            };
            let (protocol, port) = ports().find(shared)?;
            let (namespace, name) = other.meta.names();
            Some(format!("port {port}/{protocol} is taken by service {namespace}/{name}"))
        })
    }
}

impl Controller for LoadBalancerController {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let key = &changed.key;
        if key.kind == kind::SERVICES {
            let new = world.service(&key.namespace, &key.name);
            let old = match &changed.old {
                Some(View::Service(old)) => Some(old),
                _ => None,
            };
            keys.extend(new.map(|service| service.meta.key(kind::SERVICES)));
            // Others may get the ports that it leaves, or have to leave those that it takes.
            let ports = |service: Option<&ServiceView>| {
                service.filter(|it| is_balanced(it)).map(|it| it.ports.clone())
            };
            if ports(old) != ports(new) {
                keys.extend(balanced(world));
            }
        } else if key.kind == kind::ENDPOINT_SLICES {
            let Some(slice) = world.slice(&key.namespace, &key.name) else { return };
            let service = world.service(&key.namespace, slice.service());
            let service = service.filter(|it| is_balanced(it) && it.external_local);
            keys.extend(service.map(|service| service.meta.key(kind::SERVICES)));
        } else if key.kind == kind::NODES {
            let before = match &changed.old {
                Some(View::Node(old)) => address(old),
                _ => None,
            };
            if before != world.node(&key.name).and_then(address) {
                keys.extend(balanced(world));
            }
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(service) = world.service(&key.namespace, &key.name) else { return plan };
        if service.foreign_balancer || service.meta.deleting.is_some() {
            return plan;
        }
        let obstacle = if is_balanced(service) { self.obstacle(world, service) } else { None };
        let addresses = match is_balanced(service) && obstacle.is_none() {
            true => addresses(world, service),
            false => Vec::new(),
        };
        let same = service.ingress[..] == addresses[..]
            && service.ports_error.as_deref() == obstacle.as_deref();
        if same {
            return plan;
        }
        plan.ops.push(report(service, &addresses, obstacle.as_deref(), now));
        let event = |warning, reason, message| {
            let about = ObjectReference::of("v1", "Service", &service.meta);
            Op::Event(Event { about, warning, reason, message, component: COMPONENT })
        };
        if let Some(why) = obstacle.filter(|why| service.ports_error.as_deref() != Some(why)) {
            plan.ops.push(event(true, "SyncLoadBalancerFailed", why));
        } else if service.ingress.is_empty() && !addresses.is_empty() {
            plan.ops.push(event(false, "EnsuredLoadBalancer", "Ensured load balancer".into()));
        }
        plan
    }
}

fn is_balanced(service: &ServiceView) -> bool {
    service.kind == ServiceType::LoadBalancer
        && !service.foreign_balancer
        && service.meta.deleting.is_none()
}

fn balanced(world: &World) -> impl Iterator<Item = ObjectKey> {
    world.services().filter(|it| is_balanced(it)).map(|it| it.meta.key(kind::SERVICES))
}

/// Who comes first: the older one, of the same second the one that has addresses already.
fn place(service: &ServiceView) -> (Timestamp, bool, &str, &str) {
    let meta = &service.meta;
    (meta.created, service.ingress.is_empty(), &meta.namespace, &meta.name)
}

/// The address at which a board takes traffic from outside; `None` while it takes none.
fn address(node: &NodeView) -> Option<Ipv4Addr> {
    let takes = node.ready && node.meta.deleting.is_none();
    node.address.filter(|_| takes && node.meta.labels.get(EXCLUDED).is_none())
}

fn addresses(world: &World, service: &ServiceView) -> Vec<Ipv4Addr> {
    let serving: BTreeSet<&str> = match service.external_local {
        true => {
            let slices = world.slices_of(&service.meta.namespace, &service.meta.name);
            let endpoints = slices.flat_map(|slice| &slice.endpoints);
            endpoints.filter(|it| it.is_ready()).filter_map(|it| it.node.as_deref()).collect()
        }
        false => BTreeSet::new(),
    };
    let serves = |node: &&NodeView| !service.external_local || serving.contains(&*node.meta.name);
    let addresses: BTreeSet<Ipv4Addr> = world.nodes().filter(serves).filter_map(address).collect();
    addresses.into_iter().take(BALANCER_ADDRESSES_MAX).collect()
}

fn report(
    service: &ServiceView,
    addresses: &[Ipv4Addr],
    obstacle: Option<&str>,
    now: Timestamp,
) -> Op {
    let ingress: Vec<Value> =
        addresses.iter().map(|it| json!({ "ip": it.to_string(), "ipMode": "VIP" })).collect();
    let ingress = if ingress.is_empty() { Value::Null } else { ingress.into() };
    let mut status = json!({ "loadBalancer": { "ingress": ingress } });
    if service.ports_error.as_deref() != obstacle {
        status["conditions"] = match obstacle {
            Some(why) => json!([{
                "type": PORTS_ERROR, "status": "True", "reason": "PortInUse", "message": why,
                "lastTransitionTime": now.to_string(),
            }]),
            None => Value::Null,
        };
    }
    Op::Patch {
        key: service.meta.key(kind::SERVICES),
        base: service.meta.version,
        subresource: Some("status"),
        merge: json!({ "status": status }),
    }
}
