//! Schemas of all kinds, and checking an object against its schema.
//!
//! The schemas are one packed table ([`table`]), generated with the resource table. A request body
//! goes through [`decode_json`] (or [`crate::protobuf::decode`]), then [`check`].

mod check;
mod issue;
mod json;
pub mod openapi;
pub mod table;
#[cfg(test)]
mod tests;
mod time;

pub use check::{check, check_type};
pub use issue::{FieldIssue, IssueKind};
pub use json::decode_json;
pub use table::TypeId;
