//! IPv4 routes of the main table, neighbours, and where the VXLAN link finds others.
//!
//! Routes made here bear a protocol number of their own ([`PROTOCOL`]); only those are listed and
//! removed. Everything here is idempotent: a route that is there is replaced, one that is gone is gone.

use std::io;
use std::net::Ipv4Addr;

use super::links::Mac;
use super::netlink::{Message, REPLACE, Socket, attributes, number};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTNH_F_ONLINK: u32 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RT_SCOPE_LINK: u8 = 253;
/// In a removal: whatever the scope is.
const RT_SCOPE_NOWHERE: u8 = 255;
const RT_TABLE_MAIN: u8 = 254;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u8 = 0x80;
const NTF_SELF: u8 = 2;
/// A metric after those of all network managers.
const METRIC_LAST: u32 = 0xff00_0000;
/// Bytes of `struct rtmsg`.
const ROUTE_STRUCT_BYTES: usize = 12;
/// Who made a route (rtm_protocol): a number that nobody in rt_protos uses.
pub const PROTOCOL: u8 = 75;

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// First address of where it leads.
    pub to: Ipv4Addr,
    /// Leading bits of `to` that count.
    pub prefix: u8,
    /// How.
    pub hop: NextHop,
    /// Address that this board's own packets get as their source.
    pub source: Option<Ipv4Addr>,
}

/// Where packets of a route go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// To whoever has the address, on this link.
    Link(u32),
    /// To a gateway that is on this link, whatever the addresses of the link say.
    Gateway {
        /// The gateway.
        via: Ipv4Addr,
        /// The link's number.
        link: u32,
    },
    /// Back to the sender, as unreachable.
    Unreachable,
}

/// What the kernel would do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The link that it leaves by.
    pub link: u32,
    /// It goes to a router first.
    pub routed: bool,
    /// It stays on this board, or cannot leave it.
    pub nowhere: bool,
}

/// Changes routes and neighbours of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
}

impl Routes {
    /// For the calling thread's network namespace.
    ///
    /// # Errors
    /// The system gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Adds a route, or replaces one to the same addresses.
    ///
    /// # Errors
    /// Link, gateway or source are not there, or what the kernel says.
    pub fn set(&mut self, route: &Route) -> io::Result<()> {
        self.socket.request(new_route(route))
    }

    /// Removes a route of ours; one that is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&mut self, route: &Route) -> io::Result<()> {
        let mut body = route_struct(route);
        body[6] = RT_SCOPE_NOWHERE;
        let message = destination(Message::new(RTM_DELROUTE, 0, &body), route);
        absent_is_fine(self.socket.request(message), &[libc::ESRCH, libc::ENODEV])
    }

    /// All routes of ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn list(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        let body = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        self.socket.dump(RTM_GETROUTE, &body, |body| routes.extend(parse_route(body)))?;
        Ok(routes)
    }

    /// Asks the kernel how it would reach an address.
    ///
    /// # Errors
    /// What the kernel says; an address without a route is [`Lookup::nowhere`].
    pub fn look_up(&mut self, address: Ipv4Addr) -> io::Result<Lookup> {
        let body = [AF_INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let message = Message::new(RTM_GETROUTE, 0, &body).attribute(RTA_DST, &address.octets());
        let nowhere = Lookup { link: 0, routed: false, nowhere: true };
        match self.socket.ask(message) {
            Ok(Some((_, body))) => Ok(parse_lookup(&body).unwrap_or(nowhere)),
            Ok(None) => Ok(nowhere),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(nowhere)
                }
                _ => Err(error),
            },
        }
    }

    /// Says for good which hardware address a neighbour on a link has.
    ///
    /// # Errors
    /// The link is not there, or what the kernel says.
    pub fn set_neighbour(&mut self, link: u32, address: Ipv4Addr, mac: Mac) -> io::Result<()> {
        self.socket.request(neighbour(link, address, mac))
    }

    /// Says where a VXLAN link finds a hardware address, which answers to `address` on it.
    ///
    /// # Errors
    /// The link is not there, or what the kernel says.
    pub fn set_tunnel(
        &mut self,
        link: u32,
        (address, mac): (Ipv4Addr, Mac),
        remote: Ipv4Addr,
    ) -> io::Result<()> {
        let body = neighbour_struct(AF_BRIDGE, link, NTF_SELF);
        let entry = Message::new(RTM_NEWNEIGH, REPLACE, &body)
            .attribute(NDA_LLADDR, &mac)
            .attribute(NDA_DST, &remote.octets());
        self.socket.requests([entry, neighbour(link, address, mac)])
    }

    /// Ends what [`Self::set_tunnel`] said; what is not there is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_tunnel(
        &mut self,
        link: u32,
        (address, mac): (Ipv4Addr, Mac),
        remote: Ipv4Addr,
    ) -> io::Result<()> {
        let entry = Message::new(RTM_DELNEIGH, 0, &neighbour_struct(AF_BRIDGE, link, NTF_SELF))
            .attribute(NDA_LLADDR, &mac)
            .attribute(NDA_DST, &remote.octets());
        let neighbour = Message::new(RTM_DELNEIGH, 0, &neighbour_struct(AF_INET, link, 0))
            .attribute(NDA_DST, &address.octets());
        absent_is_fine(self.socket.requests([entry, neighbour]), &[libc::ENOENT, libc::ENODEV])
    }

    /// Ties a pod to the board's end of its link: who is there, and the route to it.
    ///
    /// # Errors
    /// The link or the source address is not there, or what the kernel says.
    pub fn set_pod(
        &mut self,
        link: u32,
        (address, mac): (Ipv4Addr, Mac),
        source: Ipv4Addr,
    ) -> io::Result<()> {
        let hop = NextHop::Link(link);
        let route = new_route(&Route { to: address, prefix: 32, hop, source: Some(source) });
        self.socket.requests([neighbour(link, address, mac), route])
    }
}

