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

pub use error::{FaultKind, FieldError, invalid};

/// The faults of `new`, of `kind` (`/pods`, `apps/deployments`), replacing `old` if there is one.
pub fn validate(kind: &str, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::metadata(kind, new, &mut errors);
    if let Some(old) = old {
        meta::metadata_update(new, old, &mut errors);
    }
    errors
}

/// The faults of a write through the `status` subresource of `kind`.
pub fn validate_status(_kind: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    meta::metadata_update(new, old, &mut errors);
    errors
}
