//! A pod's own names: host name, domain, `/etc/hosts` (kubelet's `kubelet_pods.go`).

use std::net::IpAddr;

use logic::pod::Pod;

/// Longest host name that the kernel takes.
const HOSTNAME_BYTES_MAX: usize = 64;
/// The cluster's domain.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// What stands in every pod's file.
const HEAD: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost \
                    ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

/// The short host name inside a pod: at most a DNS label. Pods of the host network have the board's.
pub(in crate::node) fn hostname(pod: &Pod, board: &str) -> String {
    let name = match pod.spec.host_network {
        true => board,
        false => pod.spec.hostname.as_deref().unwrap_or(&pod.metadata.name),
    };
    let mut name = name.to_owned();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The name with which the pod can be asked for, if it has one: a `subdomain` gives it.
fn full_name(pod: &Pod, hostname: &str) -> Option<String> {
    let subdomain = pod.spec.subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = &pod.metadata.namespace;
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"))
}

/// What the kernel says is the pod's host name.
///
/// # Errors
/// A full name that is asked for and too long, as kubelet words it.
pub(in crate::node) fn kernel_hostname(pod: &Pod, board: &str) -> Result<String, String> {
    let hostname = hostname(pod, board);
    let full = full_name(pod, &hostname).filter(|_| pod.spec.set_hostname_as_fqdn);
    match full {
        Some(full) if full.len() > HOSTNAME_BYTES_MAX => Err(format!(
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long \
             ({HOSTNAME_BYTES_MAX} characters is the max, {} characters requested)",
            full.len()
        )),
        Some(full) => Ok(full),
        None => Ok(hostname),
    }
}

/// A pod's `/etc/hosts`. `of_board` is the board's own file, for pods of the host network.
pub(super) fn hosts(pod: &Pod, board: &str, address: Option<IpAddr>, of_board: &str) -> String {
    let mut text = match pod.spec.host_network {
        true => format!("# Kubernetes-managed hosts file (host network).\n{of_board}"),
        false => HEAD.to_owned(),
    };
    if !pod.spec.host_network {
        let hostname = hostname(pod, board);
        let address = address.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let names = match full_name(pod, &hostname) {
            Some(full) => format!("{full}\t{hostname}"),
            None => hostname,
        };
        text.push_str(&format!("{address}\t{names}\n"));
    }
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in &pod.spec.host_aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let json =
            format!(r#"{{"metadata":{{"name":"web-0","namespace":"shop"}},"spec":{{{spec}}}}}"#);
        Pod::parse(json.as_bytes()).expect("a pod")
    }

    #[test]
    fn hosts_files_are_kubelets() {
        let at = Some(IpAddr::from([10, 42, 0, 5]));
        let last_line = |spec: &str| {
            let text = hosts(&pod(spec), "pi-1", at, "192.0.2.1\trouter\n");
            assert!(text.starts_with("# Kubernetes-managed hosts file"), "{text}");
            text.lines().last().expect("lines").to_owned()
        };
        assert_eq!(last_line(""), "10.42.0.5\tweb-0");
        assert_eq!(last_line(r#""hostname":"db""#), "10.42.0.5\tdb");
        assert_eq!(
            last_line(r#""hostname":"db","subdomain":"data""#),
            "10.42.0.5\tdb.data.shop.svc.cluster.local\tdb"
        );
        assert_eq!(last_line(r#""hostNetwork":true"#), "192.0.2.1\trouter");
        let aliases = r#""hostAliases":[{"ip":"192.0.2.9","hostnames":["a","b"]}]"#;
        assert_eq!(last_line(aliases), "192.0.2.9\ta\tb");
        assert!(
            hosts(&pod(aliases), "pi-1", at, "").contains("\n\n# Entries added by HostAliases.\n")
        );
    }

    #[test]
    fn host_names() {
        let name = |spec: &str| kernel_hostname(&pod(spec), "pi-1");
        assert_eq!(name("").as_deref(), Ok("web-0"));
        assert_eq!(name(r#""hostNetwork":true"#).as_deref(), Ok("pi-1"));
        assert_eq!(name(r#""subdomain":"s""#).as_deref(), Ok("web-0"));
        assert_eq!(
            name(r#""subdomain":"s","setHostnameAsFQDN":true"#).as_deref(),
            Ok("web-0.s.shop.svc.cluster.local")
        );
        let long = format!(r#""subdomain":"{}","setHostnameAsFQDN":true"#, "s".repeat(60));
        assert!(name(&long).expect_err("too long").contains("64 characters is the max"));
    }
}
