//! The API's answer to a request that failed: `metav1.Status`, made in one place.
//!
//! Texts and codes are those of `k8s.io/apimachinery/pkg/api/errors`.

use serde_json::{Value, json};

/// A failed request: everything a client sees of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `reason` of the Status (`NotFound`, `AlreadyExists`, `Invalid`, ...); may be empty.
    pub reason: &'static str,
    /// Human-readable text.
    pub message: String,
    /// `details` of the Status, absent when null.
    pub details: Value,
    /// Seconds for the `Retry-After` header.
    pub retry_after_seconds: Option<u32>,
}

impl ApiError {
    /// An error with no details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            retry_after_seconds: None,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
            if !text.is_empty() {
                details.insert(field.into(), text.into());
            }
        }
        self.details = Value::Object(details);
        self
    }

    /// 404 for a named object of `plural` in `group`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, plural));
        Self::new(404, "NotFound", message).about(group, plural, name)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, plural));
        Self::new(409, "AlreadyExists", message).about(group, plural, name)
    }

    /// 409 for a stale version or a failed precondition; `why` is the sentence after the colon.
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(group, plural)
        );
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// 400 with a text of its own.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403; `why` is the sentence after the colon.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{}{named} is forbidden: {why}", qualified(group, plural));
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    /// 410 for a version that the history no longer holds.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 500 with a text of its own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    /// The `Status` object as sent to the client.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// How a process of exec or attach ended, as its client reads it from the error stream
/// (`k8s.io/kubelet/pkg/cri/streaming/remotecommand`, version 4 of the protocol).
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// Why there was no process, or why nothing is known of its end.
pub fn stream_failure(text: &str) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("Internal error occurred: {text}"),
        "details": {"causes": [{"message": text}]},
    })
}

/// `deployments.apps`, or `pods` for the core group.
pub fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}
