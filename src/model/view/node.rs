//! The view of a Node.

use serde::Deserialize;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::resources::Resources;

/// A Node.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Metadata.
    pub meta: Meta,
    /// Cordoned.
    pub unschedulable: bool,
    /// What keeps pods away.
    pub taints: Box<[Taint]>,
    /// What pods may take together.
    pub allocatable: Resources,
    /// The condition `Ready` is `True`.
    pub ready: bool,
}

/// Keeps pods away that do not tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Taint {
    /// Name.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub key: Box<str>,
    /// Value, may be empty.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub value: Box<str>,
    /// What it does.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods rather go elsewhere.
    PreferNoSchedule,
    /// New pods stay away and running ones leave.
    NoExecute,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    unschedulable: Option<bool>,
    #[serde(deserialize_with = "null_as_empty")]
    taints: Vec<Taint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    allocatable: Option<Resources>,
    capacity: Option<Resources>,
    #[serde(deserialize_with = "null_as_empty")]
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: Box<str>,
    status: Box<str>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<NodeView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let ready = |condition: &Condition| {
        condition.r#type.as_ref() == "Ready" && condition.status.as_ref() == "True"
    };
    Ok(NodeView {
        meta: raw.metadata.view(identity),
        unschedulable: raw.spec.unschedulable.unwrap_or_default(),
        taints: raw.spec.taints.into(),
        ready: raw.status.conditions.iter().any(ready),
        allocatable: raw.status.allocatable.or(raw.status.capacity).unwrap_or_default(),
    })
}
