//! The view of a Role or ClusterRole.

use serde::Deserialize;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::selector::{RawSelector, Selector};
use crate::access::{PolicyRule, Rules};

/// A Role, or with an empty namespace a ClusterRole.
#[derive(Clone, Debug)]
pub struct RoleView {
    /// Metadata.
    pub meta: Meta,
    /// What it allows.
    pub rules: Rules,
    /// Whose rules it gathers (`aggregationRule`).
    pub gathers: Box<[Selector]>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default, deserialize_with = "null_as_empty")]
    rules: Vec<PolicyRule>,
    aggregation_rule: Option<RawAggregation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAggregation {
    #[serde(default, deserialize_with = "null_as_empty")]
    cluster_role_selectors: Vec<RawSelector>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<RoleView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let gathers = raw.aggregation_rule.into_iter().flat_map(|rule| rule.cluster_role_selectors);
    Ok(RoleView {
        meta: raw.metadata.view(identity),
        rules: Rules::pack(&raw.rules),
        gathers: gathers.map(|selector| Selector::from(Some(selector))).collect(),
    })
}
