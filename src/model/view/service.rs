//! The view of a Service.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::Value;

use super::labels::Labels;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use crate::network::{Ipv4Block, Protocol};

/// A Service.
#[derive(Clone, Debug)]
pub struct ServiceView {
    /// Metadata.
    pub meta: Meta,
    /// How it is reached.
    pub kind: ServiceType,
    /// Which pods serve it; empty when somebody else writes its endpoints.
    pub selector: Labels,
    /// Its address in the cluster; `None` for headless services and external names.
    pub cluster_ip: Option<Ipv4Addr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `spec.externalName`.
    pub external_name: Option<Box<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Box<[Ipv4Addr]>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Box<[Ipv4Block]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// How long a client keeps its endpoint; 0 without affinity.
    pub affinity_seconds: u32,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`; 0 for none.
    pub health_check_node_port: u16,
    /// Endpoints are published whether or not they are ready.
    pub publish_not_ready: bool,
    /// Its load balancer is somebody else's (`spec.loadBalancerClass`).
    pub foreign_balancer: bool,
    /// `status.loadBalancer.ingress`: the addresses.
    pub ingress: Box<[Ipv4Addr]>,
    /// The condition `LoadBalancerPortsError` is `True`, with this message.
    pub ports_error: Option<Box<str>>,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceType {
    /// Inside the cluster.
    #[default]
    ClusterIP,
    /// On a port of every board too.
    NodePort,
    /// On addresses of the site too.
    LoadBalancer,
    /// Another name for something outside.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; may be empty when it is the only one.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
    /// The same on every board; 0 for none.
    pub node_port: u16,
    /// Port of the pods.
    pub target: TargetPort,
    /// `appProtocol`.
    pub app_protocol: Option<Box<str>>,
}

/// A port of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name that each pod gives to one of its own.
    Name(Box<str>),
}

impl TargetPort {
    /// Reads a number or a name; `None` for anything else, and for port 0.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(name) if !name.is_empty() => Some(Self::Name(name.as_str().into())),
            Value::Number(_) => {
                let number = value.as_u64().and_then(|number| u16::try_from(number).ok())?;
                (number != 0).then_some(Self::Number(number))
            }
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: Option<ServiceType>,
    selector: Labels,
    #[serde(rename = "clusterIP", deserialize_with = "null_as_empty")]
    cluster_ip: Box<str>,
    external_name: Option<Box<str>>,
    #[serde(rename = "externalIPs", deserialize_with = "null_as_empty")]
    external_ips: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    load_balancer_source_ranges: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "null_as_empty")]
    session_affinity: Box<str>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<Box<str>>,
    external_traffic_policy: Option<Box<str>>,
    health_check_node_port: Option<u16>,
    publish_not_ready_addresses: Option<bool>,
    load_balancer_class: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    #[serde(deserialize_with = "null_as_empty")]
    name: Box<str>,
    protocol: Option<Box<str>>,
    port: u16,
    node_port: Option<u16>,
    target_port: Value,
    app_protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: Option<Balancer>,
    #[serde(deserialize_with = "null_as_empty")]
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Balancer {
    #[serde(deserialize_with = "null_as_empty")]
    ingress: Vec<Ingress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ingress {
    #[serde(deserialize_with = "null_as_empty")]
    ip: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: Box<str>,
    status: Box<str>,
    #[serde(deserialize_with = "null_as_empty")]
    message: Box<str>,
}

/// Seconds of `ClientIP` affinity when nothing is said (the API's default).
const AFFINITY_SECONDS: u32 = 10_800;

impl Port {
    /// `None` for a protocol that does not exist.
    fn view(self) -> Option<ServicePort> {
        let target = TargetPort::parse(&self.target_port);
        Some(ServicePort {
            name: self.name,
            protocol: Protocol::parse(self.protocol.as_deref())?,
            port: self.port,
            node_port: self.node_port.unwrap_or_default(),
            target: target.unwrap_or(TargetPort::Number(self.port)),
            app_protocol: self.app_protocol,
        })
    }
}

fn parsed<T: std::str::FromStr>(texts: impl IntoIterator<Item = Box<str>>) -> Box<[T]> {
    texts.into_iter().filter_map(|text| text.trim().parse().ok()).collect()
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<ServiceView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let (spec, status) = (raw.spec, raw.status.unwrap_or_default());
    let kind = spec.r#type.unwrap_or_default();
    let timeout = spec.session_affinity_config.and_then(|config| config.client_ip?.timeout_seconds);
    let is_local = |policy: &Option<Box<str>>| policy.as_deref() == Some("Local");
    let ports_error = status.conditions.into_iter().find(|condition| {
        *condition.r#type == *"LoadBalancerPortsError" && *condition.status == *"True"
    });
    let ingress = status.load_balancer.unwrap_or_default().ingress;
    Ok(ServiceView {
        meta: raw.metadata.view(identity),
        selector: spec.selector,
        headless: *spec.cluster_ip == *"None",
        cluster_ip: match kind {
            ServiceType::ExternalName => None,
            _ => spec.cluster_ip.parse().ok(),
        },
        external_name: spec.external_name.filter(|_| kind == ServiceType::ExternalName),
        external_ips: parsed(spec.external_ips),
        source_ranges: parsed(spec.load_balancer_source_ranges),
        ports: spec.ports.into_iter().filter_map(Port::view).collect(),
        affinity_seconds: match &*spec.session_affinity {
            "ClientIP" => timeout.unwrap_or(AFFINITY_SECONDS),
            _ => 0,
        },
        internal_local: is_local(&spec.internal_traffic_policy),
        external_local: is_local(&spec.external_traffic_policy),
        health_check_node_port: spec.health_check_node_port.unwrap_or_default(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        foreign_balancer: spec.load_balancer_class.is_some_and(|class| !class.is_empty()),
        ingress: parsed(ingress.into_iter().map(|ingress| ingress.ip)),
        ports_error: ports_error.map(|condition| condition.message),
        kind,
    })
}
