//! resolv.conf: the host's read (resolv.conf(5)), a pod's written as kubelet would.

use std::net::{IpAddr, Ipv4Addr};

use model::limits::{DNS_SEARCHES_BYTES_MAX, DNS_SEARCHES_MAX, DNS_SERVERS_MAX, DNS_UPSTREAMS_MAX};

use super::zone::CLUSTER_DOMAIN;

/// What kubelet asks for in pods that use the cluster's DNS.
const NDOTS: &str = "ndots:5";

/// A resolver's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// Servers, in their order.
    pub nameservers: Vec<String>,
    /// Domains that short names are tried in.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads a file, whatever editor wrote it; what is not understood is passed over.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.trim_start_matches('\u{feff}').split(['\n', '\r']) {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let words = line.split(|c: char| c.is_whitespace() || c == '\0' || c == '\u{1a}');
            let mut words = words.filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default();
            match keyword.to_ascii_lowercase().as_str() {
                "nameserver" => {
                    found.nameservers.extend(words.next().map(str::to_owned));
                }
                // The last of `search` and `domain` counts.
                "search" => {
                    found.searches = words.filter_map(search).take(DNS_SEARCHES_MAX).collect()
                }
                "domain" => found.searches = words.filter_map(search).take(1).collect(),
                "options" => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found.nameservers.truncate(DNS_UPSTREAMS_MAX);
        found.options.truncate(DNS_SEARCHES_MAX);
        found
    }

    /// The addresses of its servers; those of a link only cannot be asked.
    pub fn servers(&self) -> Vec<IpAddr> {
        let mut servers: Vec<IpAddr> =
            self.nameservers.iter().filter_map(|server| server.parse().ok()).collect();
        let mut seen = Vec::new();
        servers.retain(|server| {
            !seen.contains(server) && {
                seen.push(*server);
                true
            }
        });
        servers
    }

    /// Whether it only names a server on the host itself, as with systemd-resolved.
    pub fn is_stub(&self) -> bool {
        let servers = self.servers();
        !servers.is_empty() && servers.iter().all(IpAddr::is_loopback)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// A search domain as kubelet takes it over.
fn search(domain: &str) -> Option<String> {
    (domain != ".").then(|| domain.strip_suffix('.').unwrap_or(domain).to_owned())
}

/// What a pod says about its DNS.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodDns<'a> {
    /// `dnsPolicy`; empty for the default, `ClusterFirst`.
    pub policy: &'a str,
    /// It uses the board's network.
    pub host_network: bool,
    /// Its namespace.
    pub namespace: &'a str,
    /// `dnsConfig.nameservers`.
    pub nameservers: &'a [String],
    /// `dnsConfig.searches`.
    pub searches: &'a [String],
    /// `dnsConfig.options`: names and values.
    pub options: &'a [(&'a str, Option<&'a str>)],
}

/// The text of a pod's resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodResolv {
    /// It.
    pub text: String,
    /// What had to be left out, in kubelet's words, for an Event `DNSConfigForming`.
    pub warnings: Vec<String>,
}

/// Writes a pod's resolv.conf; `cluster` is the address of the DNS service, where there is one.
pub fn for_pod(pod: &PodDns<'_>, cluster: Option<Ipv4Addr>, host: &Resolv) -> PodResolv {
    let of_host = match pod.policy {
        "None" => None,
        "Default" => Some(true),
        "ClusterFirstWithHostNet" => Some(false),
        _ => Some(pod.host_network),
    };
    let mut resolv = match of_host {
        None => Resolv::default(),
        Some(true) => of_board(host, cluster, pod.host_network),
        Some(false) => {
            let own = ["svc.", ""].map(|below| format!("{below}{CLUSTER_DOMAIN}"));
            let mut searches = vec![format!("{}.{}", pod.namespace, own[0])];
            searches.extend(own);
            searches.extend(host.searches.iter().cloned());
            let options = vec![NDOTS.to_owned()];
            let nameservers = cluster.iter().map(Ipv4Addr::to_string).collect();
            Resolv { nameservers, searches, options }
        }
    };
    resolv.nameservers.extend(pod.nameservers.iter().cloned());
    resolv.searches.extend(pod.searches.iter().cloned());
    for (name, value) in pod.options {
        resolv.options.retain(|option| option.split(':').next() != Some(*name));
        resolv.options.push(match value {
            Some(value) => format!("{name}:{value}"),
            None => (*name).to_owned(),
        });
    }
    for list in [&mut resolv.nameservers, &mut resolv.searches] {
        let mut seen: Vec<String> = Vec::new();
        list.retain(|item| {
            !seen.contains(item) && {
                seen.push(item.clone());
                true
            }
        });
    }
    let warnings = fit(&mut resolv);
    PodResolv { text: resolv.text(), warnings }
}

/// The host's own configuration. Inside a pod a loopback server is the pod itself: the board's DNS,
/// which asks that server, stands in for it.
fn of_board(host: &Resolv, cluster: Option<Ipv4Addr>, host_network: bool) -> Resolv {
    let mut resolv = host.clone();
    let Some(cluster) = cluster.filter(|_| !host_network) else { return resolv };
    for server in &mut resolv.nameservers {
        if server.parse().is_ok_and(|address: IpAddr| address.is_loopback()) {
            *server = cluster.to_string();
        }
    }
    if resolv.nameservers.is_empty() {
        resolv.nameservers.push(cluster.to_string());
    }
    resolv
}

