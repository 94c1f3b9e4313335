//! How endpoints are spread over slices: with as few writes as possible, then with as few slices
//! (upstream's `endpointslice/reconciler.go`).
//!
//! An endpoint stays in the slice that it is in. New ones go first into slices that are written
//! anyway, then into one that has room for all that are left, then into new ones. So the change of
//! one endpoint is one write. A slice that becomes empty goes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use model::ids::Uid;
use model::limits::{PLAN_SLICES_MAX, SLICE_ENDPOINTS_MAX};
use model::timestamp::Timestamp;
use model::view::{EndpointSliceView, SliceEndpoint, SlicePort, TargetReference, kind};
use serde_json::{Map, Value, json};

use super::super::ownership::{generated_name, open_for_new};
use super::super::{Op, Propagation};
use crate::world::World;

/// The label that says who writes a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label that says whose endpoints they are.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ADDRESS_TYPE: &str = "IPv4";

/// What tells endpoints with the same ports apart: address, and uid of the object behind it.
pub(super) type EndpointKey = (Box<str>, Box<str>);
/// Endpoints by what tells them apart.
pub(super) type Endpoints = BTreeMap<EndpointKey, SliceEndpoint>;

/// What the slices of one owner are to say.
pub(super) struct Wanted<'a> {
    /// Namespace of owner and slices.
    pub(super) namespace: &'a str,
    /// Name of the Service, from which names of slices are made.
    pub(super) service: &'a str,
    /// Uid of the owner.
    pub(super) owner: Uid,
    /// The reference to it.
    pub(super) reference: Value,
    /// All labels of the slices.
    pub(super) labels: BTreeMap<&'a str, &'a str>,
    /// Their annotations.
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
    /// Endpoints by their ports. Without any, one empty slice shows that somebody looked, if
    /// `placeholder` says so.
    pub(super) groups: BTreeMap<Vec<SlicePort>, Endpoints>,
    /// See `groups`.
    pub(super) placeholder: bool,
}

/// What tells this endpoint from others.
pub(super) fn key_of(endpoint: &SliceEndpoint) -> EndpointKey {
    let address = endpoint.addresses.first().cloned().unwrap_or_default();
    (address, endpoint.target.as_ref().map(|target| target.uid.clone()).unwrap_or_default())
}

/// A slice that exists, as it is and as it is to be.
struct Draft<'a> {
    slice: &'a EndpointSliceView,
    endpoints: Vec<SliceEndpoint>,
    is_changed: bool,
}

/// The operations that turn `existing` into what is wanted: changed slices first, those that go last.
pub(super) fn reconcile(
    world: &World,
    existing: Vec<&EndpointSliceView>,
    mut wanted: Wanted<'_>,
    now: Timestamp,
) -> Vec<Op> {
    if wanted.groups.is_empty() && wanted.placeholder {
        wanted.groups.insert(Vec::new(), Endpoints::new());
    }
    let mut left: BTreeMap<Vec<SlicePort>, Vec<&EndpointSliceView>> = BTreeMap::new();
    let (alive, leaving): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|slice| slice.meta.deleting.is_none());
    for slice in alive {
        // A slice of another address type has no ports that are wanted.
        left.entry(slice.ports.to_vec()).or_default().push(slice);
    }
    drop(leaving);
    let (mut writes, mut deletions) = (Vec::new(), Vec::new());
    let mut made = 0;
    for (ports, endpoints) in std::mem::take(&mut wanted.groups) {
        let slices = left.remove(&ports).unwrap_or_default();
        let (fitting, other): (Vec<_>, Vec<_>) =
            slices.into_iter().partition(|slice| *slice.address_type == *ADDRESS_TYPE);
        deletions.extend(other.into_iter().map(delete));
        let is_placeholder = endpoints.is_empty();
        let (mut drafts, mut rest) = drafts(fitting, endpoints, &wanted);
        fill(&mut drafts, &mut rest);
        let mut kept = 0;
        for draft in drafts {
            let stays = !draft.endpoints.is_empty() || (is_placeholder && kept == 0);
            kept += usize::from(stays);
            match (stays, draft.is_changed) {
                (false, _) => deletions.push(delete(draft.slice)),
                (true, true) => writes.push(update(&draft, &wanted)),
                (true, false) => (),
            }
        }
        if !open_for_new(world, wanted.namespace) {
            continue;
        }
        if is_placeholder && kept == 0 {
            writes.push(create(world, &wanted, &ports, &[], now, &mut made));
        }
        for endpoints in rest.chunks(SLICE_ENDPOINTS_MAX) {
            writes.push(create(world, &wanted, &ports, endpoints, now, &mut made));
        }
    }
    deletions.extend(left.into_values().flatten().map(delete));
    // What does not fit follows: every write brings the key back.
    writes.into_iter().chain(deletions).take(PLAN_SLICES_MAX).collect()
}

