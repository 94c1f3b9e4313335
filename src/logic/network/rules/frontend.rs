//! Where a service is found and where that leads, as kube-proxy has it.
//!
//! Ready endpoints are taken; when there are none, those that still serve while they end (KEP-1669).
//! Sources inside of the cluster reach all endpoints through node ports and load balancers even when
//! `externalTrafficPolicy` is `Local` (KEP-3685).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::limits::{NFT_NAME_BYTES_MAX, SERVICE_AFFINITY_SECONDS_MAX, SERVICE_ENDPOINTS_MAX};
use model::network::{NetEndpoint, NetService, Protocol};

use super::super::local::LocalPods;
use super::{Backends, Choice, Frontend, Site, Target, own_address};

/// What somebody asks to be found at.
pub(super) type Claims = Vec<(Frontend, Backends)>;

/// Whose address a frontend has.
#[derive(Clone, Copy, PartialEq)]
enum Door {
    Cluster,
    External,
    LoadBalancer,
    Node,
}

/// Everything that one service is found at.
pub(super) fn of_service(service: &NetService, site: &Site, boards: &BTreeSet<Ipv4Addr>) -> Claims {
    let Some(cluster_ip) = service.cluster_ip else { return Vec::new() };
    let mut claims = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        let targets = Targets::of(service, index, &site.board);
        let mut claim = |address: Ipv4Addr, number: u16, door: Door| {
            let frontend = Frontend { address, protocol: port.protocol, port: number };
            if !is_own_port(&frontend, site, boards) {
                claims.push((frontend, targets.behind(door, frontend, service, site)));
            }
        };
        claim(cluster_ip, port.port, Door::Cluster);
        for address in &service.external_ips {
            claim(*address, port.port, Door::External);
        }
        for address in &service.load_balancer {
            claim(*address, port.port, Door::LoadBalancer);
        }
        if port.node_port != 0 {
            claim(Ipv4Addr::UNSPECIFIED, port.node_port, Door::Node);
        }
    }
    claims
}

/// The host ports of this board's pods.
pub(super) fn of_host_ports(local: &LocalPods) -> Claims {
    let mut claims = Vec::new();
    for (pod, entry) in &local.pods {
        for (protocol, host, container, address) in &entry.host_ports {
            let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let frontend = Frontend { address, protocol: *protocol, port: *host };
            claims.push((frontend, single((*pod, *container), frontend)));
        }
    }
    claims
}

/// The name service.
pub(super) fn of_dns(site: &Site) -> Claims {
    let (Some((address, held)), Some(block)) = (site.dns, site.block) else { return Vec::new() };
    let target = (own_address(block), held);
    let claim = |protocol| {
        let frontend = Frontend { address, protocol, port: 53 };
        (frontend, single(target, frontend))
    };
    vec![claim(Protocol::Udp), claim(Protocol::Tcp)]
}

/// The chain that guards a service's load balancer.
pub(super) fn guard_name(service: &NetService) -> Option<Arc<str>> {
    let guarded = !service.source_ranges.is_empty();
    guarded.then(|| short(&format!("guard-{}/{}", service.namespace, service.name)).into())
}

/// A name that the kernel takes. Names are cut behind the namespace, so that who shortens them in the
/// same way shares their namespace.
pub(super) fn short(name: &str) -> String {
    if name.len() <= NFT_NAME_BYTES_MAX {
        return name.to_owned();
    }
    // FNV-1a.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    let head: String = name.chars().take(NFT_NAME_BYTES_MAX - 17).collect();
    format!("{head}-{hash:016x}")
}

fn single(target: Target, frontend: Frontend) -> Backends {
    let any = frontend.address.is_unspecified();
    let choice = Choice { count: 1, sticky_seconds: 0, local: false, any };
    Backends { inside: Some(choice), endpoints: vec![target], ..Backends::default() }
}

fn is_own_port(frontend: &Frontend, site: &Site, boards: &BTreeSet<Ipv4Addr>) -> bool {
    frontend.protocol == Protocol::Tcp
        && site.own_ports.contains(&frontend.port)
        && (frontend.address.is_unspecified() || boards.contains(&frontend.address))
}

/// The targets of one port of a service.
struct Targets {
    all: Vec<Target>,
    local: Vec<Target>,
}

impl Targets {
    fn of(service: &NetService, port: usize, board: &str) -> Self {
        let here = |endpoint: &&NetEndpoint| endpoint.board == board;
        let all = usable(service, port, service.endpoints.iter());
        let local = usable(service, port, service.endpoints.iter().filter(here));
        Self { all, local }
    }

    fn behind(
        &self,
        door: Door,
        frontend: Frontend,
        service: &NetService,
        site: &Site,
    ) -> Backends {
        let only_local = match door {
            Door::Cluster => service.internal_local,
            _ => service.external_local,
        };
        let choice = |targets: &[Target], local| Choice {
            count: u32::try_from(targets.len()).unwrap_or_default(),
            sticky_seconds: service.affinity_seconds.min(SERVICE_AFFINITY_SECONDS_MAX),
            local,
            any: door == Door::Node,
        };
        let mut backends = Backends::default();
        if door == Door::LoadBalancer {
            backends.guard = guard_name(service);
        }
        if self.all.is_empty() {
            backends.refused = !site.service_range.contains(frontend.address);
            return backends;
        }
        match (door, only_local) {
            (Door::Cluster, true) => {
                backends.endpoints.clone_from(&self.local);
                backends.inside = Some(choice(&self.local, false));
            }
            (_, true) => {
                backends.endpoints.clone_from(&self.all);
                backends.inside = Some(choice(&self.all, false));
                backends.local.clone_from(&self.local);
                backends.outside = Some(choice(&self.local, true));
            }
            (_, false) => {
                backends.endpoints.clone_from(&self.all);
                backends.inside = Some(choice(&self.all, false));
            }
        }
        backends
    }
}

fn usable<'a>(
    service: &NetService,
    port: usize,
    endpoints: impl Iterator<Item = &'a NetEndpoint> + Clone,
) -> Vec<Target> {
    let gather = |wanted: fn(&NetEndpoint) -> bool| {
        let wanted = endpoints.clone().filter(|endpoint| wanted(endpoint));
        let targets = wanted.filter_map(|endpoint| {
            let port = endpoint.ports.get(port).copied().filter(|port| *port != 0)?;
            Some((endpoint.address, port))
        });
        targets.collect::<BTreeSet<_>>()
    };
    let mut found = match service.publish_not_ready {
        true => gather(|_| true),
        false => gather(|endpoint| endpoint.ready),
    };
    if found.is_empty() {
        found = gather(|endpoint| endpoint.serving && endpoint.terminating);
    }
    found.into_iter().take(SERVICE_ENDPOINTS_MAX).collect()
}
