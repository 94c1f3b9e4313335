//! The sockets that clients ask: made once in a boot, kept by the keeper, adopted by each agent.
//!
//! They are bound before their address is on any link (IP_FREEBIND), on a high port: port 53 of the
//! board may belong to somebody else, and is redirected here for the DNS service's address only.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use model::limits::DNS_SOCKET_BYTES;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockopt, listen, setsockopt,
    socket, sockopt,
};

/// The port, unless somebody else has it on every address.
const PORT: u16 = 10_053;
/// Ports tried.
const PORTS: u16 = 10;
/// Connections that wait to be accepted, also while the agent restarts.
const BACKLOG: i32 = 256;

/// The sockets of one address.
#[derive(Debug)]
pub struct Held {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
    /// Of both.
    pub address: SocketAddrV4,
}

impl Held {
    /// Makes the sockets.
    ///
    /// # Errors
    /// No port is free, or the system gives no sockets.
    pub fn open(address: Ipv4Addr) -> io::Result<Self> {
        let mut outcome = Err(io::ErrorKind::AddrInUse.into());
        for port in PORT..PORT + PORTS {
            outcome = Self::open_at(SocketAddrV4::new(address, port));
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        outcome
    }

    /// Makes the sockets at a port of the caller's choice.
    ///
    /// # Errors
    /// The port is taken, or the system gives no sockets.
    pub fn open_at(address: SocketAddrV4) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let make = |kind| -> io::Result<OwnedFd> {
            let socket = socket(AddressFamily::Inet, kind, flags, None)?;
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
            if kind == SockType::Stream {
                // Connections of before are no reason not to listen.
                setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            }
            bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
            Ok(socket)
        };
        let (udp, tcp) = (make(SockType::Datagram)?, make(SockType::Stream)?);
        // Beyond the system's limit only with CAP_NET_ADMIN; less room is room too.
        if setsockopt(&udp, sockopt::RcvBufForce, &DNS_SOCKET_BYTES).is_err() {
            setsockopt(&udp, sockopt::RcvBuf, &DNS_SOCKET_BYTES)?;
        }
        // What a C library calls the most differs: 128 in musl, 4096 in glibc.
        listen(&tcp, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
        Ok(Self { udp: udp.into(), tcp: tcp.into(), address })
    }

    /// Takes over sockets that an earlier agent made; `None` for any others.
    pub fn adopt(fds: Vec<OwnedFd>, address: Ipv4Addr) -> Option<Self> {
        let [udp, tcp] = <[OwnedFd; 2]>::try_from(fds).ok()?;
        let kinds = [&udp, &tcp].map(|fd| getsockopt(fd, sockopt::SockType).ok());
        if kinds != [Some(SockType::Datagram), Some(SockType::Stream)] {
            return None;
        }
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        let at = (udp.local_addr().ok()?, tcp.local_addr().ok()?);
        match at {
            (SocketAddr::V4(of_udp), SocketAddr::V4(of_tcp))
                if of_udp == of_tcp && *of_udp.ip() == address =>
            {
                Some(Self { udp, tcp, address: of_udp })
            }
            _ => None,
        }
    }

    /// Copies for the keeper.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        Ok(vec![self.udp.try_clone()?.into(), self.tcp.try_clone()?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_pass_from_one_agent_to_the_next_with_what_waits() {
        // An address that no link of this machine has, as before the board's own is on its link.
        let early = Held::open(Ipv4Addr::new(10, 42, 99, 1)).expect("bound before it exists");
        assert_eq!(*early.address.ip(), Ipv4Addr::new(10, 42, 99, 1));
        let at = Ipv4Addr::new(127, 77, 0, 1);
        let first = Held::open(at).expect("bound");
        let second = Held::open(at).expect("the next port");
        assert_ne!(first.address, second.address);
        let kept = first.copies().expect("copies");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        client.send_to(b"question", first.address).expect("sent");
        let address = first.address;
        drop(first);
        let next = Held::adopt(kept, at).expect("its own");
        assert_eq!(next.address, address);
        let mut bytes = [0; 16];
        assert_eq!(next.udp.recv(&mut bytes).expect("waited"), 8);
        let copies = || next.copies().expect("copies");
        assert!(Held::adopt(copies(), Ipv4Addr::LOCALHOST).is_none(), "another address");
        assert!(Held::adopt(copies().into_iter().rev().collect(), at).is_none(), "other kinds");
        assert!(Held::adopt(Vec::new(), at).is_none());
    }
}
