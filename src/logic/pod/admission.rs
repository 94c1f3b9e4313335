//! What a board refuses before anything is made: kubelet's admission (`pkg/kubelet/sysctl`), and pods
//! that cannot be read. A refused pod is `Failed` for good with a reason of one word.

use serde::{Deserialize, Serialize};

use super::spec::Pod;

/// Why a pod has failed as a whole: `reason` and `message` of its status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CamelCase word.
    pub reason: String,
    /// Sentence.
    pub message: String,
}

/// Sysctls that touch nothing but the pod (kubelet's `safe_sysctls.go`); each with its namespace.
const SYSCTLS_SAFE: [(&str, Namespace); 12] = [
    ("kernel.shm_rmid_forced", Namespace::Ipc),
    ("net.ipv4.ip_local_port_range", Namespace::Net),
    ("net.ipv4.tcp_syncookies", Namespace::Net),
    ("net.ipv4.ping_group_range", Namespace::Net),
    ("net.ipv4.ip_unprivileged_port_start", Namespace::Net),
    ("net.ipv4.ip_local_reserved_ports", Namespace::Net),
    ("net.ipv4.tcp_keepalive_time", Namespace::Net),
    ("net.ipv4.tcp_fin_timeout", Namespace::Net),
    ("net.ipv4.tcp_keepalive_intvl", Namespace::Net),
    ("net.ipv4.tcp_keepalive_probes", Namespace::Net),
    ("net.ipv4.tcp_rmem", Namespace::Net),
    ("net.ipv4.tcp_wmem", Namespace::Net),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// Why this board does not take a pod: event reason and message.
pub(super) fn refusal(pod: &Pod) -> Option<(&'static str, String)> {
    if let Some(cause) = &pod.unreadable {
        return Some(("UnreadablePod", format!("pod cannot be read: {cause}")));
    }
    let forbidden = pod.spec.security_context.sysctls.iter().find_map(|sysctl| {
        let name = dotted(&sysctl.name);
        let Some((_, namespace)) = SYSCTLS_SAFE.iter().find(|(safe, _)| *safe == name) else {
            return Some(format!("forbidden sysctl: {name:?} not allowlisted"));
        };
        match namespace {
            Namespace::Ipc if pod.spec.host_ipc => {
                Some(format!("forbidden sysctl: {name:?} not allowed with host ipc enabled"))
            }
            Namespace::Net if pod.spec.host_network => {
                Some(format!("forbidden sysctl: {name:?} not allowed with host net enabled"))
            }
            _ => None,
        }
    });
    forbidden.map(|message| ("SysctlForbidden", message))
}

/// A sysctl's name with dots: the first separator decides which of `.` and `/` separates.
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => {
            let swap = |c: char| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: Option<&str>) {
        let json = format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"containers":[],{spec}}}}}"#);
        let pod = Pod::parse(json.as_bytes()).expect("a pod");
        assert_eq!(refusal(&pod).map(|(_, message)| message).as_deref(), expected, "{spec}");
    }

    #[test]
    fn only_safe_sysctls_of_own_namespaces_pass() {
        let with = |name: &str, host: &str| {
            format!(
                r#""securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}},{host}"hostname":"h""#
            )
        };
        check(&with("net.ipv4.tcp_syncookies", ""), None);
        check(&with("net/ipv4/tcp_syncookies", ""), None);
        check(
            &with("kernel.core_pattern", ""),
            Some(r#"forbidden sysctl: "kernel.core_pattern" not allowlisted"#),
        );
        check(
            &with("kernel/core_pattern", ""),
            Some(r#"forbidden sysctl: "kernel.core_pattern" not allowlisted"#),
        );
        check(
            &with("kernel.shm_rmid_forced", r#""hostIPC":true,"#),
            Some(r#"forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled"#),
        );
        check(
            &with("net.ipv4.tcp_syncookies", r#""hostNetwork":true,"#),
            Some(
                r#"forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled"#,
            ),
        );
    }
}
