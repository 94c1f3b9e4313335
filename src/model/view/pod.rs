//! The view of a Pod: under a kilobyte, because there may be fifty thousand.

use std::net::Ipv4Addr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::company::{Company, PodTerm, RawPodAffinity, RawSpread};
use super::image::image_hash;
use super::labels::Labels;
use super::meta::{Identity, Meta, RawMeta, null_as_empty};
use super::resources::Resources;
use super::scheduling::{RawAffinity, Scheduling, Toleration};
use crate::ids::KindKey;
use crate::network::Protocol;
use crate::timestamp::Timestamp;

/// The scheduler that a pod without `schedulerName` gets.
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The service account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// A Pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Metadata.
    pub meta: Meta,
    /// The node that it is bound to; empty until then.
    pub node: Box<str>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when it is ready; `None` while it is not.
    pub ready_since: Option<Timestamp>,
    /// Message of the condition `PodScheduled` while that is `False`.
    pub unschedulable: Option<Box<str>>,
    /// Restarts of the container that restarted most.
    pub restarts: u32,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// What it asks for.
    pub requests: Box<Resources>,
    /// Ports of the host that it takes.
    pub host_ports: Box<[HostPort]>,
    /// Its address; `None` until its board gave it one.
    pub address: Option<Ipv4Addr>,
    /// It has the network of its board.
    pub host_network: bool,
    /// What it is called in DNS; `None` when it says nothing.
    pub dns_name: Option<Box<PodName>>,
    /// Ports that have a name.
    pub named_ports: Box<[NamedPort]>,
    /// The service account that it runs as; `None` is `default`.
    pub account: Option<Box<str>>,
    /// ConfigMaps and Secrets that it mentions, sorted.
    pub needs: Box<[(KindKey, Box<str>)]>,
    /// Hash of everything but the status: a board is told when it changes.
    pub wish_hash: u64,
    /// Taints that it bears; of a bound pod only those that keep it there.
    pub tolerations: Box<[Toleration]>,
    /// Pods that it wants in no place of its own (required anti-affinity).
    pub apart: Box<[PodTerm]>,
    /// Where it wants to run, while our scheduler has to decide that; else `None`.
    pub scheduling: Option<Box<Scheduling>>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Phase {
    /// Not all containers have run yet.
    #[default]
    Pending,
    /// Its board is silent.
    Unknown,
    /// Running.
    Running,
    /// All containers ended well.
    Succeeded,
    /// A container ended badly.
    Failed,
}

/// A port of the host that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: Box<str>,
    /// Address, or `0.0.0.0` for all.
    pub address: Box<str>,
    /// Number.
    pub port: u16,
}

