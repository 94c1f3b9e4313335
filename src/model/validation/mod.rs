//! What the API server refuses, with its exact words.
//!
//! Input: an object after the schema check and defaulting, and the stored object it replaces.
//! Output: every fault in the order in which kube-apiserver 1.36 reports them, so that [`invalid`]
//! makes the same Status. Maps are walked sorted (the real server's order is random there).
//! Deliberately absent: allocation (addresses, ports), quota, and whether other objects exist.

pub mod access;
mod cluster;
mod config;
mod container;
mod endpoints;
mod env;
pub mod error;
mod meta;
pub mod names;
mod placement;
mod pod;
mod policy;
mod read;
mod resources;
mod service;
mod update;
mod volume;
mod workload;

use serde_json::Value;

use crate::resource::Resource;
use crate::status::ApiError;

pub use error::{FaultKind, FieldError};

use error::Faults;

/// The 422 that lists `errors` about the object `name` of `resource`.
pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
    error::invalid(resource.group, resource.kind, name, errors)
}

/// The faults of `new`, of `resource`, replacing `old` if there is one.
///
/// A Lease without `metadata.resourceVersion` in an update is the caller's to refuse: the version is
/// no part of a stored object.
pub fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Faults::default();
    match old {
        None => create(resource.key, new, &mut errors),
        Some(old) => update(resource.key, new, old, &mut errors),
    }
    errors.into_list()
}

/// The faults of a write through the `status` subresource of `resource`.
pub fn validate_status(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Faults::default();
    meta::metadata_update(new, old, &mut errors);
    match resource.key {
        "/pods" => update::pod_status(new, old, &mut errors),
        "/replicationcontrollers" | "apps/replicasets" | "apps/deployments" => {
            workload::status(&new["status"], &mut errors);
        }
        "policy/poddisruptionbudgets" => policy::budget_status(&new["status"], &mut errors),
        _ => {}
    }
    errors.into_list()
}

fn create(kind: &str, new: &Value, errors: &mut Faults) {
    if kind == "/pods" {
        return pod::create(new, errors);
    }
    meta::metadata(kind, new, errors);
    content(kind, new, errors);
}

fn update(kind: &str, new: &Value, old: &Value, errors: &mut Faults) {
    if kind == "/pods" {
        return update::pod(new, old, errors);
    }
    if access::validates(kind) {
        create(kind, new, errors);
        meta::metadata_update(new, old, errors);
        return access::update(new, old, errors);
    }
    meta::metadata_update(new, old, errors);
    match kind {
        "/services" => service::service_update(new, old, errors),
        "/configmaps" => config::sealed(new, old, errors),
        "/secrets" => {
            config::secret_type(new, old, errors);
            config::sealed(new, old, errors);
        }
        "/nodes" => cluster::node_update(new, old, errors),
        _ => {}
    }
    let whole = matches!(
        kind,
        "/services"
            | "/configmaps"
            | "/secrets"
            | "/serviceaccounts"
            | "discovery.k8s.io/endpointslices"
            | "networking.k8s.io/networkpolicies"
    );
    if whole {
        meta::metadata(kind, new, errors);
    }
    content(kind, new, errors);
    let immutable: &[(&str, &str)] = match kind {
        "apps/deployments" | "apps/replicasets" => &[("spec.selector", "/spec/selector")],
        "discovery.k8s.io/endpointslices" => &[("addressType", "/addressType")],
        _ => &[],
    };
    for (field, pointer) in immutable {
        meta::immutable(field, new.pointer(pointer), old.pointer(pointer), errors);
    }
}

/// The faults of everything but metadata.
fn content(kind: &str, new: &Value, errors: &mut Faults) {
    let spec = &new["spec"];
    match kind {
        "/services" => service::service(new, errors),
        "/endpoints" => endpoints::endpoints(new, errors),
        "discovery.k8s.io/endpointslices" => endpoints::endpoint_slice(new, errors),
        "/configmaps" => config::config_map(new, errors),
        "/secrets" => config::secret(new, errors),
        "/namespaces" => cluster::namespace(new, errors),
        "/nodes" => cluster::node(new, errors),
        "/events" => cluster::event(new, errors),
        "coordination.k8s.io/leases" => cluster::lease(new, errors),
        "networking.k8s.io/networkpolicies" => policy::network_policy(spec, errors),
        "policy/poddisruptionbudgets" => policy::disruption_budget(spec, errors),
        kind if access::validates(kind) => access::content(kind, new, errors),
        "/replicationcontrollers" => workload::replication_controller(spec, errors),
        "apps/replicasets" => workload::replica_set(spec, errors),
        "apps/deployments" => workload::deployment(spec, errors),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
