//! The objects that a request means: label and field selector together, tried on bytes at rest.

use model::resource::Resource;
use model::selector::{FieldSelector, LabelSelector, SelectorError};
use model::status::ApiError;
use serde::Deserialize;
use serde_json::Value;

use super::object;

/// Both selectors of a query.
pub(super) struct Selection {
    resource: &'static Resource,
    labels: LabelSelector,
    fields: FieldSelector,
    /// The field selector names nothing but `metadata.name` and `metadata.namespace`.
    shallow: bool,
}

/// As much of an object as most selectors look at; the rest of its JSON is skipped, not kept.
#[derive(Deserialize)]
struct Head {
    metadata: Value,
}

impl Selection {
    pub(super) fn parse(
        resource: &'static Resource,
        labels: &str,
        fields: &str,
    ) -> Result<Self, ApiError> {
        let refuse = |error: SelectorError| ApiError::bad_request(error.to_string());
        let labels = LabelSelector::parse(labels).map_err(refuse)?;
        let parsed = FieldSelector::parse(resource, fields).map_err(refuse)?;
        let shallow = !resource.selectable.iter().any(|path| fields.contains(path))
            && !fields.contains("spec.host");
        Ok(Self { resource, labels, fields: parsed, shallow })
    }

    /// Whether every object is meant.
    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that is meant, if the selector says so.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether the object with these bytes at rest is meant.
    pub(super) fn matches(&self, body: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        if !self.shallow {
            return self.matches_value(&object::parse(body));
        }
        let head: Head = serde_json::from_slice(body).expect("bytes at rest are our JSON");
        let mut value = Value::Object(serde_json::Map::new());
        value["metadata"] = head.metadata;
        self.matches_value(&value)
    }

    fn matches_value(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(self.resource, object)
    }
}

/// Whether a selector could tell `old` from `new`: then the log has to carry the old bytes.
pub(super) fn differs(resource: &Resource, old: &Value, new: &Value) -> bool {
    let at = |object: &Value, path: &str| {
        object.pointer(&format!("/{}", path.replace('.', "/"))).cloned()
    };
    old["metadata"]["labels"] != new["metadata"]["labels"]
        || resource.selectable.iter().any(|path| at(old, path) != at(new, path))
}
