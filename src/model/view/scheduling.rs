//! Where a pod wants to run: kept only until it is bound.

use std::borrow::Cow;

use serde::Deserialize;

use super::company::{Company, RawPodAffinity};
use super::labels::Labels;
use super::meta::null_as_empty;
use super::node::{Taint, TaintEffect};
use super::selector::{Operator, Requirement};

/// Where a pod wants to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// Labels that the node must have.
    pub node_selector: Labels,
    /// Terms of the required node affinity of which one must match; `None` when there is none.
    pub required: Option<Box<[NodeTerm]>>,
    /// Terms that add their weight to a node that matches.
    pub preferred: Box<[(i64, NodeTerm)]>,
    /// What it wants of other pods.
    pub company: Company,
    /// Hashes of the images of its containers.
    pub images: Box<[u64]>,
    /// Higher goes first.
    pub priority: i64,
}

/// Requirements on a node that must all be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// On labels.
    #[serde(deserialize_with = "null_as_empty")]
    match_expressions: Vec<Requirement>,
    /// On fields; only `metadata.name` exists.
    #[serde(deserialize_with = "null_as_empty")]
    match_fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether a node of this name and these labels meets all requirements; an empty term meets
    /// none, as upstream.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        let on_field = |wanted: &Requirement| {
            wanted.key.as_ref() == "metadata.name" && wanted.met_by(Some(name))
        };
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self.match_expressions.iter().all(|wanted| wanted.met_by(labels.get(&wanted.key)))
            && self.match_fields.iter().all(on_field)
    }
}

/// A taint that a pod bears.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    #[serde(deserialize_with = "known_or_own")]
    key: Cow<'static, str>,
    operator: Option<Operator>,
    #[serde(deserialize_with = "null_as_empty")]
    value: Box<str>,
    #[serde(deserialize_with = "effect_or_any")]
    effect: Option<TaintEffect>,
    toleration_seconds: Option<i64>,
}

impl Toleration {
    /// How long a `NoExecute` taint is borne; `None` for ever.
    pub fn seconds(&self) -> Option<i64> {
        self.toleration_seconds
    }

    /// Whether it can bear a taint that drives pods away.
    pub(super) fn bears_execution(&self) -> bool {
        self.effect.is_none_or(|effect| effect == TaintEffect::NoExecute)
    }

    /// Whether the taint is borne (`v1.Toleration.ToleratesTaint`).
    pub fn bears(&self, taint: &Taint) -> bool {
        let key_fits = self.key.is_empty() || *self.key == *taint.key;
        let effect_fits = self.effect.is_none_or(|effect| effect == taint.effect);
        let number = |text: &str| text.parse::<i64>().ok();
        let value_fits = match self.operator {
            Some(Operator::Exists) => true,
            Some(Operator::Gt) => number(&taint.value) > number(&self.value),
            Some(Operator::Lt) => {
                number(&taint.value).is_some() && number(&taint.value) < number(&self.value)
            }
            _ => self.value == taint.value && !self.key.is_empty(),
        };
        key_fits && effect_fits && value_fits
    }
}

/// The keys that every pod bears by default cost no allocation: there may be fifty thousand pods.
fn known_or_own<'de, D: serde::Deserializer<'de>>(
    source: D,
) -> Result<Cow<'static, str>, D::Error> {
    const KNOWN: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let key = Option::<Cow<'de, str>>::deserialize(source)?.unwrap_or_default();
    let known = KNOWN.into_iter().find(|known| *known == key);
    Ok(known.map_or_else(|| Cow::Owned(key.into_owned()), Cow::Borrowed))
}

fn effect_or_any<'de, D: serde::Deserializer<'de>>(
    source: D,
) -> Result<Option<TaintEffect>, D::Error> {
    Ok(match Option::<Box<str>>::deserialize(source)?.as_deref() {
        Some("NoSchedule") => Some(TaintEffect::NoSchedule),
        Some("PreferNoSchedule") => Some(TaintEffect::PreferNoSchedule),
        Some("NoExecute") => Some(TaintEffect::NoExecute),
        _ => None,
    })
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawAffinity {
    node_affinity: Option<RawNodeAffinity>,
    pub(super) pod_affinity: Option<RawPodAffinity>,
    pub(super) pod_anti_affinity: Option<RawPodAffinity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Option<RawTerms>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_as_empty"
    )]
    preferred: Vec<RawPreferred>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTerms {
    #[serde(deserialize_with = "null_as_empty")]
    node_selector_terms: Vec<NodeTerm>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPreferred {
    weight: i64,
    preference: NodeTerm,
}

/// A preference and its weight.
pub(super) type Preferred = (i64, NodeTerm);

impl RawAffinity {
    pub(super) fn split(self) -> (Option<Box<[NodeTerm]>>, Box<[Preferred]>) {
        let node = self.node_affinity.unwrap_or_default();
        let required = node.required.map(|terms| terms.node_selector_terms.into());
        let preferred = node.preferred.into_iter().map(|term| (term.weight, term.preference));
        (required, preferred.collect())
    }
}
