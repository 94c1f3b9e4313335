//! Boards on the bus of a real `kumquat up`: it is a process of its own, in a network namespace that
//! this process shares, so that loopback's counters are the cluster's traffic.
//!
//! Every board joins with a token, keeps its tunnel open as a board does, and counts the beats that
//! reach its agent. What the API is asked for while something is measured is little and said.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use kumquat::app::join::{Newcomer, join};
use kumquat::io::bus;
use kumquat::io::bus::client::{self, BusState, ClientOptions, Fetch};
use kumquat::io::image::ImageStore;
use kumquat::io::link::{self, MasterEnd, ToBoard};
use kumquat::io::peer::{self, Connection};
use kumquat::io::tls::{BoardKey, Credentials};
use model::leader::LeaderRecord;
use model::limits::LINK_FRAMES_MAX;
use model::token::Token;
use model::wire::{Header, MessageKind};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::board::{Board as Master, text};
use crate::network::Told;
use crate::simulated::{Folder, SimulatedBoard, Site, images};
use crate::{PATIENCE, Scale, deployments, figures, network, row};

/// Boards that join at a time: as many as a person switches on with one plug.
const JOINS_AT_ONCE: usize = 32;
/// A beat that comes this late was missed.
const BEAT_LATE: Duration = Duration::from_millis(7_500);
/// How long idling is measured.
const IDLE: Duration = Duration::from_secs(60);

/// A board: agent, client of the bus, tunnel.
struct SimBoard {
    agent: SimulatedBoard,
    state: watch::Receiver<BusState>,
    beats: Arc<Beats>,
    _tunnel: Option<Tunnel>,
}

struct Tunnel {
    _connection: Connection,
    _requests: http::Response<Incoming>,
}

