//! What services cost in the packet filter: our maps beside the chains that kube-proxy makes with Debian's
//! iptables, in the same run, at 1, 100, 1,000 and 10,000 services with three endpoints each.
//!
//! `cargo xtask bench rules`. Needs root; iptables is measured when it is there. Kernel memory is what the
//! memory control group of this process is charged for.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kumquat::io::net::nft::Nft;
use kumquat::io::net::{Links, NextHop, Route, Routes, create, inside, remove, sysctl};
use logic::network::rules::{Planner, Site};
use model::network::{NetEndpoint, NetPort, NetService, NetState};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};

const COUNTS: [u32; 4] = [1, 100, 1_000, 10_000];
const ENDPOINTS: u16 = 3;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const CONNECTIONS: usize = 2_000;
/// A program that takes longer is not waited for.
const PROGRAM_WITHIN: Duration = Duration::from_secs(180);
/// After which the kernel has freed what it was told to.
const SETTLE: Duration = Duration::from_secs(2);
const NAMES: [&str; 3] = ["board", "server", "client"];

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: network namespaces need root");
        return;
    }
    let memory = Memory::of_own_group();
    println!(
        "| what | services | full sync | add one | change one endpoint | connect | kernel memory |"
    );
    println!("|---|---|---|---|---|---|---|");
    for count in COUNTS {
        direct(count);
        ours(count, &memory);
        for program in ["iptables-legacy", "iptables-nft"] {
            chains(program, count, &memory);
        }
    }
}

/// A server and a client behind a board, in namespaces of their own.
struct Bed {
    folder: PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in NAMES {
            remove(&self.folder.join(name)).expect("namespace removed");
        }
    }
}

impl Bed {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("kumquat-rules-{}-{name}", std::process::id()));
        for name in NAMES {
            create(&folder.join(name)).expect("namespace");
        }
        let bed = Self { folder };
        bed.wire();
        bed.serve();
        bed
    }

    fn on<T: Send>(&self, name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        inside(&self.folder.join(name), work).expect("work in a namespace")
    }

    fn wire(&self) {
        let pods = [("server", SERVER), ("client", CLIENT)];
        for (name, address) in pods {
            let peer = File::open(self.folder.join(name)).expect("namespace");
            self.on("board", || {
                let mut links = Links::open()?;
                links.add_veth(name, "eth0", peer.as_fd())?;
                links.add_address(name, GATEWAY, 32)?;
                let hop = NextHop::Link(if_nametoindex(name)?);
                Routes::open()?.set(&Route { to: address, prefix: 32, hop, source: None })?;
                sysctl::set("ipv4/ip_forward", "1")
            });
            self.on(name, || {
                let mut links = Links::open()?;
                links.add_address("eth0", address, 32)?;
                links.set_up("eth0")?;
                let link = if_nametoindex("eth0")?;
                let mut routes = Routes::open()?;
                let hop = NextHop::Link(link);
                routes.set(&Route { to: GATEWAY, prefix: 32, hop, source: None })?;
                let hop = NextHop::Gateway { via: GATEWAY, link };
                routes.set(&Route { to: Ipv4Addr::UNSPECIFIED, prefix: 0, hop, source: None })
            });
        }
    }

    /// Accepts until the process ends.
    fn serve(&self) {
        for slot in 0..ENDPOINTS {
            let listener = self.on("server", || TcpListener::bind((SERVER, 8080 + slot)));
            std::thread::spawn(move || listener.incoming().for_each(drop));
        }
    }

    /// Median of connecting from the client.
    fn connect(&self, to: (Ipv4Addr, u16)) -> Duration {
        let to = SocketAddrV4::new(to.0, to.1);
        self.on("client", || {
            let mut times = Vec::new();
            for _ in 0..CONNECTIONS {
                let begun = Instant::now();
                let stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(5))?;
                times.push(begun.elapsed());
                // Gone at once, and no port waits.
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&stream, sockopt::Linger, &linger)?;
            }
            Ok(median(&mut times))
        })
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn shown(time: Duration) -> String {
    match time.as_micros() {
        0..10_000 => format!("{} µs", time.as_micros()),
        10_000..10_000_000 => format!("{} ms", time.as_millis()),
        _ => format!("{} s", time.as_secs()),
    }
}

