//! Links: bridges, veth pairs, the VXLAN tunnel; their addresses.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::net::if_::if_nametoindex;

use super::netlink::{CREATE, Message, Socket, attributes, number, text};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;
/// Bytes of `struct ifinfomsg` and `struct ifaddrmsg`.
const LINK_STRUCT_BYTES: usize = 16;
const ADDRESS_STRUCT_BYTES: usize = 8;

/// A hardware address.
pub type Mac = [u8; 6];

/// Of bridges: one that no device has ("locally administered").
const BRIDGE_MAC: Mac = [0x02, b'k', b'q', 0, 0, 0xfe];

/// A link of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `dummy`, `vxlan`, ...; empty for hardware.
    pub kind: String,
    /// Largest packet.
    pub mtu: u32,
    /// Its hardware address; zeroes where it has none of this form.
    pub mac: Mac,
    /// It is switched on.
    pub up: bool,
}

/// An IPv4 address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link's number.
    pub link: u32,
    /// The address.
    pub address: Ipv4Addr,
    /// How many leading bits others on the link share with it.
    pub prefix: u8,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Mac,
}

/// Changes links of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

impl Links {
    /// For the calling thread's network namespace.
    ///
    /// # Errors
    /// The system gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// Adds a bridge that is up. It has an address of its own: else it takes the lowest one of its ports,
    /// and changes it when one of them goes, to the cost of whoever talks with the bridge just then.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the kernel says.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, CREATE, &link_struct(0, IFF_UP))
            .text(IFLA_IFNAME, name)
            .attribute(IFLA_ADDRESS, &BRIDGE_MAC)
            .nested(IFLA_LINKINFO, &[], |info| info.text(IFLA_INFO_KIND, "bridge"));
        self.socket.request(message)
    }

    /// Adds a VXLAN link that is up, learns nothing and is told by [`super::Routes`] where others are.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the kernel says (`Unsupported` without the module `vxlan`).
    pub fn add_vxlan(
        &mut self,
        name: &str,
        (number, port): (u32, u16),
        mac: Mac,
        mtu: u32,
    ) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, CREATE, &link_struct(0, IFF_UP))
            .text(IFLA_IFNAME, name)
            .attribute(IFLA_ADDRESS, &mac)
            .number(IFLA_MTU, mtu)
            .nested(IFLA_LINKINFO, &[], |info| {
                info.text(IFLA_INFO_KIND, "vxlan").nested(IFLA_INFO_DATA, &[], |data| {
                    data.number(IFLA_VXLAN_ID, number)
                        .attribute(IFLA_VXLAN_PORT, &port.to_be_bytes())
                        .attribute(IFLA_VXLAN_LEARNING, &[0])
                })
            });
        self.socket.request(message)
    }

    /// Says under which address a VXLAN link sends; under [`Ipv4Addr::UNSPECIFIED`] the one of the way that
    /// a packet takes.
    ///
    /// # Errors
    /// The link is not there, or what the kernel says.
    pub fn set_vxlan_source(&mut self, link: u32, source: Ipv4Addr) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, 0, &link_struct(link, 0)).nested(
            IFLA_LINKINFO,
            &[],
            |info| {
                info.text(IFLA_INFO_KIND, "vxlan").nested(IFLA_INFO_DATA, &[], |data| {
                    data.attribute(IFLA_VXLAN_LOCAL, &source.octets())
                })
            },
        );
        self.socket.request(message)
    }

    /// Adds a veth pair: `name` here and up, `peer` in another namespace and down.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the kernel says.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let message = veth(
            |link| link.text(IFLA_IFNAME, name),
            |link| link.text(IFLA_IFNAME, peer),
            peer_namespace,
        );
        self.socket.request(message)
    }

    /// Adds a veth pair as [`Self::add_veth`] does, with hardware addresses and an MTU.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the kernel says.
    pub fn add_pod_veth(
        &mut self,
        own: VethEnd<'_>,
        peer: VethEnd<'_>,
        peer_namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> io::Result<()> {
        let end = |end: VethEnd<'_>| {
            let (name, mac) = (end.name.to_owned(), end.mac);
            move |link: Message| {
                link.text(IFLA_IFNAME, &name).attribute(IFLA_ADDRESS, &mac).number(IFLA_MTU, mtu)
            }
        };
        self.socket.request(veth(end(own), end(peer), peer_namespace))
    }

    /// Puts a link under a bridge.
    ///
    /// # Errors
    /// Either link does not exist, or what the kernel says.
    pub fn set_master(&mut self, name: &str, bridge: &str) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, 0, &link_struct(if_nametoindex(name)?, IFF_UP))
            .number(IFLA_MASTER, if_nametoindex(bridge)?);
        self.socket.request(message)
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// The link does not exist, or what the kernel says.
    pub fn set_up(&mut self, name: &str) -> io::Result<()> {
        let body = link_struct(if_nametoindex(name)?, IFF_UP);
        self.socket.request(Message::new(RTM_NEWLINK, 0, &body))
    }

    /// Takes a link down.
    ///
    /// # Errors
    /// The link does not exist, or what the kernel says.
    pub fn set_down(&mut self, name: &str) -> io::Result<()> {
        let mut body = link_struct(if_nametoindex(name)?, IFF_UP);
        // The flag stays in the mask of what changes.
        body[8..12].copy_from_slice(&0_u32.to_ne_bytes());
        self.socket.request(Message::new(RTM_NEWLINK, 0, &body))
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// The link does not exist, or what the kernel says.
    pub fn add_address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message =
            address_message((RTM_NEWADDR, CREATE), if_nametoindex(name)?, address, prefix);
        self.socket.request(message)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// It does not have it, or what the kernel says.
    pub fn remove_address(&mut self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = address_message((RTM_DELADDR, 0), if_nametoindex(name)?, address, prefix);
        self.socket.request(message)
    }

    /// Sets the default route.
    ///
    /// # Errors
    /// The gateway cannot be reached, or what the kernel says.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        const RTM_NEWROUTE: u16 = 24;
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RTN_UNICAST: u8 = 1;
        const RTA_GATEWAY: u16 = 5;
        let body = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
        let message =
            Message::new(RTM_NEWROUTE, CREATE, &body).attribute(RTA_GATEWAY, &gateway.octets());
        self.socket.request(message)
    }

    /// Removes a link; one that does not exist is fine.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let Ok(index) = if_nametoindex(name) else { return Ok(()) };
        match self.socket.request(Message::new(RTM_DELLINK, 0, &link_struct(index, 0))) {
            // It went by itself meanwhile, with the namespace of its other end.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.socket.dump(RTM_GETLINK, &link_struct(0, 0), |body| links.extend(parse_link(body)))?;
        Ok(links)
    }

    /// A link by its name.
    ///
    /// # Errors
    /// What the kernel says; no such link is `None`.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Link>> {
        let message = Message::new(RTM_GETLINK, 0, &link_struct(0, 0)).text(IFLA_IFNAME, name);
        match self.socket.ask(message) {
            Ok(found) => Ok(found.and_then(|(_, body)| parse_link(&body))),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The IPv4 addresses of all links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> io::Result<Vec<LinkAddress>> {
        let mut addresses = Vec::new();
        let body = [AF_INET, 0, 0, 0, 0, 0, 0, 0];
        self.socket.dump(RTM_GETADDR, &body, |body| addresses.extend(parse_address(body)))?;
        Ok(addresses)
    }
}

