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
#[derive(Default)]
pub(super) struct Claims {
    /// What they get, unless another comes before them.
    pub(super) found: Vec<(Frontend, Door, Backends)>,
    /// What nobody gets, and who asks for it.
    pub(super) refused: BTreeSet<(Arc<str>, Frontend)>,
}

/// Whose address a frontend has. Of those who ask for the same one, the first door counts, whoever
/// is behind it: an address that the cluster has given out is not to be had by naming it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Door {
    Names,
    Cluster,
    LoadBalancer,
    External,
    Node,
    Host,
}

/// Everything that one service is found at.
pub(super) fn of_service(service: &NetService, site: &Site, boards: &BTreeSet<Ipv4Addr>) -> Claims {
    let mut claims = Claims::default();
    let Some(cluster_ip) = service.cluster_ip else { return claims };
    for (index, port) in service.ports.iter().enumerate() {
        let targets = Targets::of(service, index, &site.board);
        let mut claim = |address: Ipv4Addr, number: u16, door: Door| {
            let frontend = Frontend { address, protocol: port.protocol, port: number };
            if may_have(door, &frontend, site, boards) {
                claims.found.push((frontend, door, targets.behind(door, frontend, service, site)));
            } else {
                claims.refused.insert((format!("service {}", service.key()).into(), frontend));
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
pub(super) fn of_host_ports(local: &LocalPods, site: &Site, boards: &BTreeSet<Ipv4Addr>) -> Claims {
    let mut claims = Claims::default();
    for (pod, entry) in &local.pods {
        for (protocol, host, container, address) in &entry.host_ports {
            let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
            let frontend = Frontend { address, protocol: *protocol, port: *host };
            if may_have(Door::Host, &frontend, site, boards) {
                let backends = single((*pod, *container), frontend);
                claims.found.push((frontend, Door::Host, backends));
            } else {
                claims.refused.insert((format!("the pod at {pod}").into(), frontend));
            }
        }
    }
    claims
}

/// The name service.
pub(super) fn of_dns(site: &Site) -> Claims {
    let mut claims = Claims::default();
    let (Some((address, held)), Some(block)) = (site.dns, site.block) else { return claims };
    let target = (own_address(block), held);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let frontend = Frontend { address, protocol, port: 53 };
        claims.found.push((frontend, Door::Names, single(target, frontend)));
    }
    claims
}

/// The chain that guards a service's load balancer.
pub(super) fn guard_name(service: &NetService) -> Option<Arc<str>> {
    let guarded = !service.source_ranges.is_empty();
    guarded.then(|| short(&format!("guard-{}/{}", service.namespace, service.name)).into())
}

/// A name that the kernel takes. Names are cut behind the namespace, so that who shortens them in the
/// same way shares their namespace; what is added to a name begins with `_`, which names of objects
/// cannot contain.
pub(super) fn short(name: &str) -> String {
    if name.len() <= NFT_NAME_BYTES_MAX {
        return name.to_owned();
    }
    // FNV-1a.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    let head: String = name.chars().take(NFT_NAME_BYTES_MAX - 17).collect();
    format!("{head}_{hash:016x}")
}

fn single(target: Target, frontend: Frontend) -> Backends {
    let any = frontend.address.is_unspecified();
    let choice = Choice { count: 1, sticky_seconds: 0, local: false, any };
    Backends { inside: Some(choice), endpoints: vec![target], ..Backends::default() }
}

/// Whether a frontend may be had by this door: neither kumquat's own ports at a board's address, nor,
/// by an address that somebody chose, one that the cluster gives out.
fn may_have(door: Door, frontend: &Frontend, site: &Site, boards: &BTreeSet<Ipv4Addr>) -> bool {
    let address = frontend.address;
    let of_boards = address.is_unspecified() || boards.contains(&address);
    if of_boards && site.own_ports.contains(&(frontend.protocol, frontend.port)) {
        return false;
    }
    let given = site.service_range.contains(address) || site.pod_range.contains(address);
    door <= Door::Cluster || !given
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
