//! Addresses by which other boards can reach this one.

use std::fs;
use std::io;
use std::net::IpAddr;

use model::interfaces;

use super::parse;

/// An address of an interface that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// The interface has a default route.
    pub default_route: bool,
}

/// Addresses of this board in the network namespace of this process: those of interfaces with a
/// default route first, IPv4 before IPv6; without loopback, link-local and virtual ones. An interface
/// that a person names counts although its name looks virtual.
pub fn addresses(named: Option<&str>) -> io::Result<Vec<InterfaceAddress>> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routes = parse::default_routes(&routes);
    let found = nix::ifaddrs::getifaddrs()?.filter_map(|entry| {
        let up = entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
        let address = entry.address?;
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        up.then_some((entry.interface_name, address))
    });
    Ok(order(found, &routes, named))
}

fn order(
    found: impl Iterator<Item = (String, IpAddr)>,
    routes: &[String],
    named: Option<&str>,
) -> Vec<InterfaceAddress> {
    let mut addresses: Vec<InterfaceAddress> = found
        .filter(|(interface, address)| is_reachable(interface, *address, named))
        .map(|(interface, address)| {
            let default_route = routes.contains(&interface);
            InterfaceAddress { interface, address, default_route }
        })
        .collect();
    let rank = |name: &str| routes.iter().position(|r| r == name).unwrap_or(routes.len());
    addresses.sort_by_key(|a| (a.address.is_ipv6(), rank(&a.interface), a.interface.clone()));
    addresses.dedup();
    addresses
}

fn is_reachable(interface: &str, address: IpAddr, named: Option<&str>) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.segments()[0] & 0xffc0 == 0xfe80
        }
    };
    // Addresses on `lo` are for this board alone, whatever they look like: its own pod address is.
    !local && interface != "lo" && (!interfaces::is_virtual(interface) || named == Some(interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reachable_addresses_come_first_by_route() {
        let found = [
            ("lo", "127.0.0.1"),
            ("lo", "10.42.0.1"),
            ("docker0", "172.17.0.1"),
            ("wlan0", "192.168.1.9"),
            ("veth1a", "10.0.0.1"),
            ("eth0", "fd00::1"),
            ("eth0", "fe80::1"),
            ("end0", "10.1.1.1"),
            ("eth0", "192.168.1.8"),
        ];
        let found = found.map(|(name, ip)| (name.to_owned(), ip.parse().expect("an address")));
        let ordered =
            order(found.clone().into_iter(), &["eth0".to_owned(), "wlan0".to_owned()], None);
        let names: Vec<String> =
            ordered.iter().map(|a| format!("{} {}", a.interface, a.address)).collect();
        let expected = ["eth0 192.168.1.8", "wlan0 192.168.1.9", "end0 10.1.1.1", "eth0 fd00::1"];
        assert_eq!(names, expected);
        assert!(ordered[0].default_route && !ordered[2].default_route);
        let named = order(found.into_iter(), &[], Some("veth1a"));
        assert!(named.iter().any(|entry| entry.interface == "veth1a"));
    }

    #[test]
    fn this_machine_can_be_asked() {
        addresses(None).expect("getifaddrs");
    }
}
