//! What the API server refuses, with its exact words.
//!
//! Input: an object after the schema check and defaulting, and the stored object it replaces.
//! Output: every fault in the order in which kube-apiserver 1.36 reports them, so that [`invalid`]
//! makes the same Status. Maps are walked sorted (the real server's order is random there).
//! Deliberately absent: allocation (addresses, ports), quota, and whether other objects exist.

pub mod error;
mod meta;
pub mod names;
mod read;

use serde_json::Value;

use crate::resource::Resource;
use crate::status::ApiError;

pub use error::{FaultKind, FieldError};

/// The 422 that lists `errors` about the object `name` of `resource`.
pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
    error::invalid(resource.group, resource.kind, name, errors)
}

/// The faults of `new`, of `resource`, replacing `old` if there is one.
pub fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::metadata(resource.key, new, &mut errors);
    if let Some(old) = old {
        meta::metadata_update(new, old, &mut errors);
    }
    errors
}

/// The faults of a write through the `status` subresource of `resource`.
pub fn validate_status(_resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::metadata_update(new, old, &mut errors);
    errors
}
