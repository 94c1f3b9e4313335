//! Which addresses the cluster takes for a pod's: what a board asks before it gives one to another pod.
//!
//! Connections to a Service, and the rights and limits of policies, go by address. Whoever gets an
//! address that the cluster still takes for somebody else's would inherit them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use model::network::{Ipv4Block, NetState};

/// The addresses of a block that Services or policies say belong to anybody but this pod.
pub fn assigned(
    state: &NetState,
    block: Ipv4Block,
    namespace: &str,
    pod: &str,
) -> BTreeSet<Ipv4Addr> {
    let mut own = BTreeSet::new();
    let mut others = BTreeSet::new();
    for service in state.services.values() {
        for endpoint in service.endpoints.iter().filter(|it| block.contains(it.address)) {
            let is_own = service.namespace == namespace && endpoint.pod == pod;
            let side = if is_own { &mut own } else { &mut others };
            side.insert(endpoint.address);
        }
    }
    for policy in state.policies.values() {
        let rules = || policy.ingress.iter().chain(&policy.egress).flatten();
        let peers = rules().filter_map(|rule| rule.peers.as_ref());
        let peers = peers.flat_map(|peers| &peers.addresses);
        let ports = rules().flat_map(|rule| &rule.ports).flat_map(|port| &port.only);
        let named = policy.pods.iter().chain(peers).chain(ports).copied();
        others.extend(named.filter(|address| block.contains(*address)));
    }
    others.difference(&own).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::network::{NetEndpoint, NetPeers, NetPolicy, NetPolicyPort, NetRule, NetService};

    use super::*;

    #[test]
    fn addresses_of_others_are_found_everywhere() {
        let at = |last| Ipv4Addr::new(10, 42, 0, last);
        let endpoint = |last, pod: &str| NetEndpoint {
            address: at(last),
            pod: pod.to_owned(),
            ..NetEndpoint::default()
        };
        let service = NetService {
            namespace: "a".to_owned(),
            endpoints: vec![endpoint(2, "own"), endpoint(3, "other"), endpoint(200, "far")],
            ..NetService::default()
        };
        let peers = NetPeers { addresses: vec![at(5), at(201)], blocks: Vec::new() };
        let port = NetPolicyPort { only: vec![at(6)], ..NetPolicyPort::default() };
        let policy = NetPolicy {
            pods: vec![at(2), at(4)],
            ingress: Some(vec![NetRule { peers: Some(peers), ports: Vec::new() }]),
            egress: Some(vec![NetRule { peers: None, ports: vec![port] }]),
            ..NetPolicy::default()
        };
        let state = NetState {
            services: [("a/s".into(), Arc::new(service))].into(),
            policies: [("a/p".into(), Arc::new(policy))].into(),
            ..NetState::default()
        };
        let block = "10.42.0.0/25".parse().expect("a block");
        let of = |namespace, pod| -> Vec<u8> {
            assigned(&state, block, namespace, pod).iter().map(|it| it.octets()[3]).collect()
        };
        assert_eq!(of("a", "own"), [3, 4, 5, 6], "its policies lie on its own address");
        assert_eq!(of("a", "new"), [2, 3, 4, 5, 6]);
        assert_eq!(of("b", "own"), [2, 3, 4, 5, 6]);
    }
}
