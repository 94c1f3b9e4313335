//! The ports of a board: sockets that outlive whatever the board is in its cluster.
//!
//! A port is bound when somebody first asks for it, and then for the life of the process. Whoever
//! sits in the cluster's seat accepts on it until it gives the seat up; what knocks between two of
//! them waits in the kernel's queue, so that no exchange refuses a client.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use model::limits::LISTEN_BACKLOG;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use super::config::Config;

/// The ports of this board; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Doors {
    /// Clients of the Kubernetes API.
    pub(super) api: Door,
    /// Boards that are led; none when the bus goes over somebody else's broker.
    pub(super) bus: Option<Door>,
    /// Other boards.
    pub(super) peers: Door,
}

impl Doors {
    /// The ports that the user wants; none of them is bound yet.
    pub(super) fn new(config: &Config) -> Self {
        let bus = Door::new("--mqtt-port", config.mqtt_port);
        Self {
            api: Door::new("--api-port", config.api_port),
            bus: config.broker.is_none().then_some(bus),
            peers: Door::new("--peer-port", config.peer_port),
        }
    }

    /// Closes those of masters: a board that is none refuses whoever takes it for one, instead of keeping
    /// it waiting. The API's stays: whoever sits answers there.
    pub(super) fn close(&self) {
        for door in self.bus.iter().chain([&self.peers]) {
            door.close();
        }
    }

    /// Binds all that a master needs, before anything else is done.
    ///
    /// # Errors
    /// A port is taken.
    pub(super) fn bind(&self) -> Result<()> {
        let bus = self.bus.as_ref();
        for door in [&self.api, &self.peers].into_iter().chain(bus) {
            door.listener()?;
        }
        Ok(())
    }
}

/// One port; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Door {
    flag: &'static str,
    port: u16,
    bound: Arc<Mutex<Option<Arc<TcpListener>>>>,
}

impl Door {
    fn new(flag: &'static str, port: u16) -> Self {
        Self { flag, port, bound: Arc::default() }
    }

    /// The socket, on all addresses of this board.
    ///
    /// # Errors
    /// The port is taken.
    pub(super) fn listener(&self) -> Result<Arc<TcpListener>> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*bound {
            return Ok(Arc::clone(listener));
        }
        let (flag, port) = (self.flag, self.port);
        let listener =
            listen(port).with_context(|| format!("port {port} is taken: choose another {flag}"))?;
        Ok(Arc::clone(bound.insert(Arc::new(listener))))
    }

    /// Closes the socket once nobody accepts on it: who knocks from then on is refused, not kept waiting.
    pub(super) fn close(&self) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends at once whatever knocks, until `stop`: nobody is there whom it could speak to. A port
    /// that was never bound is left so.
    pub(super) async fn turn_away(self, mut stop: watch::Receiver<bool>) {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let turning = async {
            let Some(listener) = bound else { return std::future::pending().await };
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        };
        // Cancel safety: nothing is kept of what knocks. An error of `stop` means that nobody can ask
        // any more.
        tokio::select! {
            () = turning => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Pause after `accept` failed (descriptors exhausted): the condition passes by itself.
const ACCEPT_RETRY: std::time::Duration = std::time::Duration::from_millis(100);

fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    // A knock that finds the queue full is heard again only after a second: when a master comes
    // back, all its boards knock at once.
    socket.listen(LISTEN_BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn what_knocks_between_two_seats_is_heard_by_the_next() {
        let door = Door::new("--api-port", 0);
        let port = door.listener().expect("free").local_addr().expect("bound").port();
        let stop = watch::Sender::new(false);
        let turning = tokio::spawn(door.clone().turn_away(stop.subscribe()));
        let mut turned = TcpStream::connect(("127.0.0.1", port)).await.expect("bound");
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(5), turned.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
        stop.send_replace(true);
        turning.await.expect("ends");
        let waiting = TcpStream::connect(("127.0.0.1", port)).await.expect("queued");
        let again = door.listener().expect("the same");
        let (_, from) = again.accept().await.expect("it waited");
        assert_eq!(from, waiting.local_addr().expect("connected"));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_names_its_flag() {
        let taken = TcpListener::bind("0.0.0.0:0").await.expect("free");
        let port = taken.local_addr().expect("bound").port();
        let error = Door::new("--peer-port", port).listener().expect_err("taken").to_string();
        assert!(error.contains("--peer-port") && error.contains(&port.to_string()), "{error}");
    }
}
