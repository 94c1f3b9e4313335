//! Whether Services send new connections to a pod: what its board asks before it stops the pod.

use std::ops::Bound;

use model::network::{NetEndpoint, NetState};

/// What the Services of its namespace do with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// None knows it.
    None,
    /// Some know it, but none sends new connections to it, or will stop doing so before its end.
    Leaving,
    /// Some send new connections to it.
    Serving,
}

/// What the Services do with a pod, as far as this board has heard.
pub fn service_of(state: &NetState, namespace: &str, pod: &str) -> Service {
    let prefix = format!("{namespace}/");
    let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
    let services = state.services.range::<str, _>(from);
    let services = services.take_while(|(key, _)| key.starts_with(&prefix));
    let endpoints = services.flat_map(|(_, service)| &service.endpoints);
    let own = |endpoint: &&NetEndpoint| endpoint.pod == pod && !pod.is_empty();
    // What is ready although it ends (`publishNotReadyAddresses`) stays so to the end.
    let judged =
        endpoints.filter(own).map(|endpoint| match endpoint.ready && !endpoint.terminating {
            true => Service::Serving,
            false => Service::Leaving,
        });
    judged.max().unwrap_or(Service::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::network::NetService;

    #[test]
    fn a_pod_serves_while_one_service_of_its_namespace_says_so() {
        let endpoint = |pod: &str, ready: bool| NetEndpoint {
            address: std::net::Ipv4Addr::LOCALHOST,
            board: String::new(),
            hostname: String::new(),
            pod: pod.to_owned(),
            ready,
            serving: true,
            terminating: !ready,
            ports: Vec::new(),
        };
        let service = |endpoints: &[(&str, bool)]| NetService {
            endpoints: endpoints.iter().map(|(pod, ready)| endpoint(pod, *ready)).collect(),
            ..NetService::default()
        };
        let services = [
            ("a/web", service(&[("p", false), ("q", true), ("", true)])),
            ("a/web-2", service(&[("p", true)])),
            ("a-b/web", service(&[("r", true)])),
        ];
        let services =
            services.map(|(key, service)| (key.into(), std::sync::Arc::new(service))).into();
        let mut state = NetState { services, ..NetState::default() };
        assert_eq!(service_of(&state, "a", "p"), Service::Serving);
        assert_eq!(service_of(&state, "a", "r"), Service::None);
        assert_eq!(service_of(&state, "a", ""), Service::None);
        assert_eq!(service_of(&state, "a-b", "r"), Service::Serving);
        state.services.remove("a/web-2");
        assert_eq!(service_of(&state, "a", "p"), Service::Leaving);
        let stays = NetEndpoint { terminating: true, ..endpoint("p", true) };
        let service = NetService { endpoints: vec![stays], ..NetService::default() };
        state.services.insert("a/stays".into(), std::sync::Arc::new(service));
        assert_eq!(service_of(&state, "a", "p"), Service::Leaving);
    }
}
