//! Connections into a pod's network namespace.
//!
//! A short-lived thread enters the namespace and makes the socket, which belongs to that namespace for
//! good; the rest is ordinary async IO.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use tokio::net::{TcpSocket, TcpStream};

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The namespace from which it goes; none for the board's own.
    pub(super) netns: Option<PathBuf>,
    /// An address when there is a namespace, else any name.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Endpoint {
    /// What went wrong, as Go says it.
    pub(super) fn dial_text(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("dial tcp {self}: connect: connection refused")
            }
            _ => error.to_string(),
        }
    }

    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let Some(netns) = self.netns.clone() else {
            return TcpStream::connect((self.host.as_str(), self.port)).await;
        };
        let address: IpAddr = self.host.parse().map_err(io::Error::other)?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("probe".to_owned()).stack_size(64 * 1024).spawn(
            move || {
                // The thread ends with its namespace; nobody waits when the probe has timed out.
                let _ = sender.send(socket_inside(&netns, address));
            },
        )?;
        let socket = receiver.await.map_err(io::Error::other)??;
        let socket = TcpSocket::from_std_stream(socket);
        socket.connect(SocketAddr::from((address, self.port))).await
    }
}

/// Makes an unconnected socket in a network namespace; the calling thread stays there.
fn socket_inside(netns: &Path, address: IpAddr) -> io::Result<std::net::TcpStream> {
    let namespace = std::fs::File::open(netns)?;
    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(family, SockType::Stream, flags, None)?;
    Ok(std::net::TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_boards_own_namespace_needs_no_entering() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut at = Endpoint { netns: None, host: "127.0.0.1".to_owned(), port };
        assert!(at.connect().await.is_ok());
        at.netns = Some(PathBuf::from("/proc/self/ns/net"));
        assert!(at.connect().await.is_ok(), "its own namespace can be entered too");
        at.netns = Some(PathBuf::from("/nonexistent/net"));
        assert!(at.connect().await.is_err(), "a pod's namespace has to be there");
    }
}