/// Adds or replaces.
pub(super) fn new_route(route: &Route) -> Message {
    let mut message = destination(Message::new(RTM_NEWROUTE, REPLACE, &route_struct(route)), route);
    match route.hop {
        NextHop::Link(link) => message = message.number(RTA_OIF, link),
        NextHop::Gateway { via, link } => {
            message = message.attribute(RTA_GATEWAY, &via.octets()).number(RTA_OIF, link);
        }
        // Behind every route that somebody else has to the same addresses, and never in its place.
        NextHop::Unreachable => message = message.number(RTA_PRIORITY, METRIC_LAST),
    }
    match route.source {
        Some(source) => message.attribute(RTA_PREFSRC, &source.octets()),
        None => message,
    }
}

pub(super) fn neighbour(link: u32, address: Ipv4Addr, mac: Mac) -> Message {
    Message::new(RTM_NEWNEIGH, REPLACE, &neighbour_struct(AF_INET, link, 0))
        .attribute(NDA_DST, &address.octets())
        .attribute(NDA_LLADDR, &mac)
}

fn destination(message: Message, route: &Route) -> Message {
    match route.prefix {
        0 => message,
        _ => message.attribute(RTA_DST, &route.to.octets()),
    }
}

/// `struct rtmsg`.
fn route_struct(route: &Route) -> [u8; ROUTE_STRUCT_BYTES] {
    let (scope, kind, flags) = match route.hop {
        NextHop::Link(_) => (RT_SCOPE_LINK, RTN_UNICAST, 0),
        NextHop::Gateway { .. } => (0, RTN_UNICAST, RTNH_F_ONLINK),
        NextHop::Unreachable => (0, RTN_UNREACHABLE, 0),
    };
    let mut body = [AF_INET, route.prefix, 0, 0, RT_TABLE_MAIN, PROTOCOL, scope, kind, 0, 0, 0, 0];
    body[8..].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// `struct ndmsg` of an entry that stays.
fn neighbour_struct(family: u8, link: u32, flags: u8) -> [u8; 12] {
    let mut body = [family, 0, 0, 0, 0, 0, 0, 0, NUD_PERMANENT, 0, flags, 0];
    body[4..8].copy_from_slice(&link.to_ne_bytes());
    body
}

fn absent_is_fine(outcome: io::Result<()>, codes: &[i32]) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error().is_some_and(|code| codes.contains(&code)) => Ok(()),
        other => other,
    }
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let (head, rest) = body.split_at_checked(ROUTE_STRUCT_BYTES)?;
    let ours = head[0] == AF_INET && head[4] == RT_TABLE_MAIN && head[5] == PROTOCOL;
    let (mut to, mut source, mut via, mut link) = (Ipv4Addr::UNSPECIFIED, None, None, 0);
    for (kind, value) in attributes(rest) {
        let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        match kind {
            RTA_DST => to = address()?,
            RTA_PREFSRC => source = address(),
            RTA_GATEWAY => via = address(),
            RTA_OIF => link = number(value),
            _ => {}
        }
    }
    let hop = match (head[7], via) {
        (RTN_UNREACHABLE, _) => NextHop::Unreachable,
        (_, Some(via)) => NextHop::Gateway { via, link },
        (_, None) => NextHop::Link(link),
    };
    ours.then_some(Route { to, prefix: head[1], hop, source })
}

