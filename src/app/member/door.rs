//! The API's port of a board that holds no log: bytes are passed on to the master that leads.
//!
//! Clients speak TLS with that master, not with this board, which could otherwise speak for any of them.
//! In: connections of clients. Out: connections to the leader, or to another master while the leader
//! does not answer: that one passes requests on. Until a master has said something, what the client said
//! is kept and said again to the next one. Bounds: places, bytes in each direction, two seconds to find a
//! master, in which all addresses of a leader without power take half a second, and those of others the same.
//! A connection to a leader ends when another one is known.
//!
//! Masters see the address of this board for all clients that come this way (ADR 0011).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use model::leader::LeaderRecord;
use model::limits::{FORWARD_BUFFER_BYTES, FORWARD_CONNECTIONS_MAX, FORWARD_WAIT_MS_MAX};
use model::masters::MasterAtV1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::io::crowd::Crowd;
use crate::io::peer;

/// How long a client waits for a master.
const WAIT: Duration = Duration::from_millis(FORWARD_WAIT_MS_MAX);
/// How long addresses of masters are tried, which are called at once.
const DIAL_WITHIN: Duration = Duration::from_millis(500);
/// So many of masters that do not lead: with the leader's own there is time left for another round.
const OTHERS_MAX: usize = 16;
/// Pause between two rounds.
const AGAIN: Duration = Duration::from_millis(50);
/// Pause after `accept` failed (descriptors exhausted): the condition passes by itself.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether the master lives.
const QUIET_SECONDS: u32 = 30;
/// What is sent to a master and not answered for so long ends the connection.
const UNANSWERED: Duration = Duration::from_secs(9);

/// Where masters are.
#[derive(Clone)]
pub(super) struct Passage {
    /// Who leads.
    pub(super) leader: watch::Receiver<Option<LeaderRecord>>,
    /// Everybody who holds the log, as far as known.
    pub(super) masters: watch::Receiver<Arc<Vec<MasterAtV1>>>,
}

/// A master that was reached.
struct Reached {
    stream: TcpStream,
    /// Whom it was taken for the leader as; nobody, if it is any master.
    leads: Option<String>,
}

/// How the first words to a master ended.
enum Begun {
    /// It has answered: these are its first bytes.
    Answered(Vec<u8>),
    /// It will not: another one may.
    Silent,
    /// The client has gone.
    Gone,
}

impl Passage {
    /// Passes connections on until `stop`.
    pub(super) async fn run(self, listener: Arc<TcpListener>, mut stop: watch::Receiver<bool>) {
        let crowd: Crowd<IpAddr> = Crowd::new(FORWARD_CONNECTIONS_MAX);
        // Dropped with this: what is passed on ends.
        let mut connections = JoinSet::new();
        loop {
            // Cancel safety: accept and join_next lose nothing when dropped. An error of the last means
            // that nobody can ask any more.
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok((stream, address)) = accepted else {
                sleep(ACCEPT_RETRY).await;
                continue;
            };
            let (passage, mut place) = (self.clone(), crowd.enter(address.ip()));
            connections.spawn(async move {
                // Cancel safety: the connection is over, whichever comes first.
                let passed = tokio::select! {
                    passed = passage.pass(stream) => passed,
                    () = place.displaced() => Err(io::Error::other("its place was taken")),
                };
                if let Err(error) = passed {
                    tracing::debug!(%address, %error, "a client's connection was not passed on");
                }
            });
        }
    }

    async fn pass(self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let deadline = Instant::now() + WAIT;
        let mut said = Vec::new();
        loop {
            let reached = timeout_at(deadline, self.reach()).await;
            let mut reached = reached.map_err(|_| io::Error::other("no master answers"))?;
            if reached.stream.write_all(&said).await.is_err() {
                sleep(AGAIN).await;
                continue;
            }
            // Cancel safety: what the client said is kept; a master that leads no more is left.
            let begun = tokio::select! {
                begun = begin(&mut client, &mut reached.stream, &mut said) => begun?,
                () = self.moved(reached.leads.as_deref()) => Begun::Silent,
            };
            match begun {
                Begun::Answered(bytes) => {
                    drop(said);
                    client.write_all(&bytes).await?;
                    return self.copy(client, reached).await;
                }
                Begun::Silent => sleep(AGAIN).await,
                Begun::Gone => return Ok(()),
            }
        }
    }

    async fn copy(&self, mut client: TcpStream, mut reached: Reached) -> io::Result<()> {
        let bytes = FORWARD_BUFFER_BYTES;
        let copying = copy_bidirectional_with_sizes(&mut client, &mut reached.stream, bytes, bytes);
        // Cancel safety: both ends are closed.
        tokio::select! {
            copied = copying => copied.map(drop),
            () = self.moved(reached.leads.as_deref()) => Ok(()),
        }
    }