/// Leaves in each slice what still is an endpoint, and gives those that are in none.
fn drafts<'a>(
    slices: Vec<&'a EndpointSliceView>,
    mut endpoints: Endpoints,
    wanted: &Wanted<'_>,
) -> (Vec<Draft<'a>>, Vec<SliceEndpoint>) {
    let drafts = slices
        .into_iter()
        .map(|slice| {
            let staying = slice.endpoints.iter().filter_map(|it| endpoints.remove(&key_of(it)));
            let staying: Vec<SliceEndpoint> = staying.collect();
            let labelled = slice.meta.labels.iter().eq(wanted.labels.iter().map(|(n, v)| (*n, *v)));
            let is_changed = !labelled || staying[..] != slice.endpoints[..];
            Draft { slice, endpoints: staying, is_changed }
        })
        .collect();
    (drafts, endpoints.into_values().collect())
}

/// Puts endpoints that are in no slice into those with room for them.
fn fill(drafts: &mut [Draft<'_>], rest: &mut Vec<SliceEndpoint>) {
    // The fullest first: others may become empty.
    drafts.sort_by_key(|draft| Reverse(draft.endpoints.len()));
    for draft in drafts.iter_mut().filter(|draft| draft.is_changed) {
        let room = SLICE_ENDPOINTS_MAX.saturating_sub(draft.endpoints.len());
        draft.endpoints.extend(rest.drain(..room.min(rest.len())));
    }
    // All but what fills whole new slices goes where it just fits.
    let last = rest.len() % SLICE_ENDPOINTS_MAX;
    if last == 0 {
        return;
    }
    let fits = |draft: &&mut Draft<'_>| {
        !draft.is_changed && draft.endpoints.len() + last <= SLICE_ENDPOINTS_MAX
    };
    if let Some(draft) = drafts.iter_mut().find(fits) {
        draft.endpoints.extend(rest.drain(rest.len() - last..));
        draft.is_changed = true;
    }
}

fn delete(slice: &EndpointSliceView) -> Op {
    Op::Delete {
        key: slice.meta.key(kind::ENDPOINT_SLICES),
        base: slice.meta.version,
        uid: slice.meta.uid,
        grace_seconds: None,
        propagation: Propagation::Background,
    }
}

fn update(draft: &Draft<'_>, wanted: &Wanted<'_>) -> Op {
    let meta = &draft.slice.meta;
    let mut merge = json!({ "endpoints": endpoints_value(&draft.endpoints) });
    let gone = meta.labels.iter().filter(|(name, _)| !wanted.labels.contains_key(name));
    let mut labels: Map<String, Value> =
        gone.map(|(name, _)| (name.to_owned(), Value::Null)).collect();
    let new = wanted.labels.iter().filter(|(name, value)| meta.labels.get(name) != Some(**value));
    labels.extend(new.map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    if !labels.is_empty() {
        merge["metadata"]["labels"] = labels.into();
    }
    Op::Patch { key: meta.key(kind::ENDPOINT_SLICES), base: meta.version, subresource: None, merge }
}

fn create(
    world: &World,
    wanted: &Wanted<'_>,
    ports: &[SlicePort],
    endpoints: &[SliceEndpoint],
    now: Timestamp,
    made: &mut usize,
) -> Op {
    let base = format!("{}-", wanted.service);
    let name = loop {
        let name = generated_name(&base, wanted.owner, world, now, *made);
        *made += 1;
        if world.slice(wanted.namespace, &name).is_none() {
            break name;
        }
    };
    let mut metadata = json!({
        "name": name, "generateName": base, "namespace": wanted.namespace,
        "labels": wanted.labels, "ownerReferences": [wanted.reference],
    });
    if !wanted.annotations.is_empty() {
        metadata["annotations"] = json!(wanted.annotations);
    }
    let ports: Vec<Value> = ports.iter().map(port_value).collect();
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": ADDRESS_TYPE,
        "ports": ports,
        "endpoints": endpoints_value(endpoints),
    });
    Op::Create { kind: kind::ENDPOINT_SLICES, object }
}

fn port_value(port: &SlicePort) -> Value {
    let mut value = json!({
        "name": port.name, "protocol": port.protocol.to_string(), "port": port.port,
    });
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = json!(protocol);
    }
    value
}

fn endpoints_value(endpoints: &[SliceEndpoint]) -> Value {
    endpoints.iter().map(endpoint_value).collect()
}

fn endpoint_value(endpoint: &SliceEndpoint) -> Value {
    let mut conditions = Map::new();
    for (name, value) in [
        ("ready", endpoint.ready),
        ("serving", endpoint.serving),
        ("terminating", endpoint.terminating),
    ] {
        conditions.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    let mut value = json!({ "addresses": endpoint.addresses, "conditions": conditions });
    let texts =
        [("hostname", &endpoint.hostname), ("nodeName", &endpoint.node), ("zone", &endpoint.zone)];
    for (name, text) in texts {
        if let Some(text) = text {
            value[name] = json!(text);
        }
    }
    if let Some(target) = &endpoint.target {
        value["targetRef"] = target_value(target);
    }
    value
}

/// The object behind an endpoint, as endpoints of both kinds name it.
pub(in crate::controller) fn target_value(target: &TargetReference) -> Value {
    let mut value = json!({});
    for (name, text) in [
        ("kind", &target.kind),
        ("namespace", &target.namespace),
        ("name", &target.name),
        ("uid", &target.uid),
    ] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    value
}
