//! Bridges, veth pairs and addresses.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::net::if_::if_nametoindex;

use super::netlink::{CREATE, Message, Socket};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;

/// Changes links of the network namespace in which it was opened.
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

    /// Adds a bridge that is up.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the kernel says.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, CREATE, &link_struct(0, IFF_UP))
            .text(IFLA_IFNAME, name)
            .nested(IFLA_LINKINFO, &[], |info| info.text(IFLA_INFO_KIND, "bridge"));
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
        let namespace = peer_namespace.as_raw_fd().cast_unsigned();
        let message = Message::new(RTM_NEWLINK, CREATE, &link_struct(0, IFF_UP))
            .text(IFLA_IFNAME, name)
            .nested(IFLA_LINKINFO, &[], |info| {
                info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
                    data.nested(VETH_INFO_PEER, &link_struct(0, 0), |link| {
                        link.text(IFLA_IFNAME, peer).number(IFLA_NET_NS_FD, namespace)
                    })
                })
            });
        self.socket.request(message)
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
        let mut body = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
        body[4..].copy_from_slice(&if_nametoindex(name)?.to_ne_bytes());
        let message = Message::new(RTM_NEWADDR, CREATE, &body)
            .attribute(IFA_LOCAL, &address.octets())
            .attribute(IFA_ADDRESS, &address.octets());
        self.socket.request(message)
    }

    /// Sets the default route.
    ///
    /// # Errors
    /// The gateway cannot be reached, or what the kernel says.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        const RT_TABLE_MAIN: u8 = 254;
        const RTPROT_STATIC: u8 = 4;
        const RTN_UNICAST: u8 = 1;
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
        self.socket.request(Message::new(RTM_DELLINK, 0, &link_struct(index, 0)))
    }
}

/// `struct ifinfomsg`: index, flags and the mask of flags to change.
fn link_struct(index: u32, flags: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
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
            links.add_veth("near", "far", far.as_fd())?;
            links.set_master("near", "br0")?;
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