/// Beats of the master that an agent was given.
#[derive(Default)]
struct Beats {
    count: AtomicU64,
    missed: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Beats {
    fn heard(&self) {
        let now = Instant::now();
        let mut last = self.last.lock().expect("not poisoned");
        let gap = last.replace(now).map_or(Duration::ZERO, |before| now - before);
        self.count.fetch_add(1, Ordering::Relaxed);
        if gap > BEAT_LATE {
            let missed = (gap.as_secs_f64() / 5.0).round() as u64 - 1;
            self.missed.fetch_add(missed.max(1), Ordering::Relaxed);
        }
    }
}

/// The master's messages for this cluster are small: 10 pods fit one payload.
struct NoFetch;

impl Fetch for NoFetch {
    fn fetch(
        &self,
        _: [u8; 32],
        _: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>> {
        Box::pin(async { Err("this board has no way to fetch".to_owned()) })
    }
}

/// What all boards are made with.
struct Making {
    token: Token,
    folder: PathBuf,
    images: ImageStore,
    cluster: String,
    told: Arc<Told>,
}

/// Makes the namespace and enters it: threads that are made later are in it too.
pub(crate) fn master_here() -> Master {
    let master = Master::new("sim");
    let namespace = File::open(master.namespace()).expect("namespace");
    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    master
}

/// Everything, from the first board to idling.
pub(crate) fn run(runtime: &Runtime, mut master: Master, scale: Scale) {
    let folder = Folder::new("sim");
    master.up(&["--pod-range", "10.64.0.0/14"]);
    let status: Value =
        serde_json::from_str(&said(&master, &["status", "-o", "json"])).expect("json");
    let uses = scale.boards.to_string();
    let token = said(&master, &["token", "create", "--uses", &uses]);
    let making = Arc::new(Making {
        token: token.trim().parse().expect("a token"),
        folder: folder.path().to_owned(),
        images: images(folder.path()),
        cluster: status["cluster"].as_str().expect("a cluster").to_owned(),
        told: Arc::default(),
    });
    // Its own board has no image of the workload.
    let cordon = json!({"spec": {"unschedulable": true}});
    master.api("PATCH", "/api/v1/nodes/board", Some(&cordon)).expect("cordoned");
    let pid = up_pid(&master);
    memory(pid, "master without other boards");

    let begun = Instant::now();
    let boards = runtime.block_on(start_all(&making, scale.boards));
    row("all boards joined and connected", &seconds(begun), "-");
    until(&master, "boards Ready", || ready(&master), scale.boards + 1);
    row("all boards Ready", &seconds(begun), "-");
    std::thread::sleep(Duration::from_secs(20));
    memory(pid, "master with boards, no pods");

    let pods = scale.boards * scale.pods;
    let begun = Instant::now();
    let cpu = figures::cpu_seconds(pid);
    for deployment in deployments(pods) {
        master.create("/apis/apps/v1/namespaces/default/deployments", &deployment);
    }
    until(&master, "pods running at keepers", || running(&boards), pods);
    until(&master, "pods not Running on the API", || not_running(&master), 0);
    row("all pods Running", &seconds(begun), "-");
    let used = figures::cpu_seconds(pid) - cpu;
    row("  processor time of the master for it", &format!("{used:.1} s"), "-");
    std::thread::sleep(Duration::from_secs(20));
    memory(pid, "master with all pods");
    row("  largest resident set so far", &format!("{:.1} MB", figures::peak_mb(pid)), "-");
    let per_board: BTreeSet<usize> =
        boards.iter().map(|board| board.agent.keeper.running_pods().len()).collect();
    row("  pods on a board", &format!("{per_board:?}"), "-");
    idle(pid, &boards);
    if scale.services > 0 {
        network::run(&master, pid, &making.told, scale.boards, scale.services);
    }
    finish(&master, &boards, scale);
}

fn finish(master: &Master, boards: &[SimBoard], scale: Scale) {
    let heard: u64 = boards.iter().map(|it| it.beats.count.load(Ordering::Relaxed)).sum();
    let missed = missed(boards);
    row("beats missed, from the first to the last", &format!("{missed} of {heard}"), "0");
    row("boards that are not Ready", &(scale.boards + 1 - ready(master)).to_string(), "0");
    let lost = master.log().lines().filter(|line| line.contains("lost")).count();
    row("lines about lost boards in the log", &lost.to_string(), "0");
    let starts: u64 = boards.iter().map(|it| it.agent.keeper.starts()).sum();
    row("containers started", &starts.to_string(), &(scale.boards * scale.pods).to_string());
    let simulator = figures::pss_mb(std::process::id());
    let each = simulator * 1e3 / scale.boards as f64;
    row("this process, all boards", &format!("{simulator:.1} MB PSS, {each:.0} kB each"), "-");
    row("its open files", &figures::open_files(std::process::id()).to_string(), "-");
    assert!(boards.iter().all(|board| board.agent.lives()), "an agent has ended");
}

fn missed(boards: &[SimBoard]) -> u64 {
    boards.iter().map(|it| it.beats.missed.load(Ordering::Relaxed)).sum()
}

fn idle(pid: u32, boards: &[SimBoard]) {
    let beats = || -> u64 { boards.iter().map(|it| it.beats.count.load(Ordering::Relaxed)).sum() };
    let (cpu, traffic, heard, begun) =
        (figures::cpu_seconds(pid), figures::traffic("lo").sent, beats(), Instant::now());
    let missed_before = missed(boards);
    std::thread::sleep(IDLE);
    let missed_idle = missed(boards) - missed_before;
    let took = begun.elapsed().as_secs_f64();
    let share = (figures::cpu_seconds(pid) - cpu) / took * 100.0;
    row("processor of the idle master", &format!("{share:.2} % of a core"), "-");
    // What loopback sends it also receives: counted once.
    let (bytes, packets) = figures::traffic("lo").sent;
    let (bytes, packets) = ((bytes - traffic.0) as f64 / took, (packets - traffic.1) as f64 / took);
    row("idle traffic, both ways", &format!("{bytes:.0} bytes/s, {packets:.0} packets/s"), "-");
    let each = bytes / boards.len() as f64;
    row("  for each board", &format!("{each:.0} bytes/s"), "-");
    row("beats missed while idle", &missed_idle.to_string(), "0");
    row("beats down", &format!("{:.1} messages/s", (beats() - heard) as f64 / took), "-");
}

async fn start_all(making: &Arc<Making>, count: usize) -> Vec<SimBoard> {
    let mut boards = Vec::with_capacity(count);
    for first in (0..count).step_by(JOINS_AT_ONCE) {
        let numbers = first..count.min(first + JOINS_AT_ONCE);
        let starting: Vec<_> =
            numbers.map(|number| tokio::spawn(making.clone().board(number))).collect();
        for board in starting {
            boards.push(board.await.expect("no panic"));
        }
    }
    for board in &mut boards {
        let connected = board.state.wait_for(|state| state.connected_to.is_some());
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        drop(connected.expect("connects in time").expect("the client runs"));
    }
    boards
}

impl Making {
    async fn board(self: Arc<Self>, number: usize) -> SimBoard {
        let name = format!("sim-{number}");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7443));
        let key = BoardKey::generate().expect("a key");
        let newcomer = Newcomer::new(&name, &format!("id-{number}"), &key);
        let mut tries = 0;
        let joined = loop {
            tries += 1;
            match join(address, &self.token, &newcomer).await {
                Ok(joined) => break joined,
                Err(error) if tries == 20 => panic!("{name} cannot join: {error:#}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        };
        let credentials = joined.credentials;
        let (end, board_end) = link::pair();
        let beats = Arc::<Beats>::default();
        let (state, states) = watch::channel(BusState::default());
        let options = self.client_options(&name, &credentials, state);
        let (stop, stopped) = watch::channel(false);
        let counted = counting(end, beats.clone(), self.told.clone());
        tokio::spawn(async move {
            let _stop = stop;
            client::run(options, counted, stopped).await
        });
        let site = Site {
            folder: self.folder.join(&name),
            address: format!("10.0.{}.{}", number / 250, number % 250 + 1),
            images: self.images.clone(),
            source: None,
            name,
        };
        let agent = SimulatedBoard::start(site, board_end).await;
        let tunnel = tunnel(address, &credentials).await;
        SimBoard { agent, state: states, beats, _tunnel: tunnel }
    }

    fn client_options(
        &self,
        name: &str,
        credentials: &Credentials,
        state: watch::Sender<BusState>,
    ) -> ClientOptions {
        let record = LeaderRecord {
            cluster: self.cluster.clone(),
            epoch: 1,
            term: 1,
            name: "board".to_owned(),
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: 7443,
            ca: [0; 16],
        };
        ClientOptions {
            cluster: self.cluster.clone(),
            name: name.to_owned(),
            tls: {
                let tls = credentials.client_config(&[bus::ALPN]).expect("TLS");
                Arc::new(move |_: &str| Ok(tls.clone()))
            },
            leader: watch::Sender::new(Some(record)).subscribe(),
            fetch: Arc::new(NoFetch),
            state,
            announced: watch::channel(None).0,
            broker: None,
        }
    }
}

/// Counts the beats, and what is said of the network, that pass to the agent.
fn counting(end: MasterEnd, beats: Arc<Beats>, told: Arc<Told>) -> MasterEnd {
    let MasterEnd { down, up, streams } = end;
    let (counted, mut passing) = mpsc::channel::<ToBoard>(LINK_FRAMES_MAX);
    tokio::spawn(async move {
        while let Some(said) = passing.recv().await {
            let message = &said.message;
            match Header::split(message).map(|(header, _)| header.kind) {
                Ok(MessageKind::BeatDown) => beats.heard(),
                Ok(MessageKind::Net) => told.heard(message.len()),
                _ => {}
            }
            if down.send(said).await.is_err() {
                return;
            }
        }
    });
    MasterEnd { down: counted, up, streams }
}

/// The connection that a board keeps for streams; nothing is asked over it here.
async fn tunnel(address: SocketAddr, credentials: &Credentials) -> Option<Tunnel> {
    let tls = credentials.client_config(peer::ALPN).expect("TLS");
    let connection = Connection::open(address, tls, Duration::from_secs(20)).await;
    let connection = connection.expect("the peer port answers");
    let request = Request::get("/v1/tunnel/requests").body(peer::empty()).expect("a request");
    let requests = connection.send(request).await.expect("the master answers");
    assert!(requests.status().is_success(), "tunnel: {}", requests.status());
    Some(Tunnel { _connection: connection, _requests: requests })
}

fn said(master: &Master, words: &[&str]) -> String {
    let output = master.command(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ready(master: &Master) -> usize {
    let status: Value =
        serde_json::from_str(&said(master, &["status", "-o", "json"])).expect("json");
    status["boards"].as_array().into_iter().flatten().filter(|it| it["ready"] == true).count()
}

fn running(boards: &[SimBoard]) -> usize {
    boards.iter().map(|board| board.agent.keeper.running_pods().len()).sum()
}

/// Pods that are not Running; counted up to a page.
fn not_running(master: &Master) -> usize {
    let list = master.get("/api/v1/pods?fieldSelector=status.phase%21%3DRunning&limit=500");
    list["items"].as_array().map_or(0, Vec::len)
}

fn until(master: &Master, what: &str, count: impl Fn() -> usize, wanted: usize) {
    let begun = Instant::now();
    let mut said = begun;
    loop {
        let have = count();
        if have == wanted {
            return;
        }
        if begun.elapsed() > PATIENCE {
            panic!("{what}: {have} of {wanted}\n{}", master.log());
        }
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            eprintln!("{what}: {have} of {wanted}");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn memory(pid: u32, what: &str) {
    let (pss, heap) = (figures::pss_mb(pid), figures::pss_anon_mb(pid));
    let files = figures::open_files(pid);
    row(what, &format!("{pss:.1} MB PSS ({heap:.1} MB of it heap), {files} files"), "256 MB");
}

fn seconds(begun: Instant) -> String {
    format!("{:.1} s", begun.elapsed().as_secs_f64())
}

/// The process of `kumquat up`, not its keeper.
fn up_pid(master: &Master) -> u32 {
    let is_up = |pid: &i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split('\0').nth(1) == Some("up")
    };
    let pid = master.processes().into_iter().find(is_up).expect("it runs");
    u32::try_from(pid).expect("a pid")
}
