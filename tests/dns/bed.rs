//! A namespace with a board's DNS at its service address, and servers for it to ask.

#![allow(dead_code, unreachable_pub, reason = "a harness")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kumquat::io::dns::{Held, read_message, write_message};
use kumquat::io::keeper::{Keeper, KeeperPaths};
use kumquat::io::net::{self, Links};
use kumquat::node::network::dns::{self, DnsOptions, serve};
use logic::dns::{Name, Ranges, types};
use model::network::{NetBoard, NetEndpoint, NetPort, NetService, NetState};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fake_keeper::FakeKeeper;

/// Where clients ask.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 43, 0, 10), 53);
/// The server of the host's resolv.conf.
pub const UPSTREAM: &str = "127.0.0.2:53";
/// Longer than any answer takes.
const WITHIN: Duration = Duration::from_secs(8);

/// The namespace's inside.
pub struct Bed {
    folder: PathBuf,
    state: watch::Sender<Arc<NetState>>,
    stop: watch::Sender<bool>,
}

/// Runs a test in a namespace of its own.
pub fn run<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Bed) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: {name} needs root for a network namespace");
        return;
    }
    let unique = format!("kumquat-test-dns-{name}-{}", std::process::id());
    let namespace = PathBuf::from("/run/netns").join(&unique);
    let folder = std::env::temp_dir().join(&unique);
    std::fs::create_dir_all(&folder).expect("folder");
    net::create(&namespace).expect("network namespace");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        net::inside(&namespace, || {
            let mut links = Links::open()?;
            links.add_address("lo", *SERVICE.ip(), 32)?;
            for own in [[10, 42, 0, 1], [10, 42, 0, 129]] {
                links.add_address("lo", own.into(), 32)?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let bed = Bed {
                folder: folder.clone(),
                state: watch::Sender::new(Arc::new(state())),
                stop: watch::Sender::new(false),
            };
            bed.write_host("nameserver 127.0.0.2\nsearch lan.example\n");
            runtime.block_on(test(bed));
            Ok(())
        })
    }));
    net::remove(&namespace).expect("removed");
    std::fs::remove_dir_all(&folder).expect("removed");
    match outcome {
        Ok(outcome) => outcome.expect("the test ran"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn state() -> NetState {
    let service = |name: &str, cluster_ip: Option<[u8; 4]>| NetService {
        namespace: "default".into(),
        name: name.into(),
        cluster_ip: cluster_ip.map(Ipv4Addr::from),
        ..NetService::default()
    };
    let alias = |name: &str, target: &str| NetService {
        external_name: Some(target.into()),
        ..service(name, None)
    };
    let endpoint = |last| NetEndpoint {
        address: Ipv4Addr::new(10, 42, 0, last),
        ready: true,
        ports: vec![80],
        ..NetEndpoint::default()
    };
    let http = NetPort { name: "http".into(), port: 80, ..NetPort::default() };
    let services = [
        NetService { ports: vec![http.clone()], ..service("web", Some([10, 43, 0, 7])) },
        NetService {
            ports: vec![http],
            endpoints: (0..200).map(endpoint).collect(),
            ..service("many", None)
        },
        alias("outside", "a.example"),
        alias("elsewhere", "z.example"),
    ];
    let services = services.into_iter().map(|s| (s.key().into(), Arc::new(s))).collect();
    NetState { revision: 1, services, ..NetState::default() }
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub rcode: u8,
    pub truncated: bool,
    /// Addresses of the answer section.
    pub records: Vec<Ipv4Addr>,
}

impl Shown {
    pub fn addresses(addresses: &[&str]) -> Self {
        let records = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        Self { rcode: 0, truncated: false, records }
    }

    fn of(message: &[u8]) -> Self {
        let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        let (_, end) = Name::read(message, 12, false).expect("the question");
        let (mut at, mut records) = (end + 4, Vec::new());
        for _ in 0..number(6) {
            let (_, fixed) = Name::read(message, at, true).expect("an owner");
            at = fixed + 10 + usize::from(number(fixed + 8));
            if number(fixed) == types::A {
                let octets: [u8; 4] = message[at - 4..at].try_into().expect("four");
                records.push(octets.into());
            }
        }
        Self { rcode: message[3] & 15, truncated: message[2] & 2 != 0, records }
    }
}

/// A query.
pub fn message(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x55, 0xaa, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

impl Bed {
    /// Serves at the service address until aborted.
    pub fn serve(&self) -> JoinHandle<()> {
        self.serve_on(Held::open_at(SERVICE).expect("port 53 of an address of our own"))
    }

    fn options(&self) -> DnsOptions {
        let block = |text: &str| text.parse().expect("a block");
        DnsOptions {
            state: self.state.subscribe(),
            ranges: Ranges { pods: block("10.42.0.0/16"), services: block("10.43.0.0/16") },
            resolv_conf: self.folder.join("resolv.conf"),
        }
    }

    /// The board's whole DNS, with sockets of its own making; where it answers.
    pub async fn serve_as(
        &self,
        board: &'static str,
    ) -> (JoinHandle<()>, watch::Receiver<Option<SocketAddrV4>>) {
        let paths = KeeperPaths {
            run_dir: self.folder.join("run"),
            data_dir: self.folder.join("data"),
            cgroup: "kumquat-dns".to_owned(),
            // Never run: the fake one listens before anybody asks.
            exe: "/nonexistent".into(),
        };
        let fake = FakeKeeper::listen(&paths.run_dir).expect("a socket");
        let keeper = Keeper::connect_or_spawn(paths).await.expect("the fake answers");
        let (held, answered) = watch::channel(None);
        let (options, stop) = (self.options(), self.stop.subscribe());
        let serving = tokio::spawn(async move {
            dns::run(board, options, &keeper, &held, stop).await.expect("serves");
            drop(fake);
        });
        (serving, answered)
    }

    /// Gives a board a block of pods, or none.
    pub fn give_block(&self, board: &str, block: Option<&str>) {
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            let pods = block.map(|block| block.parse().expect("a block"));
            let given = NetBoard { name: board.to_owned(), pods, ..NetBoard::default() };
            state.boards.insert(board.into(), Arc::new(given));
        });
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn serve_on(&self, held: Held) -> JoinHandle<()> {
        let options = self.options();
        let stop = self.stop.subscribe();
        tokio::spawn(async move { serve(held, options, stop).await.expect("serves") })
    }

    pub fn write_host(&self, text: &str) {
        std::fs::write(self.folder.join("resolv.conf"), text).expect("written");
    }

    pub fn add_service(&self, name: &str, address: [u8; 4]) {
        self.state.send_modify(|state| {
            let service = NetService {
                namespace: "default".into(),
                name: name.into(),
                cluster_ip: Some(address.into()),
                ..NetService::default()
            };
            let mut next = NetState::clone(state);
            next.revision += 1;
            next.services.insert(service.key().into(), Arc::new(service));
            *state = Arc::new(next);
        });
    }

    /// What a program says, while the runtime goes on.
    pub async fn busybox(&self, words: &[&str]) -> String {
        let mut command = Command::new("busybox");
        command.args(words);
        let output = tokio::task::spawn_blocking(move || command.output().expect("busybox runs"));
        let output = output.await.expect("no panic");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }

    pub async fn client(&self) -> tokio::net::UdpSocket {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(SERVICE).await.expect("connected");
        socket
    }

    pub async fn ask(&self, name: &str, kind: u16) -> Shown {
        self.ask_at(SERVICE, name, kind).await
    }

    pub async fn ask_at(&self, at: SocketAddrV4, name: &str, kind: u16) -> Shown {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.expect("a port");
        socket.connect(at).await.expect("connected");
        let query = message(name, kind);
        socket.send(&query).await.expect("sent");
        let mut buffer = [0; 4096];
        let length = tokio::time::timeout(WITHIN, socket.recv(&mut buffer)).await;
        let length = length.unwrap_or_else(|_| panic!("{name} is not answered")).expect("received");
        assert_eq!(buffer[..2], query[..2]);
        assert_eq!(buffer[12..query.len()], query[12..], "the question comes back");
        Shown::of(&buffer[..length])
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(SERVICE).await.expect("connected")
    }

    /// Asks one question after the other on one connection, all sent at once.
    pub async fn ask_over_tcp(&self, names: &[&str]) -> Vec<Shown> {
        let mut stream = self.connect().await;
        for name in names {
            write_message(&mut stream, &message(name, types::A)).await.expect("sent");
        }
        let mut answers = Vec::new();
        for _ in names {
            let read = read_message(&mut stream, 65_535);
            let answer = tokio::time::timeout(WITHIN, read).await.expect("answered");
            answers.push(Shown::of(&answer.expect("received").expect("not the end")));
        }
        answers
    }

    pub async fn until_answered(&self, name: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.ask(name, types::A).await.rcode != 0 {
            assert!(Instant::now() < until, "{name} is never answered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A server that knows names below `example`.
    pub fn upstream(&self, address: &str) -> Upstream {
        Upstream::start(address)
    }

    /// A port that hears and says nothing.
    pub fn silent(&self, address: &str) -> UdpSocket {
        UdpSocket::bind(address).expect("a port")
    }

    /// A server that asks us whatever it is asked.
    pub fn mirror(&self, address: &str) -> Stopper {
        let ours = UdpSocket::bind(address).expect("a port");
        let stopper = Stopper::default();
        let stopped = stopper.0.clone();
        in_thread(move || {
            let mut buffer = [0; 4096];
            patient(&ours);
            let mut asked: BTreeMap<[u8; 2], SocketAddr> = BTreeMap::new();
            let upward = UdpSocket::bind("127.0.0.1:0").expect("a port");
            upward.set_nonblocking(true).expect("set");
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = ours.recv_from(&mut buffer) {
                    asked.insert([buffer[0], buffer[1]], from);
                    upward.send_to(&buffer[..length], SERVICE).expect("sent");
                }
                while let Ok(length) = upward.recv(&mut buffer) {
                    if let Some(to) = asked.remove(&[buffer[0], buffer[1]]) {
                        ours.send_to(&buffer[..length], to).expect("sent");
                    }
                }
            }
        });
        stopper
    }
}

fn patient(socket: &UdpSocket) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
}

fn in_thread(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

/// Ends a server when dropped.
#[derive(Default)]
pub struct Stopper(Arc<AtomicBool>);

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server for the rest of the world.
pub struct Upstream {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    stopper: Stopper,
}

impl Upstream {
    fn start(address: &str) -> Self {
        let (asked, stopper) =
            (Arc::<Mutex<BTreeMap<String, usize>>>::default(), Stopper::default());
        let udp = UdpSocket::bind(address).expect("a port");
        patient(&udp);
        let tcp = TcpListener::bind(address).expect("a port");
        tcp.set_nonblocking(true).expect("set");
        let (count, stopped) = (asked.clone(), stopper.0.clone());
        in_thread(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let name = Name::read(&buffer[..length], 12, false).expect("a question").0;
                    let name = name.to_string().trim_end_matches('.').to_owned();
                    *count.lock().expect("sound").entry(name.clone()).or_default() += 1;
                    if name.starts_with("slow") {
                        std::thread::sleep(Duration::from_millis(200));
                    }
                    let answer = answer(&buffer[..length], &name, 512);
                    udp.send_to(&answer, from).expect("sent");
                }
                match tcp.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).expect("set");
                        let mut length = [0; 2];
                        stream.read_exact(&mut length).expect("a length");
                        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut query).expect("a question");
                        let name = Name::read(&query, 12, false).expect("a question").0.to_string();
                        let answer = answer(&query, name.trim_end_matches('.'), 65_535);
                        let length = u16::try_from(answer.len()).expect("small").to_be_bytes();
                        stream.write_all(&[&length[..], &answer].concat()).expect("sent");
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            }
        });
        Self { asked, stopper }
    }

    /// How often it was asked for a name.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().expect("sound").get(name).copied().unwrap_or_default()
    }

    /// Says nothing any more.
    pub fn stop(self) {
        drop(self.stopper);
        // Its sockets close when its thread has seen that.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One address for most names, many for `big`, none for `no`.
fn answer(query: &[u8], name: &str, limit: usize) -> Vec<u8> {
    let (_, end) = Name::read(query, 12, false).expect("a question");
    let mut bytes = query[..end + 4].to_vec();
    bytes[2] = 0x81;
    bytes[3] = 0x80;
    bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let mut record = |kind: u16, data: &[u8]| {
        let fits = bytes.len() + 12 + data.len() <= limit;
        if !fits {
            bytes[2] |= 2;
            return;
        }
        let section = if kind == types::SOA { 9 } else { 7 };
        bytes[section] += 1;
        bytes.extend([0xc0, 12]);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend(u16::try_from(data.len()).expect("small").to_be_bytes());
        bytes.extend_from_slice(data);
    };
    match name.split('.').next() {
        Some("big") => (0..120).for_each(|last| record(types::A, &[9, 9, 9, last])),
        Some("no") => {
            record(types::SOA, &[&[0, 0][..], &[0; 16], &[0, 0, 0, 60]].concat());
            bytes[3] |= 3;
        }
        _ => record(types::A, &[1, 2, 3, 4]),
    }
    bytes
}