fn veth(
    own: impl FnOnce(Message) -> Message,
    peer: impl FnOnce(Message) -> Message,
    peer_namespace: BorrowedFd<'_>,
) -> Message {
    let namespace = peer_namespace.as_raw_fd().cast_unsigned();
    own(Message::new(RTM_NEWLINK, CREATE, &link_struct(0, IFF_UP))).nested(
        IFLA_LINKINFO,
        &[],
        |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
                data.nested(VETH_INFO_PEER, &link_struct(0, 0), |link| {
                    peer(link).number(IFLA_NET_NS_FD, namespace)
                })
            })
        },
    )
}

pub(super) fn address_message(
    (kind, flags): (u16, u16),
    link: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> Message {
    let mut body = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
    body[4..].copy_from_slice(&link.to_ne_bytes());
    Message::new(kind, flags, &body)
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets())
}

/// `struct ifinfomsg`: index, flags and the mask of flags to change.
fn link_struct(index: u32, flags: u32) -> [u8; LINK_STRUCT_BYTES] {
    let mut body = [0; LINK_STRUCT_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let (head, rest) = body.split_at_checked(LINK_STRUCT_BYTES)?;
    let mut link =
        Link { index: number(&head[4..]), up: number(&head[8..]) & IFF_UP != 0, ..Link::default() };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = number(value),
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_LINKINFO => {
                let of_kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = of_kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<LinkAddress> {
    let (head, rest) = body.split_at_checked(ADDRESS_STRUCT_BYTES)?;
    let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
    // On links to a single peer the one is ours and the other is the peer's.
    let (_, value) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    let octets: [u8; 4] = value.try_into().ok()?;
    (head[0] == AF_INET).then(|| LinkAddress {
        link: number(&head[4..]),
        address: octets.into(),
        prefix: head[1],
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::super::namespace;
    use super::*;

    #[test]
    fn a_veth_pair_joins_two_namespaces() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: network namespaces need root");
            return;
        }
        let folder = std::env::temp_dir().join(format!("kumquat-links-{}", std::process::id()));
        let (one, two) = (folder.join("one"), folder.join("two"));
        namespace::create(&one).expect("first namespace");
        namespace::create(&two).expect("second namespace");
        let far = File::open(&two).expect("second namespace");
        namespace::inside(&one, || {
            let mut links = Links::open()?;
            links.add_bridge("br0")?;
            let mac = |links: &mut Links| {
                let all = links.list()?;
                Ok::<_, io::Error>(all.into_iter().find(|link| link.name == "br0").map(|it| it.mac))
            };
            let before = mac(&mut links)?;
            links.add_veth("near", "far", far.as_fd())?;
            links.set_master("near", "br0")?;
            assert_eq!(mac(&mut links)?, before, "ports come and go, its address stays");
            links.add_address("br0", Ipv4Addr::new(192, 0, 2, 1), 24)?;
            let again = links.add_bridge("br0").expect_err("the name is taken");
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            Ok(())
        })
        .expect("first namespace wired");
        let listener = namespace::inside(&two, || {
            let mut links = Links::open()?;
            links.add_address("far", Ipv4Addr::new(192, 0, 2, 2), 24)?;
            links.set_up("far")?;
            links.add_default_route(Ipv4Addr::new(192, 0, 2, 1))?;
            TcpListener::bind("192.0.2.2:7")
        })
        .expect("second namespace wired");
        namespace::inside(&one, || TcpStream::connect("192.0.2.2:7"))
            .expect("they reach each other");
        listener.accept().expect("accepted");
        let carrier = || {
            namespace::inside(&two, || std::fs::read_to_string("/proc/thread-self/net/route"))
                .expect("routes")
        };
        assert!(carrier().contains("far"));
        namespace::inside(&two, || Links::open()?.set_down("far")).expect("taken down");
        assert!(!carrier().contains("far"), "a link that is down has no routes");
        namespace::inside(&one, || Links::open()?.delete("near")).expect("deleted");
        namespace::remove(&one).expect("removed");
        namespace::remove(&two).expect("removed");
        namespace::remove(&two).expect("removing twice is fine");
        assert!(!folder.exists(), "the folder goes with its last namespace");
    }
}
