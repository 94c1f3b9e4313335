//! How far a board is that leaves its cluster, as JSON on port 7443.
//!
//! Fields are only ever added, with a default.

use serde::{Deserialize, Serialize};

/// Where a board that leaves asks its leader, again and again: `POST`, answered with a [`LeavingV1`].
pub const LEAVE: &str = "/v1/leave";
/// Where it takes its leave once nothing is waited for: `POST`; its key is refused afterwards.
pub const LEFT: &str = "/v1/leave/end";

/// What is still waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeavingV1 {
    /// Nothing: it may go.
    #[serde(default)]
    pub ready: bool,
    /// Sentences for a person.
    #[serde(default)]
    pub waits: Vec<String>,
}
