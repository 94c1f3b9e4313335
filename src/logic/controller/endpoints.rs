//! Endpoints objects of Services that select pods (upstream's `endpoints_controller.go`): the older
//! form of what EndpointSlices say, for clients that still read it.
//!
//! At most `ENDPOINTS_ADDRESSES_MAX` addresses; what is left out then shows in an annotation.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::ids::ObjectKey;
use model::limits::ENDPOINTS_ADDRESSES_MAX;
use model::timestamp::Timestamp;
use model::view::{
    EndpointsView, PodView, ServiceType, ServiceView, Subset, SubsetAddress, SubsetPort,
    TargetReference, kind,
};
use serde_json::{Map, Value, json};

use super::ownership::open_for_new;
use super::slices::{HEADLESS, target_value};
use super::{Controller, Op, Plan, Propagation, serving};
use crate::world::{Changed, World};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const TRUNCATED: &str = "truncated";
/// Such an object is the lock of a leader election.
const ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";

/// The controller of Endpoints; its keys are Services.
#[derive(Debug)]
pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        MANAGER
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let key = &changed.key;
        if key.kind == kind::SERVICES {
            keys.push(key.clone());
        } else if key.kind == kind::ENDPOINTS {
            // Endpoints may be made before their Service: only ours are left over without one.
            let ours = world
                .endpoints(&key.namespace, &key.name)
                .is_some_and(|endpoints| endpoints.meta.labels.get(MANAGED_BY) == Some(MANAGER));
            if ours || world.service(&key.namespace, &key.name).is_some() {
                keys.push(ObjectKey { kind: kind::SERVICES, ..key.clone() });
            }
        } else {
            serving::services_concerned(world, changed, keys);
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let have = world.endpoints(&key.namespace, &key.name);
        let have = have.filter(|endpoints| endpoints.meta.deleting.is_none());
        let Some(service) = world.service(&key.namespace, &key.name) else {
            let left = have.filter(|endpoints| endpoints.annotations.get(ELECTION).is_none());
            plan.ops.extend(left.map(delete));
            return plan;
        };
        if service.selector.is_empty() || service.kind == ServiceType::ExternalName {
            return plan;
        }
        let mut subsets = subsets(world, service);
        let truncated = truncate(&mut subsets);
        match have {
            Some(have) => plan.ops.extend(update(have, service, &subsets, truncated)),
            None if open_for_new(world, &key.namespace) => {
                plan.ops.push(create(service, &subsets, truncated));
            }
            None => (),
        }
        plan
    }
}

fn delete(endpoints: &EndpointsView) -> Op {
    Op::Delete {
        key: endpoints.meta.key(kind::ENDPOINTS),
        base: endpoints.meta.version,
        uid: endpoints.meta.uid,
        grace_seconds: None,
        propagation: Propagation::Background,
    }
}

/// Addresses of one list of ports: ready or not, by address and uid of the pod.
type Group = BTreeMap<(Ipv4Addr, Box<str>), (SubsetAddress, bool)>;

/// The pods of a Service, those with the same ports together.
fn subsets(world: &World, service: &ServiceView) -> Vec<Subset> {
    let mut groups: BTreeMap<Vec<SubsetPort>, Group> = BTreeMap::new();
    for pod in serving::pods(world, service) {
        let Some(ip) = pod.address else { continue };
        // A pod that is being deleted is no endpoint here, whatever it still answers.
        if pod.meta.deleting.is_some() && !service.publish_not_ready {
            continue;
        }
        let ports = ports(service, pod);
        if ports.is_empty() && !(service.ports.is_empty() && service.headless) {
            continue;
        }
        let ready = service.publish_not_ready || pod.ready_since.is_some();
        let address = address(service, pod, ip);
        let uid = address.target_ref.as_ref().map(|target| target.uid.clone()).unwrap_or_default();
        groups.entry(ports).or_default().insert((ip, uid), (address, ready));
    }
    groups
        .into_iter()
        .map(|(ports, group)| {
            let (ready, not_ready): (Vec<_>, Vec<_>) =
                group.into_values().partition(|(_, ready)| *ready);
            let addresses = |list: Vec<(SubsetAddress, bool)>| list.into_iter().map(|it| it.0);
            Subset {
                ready: addresses(ready).collect(),
                not_ready: addresses(not_ready).collect(),
                ports: ports.into(),
            }
        })
        .collect()
}

