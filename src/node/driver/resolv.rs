//! A pod's resolv.conf.

use std::net::Ipv4Addr;
use std::path::Path;

use logic::dns::{PodDns, PodResolv, for_pod};
use logic::pod::Pod;

use crate::node::network::dns::host;
use crate::node::report::Report;

/// Writes it from what the pod says, and, as its policy wants, from the board's own. Without a DNS
/// service every policy that needs it is the board's own, as with a kubelet that knows none. Blocking.
pub(super) fn resolv_conf(pod: &Pod, service: Option<Ipv4Addr>) -> PodResolv {
    let board = host::read(Path::new(host::RESOLV_CONF));
    let config = &pod.spec.dns_config;
    let options: Vec<(&str, Option<&str>)> = config
        .options
        .iter()
        .map(|option| (option.name.as_str(), option.value.as_deref()))
        .collect();
    let policy = match (service, pod.spec.dns_policy.as_str()) {
        (None, policy) if policy != "None" => "Default",
        (_, policy) => policy,
    };
    let asked = PodDns {
        policy,
        host_network: pod.spec.host_network,
        namespace: &pod.metadata.namespace,
        nameservers: &config.nameservers,
        searches: &config.searches,
        options: &options,
    };
    for_pod(&asked, service, &board)
}

/// What resolvers would have passed over, told once per start.
pub(super) fn cut(pod: &Pod, service: Option<Ipv4Addr>, container: &str) -> Vec<Report> {
    let warnings = resolv_conf(pod, service).warnings.into_iter();
    warnings.map(|text| Report::warning("DNSConfigForming", text, container)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_says_is_read_from_the_api() {
        let pod = Pod::parse(
            br#"{"metadata":{"name":"a","namespace":"shop"},"spec":{"dnsPolicy":"None","dnsConfig":{
                "nameservers":["1.1.1.1"],"searches":["corp"],
                "options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}}"#,
        );
        let pod = pod.expect("a pod");
        let expected = "search corp\nnameserver 1.1.1.1\noptions ndots:2 edns0\n";
        for service in [None, Some(Ipv4Addr::new(10, 43, 0, 10))] {
            assert_eq!(resolv_conf(&pod, service).text, expected);
        }
        let pod = Pod::parse(br#"{"metadata":{"name":"a","namespace":"shop"},"spec":{}}"#);
        let found = resolv_conf(&pod.expect("a pod"), Some(Ipv4Addr::new(10, 43, 0, 10)));
        let begin = "search shop.svc.cluster.local svc.cluster.local cluster.local";
        assert!(found.text.starts_with(begin), "{}", found.text);
        assert!(found.text.ends_with("\nnameserver 10.43.0.10\noptions ndots:5\n"));
    }
}
