//! Tells when somebody else changes the packet filter; costs nothing while nobody does.
//!
//! The kernel drops what this board itself changes before it is queued (a socket filter on who caused
//! it), so that a large change of our own cannot flood the queue.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use model::limits::NFT_ANSWER_BYTES_MAX;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

use super::foreign::FILTER;
use super::message::{NFPROTO_INET, NFPROTO_IPV4, NFTABLES, Received, messages};
use super::table::TABLE;

/// `NFNLGRP_NFTABLES` as a bit.
const GROUP_NFTABLES: u32 = 1 << (7 - 1);

/// What others changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Our table: it may be gone, or hold something else.
    pub table: bool,
    /// The table of iptables: our accept rules may be gone, or be needed.
    pub passage: bool,
}

impl Disturbance {
    /// Whether anything of ours is concerned.
    pub fn is_any(self) -> bool {
        self.table || self.passage
    }

    fn add(&mut self, message: &Received<'_>) {
        if message.kind >> 8 != NFTABLES {
            return;
        }
        // All messages name their table first.
        match (message.family(), message.attributes().text(1)) {
            (NFPROTO_INET, Some(TABLE)) => self.table = true,
            (NFPROTO_IPV4, Some(FILTER)) => self.passage = true,
            _ => (),
        }
    }
}

/// The kernel's announcements of changes by others.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<OwnedFd>,
}

impl Monitor {
    /// For the calling thread's network namespace; what the socket `own` changes is not told.
    pub(super) fn open(own: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        drop_caused_by(&socket, own)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_NFTABLES))?;
        // SAFETY: the descriptor must stay open as long as the AsyncFd: an OwnedFd inside of it always
        // names the same one and is closed with it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Waits until others have changed something of ours, and tells what.
    ///
    /// Cancel safety: what was read and concerns nobody is lost, nothing else.
    ///
    /// # Errors
    /// The socket broke.
    pub async fn changed(&mut self) -> io::Result<Disturbance> {
        let mut buffer = vec![0; NFT_ANSWER_BYTES_MAX];
        loop {
            let mut ready = self.socket.readable().await?;
            let mut seen = Disturbance::default();
            loop {
                match recv(ready.get_inner().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(count) => messages(&buffer[..count]).for_each(|told| seen.add(&told)),
                    // More than fitted the queue has changed: anything may have.
                    Err(nix::Error::ENOBUFS) => seen = Disturbance { table: true, passage: true },
                    Err(nix::Error::EINTR) => {}
                    Err(nix::Error::EAGAIN) => break ready.clear_ready(),
                    Err(error) => return Err(error.into()),
                }
            }
            if seen.is_any() {
                return Ok(seen);
            }
        }
    }
}

/// Attaches a socket filter (bpf(4)) that drops messages in whose header this port stands.
fn drop_caused_by(socket: &OwnedFd, port: u32) -> io::Result<()> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT_OFFSET: u32 = 12;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_WORD, 0, 0, PORT_OFFSET),
        // Words are loaded in network order.
        step(JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(port.to_ne_bytes())),
        step(RETURN, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ];
    let length = libc::c_ushort::try_from(program.len()).expect("four");
    let attached = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("small");
    // SAFETY: setsockopt reads `size` bytes at the pointer, which is to a live sock_fprog of that size,
    // and `len` instructions at its `filter`, which outlives the call; the kernel keeps copies.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const attached).cast(),
            size,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