/// What the kernel holds for the processes of a control group.
struct Memory {
    file: Option<(PathBuf, Option<&'static str>)>,
    parent: Option<PathBuf>,
}

impl Memory {
    /// Puts this process into a group of its own, so that nobody else's memory counts.
    fn of_own_group() -> Self {
        let name = format!("kumquat-rules-{}", std::process::id());
        let all: [(&str, &str, Option<&str>); 2] = [
            ("/sys/fs/cgroup/memory", "memory.kmem.usage_in_bytes", None),
            ("/sys/fs/cgroup", "memory.stat", Some("kernel ")),
        ];
        for (root, file, key) in all {
            let group = Path::new(root).join(&name);
            let joined = fs::create_dir(&group).and_then(|()| {
                fs::write(group.join("cgroup.procs"), std::process::id().to_string())
            });
            if joined.is_ok() && group.join(file).is_file() {
                return Self { file: Some((group.join(file), key)), parent: Some(root.into()) };
            }
            let _none = fs::remove_dir(&group);
        }
        Self { file: None, parent: None }
    }

    fn bytes(&self) -> Option<u64> {
        let (file, key) = self.file.as_ref()?;
        let text = fs::read_to_string(file).ok()?;
        match key {
            None => text.trim().parse().ok(),
            Some(key) => text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse().ok()),
        }
    }

    /// What goes away with the rules: who counts upwards counts what earlier rules leave behind, too.
    fn freed_by(&self, clear: impl FnOnce()) -> String {
        // The kernel frees by and by.
        std::thread::sleep(SETTLE);
        let with = self.bytes();
        clear();
        std::thread::sleep(SETTLE);
        match (with, self.bytes()) {
            (Some(with), Some(without)) => format!("{} kB", with.saturating_sub(without) / 1000),
            _ => "not known".to_owned(),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let (Some((file, _)), Some(parent)) = (&self.file, &self.parent) else { return };
        let _left = fs::write(parent.join("cgroup.procs"), std::process::id().to_string());
        // What the kernel still holds for it keeps the group for a moment; it goes with that.
        let _gone = file.parent().map(fs::remove_dir);
    }
}

fn service_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 43, 0, 0).to_bits() + 100 + number)
}

/// Without any rule.
fn direct(count: u32) {
    if count == 1 {
        let time = Bed::new("direct").connect((SERVER, 8080));
        println!("| no rules, no service | 0 | | | | {} | |", shown(time));
    }
}

fn service(number: u32, ports: [u16; ENDPOINTS as usize]) -> Arc<NetService> {
    let endpoint = |port| NetEndpoint {
        address: SERVER,
        ready: true,
        ports: vec![port],
        ..NetEndpoint::default()
    };
    Arc::new(NetService {
        namespace: "default".to_owned(),
        name: format!("s{number}"),
        cluster_ip: Some(service_address(number)),
        ports: vec![NetPort { port: 80, ..NetPort::default() }],
        endpoints: ports.map(endpoint).into(),
        ..NetService::default()
    })
}

/// From one state to the next as a board takes it: plan, batch, kernel.
struct Ours {
    nft: Nft,
    planner: Planner,
    state: NetState,
}

impl Ours {
    fn step(&mut self, number: u32, service: Option<Arc<NetService>>) -> Duration {
        let key: Arc<str> = format!("default/s{number}").into();
        match service {
            Some(service) => self.state.services.insert(key, service),
            None => self.state.services.remove(&key),
        };
        let state = Arc::new(self.state.clone());
        let begun = Instant::now();
        let changes = self.planner.update(state, Arc::default());
        self.nft.change(&changes).expect("changed");
        begun.elapsed()
    }
}

fn ours(count: u32, memory: &Memory) {
    let bed = Bed::new("ours");
    let site = Site {
        board: "here".to_owned(),
        block: Some("10.42.0.0/25".parse().expect("a block")),
        pod_range: "10.42.0.0/16".parse().expect("a block"),
        service_range: "10.43.0.0/16".parse().expect("a block"),
        dns: None,
        own_ports: Vec::new(),
    };
    let plain = [8080, 8081, 8082];
    let services = (0..count).map(|n| (format!("default/s{n}").into(), service(n, plain)));
    let state = NetState { services: services.collect(), ..NetState::default() };
    let nft = bed.on("board", || Nft::open().map_err(io::Error::other));
    let mut syncs = Vec::new();
    let mut planner = Planner::new(site.clone());
    for _ in 0..5 {
        planner = Planner::new(site.clone());
        let state = Arc::new(state.clone());
        let begun = Instant::now();
        planner.update(state, Arc::default());
        nft.replace(&planner.rules()).expect("replaced");
        syncs.push(begun.elapsed());
    }
    let mut ours = Ours { nft, planner, state };
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    for round in 0..100 {
        added.push(ours.step(count, Some(service(count, plain))));
        ours.step(count, None);
        let number = round * 7_919 % count;
        changed.push(ours.step(number, Some(service(number, [8080, 8081, 9000]))));
        ours.step(number, Some(service(number, plain)));
    }
    let connect = bed.connect((service_address(count - 1), 80));
    let held = memory.freed_by(|| ours.nft.remove().expect("removed"));
    println!(
        "| kumquat | {count} | {} | {} | {} | {} | {held} |",
        shown(median(&mut syncs)),
        shown(median(&mut added)),
        shown(median(&mut changed)),
        shown(connect)
    );
}

