//! Field selectors: `spec.nodeName=pi-3,status.phase!=Running`.

use serde_json::Value;

use super::SelectorError;
use crate::resource::Resource;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    equal: bool,
    value: String,
}

/// A conjunction of conditions on the fields that a kind lets one select by.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

impl FieldSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the `fieldSelector` query parameter of a request about `resource`.
    ///
    /// # Errors
    /// The text is no selector, or names a field that the kind does not select by; the real
    /// server's words.
    pub fn parse(resource: &Resource, text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, equal, value)) = split_term(part) else {
                return Err(SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            terms.push(Term { field: field.to_owned(), equal, value: unescape(value)? });
        }
        for term in &mut terms {
            term.field = supported(resource, &term.field)?.to_owned();
        }
        Ok(Self { terms })
    }

    /// The selector for one object by name: what a watch of a single object uses.
    pub fn name(name: &str) -> Self {
        let term = Term { field: "metadata.name".into(), equal: true, value: name.into() };
        Self { terms: vec![term] }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, when the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether `object`, of `resource`, matches.
    pub fn matches(&self, resource: &Resource, object: &Value) -> bool {
        let kind = resource.key;
        self.terms.iter().all(|t| (field_value(kind, object, &t.field) == t.value) == t.equal)
    }
}

/// The field as matched, or the refusal.
fn supported<'a>(resource: &Resource, field: &'a str) -> Result<&'a str, SelectorError> {
    let fields = resource.selectable;
    // Kinds without fields of their own allow a namespace even where there is none.
    let namespaced = resource.namespaced || fields.is_empty();
    let refusal = match field {
        "metadata.name" => return Ok(field),
        "metadata.namespace" if namespaced => return Ok(field),
        "spec.host" if resource.key == "/pods" => return Ok("spec.nodeName"),
        _ if fields.contains(&field) => return Ok(field),
        _ if fields.is_empty() => format!(
            "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            crate::validation::error::go_quote(field)
        ),
        _ => format!("field label not supported: {field}"),
    };
    Err(SelectorError(refusal))
}

/// The text of a field of an object; absent is empty, except for booleans and numbers.
fn field_value(kind: &str, object: &Value, field: &str) -> String {
    let at = |pointer: &str| object.pointer(pointer);
    let found = match (kind, field) {
        ("/events", "source") => {
            let component = at("/source/component").and_then(Value::as_str).unwrap_or("");
            if component.is_empty() { at("/reportingComponent") } else { at("/source/component") }
        }
        ("/pods", "status.podIPs") => None,
        _ => at(&format!("/{}", field.replace('.', "/"))),
    };
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if matches!(field, "spec.hostNetwork" | "spec.unschedulable") => "false".into(),
        _ if field == "status.replicas" => "0".into(),
        _ => String::new(),
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.char_indices().map(|(at, _)| at).find(|&at| {
        let rest = &term[at..];
        rest.starts_with('=') || rest.starts_with("!=")
    })?;
    let (field, rest) = term.split_at(at);
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, equal, value));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                next => {
                    let sequence: String = std::iter::once('\\').chain(next).collect();
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {}",
                    c as u32
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn served(kind: &str) -> &'static Resource {
        crate::resource::by_kind_key(kind).expect("served")
    }

    #[test]
    fn texts_match_pods() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "a,b"},
            "spec": {"nodeName": "", "restartPolicy": "Always"},
            "status": {"phase": "Running"},
        });
        for (text, expected) in [
            ("", true),
            (",", true),
            ("metadata.name=p", true),
            ("metadata.name==p,status.phase=Running", true),
            ("metadata.name!=p", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("spec.host=", true),
            ("status.nominatedNodeName=", true),
            ("spec.hostNetwork=false", true),
            ("metadata.namespace=a\\,b", true),
        ] {
            let selector =
                FieldSelector::parse(served("/pods"), text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(selector.matches(served("/pods"), &pod), expected, "{text}");
        }
        let selector = FieldSelector::parse(served("/pods"), "metadata.name=p").expect("valid");
        assert_eq!(selector.exact("metadata.name"), Some("p"));
    }

    #[test]
    fn event_source_falls_back_to_the_reporter() {
        let event = json!({"source": {}, "reportingComponent": "scheduler"});
        let selector = FieldSelector::parse(served("/events"), "source=scheduler").expect("valid");
        assert!(selector.matches(served("/events"), &event));
    }

    #[test]
    fn refusals_have_the_real_words() {
        for (kind, text, expected) in [
            ("/pods", "spec.x=1", "field label not supported: spec.x"),
            ("/nodes", "metadata.namespace=a", "field label not supported: metadata.namespace"),
            (
                "/configmaps",
                "spec.x=1",
                "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            ),
            ("/pods", "a", "invalid selector: 'a'; can't understand 'a'"),
            ("/pods", "a=\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("/pods", "a=b\\", "invalid field selector: invalid escape sequence: \\"),
            ("/pods", "a=b=c", "invalid field selector: unescaped character in value: 61"),
        ] {
            let error = FieldSelector::parse(served(kind), text).expect_err(text);
            assert_eq!(error.0, expected, "{text}");
        }
    }
}
