//! Those who ask: datagrams and connections, brought to the one resolver.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use logic::dns::{Query, Reply, types};
use model::limits::{DNS_CONNECTIONS_MAX, DNS_IDLE_SECONDS_MAX};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;

use super::resolver::Resolver;
use super::{DnsOptions, stopped};
use crate::io::dns::{Held, read_message, write_message};

/// Datagrams taken before others get their turn.
const BATCH: usize = 64;
/// Larger than any query.
const QUERY_BYTES_MAX: usize = 4_096;
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(DNS_IDLE_SECONDS_MAX);

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Client {
    /// A datagram to this address.
    Udp(Arc<UdpSocket>, SocketAddr),
    /// A connection's task.
    Tcp(oneshot::Sender<Vec<u8>>),
}

impl Client {
    /// Bytes that it takes.
    pub(super) fn limit(&self, query: &Query<'_>) -> u16 {
        match self {
            Self::Udp(..) => Reply::udp_limit(query),
            Self::Tcp(_) => types::TCP_BYTES_MAX,
        }
    }

    /// Sends an answer; whoever does not get it asks again.
    pub(super) fn send(self, answer: &[u8]) {
        match self {
            Self::Udp(socket, address) => drop(socket.try_send_to(answer, address)),
            Self::Tcp(sender) => drop(sender.send(answer.to_vec())),
        }
    }
}

/// A query that came over a connection.
type Asked = (Vec<u8>, oneshot::Sender<Vec<u8>>);

/// Answers what comes in on the sockets until `stop`.
///
/// # Errors
/// The sockets broke.
pub async fn serve(
    held: Held,
    options: DnsOptions,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let Held { udp, tcp, address } = held;
    let (udp, tcp) = (Arc::new(UdpSocket::from_std(udp)?), TcpListener::from_std(tcp)?);
    let mut resolver = Resolver::new(&options, IpAddr::V4(*address.ip()));
    let mut state = options.state;
    let (ask, mut asked) = mpsc::channel::<Asked>(DNS_CONNECTIONS_MAX);
    let mut connections = Connections::default();
    let mut full = None;
    loop {
        // Cancel safety: every arm loses nothing when dropped.
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            changed = state.changed() => match changed {
                Ok(()) => resolver.set_state(Arc::clone(&state.borrow_and_update())),
                // Whoever knows the network is gone, and this role with it.
                Err(_) => return Ok(()),
            },
            landed = resolver.landed() => landed?,
            Some((message, answer)) = asked.recv() => resolver.take(&message, Client::Tcp(answer)),
            accepted = tcp.accept(), if full.is_none() => match accepted {
                Ok((stream, _)) => connections.add(stream, ask.clone()),
                // Too many open files, or a client that gave up: the next may be luckier.
                Err(_) => full = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE))),
            },
            () = over(&mut full) => full = None,
            readable = udp.readable() => {
                readable?;
                if take_datagrams(&udp, &mut resolver) {
                    // There is more, and others of this runtime want to work too.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// The end of a pause; never while there is none.
async fn over(pause: &mut Option<Pin<Box<Sleep>>>) {
    match pause {
        Some(pause) => pause.await,
        None => std::future::pending().await,
    }
}

/// Answers what is there; whether there may be more.
fn take_datagrams(udp: &Arc<UdpSocket>, resolver: &mut Resolver) -> bool {
    let mut buffer = [0; QUERY_BYTES_MAX];
    for _ in 0..BATCH {
        match udp.try_recv_from(&mut buffer) {
            Ok((length, from)) => {
                resolver.take(&buffer[..length], Client::Udp(Arc::clone(udp), from));
            }
            // An error of one datagram says nothing of the next.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}

/// Clients over TCP; one too many ends the oldest.
#[derive(Debug, Default)]
struct Connections {
    running: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Connections {
    fn add(&mut self, stream: TcpStream, ask: mpsc::Sender<Asked>) {
        while self.running.try_join_next().is_some() {}
        self.order.retain(|connection| !connection.is_finished());
        if self.order.len() >= DNS_CONNECTIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.running.spawn(converse(stream, ask)));
    }
}

/// Answers one query after the other.
async fn converse(mut stream: TcpStream, ask: mpsc::Sender<Asked>) {
    let _ = stream.set_nodelay(true);
    loop {
        let read = tokio::time::timeout(IDLE, read_message(&mut stream, QUERY_BYTES_MAX)).await;
        let Ok(Ok(Some(message))) = read else { return };
        let (sender, answer) = oneshot::channel();
        if ask.send((message, sender)).await.is_err() {
            return;
        }
        // What is noise gets no answer, and ends the connection.
        let Ok(answer) = answer.await else { return };
        match tokio::time::timeout(IDLE, write_message(&mut stream, &answer)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
