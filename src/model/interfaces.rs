//! Which network interfaces a board shares with other boards.

/// Starts of names of interfaces that containers, virtual machines and this program make for
/// themselves: nobody else reaches a board through them.
const VIRTUAL: [&str; 16] = [
    "docker", "veth", "br-", "virbr", "vnet", "cni", "flannel", "cali", "weave", "lxc", "lxd",
    "podman", "vxlan", "kumquat", "kq", "dummy",
];

/// Whether an interface is worth announcing; one that a person names always is.
pub fn is_shared(interface: &str, named: Option<&str>) -> bool {
    match named {
        Some(named) => named == interface,
        None => interface != "lo" && !is_virtual(interface),
    }
}

/// Whether an interface looks like one of containers or virtual machines.
pub fn is_virtual(interface: &str) -> bool {
    VIRTUAL.iter().any(|prefix| interface.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_interfaces() {
        let check = |interface, named, expected| {
            assert_eq!(is_shared(interface, named), expected, "{interface} {named:?}");
        };
        for name in ["eth0", "end0", "enp3s0", "wlan0", "br0", "bond0", "usb0"] {
            check(name, None, true);
        }
        for name in [
            "lo",
            "docker0",
            "veth12",
            "br-1f2e",
            "cni0",
            "flannel.1",
            "kumquat1",
            "kqd3",
            "kq-vxlan",
            "kq0c5a1b2c3d4",
        ] {
            check(name, None, false);
        }
        check("docker0", Some("docker0"), true);
        check("eth0", Some("docker0"), false);
    }
}
