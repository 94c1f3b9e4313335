//! Tells when links, addresses or IPv4 routes of this network namespace change (rtnetlink(7) groups).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;

/// The kernel does not tell of the routes that go with a link.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
/// An interface that comes up shows its addresses as connected routes.
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// The kernel's announcements; costs nothing while nothing changes.
#[derive(Debug)]
pub struct AddressChanges {
    socket: AsyncFd<OwnedFd>,
}

impl AddressChanges {
    /// For the calling thread's network namespace; what changes from here on is told.
    ///
    /// # Errors
    /// The system gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // SAFETY: the descriptor must stay open as long as the AsyncFd: an OwnedFd inside of it always
        // names the same one and is closed with it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Waits until something has changed since the last call; what it was has to be read anew.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The socket broke.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match recv(ready.get_inner().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // More than fitted the queue has changed: that is a change too.
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::io::net::{Links, create, inside, remove};

    #[test]
    fn a_new_address_is_told_and_silence_is_not() {
        let path = std::env::temp_dir().join(format!("kumquat-net-{}", std::process::id()));
        if let Err(error) = create(&path) {
            eprintln!("not run: network namespaces cannot be made here: {error}");
            return;
        }
        let outcome = inside(&path, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut changes = AddressChanges::open()?;
                let soon = Duration::from_millis(50);
                let silent = tokio::time::timeout(soon, changes.changed()).await.is_err();
                Links::open()?.add_address("lo", Ipv4Addr::new(10, 7, 7, 7), 32)?;
                let told = tokio::time::timeout(Duration::from_secs(5), changes.changed()).await;
                let silent_again = tokio::time::timeout(soon, changes.changed()).await.is_err();
                Ok((silent, told.is_ok_and(|told| told.is_ok()), silent_again))
            })
        });
        remove(&path).expect("removed");
        assert_eq!(outcome.expect("ran"), (true, true, true));
    }
}
