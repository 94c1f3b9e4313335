//! The view of a ReplicaSet or ReplicationController.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::deployment::Condition;
use super::labels::Labels;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::selector::{RawSelector, Selector};
use super::template::Template;
use crate::ids::KindKey;

/// A ReplicaSet or ReplicationController: so many pods of one template.
#[derive(Clone, Debug)]
pub struct ReplicasView {
    /// Which of the two.
    pub kind: KindKey,
    /// Metadata.
    pub meta: Meta,
    /// Wished pods.
    pub replicas: u32,
    /// Seconds that a pod must be ready before it counts as available.
    pub min_ready_seconds: u32,
    /// Which pods it may adopt.
    pub selector: Selector,
    /// What its pods look like.
    pub template: Template,
    /// What it last reported.
    pub status: ReplicasStatus,
}

/// The reported state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicasStatus {
    /// Pods.
    #[serde(deserialize_with = "null_as_empty")]
    pub replicas: u32,
    /// Pods that carry all labels of the template.
    #[serde(deserialize_with = "null_as_empty")]
    pub fully_labeled_replicas: u32,
    /// Pods that are ready.
    #[serde(deserialize_with = "null_as_empty")]
    pub ready_replicas: u32,
    /// Pods that are available.
    #[serde(deserialize_with = "null_as_empty")]
    pub available_replicas: u32,
    /// Pods that are going; `None` when it was never said.
    pub terminating_replicas: Option<u32>,
    /// Generation that the rest speaks of.
    #[serde(deserialize_with = "null_as_empty")]
    pub observed_generation: i64,
    /// `ReplicaFailure`.
    #[serde(deserialize_with = "null_as_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(default)]
    status: Option<ReplicasStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    replicas: Option<u32>,
    min_ready_seconds: Option<u32>,
    #[serde(borrow)]
    selector: Option<&'a RawValue>,
    #[serde(borrow)]
    template: Option<&'a RawValue>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<ReplicasView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let spec = raw.spec;
    let selector = spec.selector.map(RawValue::get);
    let selector = if identity.key.kind == super::kind::REPLICATION_CONTROLLERS {
        let labels: Option<Labels> = selector.map(serde_json::from_str).transpose()?;
        Selector::exact(labels.unwrap_or_default())
    } else {
        let raw: Option<RawSelector> = selector.map(serde_json::from_str).transpose()?;
        Selector::from(raw)
    };
    Ok(ReplicasView {
        kind: identity.key.kind.clone(),
        meta: raw.metadata.view(identity),
        replicas: spec.replicas.unwrap_or(1),
        min_ready_seconds: spec.min_ready_seconds.unwrap_or_default(),
        selector,
        template: Template::new(spec.template)?,
        status: raw.status.unwrap_or_default(),
    })
}
