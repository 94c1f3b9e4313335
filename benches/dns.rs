//! A board's DNS beside Debian's dnsmasq and unbound: the same names, the same load, one run.
//!
//! `cargo xtask bench dns` runs this with `KUMQUAT_BINARY` set to the static release binary. Each
//! server is a process of its own that does nothing but DNS; ours is this program again. Measured:
//! queries a second and memory at 1,000 services, how long names of the cluster take while upstream
//! is dead, and a real board whose agent is killed while names are asked for.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;
#[path = "../tests/harness/figures.rs"]
mod figures;

use std::fmt::Write;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use board::Board;
use kumquat::io::dns::Held;
use kumquat::io::net;
use kumquat::node::network::dns::{DnsOptions, serve};
use logic::dns::Ranges;
use model::network::{NetEndpoint, NetPort, NetService, NetState};
use tokio::sync::watch;

const SERVICES: u32 = 1_000;
const NAMESPACES: u32 = 50;
/// How long each server is under load, and queries that are on the way at a time.
const LOAD: Duration = Duration::from_secs(5);
const WINDOW: usize = 64;
/// Names asked for while upstream is dead, and questions for upstream among them.
const NAMES: usize = 2_000;
/// Nobody answers here.
const SILENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 99), 53);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, port, count, folder] = &words[..]
        && word == "serve"
    {
        return serve_here(port, count, Path::new(folder));
    }
    if !board::possible("bench dns") {
        return;
    }
    let namespace = PathBuf::from(format!("/run/netns/kumquat-bench-dns-{}", std::process::id()));
    net::create(&namespace).expect("network namespace");
    let outcome = net::inside(&namespace, || {
        let silent = UdpSocket::bind(SILENT)?;
        beside();
        drop(silent);
        Ok(())
    });
    net::remove(&namespace).expect("removed");
    outcome.expect("measured");
    agent_restarts();
}

/// Our server, as a process of its own.
fn serve_here(port: &str, count: &str, folder: &Path) {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.parse().expect("a port"));
    let block = |text: &str| text.parse().expect("a block");
    let state = Arc::new(state(count.parse().expect("a number")));
    let (_sender, receiver) = watch::channel(state);
    let options = DnsOptions {
        state: receiver,
        ranges: Ranges { pods: block("10.42.0.0/16"), services: block("10.43.0.0/16") },
        resolv_conf: folder.join("resolv.conf"),
    };
    let (_stop, stopped) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let held = Held::open_at(address).expect("a port");
    runtime.expect("runtime").block_on(serve(held, options, stopped)).expect("serves");
}

fn state(count: u32) -> NetState {
    let service = |index: u32| {
        let endpoint = |place: u32| NetEndpoint {
            address: Ipv4Addr::from_bits(0x0a2a_0000 + index * 3 + place),
            board: format!("board-{place}"),
            pod: format!("svc{index}-7d9c5b6f4-{place:05}"),
            ready: true,
            ports: vec![8080],
            ..NetEndpoint::default()
        };
        NetService {
            namespace: format!("ns{}", index % NAMESPACES),
            name: format!("svc{index}"),
            cluster_ip: Some(address(index)),
            ports: vec![NetPort { name: "http".into(), port: 80, ..NetPort::default() }],
            endpoints: (0..3).map(endpoint).collect(),
            ..NetService::default()
        }
    };
    let services = (0..count).map(service).map(|s| (s.key().into(), Arc::new(s))).collect();
    NetState { revision: 1, services, ..NetState::default() }
}

fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a2b_0100 + index)
}

fn name(index: u32) -> String {
    format!("svc{index}.ns{}.svc.cluster.local", index % NAMESPACES)
}