/// The chains of one service, as kube-proxy has them in iptables mode.
fn chains_of(number: u32, last_port: u16) -> (String, String) {
    let (mut declared, mut rules) = (String::new(), String::new());
    let _ = writeln!(declared, ":KUBE-SVC-{number} - [0:0]");
    for slot in 0..ENDPOINTS {
        let _ = writeln!(declared, ":KUBE-SEP-{number}-{slot} - [0:0]");
        let port = if slot + 1 == ENDPOINTS { last_port } else { 8080 + slot };
        let left = ENDPOINTS - slot;
        let chance = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / f64::from(left)),
        };
        let _ = writeln!(rules, "-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{number}-{slot}");
        let _ = writeln!(
            rules,
            "-A KUBE-SEP-{number}-{slot} -p tcp -m tcp -j DNAT --to-destination {SERVER}:{port}"
        );
    }
    (declared, rules)
}

fn entry(number: u32) -> String {
    let address = service_address(number);
    format!("-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}\n")
}

fn chains(program: &str, count: u32, memory: &Memory) {
    let bed = Bed::new(program);
    let path = bed.folder.join("board");
    let restore = format!("{program}-restore");
    let whole = |count: u32| {
        let (mut declared, mut rules) = (":KUBE-SERVICES - [0:0]\n".to_owned(), String::new());
        for number in 0..count {
            let (chains, own) = chains_of(number, 8082);
            declared.push_str(&chains);
            rules.push_str(&entry(number));
            rules.push_str(&own);
        }
        let hooks = "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n";
        format!("*nat\n{declared}{hooks}{rules}COMMIT\n")
    };
    let Some(first) = run(&path, &restore, &[], &whole(count)) else { return };
    let Some(sync) = first else {
        println!("| {program} | {count} | more than {} | | | | |", shown(PROGRAM_WITHIN));
        return;
    };
    let entries: String = (0..=count).map(entry).collect();
    let (mut added, mut changed) = (Vec::new(), Vec::new());
    for round in 0..3_u32 {
        // Flushes and fills again the chain of all services, as kube-proxy does.
        let (declared, rules) = chains_of(count, 8082);
        let text = format!("*nat\n:KUBE-SERVICES - [0:0]\n{declared}{entries}{rules}COMMIT\n");
        added.extend(run(&path, &restore, &["--noflush"], &text).flatten());
        let (declared, rules) = chains_of(round * 7_919 % count, 9000);
        let text = format!("*nat\n{declared}{rules}COMMIT\n");
        changed.extend(run(&path, &restore, &["--noflush"], &text).flatten());
        let (declared, rules) = chains_of(round * 7_919 % count, 8082);
        let text = format!("*nat\n{declared}{rules}COMMIT\n");
        run(&path, &restore, &["--noflush"], &text);
    }
    if added.is_empty() || changed.is_empty() {
        println!("| {program} | {count} | {} | failed | | | |", shown(sync));
        return;
    }
    let connect = bed.connect((service_address(count - 1), 80));
    let held = memory.freed_by(|| {
        run(&path, &restore, &[], "*nat\nCOMMIT\n");
    });
    println!(
        "| {program} | {count} | {} | {} | {} | {} | {held} |",
        shown(sync),
        shown(median(&mut added)),
        shown(median(&mut changed)),
        shown(connect)
    );
}

/// How long a program takes for its input; `None` when it is not there, `Some(None)` when it takes too
/// long or fails.
fn run(path: &Path, program: &str, flags: &[&str], input: &str) -> Option<Option<Duration>> {
    let begun = Instant::now();
    let spawn = || {
        let mut command = Command::new(program);
        command.args(flags).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    };
    let mut child = match inside(path, spawn) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        child => child.expect("started"),
    };
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("read by the program");
    drop(stdin);
    loop {
        match child.try_wait().expect("waited") {
            Some(status) if status.success() => return Some(Some(begun.elapsed())),
            Some(status) => {
                println!("{program}: {status}");
                return Some(None);
            }
            None if begun.elapsed() > PROGRAM_WITHIN => {
                let _ended = child.kill().and_then(|()| child.wait().map(drop));
                return Some(None);
            }
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}
