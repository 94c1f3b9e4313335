//! The view of a Node.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::image::image_hash;
use super::labels::Labels;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::resources::Resources;
use crate::network::Ipv4Block;

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
    /// Hash of the name and bytes of every image that it reports, sorted.
    pub images: Box<[(u64, u64)]>,
    /// Type and status of every condition.
    pub conditions: Labels,
    /// `InternalIP`.
    pub address: Option<Ipv4Addr>,
    /// Where the addresses of its pods come from: `spec.podCIDR`.
    pub pods: Option<Ipv4Block>,
}

impl NodeView {
    /// Bytes of an image that it reports.
    pub fn image_bytes(&self, hash: u64) -> Option<u64> {
        let at = self.images.binary_search_by_key(&hash, |(have, _)| *have).ok()?;
        Some(self.images[at].1)
    }
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
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Box<str>>,
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
    images: Vec<Image>,
    #[serde(deserialize_with = "null_as_empty")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_as_empty")]
    addresses: Vec<Address>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: Box<str>,
    address: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: Box<str>,
    status: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Image {
    #[serde(deserialize_with = "null_as_empty")]
    names: Vec<Box<str>>,
    size_bytes: u64,
}

fn images(images: Vec<Image>) -> Box<[(u64, u64)]> {
    let of = |image: Image| {
        let names = image.names.into_iter();
        names.map(move |name| (image_hash(&name), image.size_bytes)).collect::<Vec<_>>()
    };
    let mut images: Vec<(u64, u64)> = images.into_iter().flat_map(of).collect();
    images.sort_unstable();
    images.dedup_by_key(|(hash, _)| *hash);
    images.into()
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<NodeView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let ready = |condition: &Condition| {
        condition.r#type.as_ref() == "Ready" && condition.status.as_ref() == "True"
    };
    let mut internal = raw.status.addresses.iter().filter(|it| *it.r#type == *"InternalIP");
    Ok(NodeView {
        meta: raw.metadata.view(identity),
        address: internal.find_map(|it| it.address.parse().ok()),
        pods: raw.spec.pod_cidr.and_then(|block| block.parse().ok()),
        unschedulable: raw.spec.unschedulable.unwrap_or_default(),
        taints: raw.spec.taints.into(),
        ready: raw.status.conditions.iter().any(ready),
        conditions: raw.status.conditions.into_iter().map(|it| (it.r#type, it.status)).collect(),
        images: images(raw.status.images),
        allocatable: raw.status.allocatable.or(raw.status.capacity).unwrap_or_default(),
    })
}
