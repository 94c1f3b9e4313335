//! The three patches that need no field owners: JSON patch, merge patch, strategic merge patch.
//!
//! Each changes a [`serde_json::Value`] in place and refuses what a real server refuses. What comes
//! out is not checked against the schema: that is the next step ([`crate::schema::check`]). When a
//! patch is refused, the object is half patched and worthless.

mod json;
mod merge;
mod order;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::{strategic, strategic_type};

use crate::status::ApiError;

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct PatchError {
    /// HTTP status: 400 for a malformed patch, 413 for too much work, 422 where it does not apply,
    /// 500 where a real server answers so.
    pub code: u16,
    /// What is wrong.
    pub text: String,
}

impl PatchError {
    fn malformed(text: impl Into<String>) -> Self {
        Self { code: 400, text: text.into() }
    }

    fn too_large(text: impl Into<String>) -> Self {
        Self { code: 413, text: text.into() }
    }

    fn inapplicable(text: impl Into<String>) -> Self {
        Self { code: 422, text: text.into() }
    }

    fn internal(text: impl Into<String>) -> Self {
        Self { code: 500, text: text.into() }
    }
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        match error.code {
            400 => ApiError::bad_request(error.text),
            413 => ApiError::new(413, "RequestEntityTooLarge", error.text),
            422 => {
                // A real server keeps the reason to itself.
                let text = "the server rejected our request due to an error in our request";
                let mut api = ApiError::new(422, "Invalid", text);
                api.details = serde_json::json!({});
                api
            }
            _ => ApiError::internal(error.text),
        }
    }
}
