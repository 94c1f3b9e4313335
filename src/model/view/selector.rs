//! Label selectors as objects carry them, matched against [`Labels`].
//!
//! The selectors of query strings and field selectors are `model::selector`.

use serde::{Deserialize, Serialize};

use super::labels::Labels;
use super::meta::null_as_empty;

/// A selector; matches nothing when the object had none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Labels that must have exactly these values.
    pub labels: Labels,
    /// Further requirements.
    pub requirements: Box<[Requirement]>,
    /// There was a selector; an empty one matches everything.
    pub present: bool,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: Box<str>,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    #[serde(default, deserialize_with = "null_as_empty", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Box<str>>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// Is one of the values.
    In,
    /// Is absent or none of the values.
    NotIn,
    /// Is there.
    Exists,
    /// Is not there.
    DoesNotExist,
    /// Is a number above the value (node affinity only).
    Gt,
    /// Is a number below the value (node affinity only).
    Lt,
}

impl Requirement {
    /// Whether a label value (or its absence) meets this.
    pub fn met_by(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|wanted| wanted.as_ref() == value);
        let number = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => number().is_some_and(|(have, bound): (i64, i64)| have > bound),
            Operator::Lt => number().is_some_and(|(have, bound): (i64, i64)| have < bound),
        }
    }
}

impl Selector {
    /// A selector of exact labels, as a ReplicationController has it.
    pub fn exact(labels: Labels) -> Self {
        Self { present: !labels.is_empty(), labels, requirements: Box::default() }
    }

    /// The selector as `metav1.LabelSelector`, with one more exact label.
    pub fn to_value_with(&self, name: &str, value: &str) -> serde_json::Value {
        let mut labels: serde_json::Map<_, _> =
            self.labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        labels.insert(name.to_owned(), value.into());
        let mut selector = serde_json::json!({ "matchLabels": labels });
        if !self.requirements.is_empty() {
            selector["matchExpressions"] = serde_json::json!(self.requirements);
        }
        selector
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.present
            && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
            && self.requirements.iter().all(|wanted| wanted.met_by(labels.get(&wanted.key)))
    }
}

/// `metav1.LabelSelector` as stored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSelector {
    match_labels: Labels,
    #[serde(deserialize_with = "null_as_empty")]
    match_expressions: Vec<Requirement>,
}

impl From<Option<RawSelector>> for Selector {
    fn from(raw: Option<RawSelector>) -> Self {
        let present = raw.is_some();
        let raw = raw.unwrap_or_default();
        Self { labels: raw.match_labels, requirements: raw.match_expressions.into(), present }
    }
}
