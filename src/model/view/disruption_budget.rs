//! The view of a PodDisruptionBudget.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::deployment::Amount;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::selector::{RawSelector, Selector};
use crate::timestamp::Timestamp;

/// A PodDisruptionBudget.
#[derive(Clone, Debug)]
pub struct DisruptionBudgetView {
    /// Metadata.
    pub meta: Meta,
    /// Which pods it protects.
    pub selector: Selector,
    /// How many of them must stay.
    pub limit: DisruptionLimit,
    /// What it last reported.
    pub status: DisruptionStatus,
}

/// How many pods must stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisruptionLimit {
    /// At least so many.
    MinAvailable(Amount),
    /// All but so many.
    MaxUnavailable(Amount),
    /// Nothing is said.
    Unlimited,
}

/// The reported state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DisruptionStatus {
    /// Generation that the rest speaks of.
    pub observed_generation: i64,
    /// Pods whose eviction was allowed and that are not yet seen to go, and since when.
    #[serde(deserialize_with = "null_as_empty")]
    pub disrupted_pods: BTreeMap<Box<str>, Box<str>>,
    /// How many pods may go.
    pub disruptions_allowed: i64,
    /// Pods that are healthy.
    pub current_healthy: i64,
    /// How many must be.
    pub desired_healthy: i64,
    /// Pods that are counted.
    pub expected_pods: i64,
    /// `DisruptionAllowed`.
    #[serde(deserialize_with = "null_as_empty")]
    pub conditions: Vec<DisruptionCondition>,
}

impl DisruptionStatus {
    /// Since when the eviction of a pod is allowed that has not yet been seen to go.
    pub fn disrupted_since(&self, pod: &str) -> Option<Timestamp> {
        self.disrupted_pods.get(pod).map(|text| Timestamp::parse(text).unwrap_or_default())
    }
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DisruptionCondition {
    /// `DisruptionAllowed`.
    pub r#type: Box<str>,
    /// `True`, `False`.
    pub status: Box<str>,
    /// Generation that it speaks of.
    pub observed_generation: i64,
    /// When `status` last changed, as stored.
    #[serde(rename = "lastTransitionTime", deserialize_with = "null_as_empty")]
    pub since: Box<str>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Option<DisruptionStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: Option<RawSelector>,
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
}

pub(super) fn parse(
    identity: Identity<'_>,
    body: &[u8],
) -> serde_json::Result<DisruptionBudgetView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let spec = raw.spec;
    let limit = match (&spec.max_unavailable, &spec.min_available) {
        (Some(amount), _) => DisruptionLimit::MaxUnavailable(Amount::parse(Some(amount))),
        (None, Some(amount)) => DisruptionLimit::MinAvailable(Amount::parse(Some(amount))),
        (None, None) => DisruptionLimit::Unlimited,
    };
    Ok(DisruptionBudgetView {
        meta: raw.metadata.view(identity),
        selector: Selector::from(spec.selector),
        limit,
        status: raw.status.unwrap_or_default(),
    })
}
