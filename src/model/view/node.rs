//! The view of a Node.

use serde::{Deserialize, Serialize};

use super::labels::Labels;
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
    /// Type and status of every condition.
    pub conditions: Labels,
}

/// Keeps pods away that do not tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Name.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub key: Box<str>,
    /// Value, may be empty.
    #[serde(default, deserialize_with = "null_as_empty", skip_serializing_if = "str::is_empty")]
    pub value: Box<str>,
    /// What it does.
    pub effect: TaintEffect,
    /// Since when, as stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Box<str>>,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        conditions: raw.status.conditions.into_iter().map(|it| (it.r#type, it.status)).collect(),
        allocatable: raw.status.allocatable.or(raw.status.capacity).unwrap_or_default(),
    })
}