fn ports(service: &ServiceView, pod: &PodView) -> Vec<SubsetPort> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(SubsetPort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: serving::target(pod, port)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn address(service: &ServiceView, pod: &PodView, ip: Ipv4Addr) -> SubsetAddress {
    SubsetAddress {
        ip: ip.to_string().into(),
        hostname: serving::hostname(pod, service).map(Into::into),
        node_name: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        target_ref: Some(TargetReference {
            kind: "Pod".into(),
            namespace: (&*pod.meta.namespace).into(),
            name: (&*pod.meta.name).into(),
            uid: pod.meta.uid.to_string().into(),
        }),
    }
}

/// Leaves away what is too much, from every subset its share, ready addresses last. Whether there was
/// anything.
fn truncate(subsets: &mut [Subset]) -> bool {
    let count = |of: fn(&Subset) -> usize| subsets.iter().map(of).sum::<usize>();
    let ready = count(|subset| subset.ready.len());
    let not_ready = count(|subset| subset.not_ready.len());
    if ready + not_ready <= ENDPOINTS_ADDRESSES_MAX {
        return false;
    }
    let cuts_ready = ready > ENDPOINTS_ADDRESSES_MAX;
    let (room, all) = match cuts_ready {
        true => (ENDPOINTS_ADDRESSES_MAX, ready),
        false => (ENDPOINTS_ADDRESSES_MAX - ready, not_ready),
    };
    let mut left = room;
    for subset in subsets {
        let list = if cuts_ready { &mut subset.ready } else { &mut subset.not_ready };
        let share = (list.len() * room).div_ceil(all).min(left);
        *list = std::mem::take(list).into_iter().take(share).collect();
        left -= share;
        if cuts_ready {
            subset.not_ready = Box::default();
        }
    }
    true
}

/// The labels that the object is to have.
fn labels(service: &ServiceView) -> BTreeMap<&str, &str> {
    let own = service.meta.labels.iter().filter(|(name, _)| *name != HEADLESS);
    let mut labels: BTreeMap<&str, &str> = own.collect();
    labels.insert(MANAGED_BY, MANAGER);
    if service.headless {
        labels.insert(HEADLESS, "");
    }
    labels
}

fn create(service: &ServiceView, subsets: &[Subset], truncated: bool) -> Op {
    let mut metadata = json!({
        "name": &*service.meta.name, "namespace": &*service.meta.namespace,
        "labels": labels(service),
    });
    if truncated {
        metadata["annotations"] = json!({ OVER_CAPACITY: TRUNCATED });
    }
    let mut object = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": metadata });
    if !subsets.is_empty() {
        object["subsets"] = subsets_value(subsets);
    }
    Op::Create { kind: kind::ENDPOINTS, object }
}

fn update(
    have: &EndpointsView,
    service: &ServiceView,
    subsets: &[Subset],
    truncated: bool,
) -> Option<Op> {
    let labels = labels(service);
    let same_labels = have.meta.labels.iter().eq(labels.iter().map(|(n, v)| (*n, *v)));
    let same_note = have.annotations.get(OVER_CAPACITY).is_some() == truncated;
    if same_labels && same_note && have.subsets[..] == *subsets {
        return None;
    }
    let mut merge = json!({
        "subsets": if subsets.is_empty() { Value::Null } else { subsets_value(subsets) },
    });
    if !same_labels {
        let gone = have.meta.labels.iter().filter(|(name, _)| !labels.contains_key(name));
        let mut changed: Map<String, Value> =
            gone.map(|(name, _)| (name.to_owned(), Value::Null)).collect();
        changed.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
        merge["metadata"]["labels"] = changed.into();
    }
    if !same_note {
        let note = if truncated { TRUNCATED.into() } else { Value::Null };
        merge["metadata"]["annotations"] = json!({ OVER_CAPACITY: note });
    }
    Some(Op::Patch {
        key: have.meta.key(kind::ENDPOINTS),
        base: have.meta.version,
        subresource: None,
        merge,
    })
}

fn subsets_value(subsets: &[Subset]) -> Value {
    let addresses = |list: &[SubsetAddress]| -> Value { list.iter().map(address_value).collect() };
    let subset = |subset: &Subset| {
        let mut value = Map::new();
        if !subset.ready.is_empty() {
            value.insert("addresses".into(), addresses(&subset.ready));
        }
        if !subset.not_ready.is_empty() {
            value.insert("notReadyAddresses".into(), addresses(&subset.not_ready));
        }
        if !subset.ports.is_empty() {
            let ports: Value = subset.ports.iter().map(port_value).collect();
            value.insert("ports".into(), ports);
        }
        Value::Object(value)
    };
    subsets.iter().map(subset).collect()
}

fn address_value(address: &SubsetAddress) -> Value {
    let mut value = json!({ "ip": address.ip });
    if let Some(hostname) = &address.hostname {
        value["hostname"] = json!(hostname);
    }
    if let Some(node) = &address.node_name {
        value["nodeName"] = json!(node);
    }
    if let Some(target) = &address.target_ref {
        value["targetRef"] = target_value(target);
    }
    value
}

fn port_value(port: &SubsetPort) -> Value {
    let mut value = json!({ "port": port.port, "protocol": port.protocol.to_string() });
    if !port.name.is_empty() {
        value["name"] = json!(port.name);
    }
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = json!(protocol);
    }
    value
}