    /// Resolves when somebody else than `name` leads.
    async fn moved(&self, name: Option<&str>) {
        let mut leader = self.leader.clone();
        let other = |record: &Option<LeaderRecord>| {
            let leads = record.as_ref().map(|record| record.name.as_str());
            name.is_some() && leads.is_some() && leads != name
        };
        if leader.wait_for(other).await.is_err() {
            // The role is about to end, and this with it.
            std::future::pending().await
        }
    }

    /// Connects to the leader, else to any master; tries for as long as it is polled.
    async fn reach(&self) -> Reached {
        loop {
            let leader = self.leader.borrow().clone();
            let name = leader.as_ref().map(|leader| leader.name.clone());
            let own = leader.into_iter().flat_map(|leader| {
                let port = leader.api_port;
                leader.addresses.into_iter().map(move |address| (address, port).into())
            });
            if let Some(stream) = dial(own.collect()).await {
                return Reached { stream, leads: name };
            }
            let masters = self.masters.borrow().clone();
            let others = masters.iter().filter(|master| Some(&master.board) != name.as_ref());
            let others = others.flat_map(|master| {
                master.addresses.iter().map(|address| (*address, master.api_port).into())
            });
            if let Some(stream) = dial(others.take(OTHERS_MAX).collect()).await {
                return Reached { stream, leads: None };
            }
            sleep(AGAIN).await;
        }
    }
}

/// Connects to whichever of these answers first, if one does.
async fn dial(addresses: Vec<SocketAddr>) -> Option<TcpStream> {
    // Dropped with this: the others are not needed.
    let mut dialing = JoinSet::new();
    for address in addresses {
        dialing.spawn(timeout(DIAL_WITHIN, TcpStream::connect(address)));
    }
    while let Some(dialed) = dialing.join_next().await {
        if let Ok(Ok(Ok(stream))) = dialed
            && peer::tune(&stream, QUIET_SECONDS, UNANSWERED).is_ok()
        {
            return Some(stream);
        }
    }
    None
}

