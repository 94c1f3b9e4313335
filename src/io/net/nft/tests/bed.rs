//! The namespaces, and what is asked of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use logic::network::local::LocalPods;
use logic::network::rules::{Changes, Frontend, Planner, Site, Target};
use model::network::{NetEndpoint, NetPort, NetService, NetState, Protocol};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{Shutdown, shutdown};

use super::super::Nft;
use crate::io::net::{Links, NextHop, Route, Routes, create, inside, remove, sysctl};

/// The board's own pods, and a pod of another board.
pub(super) const POD_2: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
pub(super) const POD_3: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 2);
/// The board itself.
pub(super) const OWN: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
pub(super) const BOARD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Outside.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub(super) const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Longer than anything takes that works, also on a machine that is busy.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Long enough to say that nothing comes.
pub(super) const SILENCE: Duration = Duration::from_millis(300);

/// Namespaces by name and what runs in them.
pub(super) struct Bed {
    folder: PathBuf,
    nft: Option<Nft>,
    pub(super) planner: Planner,
    servers: Vec<Server>,
}

/// Something that listens until it is dropped.
struct Server {
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // One of UDP says that it is not connected, and wakes its reader all the same.
        let _woken = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("server ends");
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.servers.clear();
        for name in NAMES {
            remove(&self.folder.join(name)).expect("namespace removed");
        }
    }
}

const NAMES: [&str; 5] = ["board", "pod-2", "pod-3", "far", "client"];

pub(super) fn site() -> Site {
    let block = |text: &str| text.parse().expect("a block");
    Site {
        block: Some(block("10.42.0.0/25")),
        dns: Some((Ipv4Addr::new(10, 43, 0, 10), 10_053)),
        own_ports: vec![(Protocol::Tcp, 6443)],
        ..Site::new("here", block("10.42.0.0/16"), block("10.43.0.0/16"))
    }
}

impl Bed {
    /// `None`, and says so, where namespaces cannot be made.
    pub(super) fn new() -> Option<Self> {
        static BEDS: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            println!("not run: network namespaces need root");
            return None;
        }
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("kumquat-nft-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        for name in NAMES {
            create(&folder.join(name)).expect("namespace");
        }
        let mut bed =
            Self { folder, nft: None, planner: Planner::new(site()), servers: Vec::new() };
        bed.wire();
        let nft = bed.on("board", || Ok(Nft::open().expect("nf_tables")));
        nft.replace(&bed.planner.rules()).expect("first rules");
        bed.nft = Some(nft);
        Some(bed)
    }

    pub(super) fn nft(&self) -> &Nft {
        self.nft.as_ref().expect("opened")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn on<T: Send>(&self, name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        inside(&self.path(name), work).expect("work in a namespace")
    }

    fn wire(&self) {
        let lan = Ipv4Addr::new(198, 51, 100, 1);
        let other = Ipv4Addr::new(198, 51, 100, 2);
        let file = |name: &str| File::open(self.path(name)).expect("namespace");
        let (pod_2, pod_3, far, client) =
            (file("pod-2"), file("pod-3"), file("far"), file("client"));
        self.on("board", || {
            let mut links = Links::open()?;
            let mut routes = Routes::open()?;
            sysctl::set("ipv4/ip_forward", "1")?;
            links.add_address("lo", OWN, 32)?;
            for (link, namespace, pod) in [("kqa", &pod_2, POD_2), ("kqb", &pod_3, POD_3)] {
                links.add_veth(link, "eth0", namespace.as_fd())?;
                links.add_address(link, GATEWAY, 32)?;
                routes.set(&route(pod, 32, NextHop::Link(if_nametoindex(link)?), Some(OWN)))?;
            }
            for (link, namespace, address) in [("lan", &client, BOARD), ("up", &far, lan)] {
                links.add_veth(link, "eth0", namespace.as_fd())?;
                links.add_address(link, address, 24)?;
            }
            let hop = NextHop::Gateway { via: other, link: if_nametoindex("up")? };
            routes.set(&route(Ipv4Addr::new(10, 42, 1, 0), 25, hop, Some(OWN)))?;
            let hop = NextHop::Link(if_nametoindex("lo")?);
            routes.set(&route(Ipv4Addr::new(10, 43, 0, 0), 16, hop, Some(OWN)))
        });
        for (name, address) in [("pod-2", POD_2), ("pod-3", POD_3)] {
            self.on(name, || {
                let mut links = Links::open()?;
                links.add_address("eth0", address, 32)?;
                links.set_up("eth0")?;
                let link = if_nametoindex("eth0")?;
                let mut routes = Routes::open()?;
                routes.set(&route(GATEWAY, 32, NextHop::Link(link), None))?;
                let hop = NextHop::Gateway { via: GATEWAY, link };
                routes.set(&route(Ipv4Addr::UNSPECIFIED, 0, hop, None))
            });
        }
        self.on("far", || {
            let mut links = Links::open()?;
            links.add_address("lo", FAR, 32)?;
            links.add_address("eth0", other, 24)?;
            links.set_up("eth0")?;
            // Pods of the other board are known, the client is not.
            let hop = NextHop::Gateway { via: lan, link: if_nametoindex("eth0")? };
            Routes::open()?.set(&route(Ipv4Addr::new(10, 42, 0, 0), 25, hop, Some(FAR)))
        });
        self.on("client", || {
            let mut links = Links::open()?;
            links.add_address("eth0", CLIENT, 24)?;
            links.set_up("eth0")
        });
    }

    /// Serves TCP: says its name and whom it sees.
    pub(super) fn serve_tcp(&mut self, name: &'static str, port: u16) {
        let listener = self.on(name, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let closing = listener.try_clone().expect("another descriptor");
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Ok(SocketAddr::V4(peer)) = stream.peer_addr() else { continue };
                let _gone = stream.write_all(format!("{name} {}", peer.ip()).as_bytes());
            }
        });
        self.servers.push(Server { socket: closing.into(), thread: Some(thread) });
    }

    /// Serves UDP in the same way.
    pub(super) fn serve_udp(&mut self, name: &'static str, port: u16) {
        let socket = self.on(name, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        let closing = socket.try_clone().expect("another descriptor");
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((0, _)) => return,
                    Ok((_, peer)) => {
                        let answer = format!("{name} {}", peer.ip());
                        let _gone = socket.send_to(answer.as_bytes(), peer);
                    }
                    Err(_) => return,
                }
            }
        });
        self.servers.push(Server { socket: closing.into(), thread: Some(thread) });
    }

    /// Connects from a namespace; the answer is the server's name and whom it sees.
    pub(super) fn call(&self, from: &str, to: (Ipv4Addr, u16)) -> io::Result<String> {
        self.call_within(from, to, ANSWER_WITHIN)
    }

    pub(super) fn call_within(
        &self,
        from: &str,
        to: (Ipv4Addr, u16),
        within: Duration,
    ) -> io::Result<String> {
        let to = SocketAddr::V4(SocketAddrV4::new(to.0, to.1));
        let mut stream = inside(&self.path(from), || TcpStream::connect_timeout(&to, within))?;
        stream.set_read_timeout(Some(within))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How often each server answers.
    pub(super) fn shares(
        &self,
        from: &str,
        to: (Ipv4Addr, u16),
        calls: usize,
    ) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..calls {
            let answer = self.call(from, to).expect("an answer");
            let name = answer.split(' ').next().unwrap_or_default().to_owned();
            *shares.entry(name).or_default() += 1;
        }
        shares
    }

    /// Carries out what a change of the state changes.
    pub(super) fn update(&mut self, state: &NetState) -> Changes {
        self.update_all(state, &LocalPods::default())
    }

    pub(super) fn update_all(&mut self, state: &NetState, local: &LocalPods) -> Changes {
        let changes = self.planner.update(Arc::new(state.clone()), Arc::new(local.clone()));
        self.nft().change(&changes).expect("changed");
        let unkept = changes.unkept();
        if !unkept.is_empty() {
            let gone = |frontend: &Frontend, target: &Target| {
                unkept.contains(frontend) && !self.planner.leads_to(frontend, target)
            };
            self.nft().forget_clients(gone).expect("forgotten");
        }
        changes
    }

    /// What `nft` shows; `None` where it is not installed.
    pub(super) fn listed(&self) -> Option<String> {
        let listed = run_in(&self.path("board"), "nft", &["list", "table", "inet", "kumquat"]);
        let listed = listed?;
        assert!(listed.1, "nft list: {}", listed.0);
        Some(listed.0)
    }
}

