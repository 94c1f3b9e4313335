//! Routes, interfaces and firewalls, from files.

use std::net::Ipv4Addr;
use std::path::Path;

use logic::doctor::RouteFact;
use model::interfaces;
use model::network::Ipv4Block;

use super::{names, read};

/// Flags of an interface (linux/if.h).
const IFF_UP: u32 = 0x1;
const IFF_MULTICAST: u32 = 0x1000;
/// Routes of other boards' pods are at least this narrow.
const POD_BLOCK_PREFIX_MIN: u8 = 25;

/// Routes of `/proc/net/route`, without default routes and without our own: those to other boards'
/// pods, and whatever leads to an interface of ours.
pub(super) fn routes(text: &str, pods: Ipv4Block) -> Vec<RouteFact> {
    let ours = |route: &RouteFact| {
        route.interface.starts_with("kq")
            || (pods.covers(&route.block) && route.block.prefix >= POD_BLOCK_PREFIX_MIN)
    };
    let lines = text.lines().skip(1).filter_map(route);
    lines.filter(|route| route.block.prefix > 0 && !ours(route)).collect()
}

fn route(line: &str) -> Option<RouteFact> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    // Addresses are in the byte order of the machine.
    let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let address = Ipv4Addr::from(hex(1)?.to_ne_bytes());
    let prefix = u8::try_from(hex(7)?.count_ones()).ok()?;
    let interface = (*fields.first()?).to_owned();
    Some(RouteFact { block: Ipv4Block::new(address, prefix), interface })
}

pub(super) fn has_default_route(text: &str) -> bool {
    text.lines().skip(1).filter_map(route).any(|route| route.block.prefix == 0)
}

/// Interfaces that are up, lead to other boards and pass multicast.
pub(super) fn multicast_interfaces(root: &Path) -> Vec<String> {
    let passes = |name: &String| {
        let flags = read(root, &format!("sys/class/net/{name}/flags"));
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
        // An interface without a cable is up all the same; its carrier tells.
        let carrier = read(root, &format!("sys/class/net/{name}/carrier"));
        interfaces::is_shared(name, None)
            && flags & IFF_UP != 0
            && flags & IFF_MULTICAST != 0
            && carrier.trim() != "0"
    };
    names(&root.join("sys/class/net")).into_iter().filter(passes).collect()
}

/// Firewalls that are switched on.
pub(super) fn firewalls(root: &Path) -> Vec<String> {
    let says = |path: &str, line: &str| read(root, path).lines().any(|it| it.trim() == line);
    let nftables = read(root, "etc/nftables.conf").contains("policy drop")
        && root.join("etc/systemd/system/sysinit.target.wants/nftables.service").exists();
    [
        ("ufw", says("etc/ufw/ufw.conf", "ENABLED=yes")),
        ("firewalld", root.join("run/firewalld").exists()),
        ("nftables", nftables),
    ]
    .into_iter()
    .filter(|(_, on)| *on)
    .map(|(name, _)| name.to_owned())
    .collect()
}