/// Cuts what resolvers would pass over.
fn fit(resolv: &mut Resolv) -> Vec<String> {
    let mut warnings = Vec::new();
    if resolv.nameservers.len() > DNS_SERVERS_MAX {
        resolv.nameservers.truncate(DNS_SERVERS_MAX);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
             nameserver line is: {}",
            resolv.nameservers.join(" ")
        ));
    }
    let bytes = |searches: &[String]| searches.iter().map(|s| s.len() + 1).sum::<usize>();
    let before = resolv.searches.len();
    resolv.searches.truncate(DNS_SEARCHES_MAX);
    while bytes(&resolv.searches) > DNS_SEARCHES_BYTES_MAX + 1 {
        resolv.searches.pop();
    }
    if resolv.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied \
             search line is: {}",
            resolv.searches.join(" ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn host_files_are_read_whatever_wrote_them() {
        let noise = "\u{feff}# made by hand\r\n; too\r\nNameserver\t192.168.1.1 \t# router\r\n\
                     nameserver fe80::1%eth0\r\nnameserver 192.168.1.1\r\nnameserver ::1\r\n\
                     domain old.lan\r\nsearch lan. . example.com\r\noptions edns0 \
                     trust-ad\r\nsortlist 1.2.3.4\r\nnameserver\r\n\u{1a}";
        let found = Resolv::parse(noise);
        assert_eq!(found.searches, ["lan", "example.com"]);
        assert_eq!(found.options, ["edns0", "trust-ad"]);
        let servers: [IpAddr; 2] =
            [Ipv4Addr::new(192, 168, 1, 1).into(), "::1".parse().expect("v6")];
        assert_eq!(found.servers(), servers);
        assert!(!found.is_stub());
        assert!(Resolv::parse("nameserver 127.0.0.53\noptions edns0").is_stub());
        assert_eq!(Resolv::parse("\0\0\u{fffd}"), Resolv::default());
        let many = "nameserver 1.1.1.1\n".repeat(1000) + &format!("search {}\n", "a ".repeat(1000));
        let found = Resolv::parse(&many);
        assert!(found.nameservers.len() <= DNS_UPSTREAMS_MAX);
        assert!(found.searches.len() <= DNS_SEARCHES_MAX);
    }

    #[test]
    fn each_policy_has_its_file() {
        let host = Resolv::parse("nameserver 192.168.1.1\nsearch lan\noptions rotate\n");
        let stub = Resolv::parse("nameserver 127.0.0.53\n");
        let cluster = "search a.svc.cluster.local svc.cluster.local cluster.local lan\n\
                       nameserver 10.43.0.10\noptions ndots:5\n";
        let own = "search lan\nnameserver 192.168.1.1\noptions rotate\n";
        let check = |policy, host_network, host: &Resolv, expected: &str| {
            let pod = PodDns { policy, host_network, namespace: "a", ..PodDns::default() };
            let found = for_pod(&pod, Some(CLUSTER), host);
            assert_eq!(found.text, expected, "{policy} {host_network}");
            assert!(found.warnings.is_empty());
        };
        check("", false, &host, cluster);
        check("ClusterFirst", false, &host, cluster);
        check("ClusterFirst", true, &host, own);
        check("ClusterFirstWithHostNet", true, &host, cluster);
        check("Default", false, &host, own);
        check("Default", false, &stub, "nameserver 10.43.0.10\n");
        check("Default", true, &stub, "nameserver 127.0.0.53\n");
        check("Default", false, &Resolv::default(), "nameserver 10.43.0.10\n");
        check("None", false, &host, "");
    }

    #[test]
    fn the_pods_own_words_are_merged() {
        let (nameservers, searches) = (words(&["1.1.1.1", "10.43.0.10"]), words(&["corp", "lan"]));
        let options = [("ndots", Some("2")), ("edns0", None)];
        let pod = PodDns {
            namespace: "a",
            nameservers: &nameservers,
            searches: &searches,
            options: &options,
            ..PodDns::default()
        };
        let host = Resolv::parse("search lan\n");
        let expected = "search a.svc.cluster.local svc.cluster.local cluster.local lan corp\n\
                        nameserver 10.43.0.10\nnameserver 1.1.1.1\noptions ndots:2 edns0\n";
        assert_eq!(for_pod(&pod, Some(CLUSTER), &host).text, expected);
        let none = PodDns { policy: "None", ..pod };
        let expected = "search corp lan\nnameserver 1.1.1.1\nnameserver 10.43.0.10\n\
                        options ndots:2 edns0\n";
        assert_eq!(for_pod(&none, Some(CLUSTER), &host).text, expected);
    }

    #[test]
    fn limits_are_those_of_resolvers() {
        let nameservers = words(&["1.1.1.1", "2.2.2.2", "3.3.3.3"]);
        let searches: Vec<String> = (0..40).map(|index| format!("d{index}.example")).collect();
        let pod = PodDns {
            namespace: "a",
            nameservers: &nameservers,
            searches: &searches,
            ..PodDns::default()
        };
        let found = for_pod(&pod, Some(CLUSTER), &Resolv::default());
        assert_eq!(found.text.matches("nameserver").count(), 3);
        assert!(!found.text.contains("3.3.3.3"));
        let line = found.text.lines().next().expect("a line");
        assert_eq!(line.split(' ').count() - 1, DNS_SEARCHES_MAX);
        assert_eq!(found.warnings.len(), 2);
        assert!(found.warnings[0].ends_with("line is: 10.43.0.10 1.1.1.1 2.2.2.2"));
        let long: Vec<String> =
            (0..20).map(|index| format!("{index}{}", "x".repeat(200))).collect();
        let pod = PodDns { searches: &long, nameservers: &[], ..pod };
        let found = for_pod(&pod, Some(CLUSTER), &Resolv::default());
        let line = found.text.lines().next().expect("a line");
        assert!(line.len() - "search ".len() <= DNS_SEARCHES_BYTES_MAX, "{}", line.len());
        assert_eq!(found.warnings.len(), 1);
    }
}
