//! The view of an Endpoints object.

use std::borrow::Cow;

use serde::Deserialize;

use super::endpoint_slice::TargetReference;
use super::labels::Labels;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use crate::network::Protocol;

/// What `kubectl apply` remembers: the largest annotation, of no use to anybody else.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An Endpoints object.
#[derive(Clone, Debug)]
pub struct EndpointsView {
    /// Metadata.
    pub meta: Meta,
    /// All its annotations but the last applied configuration.
    pub annotations: Labels,
    /// Its subsets.
    pub subsets: Box<[Subset]>,
}

/// Addresses with the same ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Those that are ready.
    pub ready: Box<[SubsetAddress]>,
    /// Those that are not.
    pub not_ready: Box<[SubsetAddress]>,
    /// Their ports.
    pub ports: Box<[SubsetPort]>,
}

/// An address of a subset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubsetAddress {
    /// The address.
    pub ip: Box<str>,
    /// Name in DNS.
    pub hostname: Option<Box<str>>,
    /// Board.
    pub node_name: Option<Box<str>>,
    /// The object behind it.
    pub target_ref: Option<TargetReference>,
}

/// A port of a subset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubsetPort {
    /// Name of the Service's port.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
    /// `appProtocol`.
    pub app_protocol: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default, deserialize_with = "null_as_empty")]
    subsets: Vec<RawSubset>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSubset {
    #[serde(deserialize_with = "null_as_empty")]
    addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "null_as_empty")]
    not_ready_addresses: Vec<SubsetAddress>,
    #[serde(deserialize_with = "null_as_empty")]
    ports: Vec<RawPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    #[serde(deserialize_with = "null_as_empty")]
    name: Box<str>,
    protocol: Option<Box<str>>,
    port: u16,
    app_protocol: Option<Box<str>>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<EndpointsView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let annotations = raw.metadata.annotations.iter().flatten();
    let annotations = annotations
        .filter(|(name, _)| *name != LAST_APPLIED)
        .map(|(name, value): (&Cow<'_, str>, &Cow<'_, str>)| (name.as_ref(), value.as_ref()))
        .collect();
    let port = |raw: RawPort| {
        let protocol = Protocol::parse(raw.protocol.as_deref())?;
        Some(SubsetPort {
            name: raw.name,
            protocol,
            port: raw.port,
            app_protocol: raw.app_protocol,
        })
    };
    let subset = |raw: RawSubset| Subset {
        ready: raw.addresses.into(),
        not_ready: raw.not_ready_addresses.into(),
        ports: raw.ports.into_iter().filter_map(port).collect(),
    };
    Ok(EndpointsView {
        subsets: raw.subsets.into_iter().map(subset).collect(),
        annotations,
        meta: raw.metadata.view(identity),
    })
}
