//! The view of an EndpointSlice.

use serde::Deserialize;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use crate::network::Protocol;

/// The label that names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub struct EndpointSliceView {
    /// Metadata.
    pub meta: Meta,
    /// `IPv4`, `IPv6`, `FQDN`.
    pub address_type: Box<str>,
    /// Ports of all its endpoints.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}

impl EndpointSliceView {
    /// The Service that it belongs to, in the same namespace; empty for none.
    pub fn service(&self) -> &str {
        self.meta.labels.get(SERVICE_LABEL).unwrap_or_default()
    }
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// Name of the Service's port.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number; `None` means every port.
    pub port: Option<u16>,
    /// `appProtocol`.
    pub app_protocol: Option<Box<str>>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Addresses of one and the same endpoint; consumers use the first.
    pub addresses: Box<[Box<str>]>,
    /// May get new connections; absent means yes.
    pub ready: Option<bool>,
    /// Answers, whether or not it is ending; absent means as `ready`.
    pub serving: Option<bool>,
    /// Is ending.
    pub terminating: Option<bool>,
    /// Name in DNS, for headless services.
    pub hostname: Option<Box<str>>,
    /// Board.
    pub node: Option<Box<str>>,
    /// Zone of the board.
    pub zone: Option<Box<str>>,
    /// The object behind it.
    pub target: Option<TargetReference>,
}

impl SliceEndpoint {
    /// Whether it may get new connections.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Whether it answers, be it ending or not.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Whether it is ending.
    pub fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or_default()
    }
}

/// The object behind an endpoint: what of an ObjectReference endpoints carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct TargetReference {
    /// `Pod`.
    #[serde(deserialize_with = "null_as_empty")]
    pub kind: Box<str>,
    /// Namespace.
    #[serde(deserialize_with = "null_as_empty")]
    pub namespace: Box<str>,
    /// Name.
    #[serde(deserialize_with = "null_as_empty")]
    pub name: Box<str>,
    /// Uid, as stored.
    #[serde(deserialize_with = "null_as_empty")]
    pub uid: Box<str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default, deserialize_with = "null_as_empty")]
    address_type: Box<str>,
    #[serde(default, deserialize_with = "null_as_empty")]
    ports: Vec<RawPort>,
    #[serde(default, deserialize_with = "null_as_empty")]
    endpoints: Vec<RawEndpoint>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    #[serde(deserialize_with = "null_as_empty")]
    name: Box<str>,
    protocol: Option<Box<str>>,
    port: Option<u16>,
    app_protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    #[serde(deserialize_with = "null_as_empty")]
    addresses: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    conditions: RawConditions,
    hostname: Option<Box<str>>,
    node_name: Option<Box<str>>,
    zone: Option<Box<str>>,
    target_ref: Option<TargetReference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<EndpointSliceView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let port = |raw: RawPort| {
        let protocol = Protocol::parse(raw.protocol.as_deref())?;
        Some(SlicePort { name: raw.name, protocol, port: raw.port, app_protocol: raw.app_protocol })
    };
    let endpoint = |raw: RawEndpoint| SliceEndpoint {
        addresses: raw.addresses.into(),
        ready: raw.conditions.ready,
        serving: raw.conditions.serving,
        terminating: raw.conditions.terminating,
        hostname: raw.hostname,
        node: raw.node_name,
        zone: raw.zone,
        target: raw.target_ref,
    };
    Ok(EndpointSliceView {
        meta: raw.metadata.view(identity),
        address_type: raw.address_type,
        ports: raw.ports.into_iter().filter_map(port).collect(),
        endpoints: raw.endpoints.into_iter().map(endpoint).collect(),
    })
}
