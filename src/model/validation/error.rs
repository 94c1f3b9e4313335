//! One fault of one field, and the `Invalid` Status made of all of them.
//!
//! Words and order are those of `k8s.io/apimachinery/pkg/util/validation/field` and of
//! `NewInvalid`: the message joins the distinct faults, the causes list every one.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::limits::FAULTS_MAX;
use crate::status::{ApiError, qualified};

/// The class of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A name that nothing has.
    NotFound,
    /// A field that must be given.
    Required,
    /// A value that occurs twice.
    Duplicate,
    /// A value of the wrong form.
    Invalid,
    /// A value outside a closed list.
    NotSupported,
    /// A value that may not be set here.
    Forbidden,
    /// A text beyond its limit.
    TooLong,
    /// A list beyond its limit.
    TooMany,
}

impl FaultKind {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NotFound => ("Not found", "FieldValueNotFound"),
            Self::Required => ("Required value", "FieldValueRequired"),
            Self::Duplicate => ("Duplicate value", "FieldValueDuplicate"),
            Self::Invalid => ("Invalid value", "FieldValueInvalid"),
            Self::NotSupported => ("Unsupported value", "FieldValueNotSupported"),
            Self::Forbidden => ("Forbidden", "FieldValueForbidden"),
            Self::TooLong => ("Too long", "FieldValueTooLong"),
            Self::TooMany => ("Too many", "FieldValueTooMany"),
        }
    }
}

/// One fault: which field, which class, the value (null: not shown) and the sentence about it.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path of the field, `spec.containers[0].name`.
    pub field: String,
    /// Class of the fault.
    pub kind: FaultKind,
    /// The value as shown, absent where the class shows none.
    pub value: Option<Value>,
    /// What is wrong with it; may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(
        field: impl Into<String>,
        kind: FaultKind,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), kind, value, detail: detail.into() }
    }

    /// A field that must be given.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FaultKind::Required, None, detail)
    }

    /// A value of the wrong form.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(field, FaultKind::Invalid, Some(value.into()), detail)
    }

    /// A value outside `supported`.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let list: Vec<String> = supported.iter().map(|text| go_quote(text)).collect();
        let detail = if list.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", list.join(", "))
        };
        Self::new(field, FaultKind::NotSupported, Some(value.into()), detail)
    }

    /// A value that occurs twice.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FaultKind::Duplicate, Some(value.into()), "")
    }

    /// A name that nothing has.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(field, FaultKind::NotFound, Some(value.into()), "")
    }

    /// A value that may not be set here.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FaultKind::Forbidden, None, detail)
    }

    /// A text of more than `bytes_max` bytes.
    pub fn too_long(field: impl Into<String>, bytes_max: usize) -> Self {
        let detail = format!("may not be more than {bytes_max} bytes");
        Self::new(field, FaultKind::TooLong, None, detail)
    }

    /// A list of more than `items_max` items.
    pub fn too_many(field: impl Into<String>, items: usize, items_max: usize) -> Self {
        let plural = if items_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {items_max} {plural}");
        Self::new(field, FaultKind::TooMany, Some(items.into()), detail)
    }

    /// The fault without its field, `Invalid value: "x": why`.
    pub fn body(&self) -> String {
        let (words, _) = self.kind.words();
        let mut text = match &self.value {
            None => words.to_owned(),
            Some(value) => format!("{words}: {}", shown(value)),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Faults as they are found; those beyond [`FAULTS_MAX`] are only counted, so that a body made of
/// nothing but faults costs little.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<FieldError>,
    dropped: usize,
}

impl Faults {
    pub(super) fn push(&mut self, fault: FieldError) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn extend(&mut self, faults: impl IntoIterator<Item = FieldError>) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }

    /// How many were found.
    pub(super) fn len(&self) -> usize {
        self.list.len() + self.dropped
    }

    pub(super) fn into_list(self) -> Vec<FieldError> {
        self.list
    }
}

/// The 422 that lists `errors` about the object `name` of `kind` in `group`.
pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
    let message = format!("{} {} is invalid: ", qualified(group, kind), go_quote(name));
    let causes: Vec<Value> = errors
        .iter()
        .map(|e| json!({"reason": e.kind.words().1, "message": e.body(), "field": e.field}))
        .collect();
    let mut details = serde_json::Map::new();
    for (field, text) in [("name", name), ("group", group), ("kind", kind)] {
        if !text.is_empty() {
            details.insert(field.into(), text.into());
        }
    }
    if !causes.is_empty() {
        details.insert("causes".into(), causes.into());
    }
    let mut error = ApiError::new(422, "Invalid", message + &joined(errors));
    error.details = Value::Object(details);
    error
}

/// `a: why`, or `[a: why, b: why]` with repetitions left out.
pub fn joined(errors: &[FieldError]) -> String {
    let mut seen = BTreeSet::new();
    let texts: Vec<String> =
        errors.iter().map(ToString::to_string).filter(|text| seen.insert(text.clone())).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A value as Go shows it in a message: texts quoted, everything else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        other => {
            let mut text = String::new();
            for c in other.to_string().chars() {
                match c {
                    '<' | '>' | '&' => text.push_str(&format!("\\u{:04x}", c as u32)),
                    c => text.push(c),
                }
            }
            text
        }
    }
}

/// A text as Go's `%q` prints it.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fault_stands_alone_and_many_stand_in_brackets() {
        let first = FieldError::required("spec.a", "");
        let second = FieldError::invalid("spec.b", json!({"x": "<"}), "why");
        let one = invalid("", "Pod", "p", std::slice::from_ref(&first));
        assert_eq!(one.message, "Pod \"p\" is invalid: spec.a: Required value");
        let errors = [first.clone(), second, first];
        let two = invalid("apps", "Deployment", "d", &errors);
        assert_eq!(
            two.message,
            "Deployment.apps \"d\" is invalid: [spec.a: Required value, \
             spec.b: Invalid value: {\"x\":\"\\u003c\"}: why]"
        );
        assert_eq!(two.details["causes"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn quoting_is_that_of_go() {
        assert_eq!(go_quote("a\"\\\n\u{1}é\u{7f}"), "\"a\\\"\\\\\\n\\x01é\\x7f\"");
    }
}