fn parse_lookup(body: &[u8]) -> Option<Lookup> {
    let (head, rest) = body.split_at_checked(ROUTE_STRUCT_BYTES)?;
    let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
    Some(Lookup {
        link: find(RTA_OIF).map_or(0, |(_, value)| number(value)),
        routed: find(RTA_GATEWAY).is_some(),
        nowhere: head[7] != RTN_UNICAST,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::net::{Links, create, inside, remove};

    #[test]
    fn routes_come_back_and_go() {
        let path = std::env::temp_dir().join(format!("kumquat-routes-{}", std::process::id()));
        if let Err(error) = create(&path) {
            println!("not run: network namespaces cannot be made here: {error}");
            return;
        }
        let outcome = inside(&path, || {
            let (mut links, mut routes) = (Links::open()?, Routes::open()?);
            let own = Ipv4Addr::new(10, 42, 0, 1);
            links.add_bridge("there")?;
            links.add_address("there", own, 24)?;
            let link = links.find("there")?.expect("made").index;
            assert!(links.find("elsewhere")?.is_none());
            let has = links.addresses()?;
            assert!(has.iter().any(|a| (a.link, a.address, a.prefix) == (link, own, 24)));
            let gateway = NextHop::Gateway { via: Ipv4Addr::new(10, 42, 0, 9), link };
            let to = |third, prefix, hop, source| Route {
                to: Ipv4Addr::new(10, 43, third, 0),
                prefix,
                hop,
                source,
            };
            let all = [
                to(0, 16, NextHop::Unreachable, None),
                to(0, 25, gateway, Some(own)),
                to(1, 32, NextHop::Link(link), Some(own)),
            ];
            for route in all.iter().chain(&all) {
                routes.set(route)?;
            }
            let mut listed = routes.list()?;
            listed.sort_by_key(|route| (route.to, route.prefix));
            assert_eq!(listed, all, "and the connected route is not ours");
            let look = |routes: &mut Routes, a: [u8; 4]| routes.look_up(a.into());
            let seen = look(&mut routes, [10, 43, 0, 3])?;
            assert_eq!(seen, Lookup { link, routed: true, nowhere: false });
            let seen = look(&mut routes, [10, 42, 0, 3])?;
            assert_eq!(seen, Lookup { link, routed: false, nowhere: false });
            for nowhere in [[10, 43, 7, 7], [10, 42, 0, 1], [8, 8, 8, 8]] {
                assert!(look(&mut routes, nowhere)?.nowhere, "{nowhere:?}");
            }
            for route in all.iter().chain(&all) {
                routes.remove(route)?;
            }
            assert_eq!(routes.list()?, []);
            Ok(())
        });
        remove(&path).expect("removed");
        outcome.expect("routes of a namespace");
    }

    #[test]
    fn a_tunnel_knows_its_ends() {
        let path = std::env::temp_dir().join(format!("kumquat-tunnel-{}", std::process::id()));
        if create(&path).is_err() {
            println!("not run: network namespaces cannot be made here");
            return;
        }
        let outcome = inside(&path, || {
            let (mut links, mut routes) = (Links::open()?, Routes::open()?);
            let mac = [0x0a, 0x58, 10, 42, 0, 1];
            if let Err(error) = links.add_vxlan("kq-vxlan", (1, 8472), mac, 1_450) {
                println!("not run: this kernel has no VXLAN: {error}");
                return Ok(());
            }
            let link = links.find("kq-vxlan")?.expect("made");
            assert_eq!(
                (link.kind.as_str(), link.mtu, link.mac, link.up),
                ("vxlan", 1_450, mac, true)
            );
            let end = (Ipv4Addr::new(10, 42, 1, 1), [0x0a, 0x58, 10, 42, 1, 1]);
            for remote in [[192, 0, 2, 1], [192, 0, 2, 2]] {
                routes.set_tunnel(link.index, end, remote.into())?;
                routes.set_tunnel(link.index, end, remote.into())?;
            }
            let route = Route {
                to: Ipv4Addr::new(10, 42, 1, 0),
                prefix: 25,
                hop: NextHop::Gateway { via: end.0, link: link.index },
                source: None,
            };
            routes.set(&route)?;
            assert_eq!(routes.list()?, [route]);
            for _ in 0..2 {
                routes.remove_tunnel(link.index, end, Ipv4Addr::new(192, 0, 2, 2))?;
            }
            Ok(())
        });
        remove(&path).expect("removed");
        outcome.expect("a tunnel");
    }
}
