//! A Service and its slices as boards see them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::network::{NetEndpoint, NetPort, NetService};
use model::view::{EndpointSliceView, ServicePort, ServiceType, ServiceView, SliceEndpoint};

/// The addresses that boards know.
const IPV4: &str = "IPv4";

/// What boards know of a Service whose slices are these.
pub(super) fn compile<'a>(
    service: &ServiceView,
    slices: impl Iterator<Item = &'a EndpointSliceView>,
) -> NetService {
    let has_node_ports = matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let balanced = service.kind == ServiceType::LoadBalancer && !service.foreign_balancer;
    let port = |port: &ServicePort| NetPort {
        name: port.name.to_string(),
        protocol: port.protocol,
        port: port.port,
        node_port: if has_node_ports { port.node_port } else { 0 },
    };
    NetService {
        namespace: service.meta.namespace.to_string(),
        name: service.meta.name.to_string(),
        cluster_ip: service.cluster_ip,
        external_name: service.external_name.as_deref().map(str::to_owned),
        load_balancer: if balanced { service.ingress.to_vec() } else { Vec::new() },
        external_ips: service.external_ips.to_vec(),
        source_ranges: if balanced { service.source_ranges.to_vec() } else { Vec::new() },
        ports: service.ports.iter().map(port).collect(),
        affinity_seconds: service.affinity_seconds,
        internal_local: service.internal_local,
        external_local: service.external_local,
        health_check_node_port: if balanced { service.health_check_node_port } else { 0 },
        publish_not_ready: service.publish_not_ready,
        endpoints: match service.kind {
            ServiceType::ExternalName => Vec::new(),
            _ => endpoints(service, slices),
        },
    }
}

/// The endpoints of all slices, one per address and set of ports.
fn endpoints<'a>(
    service: &ServiceView,
    slices: impl Iterator<Item = &'a EndpointSliceView>,
) -> Vec<NetEndpoint> {
    let mut all: BTreeMap<Ipv4Addr, Vec<NetEndpoint>> = BTreeMap::new();
    for slice in slices.filter(|slice| &*slice.address_type == IPV4) {
        let ports = ports_of(service, slice);
        for endpoint in &slice.endpoints {
            for address in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                add(all.entry(address).or_default(), view(address, endpoint, &ports));
            }
        }
    }
    let mut all: Vec<NetEndpoint> = all.into_values().flatten().collect();
    all.sort_unstable();
    all
}

/// The slice's port for each of the service's: they have the same name and protocol.
fn ports_of(service: &ServiceView, slice: &EndpointSliceView) -> Vec<u16> {
    let number = |port: &ServicePort| {
        let same = |it: &&_| {
            let it: &model::view::SlicePort = it;
            it.name == port.name && it.protocol == port.protocol
        };
        slice.ports.iter().find(same).and_then(|it| it.port).unwrap_or_default()
    };
    service.ports.iter().map(number).collect()
}

fn view(address: Ipv4Addr, endpoint: &SliceEndpoint, ports: &[u16]) -> NetEndpoint {
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    let pod = endpoint.target.as_ref().filter(|target| &*target.kind == "Pod");
    NetEndpoint {
        address,
        board: text(&endpoint.node),
        hostname: text(&endpoint.hostname),
        pod: pod.map(|pod| pod.name.to_string()).unwrap_or_default(),
        ready: endpoint.is_ready(),
        serving: endpoint.is_serving(),
        terminating: endpoint.is_terminating(),
        ports: ports.to_vec(),
    }
}

/// Adds what another slice says of an address: its other ports belong to the same endpoint, another
/// number for the same port is another endpoint.
fn add(here: &mut Vec<NetEndpoint>, new: NetEndpoint) {
    let fits = |old: &NetEndpoint| {
        let mut pairs = old.ports.iter().zip(&new.ports);
        pairs.all(|(old, new)| old == new || *old == 0 || *new == 0)
    };
    let Some(old) = here.iter_mut().find(|old| fits(old)) else { return here.push(new) };
    for (old, new) in old.ports.iter_mut().zip(&new.ports) {
        *old = (*old).max(*new);
    }
    for (old, new) in
        [(&mut old.board, new.board), (&mut old.hostname, new.hostname), (&mut old.pod, new.pod)]
    {
        if old.is_empty() {
            *old = new;
        }
    }
    old.ready |= new.ready;
    old.serving |= new.serving;
    old.terminating &= new.terminating;
}