fn route(to: Ipv4Addr, prefix: u8, hop: NextHop, source: Option<Ipv4Addr>) -> Route {
    Route { to, prefix, hop, source }
}

/// Runs a program in a namespace: its output, and whether it went well. `None`: it is not there.
pub(super) fn run_in(path: &Path, program: &str, arguments: &[&str]) -> Option<(String, bool)> {
    let run = || Command::new(program).args(arguments).output();
    match inside(path, run) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("not run: {program} is not installed");
            None
        }
        output => {
            let output = output.expect("started");
            let text = [output.stdout, output.stderr].concat();
            Some((String::from_utf8_lossy(&text).into_owned(), output.status.success()))
        }
    }
}

/// A service with one port at [`SERVICE`], port 80 to 8080, ready endpoints at these addresses.
pub(super) fn service(name: &str, endpoints: &[Ipv4Addr]) -> NetService {
    NetService {
        namespace: "default".into(),
        name: name.into(),
        cluster_ip: Some(SERVICE),
        ports: vec![NetPort { port: 80, node_port: 30_080, ..NetPort::default() }],
        endpoints: endpoints.iter().map(|address| endpoint(*address)).collect(),
        ..NetService::default()
    }
}

pub(super) fn endpoint(address: Ipv4Addr) -> NetEndpoint {
    NetEndpoint {
        address,
        board: if address == FAR { "there".into() } else { "here".into() },
        ready: true,
        serving: true,
        ports: vec![8080],
        ..NetEndpoint::default()
    }
}

pub(super) fn udp(mut service: NetService) -> NetService {
    for port in &mut service.ports {
        port.protocol = Protocol::Udp;
    }
    service
}

/// A state of these services.
pub(super) fn state(services: &[NetService]) -> NetState {
    let services = services.iter().map(|s| (s.key().into(), Arc::new(s.clone()))).collect();
    NetState { services, ..NetState::default() }
}
