//! The registry's own errors, worded as `k8s.io/apiserver` words them.

use model::ids::Version;
use model::resource::Resource;
use model::status::{ApiError, qualified};
use model::validation::{self, FieldError};
use serde_json::json;

use super::types::Target;
use crate::io::store::{ProposeError, StoreError};

/// `registry.OptimisticLockErrorMsg`.
pub(super) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Seconds that a client waits after a 504 about a version from the future.
const RETRY_SECONDS: u32 = 1;

impl Target {
    pub(super) fn not_found(&self) -> ApiError {
        ApiError::not_found(self.resource.group, self.resource.plural, &self.name)
    }

    pub(super) fn already_exists(&self) -> ApiError {
        ApiError::already_exists(self.resource.group, self.resource.plural, &self.name)
    }

    pub(super) fn conflict(&self, why: &str) -> ApiError {
        ApiError::conflict(self.resource.group, self.resource.plural, &self.name, why)
    }

    /// A conflict that names the kind, as failed delete preconditions do.
    pub(super) fn kind_conflict(&self, why: &str) -> ApiError {
        ApiError::conflict(self.resource.group, self.resource.kind, &self.name, why)
    }

    pub(super) fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(self.resource.group, self.resource.plural, &self.name, why)
    }
}

/// 422 about one field of the object `name` of `resource`.
pub(super) fn invalid_field(resource: &Resource, name: &str, error: FieldError) -> ApiError {
    validation::invalid(resource, name, &[error])
}

/// 422 about query or body options (`ListOptions`, `DeleteOptions`).
pub(super) fn invalid_options(kind: &str, errors: &[FieldError]) -> ApiError {
    validation::error::invalid("meta.k8s.io", kind, "", errors)
}

/// 504 for a version that is not reached yet.
pub(super) fn too_large_version(asked: Version, current: Version) -> ApiError {
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    let mut error = ApiError::new(504, "Timeout", message);
    error.details = json!({
        "causes": [{
            "reason": "ResourceVersionTooLarge", "message": "Too large resource version",
        }],
        "retryAfterSeconds": RETRY_SECONDS,
    });
    error.retry_after_seconds = Some(RETRY_SECONDS);
    error
}

/// A read that failed.
pub(super) fn read_failed(error: &StoreError) -> ApiError {
    if let StoreError::Installing = error {
        let mut away = ApiError::new(503, "ServiceUnavailable", chain(error));
        away.retry_after_seconds = Some(RETRY_SECONDS);
        return away;
    }
    ApiError::internal(format!("Internal error occurred: {}", chain(error)))
}

/// A write that failed for a reason other than a conflict.
pub(super) fn write_failed(resource: &Resource, error: &ProposeError) -> ApiError {
    match error {
        ProposeError::NoSpace => ApiError::internal(
            "Internal error occurred: no space is left on the master's disk: free some space on \
             the file system of --data-dir (remove unused images with `kumquat image rm`); reads \
             go on, and writes recover by themselves",
        ),
        ProposeError::TooLarge => ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity too large: {} may hold at most {} bytes",
                qualified(resource.group, resource.plural),
                model::limits::OBJECT_BYTES_MAX,
            ),
        ),
        ProposeError::NotLeading { .. } | ProposeError::Late => away(error),
        // A client must not send it again blindly, so it is not told when.
        ProposeError::Unknown => ApiError::new(504, "Timeout", chain(error)),
        other => ApiError::internal(format!("Internal error occurred: {}", chain(other))),
    }
}

/// 503: nothing happened, and another master, or this one in a moment, may do it.
pub(super) fn away(error: &dyn std::error::Error) -> ApiError {
    let mut away = ApiError::new(503, "ServiceUnavailable", chain(error));
    away.details = json!({ "retryAfterSeconds": RETRY_SECONDS });
    away.retry_after_seconds = Some(RETRY_SECONDS);
    away
}

/// The text of an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_surely_did_not_happen_may_be_sent_again_and_another_may_not() {
        let pods = model::resource::by_kind_key("/pods").expect("is in the table");
        let check = |error, code, retry: Option<u32>| {
            let told = write_failed(pods, &error);
            assert_eq!((told.code, told.retry_after_seconds), (code, retry), "{error}");
        };
        check(ProposeError::NotLeading { hint: None }, 503, Some(1));
        check(ProposeError::Late, 503, Some(1));
        check(ProposeError::Unknown, 504, None);
    }

    #[test]
    fn a_full_disk_names_the_remedy() {
        let pods = model::resource::by_kind_key("/pods").expect("is in the table");
        let error = write_failed(pods, &ProposeError::NoSpace);
        assert_eq!(error.code, 500);
        assert!(error.message.contains("free some space"), "{}", error.message);
    }
}