/// What a pod is called in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// `spec.hostname`; may be empty.
    pub hostname: Box<str>,
    /// `spec.subdomain`; may be empty.
    pub subdomain: Box<str>,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// The name.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl PodView {
    /// The number of the port of this name.
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.named_ports.iter();
        let found = ports.find(|port| *port.name == *name && port.protocol == protocol);
        found.map(|port| port.port)
    }

    /// The service account that it runs as.
    pub fn account(&self) -> &str {
        self.account.as_deref().unwrap_or(DEFAULT_ACCOUNT)
    }

    /// Whether all its containers have ended for good.
    pub fn finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it is being deleted and has not ended.
    pub fn going(&self) -> bool {
        self.meta.deleting.is_some() && !self.finished()
    }

    /// Whether it counts for its controller: neither finished nor being deleted.
    pub fn active(&self) -> bool {
        !self.finished() && self.meta.deleting.is_none()
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Option<Phase>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_as_empty")]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: Box<str>,
    status: Box<str>,
    message: Option<Box<str>>,
    last_transition_time: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    restart_count: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(deserialize_with = "null_as_empty")]
    node_name: Box<str>,
    host_network: Option<bool>,
    #[serde(deserialize_with = "null_as_empty")]
    hostname: Box<str>,
    #[serde(deserialize_with = "null_as_empty")]
    subdomain: Box<str>,
    scheduler_name: Option<Box<str>>,
    service_account_name: Option<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    scheduling_gates: Vec<serde::de::IgnoredAny>,
    #[serde(deserialize_with = "null_as_empty")]
    readiness_gates: Vec<ReadinessGate>,
    node_selector: Labels,
    affinity: Option<RawAffinity>,
    #[serde(deserialize_with = "null_as_empty")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_as_empty")]
    topology_spread_constraints: Vec<RawSpread>,
    priority: Option<i64>,
    overhead: Option<Resources>,
    #[serde(deserialize_with = "null_as_empty")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_as_empty")]
    init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_as_empty")]
    ephemeral_containers: Vec<Container>,
    #[serde(deserialize_with = "null_as_empty")]
    volumes: Vec<Volume>,
    #[serde(deserialize_with = "null_as_empty")]
    image_pull_secrets: Vec<Named>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReadinessGate {
    condition_type: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    image: Option<Box<str>>,
    restart_policy: Option<Box<str>>,
    resources: Option<ContainerResources>,
    #[serde(deserialize_with = "null_as_empty")]
    ports: Vec<Port>,
    #[serde(deserialize_with = "null_as_empty")]
    env: Vec<Env>,
    #[serde(deserialize_with = "null_as_empty")]
    env_from: Vec<EnvFrom>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerResources {
    requests: Option<Resources>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    container_port: u16,
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<Box<str>>,
    protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Env {
    value_from: Option<EnvSource>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnvSource {
    config_map_key_ref: Option<Named>,
    secret_key_ref: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnvFrom {
    config_map_ref: Option<Named>,
    secret_ref: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    #[serde(deserialize_with = "null_as_empty")]
    name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    config_map: Option<Named>,
    secret: Option<SecretVolume>,
    projected: Option<Projected>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretVolume {
    #[serde(deserialize_with = "null_as_empty")]
    secret_name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Projected {
    #[serde(deserialize_with = "null_as_empty")]
    sources: Vec<Source>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Source {
    config_map: Option<Named>,
    secret: Option<Named>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<PodView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let metadata: RawMeta<'_> = serde_json::from_str(raw.metadata.get())?;
    let spec_text = raw.spec.map_or("{}", RawValue::get);
    let mut spec: Spec = serde_json::from_str(spec_text)?;
    let status = raw.status.unwrap_or_default();
    let meta = metadata.view(identity);
    let company = company(&mut spec, &meta);
    let condition = |name: &str| status.conditions.iter().find(|c| c.r#type.as_ref() == name);
    let ready = condition("Ready").filter(|ready| ready.status.as_ref() == "True");
    let unscheduled = condition("PodScheduled").filter(|it| it.status.as_ref() == "False");
    // A board judges readiness gates by what others say of them.
    let mut wish = [raw.metadata.get().as_bytes(), spec_text.as_bytes()].concat();
    for gate in &spec.readiness_gates {
        let said = condition(&gate.condition_type).map(|it| it.status.as_bytes());
        wish.extend_from_slice(&[b"\0", said.unwrap_or_default()].concat());
    }
    let cost = meta.annotations.get("controller.kubernetes.io/pod-deletion-cost");
    Ok(PodView {
        phase: status.phase.unwrap_or_default(),
        ready_since: ready.map(|ready| {
            let since = ready.last_transition_time.as_deref().and_then(Timestamp::parse);
            since.unwrap_or_default()
        }),
        unschedulable: unscheduled.map(|it| it.message.clone().unwrap_or_default()),
        restarts: status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0),
        deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or_default(),
        requests: Box::new(requests(&spec)),
        host_ports: host_ports(&spec),
        address: status.pod_ip.and_then(|address| address.parse().ok()),
        host_network: spec.host_network.unwrap_or_default(),
        dns_name: dns_name(&mut spec),
        named_ports: named_ports(&spec),
        account: spec
            .service_account_name
            .take()
            .filter(|name| !name.is_empty() && &**name != DEFAULT_ACCOUNT),
        needs: needs(&spec),
        wish_hash: super::template::hash_64(&wish),
        node: spec.node_name.clone(),
        tolerations: tolerations(&mut spec),
        apart: company.1,
        scheduling: scheduling(spec, company.0),
        meta,
    })
}

/// The largest of what the containers need together and what any init container needs, with the
/// sidecars that then already run (upstream's `PodRequests`, KEP-753).
fn requests(spec: &Spec) -> Resources {
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        resources.and_then(|resources| resources.requests.clone()).unwrap_or_default()
    };
    let mut together = Resources::default();
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in &spec.init_containers {
        let mut at_once = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&at_once);
            starting.raise_to(&sidecars);
        } else {
            at_once.add(&sidecars);
            starting.raise_to(&at_once);
        }
    }
    together.add(&sidecars);
    for container in &spec.containers {
        together.add(&of(container));
    }
    together.raise_to(&starting);
    if let Some(overhead) = &spec.overhead {
        together.add(overhead);
    }
    together
}

fn host_ports(spec: &Spec) -> Box<[HostPort]> {
    let ports = spec.containers.iter().flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            Some(HostPort {
                port: port.host_port.filter(|port| *port != 0)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                address: match port.host_ip.as_deref() {
                    None | Some("") => "0.0.0.0".into(),
                    Some(address) => address.into(),
                },
            })
        })
        .collect()
}

fn dns_name(spec: &mut Spec) -> Option<Box<PodName>> {
    let (hostname, subdomain) =
        (std::mem::take(&mut spec.hostname), std::mem::take(&mut spec.subdomain));
    let says_nothing = hostname.is_empty() && subdomain.is_empty();
    (!says_nothing).then(|| Box::new(PodName { hostname, subdomain }))
}

/// Of containers that run as long as the pod does (upstream's `FindPort`).
fn named_ports(spec: &Spec) -> Box<[NamedPort]> {
    let sidecars = spec.init_containers.iter();
    let sidecars = sidecars.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| &container.ports).filter_map(|port| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let name = port.name.clone().filter(|name| !name.is_empty())?;
        Some(NamedPort { name, protocol, port: port.container_port })
    });
    ports.collect()
}