/// A server under test.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Server {
    fn start(mut command: Command, port: u16) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server =
            Self { child: child.expect("starts"), address: (Ipv4Addr::LOCALHOST, port).into() };
        let until = Instant::now() + Duration::from_secs(20);
        let client = client(server.address, Duration::from_millis(100));
        loop {
            let _refused = client.send(&query(1, "ready.example.invalid.cluster.local"));
            if client.recv(&mut [0; 512]).is_ok() {
                return server;
            }
            assert!(Instant::now() < until, "a server does not answer: {command:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ours(folder: &Path, count: u32) -> Self {
        std::fs::write(folder.join("resolv.conf"), format!("nameserver {}\n", SILENT.ip()))
            .expect("written");
        // A copy of its own, so that no pages are shared with this process.
        let copy = folder.join("server");
        std::fs::copy(std::env::current_exe().expect("own path"), &copy).expect("a copy");
        let mut command = Command::new(copy);
        command.args(["serve", "5301", &count.to_string()]).arg(folder);
        Self::start(command, 5301)
    }

    fn dnsmasq(folder: &Path, count: u32) -> Option<Self> {
        let program = find("dnsmasq")?;
        let mut text = format!(
            "port=5302\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\n\
             local=/cluster.local/\nserver={}\ncache-size=10000\ndns-forward-max=1000\n",
            SILENT.ip()
        );
        for index in 0..count {
            let (name, address) = (name(index), address(index));
            let _ = writeln!(text, "host-record={name},{address}");
            let _ = writeln!(text, "srv-host=_http._tcp.{name},{name},80,0,100");
        }
        let file = folder.join("dnsmasq.conf");
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(program);
        command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
        command.arg("--pid-file=");
        Some(Self::start(command, 5302))
    }

    fn unbound(folder: &Path, count: u32) -> Option<Self> {
        let program = find("unbound")?;
        let mut text = String::from(
            "server:\n interface: 127.0.0.1@5303\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n \
             pidfile: \"\"\n use-syslog: no\n logfile: \"/dev/null\"\n module-config: \"iterator\"\n \
             do-not-query-localhost: no\n num-threads: 1\n local-zone: \"cluster.local.\" static\n",
        );
        for index in 0..count {
            let (name, address) = (name(index), address(index));
            let _ = writeln!(text, " local-data: \"{name}. 5 IN A {address}\"");
            let srv = format!("_http._tcp.{name}. 5 IN SRV 0 100 80 {name}.");
            let _ = writeln!(text, " local-data: \"{srv}\"");
            let _ = writeln!(text, " local-data-ptr: \"{address} {name}\"");
        }
        let _ = write!(text, "forward-zone:\n name: \".\"\n forward-addr: {}\n", SILENT.ip());
        let file = folder.join("unbound.conf");
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(program);
        command.arg("-d").arg("-c").arg(file);
        Some(Self::start(command, 5303))
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let found = ["/usr/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(program));
    let found = found.into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("not run: {program} is not installed");
    }
    found
}

fn client(address: SocketAddr, patience: Duration) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client.connect(address).expect("connected");
    client.set_read_timeout(Some(patience)).expect("set");
    client
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = vec![(id >> 8) as u8, id as u8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The servers one after the other, three rounds of each.
fn beside() {
    let folder = std::env::temp_dir().join(format!("kumquat-bench-dns-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    println!("{SERVICES} services; {WINDOW} queries on the way; the load is one thread beside it");
    println!(
        "{:<10} {:>11} {:>12} {:>10} {:>10} {:>24} {:>24}",
        "",
        "queries/s",
        "us CPU/query",
        "PSS MB",
        "PSS MB, 0",
        "us p50/p99, quiet",
        "us p50/p99, dead"
    );
    type Start = fn(&Path, u32) -> Option<Server>;
    let servers: [(&str, Start); 3] = [
        ("kumquat", |folder, count| Some(Server::ours(folder, count))),
        ("dnsmasq", Server::dnsmasq),
        ("unbound", Server::unbound),
    ];
    let rounds = std::env::var("KUMQUAT_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok());
    for round in 1..=rounds.unwrap_or(3) {
        for (what, start) in servers {
            let Some(empty) = start(&folder, 0).map(|server| figures::pss_mb(server.child.id()))
            else {
                continue;
            };
            let Some(server) = start(&folder, SERVICES) else { continue };
            let pid = server.child.id();
            let before = figures::cpu_seconds(pid);
            let answered = load(server.address);
            let cpu = (figures::cpu_seconds(pid) - before) * 1e6 / answered as f64;
            let pss = figures::pss_mb(pid);
            let quiet = latency(server.address, false);
            let dead = latency(server.address, true);
            let rate = answered as f64 / LOAD.as_secs_f64();
            println!(
                "{:<10} {rate:>11.0} {cpu:>12.1} {pss:>10.2} {empty:>10.2} {quiet:>24} {dead:>24}",
                format!("{what} {round}")
            );
        }
    }
    std::fs::remove_dir_all(&folder).expect("own folder");
}

/// Right answers within [`LOAD`].
fn load(server: SocketAddr) -> u64 {
    let client = client(server, Duration::from_secs(1));
    let queries: Vec<Vec<u8>> =
        (0..SERVICES).map(|index| query(index as u16, &name(index))).collect();
    let (mut next, mut answered) = (0_u32, 0);
    let mut ask = |client: &UdpSocket| {
        // Every name in turn, in an order that no cache likes.
        next = (next + 617) % SERVICES;
        client.send(&queries[next as usize]).expect("sent");
    };
    (0..WINDOW).for_each(|_| ask(&client));
    let until = Instant::now() + LOAD;
    let mut buffer = [0; 512];
    while Instant::now() < until {
        match client.recv(&mut buffer) {
            Ok(length) => {
                let index = u32::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                let found: [u8; 4] = buffer[length - 4..length].try_into().expect("four");
                let end = queries[index as usize].len() + 16;
                let found: [u8; 4] =
                    buffer.get(end - 4..end).map_or(found, |a| a.try_into().expect("four"));
                assert_eq!(Ipv4Addr::from(found), address(index), "the right answer");
                answered += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "only loss is no answer"),
        }
        ask(&client);
    }
    answered
}

/// How long one name after the other takes; `busy` with hundreds of questions for a dead upstream.
fn latency(server: SocketAddr, busy: bool) -> String {
    let stop = Arc::new(AtomicBool::new(false));
    let nagging = busy.then(|| {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut index = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let client = client(server, Duration::from_millis(1));
                for _ in 0..20 {
                    index += 1;
                    let _full = client.send(&query(7, &format!("n{index}.example.com")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        })
    });
    std::thread::sleep(Duration::from_millis(if busy { 1_000 } else { 100 }));
    let client = client(server, Duration::from_secs(5));
    let mut times: Vec<f64> = Vec::with_capacity(NAMES);
    let mut lost = 0;
    for index in 0..NAMES {
        let index = index as u32 * 617 % SERVICES;
        let begun = Instant::now();
        client.send(&query(index as u16, &name(index))).expect("sent");
        match client.recv(&mut [0; 512]) {
            Ok(_) => times.push(begun.elapsed().as_secs_f64() * 1e6),
            Err(_) => lost += 1,
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    stop.store(true, Ordering::Relaxed);
    if let Some(nagging) = nagging {
        nagging.join().expect("no panic");
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let lost = if lost > 0 { format!(" lost {lost}") } else { String::new() };
    format!("{:.0}/{:.0}{lost}", at(0.5), at(0.99))
}

/// Asks for a name of the cluster, once, at the address of the DNS service.
fn ask_service() -> std::io::Result<()> {
    let client = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    client.connect((Ipv4Addr::new(10, 43, 0, 10), 53))?;
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.send(&query(9, "kubernetes.default.svc.cluster.local"))?;
    let mut buffer = [0; 512];
    client.recv(&mut buffer)?;
    match buffer[3] & 15 {
        0 => Ok(()),
        code => Err(std::io::Error::other(format!("code {code}"))),
    }
}

/// A real board: names are asked for, each once, while the agent is killed and started.
fn agent_restarts() {
    let mut board = Board::new("bench-dns");
    board.up(&[]);
    let namespace = board.namespace().to_owned();
    let until = Instant::now() + Duration::from_secs(30);
    while net::inside(&namespace, ask_service).is_err() {
        assert!(Instant::now() < until, "no DNS on the board\n{}", board.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (asked, failed, slowest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let rounds = 20;
    std::thread::scope(|scope| {
        for offset in 0..4 {
            let (asked, failed, slowest, stop) = (&asked, &failed, &slowest, &stop);
            let namespace = &namespace;
            scope.spawn(move || {
                let asking = || {
                    std::thread::sleep(Duration::from_millis(offset * 5));
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let failure = u64::from(ask_service().is_err());
                        asked.fetch_add(1, Ordering::Relaxed);
                        failed.fetch_add(failure, Ordering::Relaxed);
                        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                        slowest.fetch_max(took, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Ok(())
                };
                net::inside(namespace, asking).expect("asked");
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..rounds {
            board.kill();
            board.up(&[]);
            std::thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!(
        "agent killed and started {rounds} times: {} names asked for once each, {} failed, slowest {} ms",
        asked.into_inner(),
        failed.into_inner(),
        slowest.into_inner()
    );
}