/// Says to the master what the client says, until the master answers; keeps it in `said`.
async fn begin(
    client: &mut TcpStream,
    master: &mut TcpStream,
    said: &mut Vec<u8>,
) -> io::Result<Begun> {
    let mut from_client = vec![0; FORWARD_BUFFER_BYTES];
    let mut from_master = vec![0; FORWARD_BUFFER_BYTES];
    loop {
        // A client says little before it is answered: what is more waits.
        let room = FORWARD_BUFFER_BYTES - said.len();
        // Cancel safety: a read takes bytes only when it is done, and they are kept at once.
        tokio::select! {
            read = client.read(&mut from_client[..room]), if room > 0 => {
                let bytes = &from_client[..read?];
                if bytes.is_empty() {
                    return Ok(Begun::Gone);
                }
                said.extend_from_slice(bytes);
                if master.write_all(bytes).await.is_err() {
                    return Ok(Begun::Silent);
                }
            }
            read = master.read(&mut from_master) => return Ok(match read {
                Ok(bytes) if bytes > 0 => {
                    from_master.truncate(bytes);
                    Begun::Answered(from_master)
                }
                _ => Begun::Silent,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::masters::{MemberId, Part};

    use super::*;

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("free");
        let port = listener.local_addr().expect("bound").port();
        (listener, port)
    }

    fn record(name: &str, port: u16) -> LeaderRecord {
        let text = format!(
            "c=lab e=1 t=12 n={name} a=127.0.0.1 p={port},8883,7443 \
             f=30313233343536373839616263646566 s=c2lnbmVk"
        );
        text.parse::<model::leader::SignedRecord>().expect("a record").record().clone()
    }

    fn master(name: &str, api_port: u16) -> MasterAtV1 {
        MasterAtV1 {
            member: MemberId(2),
            board: name.into(),
            key: [0; 32],
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port,
            mqtt_port: 0,
            peer_port: 0,
            part: Part::Voter,
        }
    }

    struct Bed {
        leader: watch::Sender<Option<LeaderRecord>>,
        masters: watch::Sender<Arc<Vec<MasterAtV1>>>,
        port: u16,
        _stop: watch::Sender<bool>,
    }

    async fn bed() -> Bed {
        let (listener, port) = listener().await;
        let (leader, masters) = (watch::Sender::new(None), watch::Sender::default());
        let passage = Passage { leader: leader.subscribe(), masters: masters.subscribe() };
        let (_stop, stopping) = watch::channel(false);
        tokio::spawn(passage.run(listener.into(), stopping));
        Bed { leader, masters, port, _stop }
    }

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(20), what).await.expect("in time")
    }

    #[tokio::test]
    async fn a_client_waits_for_a_leader_and_is_cut_off_with_it() {
        let bed = bed().await;
        let (first, port) = listener().await;
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, bed.port)).await.expect("open");
        client.write_all(b"hello").await.expect("sent");
        sleep(Duration::from_millis(100)).await;
        bed.leader.send_replace(Some(record("pi-1", port)));
        let (mut master, _) = soon(first.accept()).await.expect("passed on");
        let mut bytes = [0; 5];
        soon(master.read_exact(&mut bytes)).await.expect("read");
        assert_eq!(&bytes, b"hello");
        master.write_all(b"world").await.expect("sent");
        soon(client.read_exact(&mut bytes)).await.expect("read");
        assert_eq!(&bytes, b"world");
        // The same leader under a new record changes nothing.
        bed.leader.send_replace(Some(LeaderRecord { term: 13, ..record("pi-1", port) }));
        client.write_all(b"again").await.expect("sent");
        soon(master.read_exact(&mut bytes)).await.expect("read");
        bed.leader.send_replace(Some(record("pi-2", port)));
        assert_eq!(soon(client.read(&mut bytes)).await.unwrap_or(0), 0, "cut off");
        assert_eq!(soon(master.read(&mut bytes)).await.unwrap_or(0), 0, "on both sides");
    }

    /// Somebody without power: nobody answers there, and nobody refuses. A listener whose queue is full
    /// (listen(2)) drops what else comes.
    async fn powerless(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(address).expect("free");
        let (listener, mut queue) = (socket.listen(1).expect("listens"), Vec::new());
        let at = listener.local_addr().expect("bound");
        let wait = Duration::from_millis(100);
        while let Ok(stream) = timeout(wait, TcpStream::connect(at)).await {
            queue.push(stream.expect("queued"));
            assert!(queue.len() < 100, "it is never full");
        }
        (listener, queue)
    }

    #[tokio::test]
    async fn a_leader_without_power_on_many_addresses_leaves_time_for_another_master() {
        let bed = bed().await;
        let first = powerless((Ipv4Addr::LOCALHOST, 0).into()).await;
        let port = first.0.local_addr().expect("bound").port();
        let mut all = vec![first];
        let mut leader = record("pi-1", port);
        for last in 2..=4 {
            let address = Ipv4Addr::new(127, 0, 0, last);
            all.push(powerless((address, port).into()).await);
            leader.addresses.push(address);
        }
        let (other, at) = listener().await;
        bed.leader.send_replace(Some(leader));
        bed.masters.send_replace(Arc::new(vec![master("pi-2", at)]));
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, bed.port)).await.expect("open");
        let (mut master, _) = soon(other.accept()).await.expect("passed on");
        master.write_all(b"x").await.expect("sent");
        assert_eq!(soon(client.read(&mut [0])).await.expect("not cut off"), 1);
    }

    #[tokio::test]
    async fn what_a_silent_leader_was_told_is_told_the_next_one() {
        let bed = bed().await;
        let ((frozen, at), (next, port)) = (listener().await, listener().await);
        bed.leader.send_replace(Some(record("pi-1", at)));
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, bed.port)).await.expect("open");
        client.write_all(b"hello").await.expect("sent");
        let (mut master, _) = soon(frozen.accept()).await.expect("passed on");
        let mut bytes = [0; 5];
        soon(master.read_exact(&mut bytes)).await.expect("read");
        bed.leader.send_replace(Some(record("pi-2", port)));
        let (mut master, _) = soon(next.accept()).await.expect("passed on");
        soon(master.read_exact(&mut bytes)).await.expect("read");
        assert_eq!(&bytes, b"hello");
    }

    #[tokio::test]
    async fn without_its_leader_any_master_is_asked_and_with_none_the_client_is_told_soon() {
        let bed = bed().await;
        let (closed, at) = listener().await;
        drop(closed);
        bed.leader.send_replace(Some(record("pi-1", at)));
        let began = Instant::now();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, bed.port)).await.expect("open");
        assert_eq!(soon(client.read(&mut [0])).await.unwrap_or(0), 0, "nobody is there");
        assert!(began.elapsed() < WAIT * 2, "{:?}", began.elapsed());
        let (other, port) = listener().await;
        bed.masters.send_replace(Arc::new(vec![master("pi-1", at), master("pi-2", port)]));
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, bed.port)).await.expect("open");
        let (mut master, _) = soon(other.accept()).await.expect("passed on");
        master.write_all(b"x").await.expect("sent");
        soon(client.read_exact(&mut [0])).await.expect("read");
        // It passes requests on by itself: another leader is no reason to leave it.
        bed.leader.send_replace(Some(record("pi-3", at)));
        master.write_all(b"y").await.expect("sent");
        soon(client.read_exact(&mut [0])).await.expect("read");
    }
}