fn needs(spec: &Spec) -> Box<[(KindKey, Box<str>)]> {
    let mut config_maps: Vec<&Box<str>> = Vec::new();
    let mut secrets: Vec<&Box<str>> = spec.image_pull_secrets.iter().map(|it| &it.name).collect();
    let containers = [&spec.containers, &spec.init_containers, &spec.ephemeral_containers];
    for container in containers.into_iter().flatten() {
        for source in container.env.iter().filter_map(|env| env.value_from.as_ref()) {
            config_maps.extend(source.config_map_key_ref.as_ref().map(|it| &it.name));
            secrets.extend(source.secret_key_ref.as_ref().map(|it| &it.name));
        }
        for source in &container.env_from {
            config_maps.extend(source.config_map_ref.as_ref().map(|it| &it.name));
            secrets.extend(source.secret_ref.as_ref().map(|it| &it.name));
        }
    }
    for volume in &spec.volumes {
        config_maps.extend(volume.config_map.as_ref().map(|it| &it.name));
        secrets.extend(volume.secret.as_ref().map(|it| &it.secret_name));
        for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
            config_maps.extend(source.config_map.as_ref().map(|it| &it.name));
            secrets.extend(source.secret.as_ref().map(|it| &it.name));
        }
    }
    let config_maps = config_maps.into_iter().map(|name| (super::kind::CONFIG_MAPS, name.clone()));
    let secrets = secrets.into_iter().map(|name| (super::kind::SECRETS, name.clone()));
    let mut needs: Vec<_> = config_maps.chain(secrets).filter(|(_, it)| !it.is_empty()).collect();
    needs.sort();
    needs.dedup();
    needs.into()
}

fn tolerations(spec: &mut Spec) -> Box<[Toleration]> {
    let bound = !spec.node_name.is_empty();
    let mut tolerations = std::mem::take(&mut spec.tolerations);
    tolerations.retain(|toleration| !bound || toleration.bears_execution());
    tolerations.into()
}

/// What it wants of other pods, and which must not be where it is.
fn company(spec: &mut Spec, meta: &Meta) -> (Company, Box<[PodTerm]>) {
    let affinity = spec.affinity.as_mut();
    let raw = affinity.map(|it| (it.pod_affinity.take(), it.pod_anti_affinity.take()));
    let (near, apart) = raw.unwrap_or_default();
    let split = |raw: Option<RawPodAffinity>, sign| {
        raw.unwrap_or_default().split(&meta.namespace, &meta.labels, sign)
    };
    let ((near, mut preferred), (apart, repelling)) = (split(near, 1), split(apart, -1));
    preferred.extend(repelling);
    let spread = std::mem::take(&mut spec.topology_spread_constraints);
    let spread = spread.into_iter().map(|it| it.view(&meta.labels)).collect();
    (Company { spread, near, preferred: preferred.into() }, apart)
}

fn scheduling(spec: Spec, company: Company) -> Option<Box<Scheduling>> {
    let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == DEFAULT_SCHEDULER);
    if !spec.node_name.is_empty() || !ours || !spec.scheduling_gates.is_empty() {
        return None;
    }
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let images = containers.filter_map(|it| it.image.as_deref()).map(image_hash).collect();
    let (required, preferred) = spec.affinity.unwrap_or_default().split();
    Some(Box::new(Scheduling {
        node_selector: spec.node_selector,
        required,
        preferred,
        company,
        images,
        priority: spec.priority.unwrap_or_default(),
    }))
}
