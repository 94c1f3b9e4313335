//! Label and field selectors.
//!
//! Input: the query parameters `labelSelector` and `fieldSelector`, or a `LabelSelector` object.
//! Output: a closed list of requirements that match objects, with the words of
//! `k8s.io/apimachinery/pkg/{labels,fields}` for texts that are no selectors. Nothing here knows
//! which objects exist.

mod field;
mod label;
mod lexer;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator, Requirement};

/// Why a text or object is no selector; a 400 with this text as its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
