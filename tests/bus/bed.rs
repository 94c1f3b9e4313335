//! A master's bus and boards in one process, with a certificate authority of their own.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "parts of tests")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::Broker;
use bytes::Bytes;
use kumquat::io::bus;
use kumquat::io::bus::client::{self, BrokerOptions, BusState, ClientOptions, Fetch};
use kumquat::io::bus::external::{BrokerUrl, ExternalOptions, Sessions};
use kumquat::io::clock::Clock;
use kumquat::io::image::ImageStore;
use kumquat::io::link::{self, Gate};
use kumquat::io::tls::{
    BoardKey, Clients, Credentials, Pki, board_peer, unverified_config, verify,
};
use kumquat::master::audit::AuditLines;
use kumquat::master::boards::{self, BoardsOptions, BusOver, Messages};
use kumquat::master::contacts::Contacts;
use kumquat::master::dispatcher;
use kumquat::master::keys::Keys;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::LINK_FRAMES_MAX;
use model::timestamp::Timestamp;
use model::view::Phase;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::loops::Loops;
use crate::simulated::{Folder, IMAGE, SimulatedBoard, Site, images};

pub const CLUSTER: &str = "home";
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A certificate authority.
pub struct Authority {
    pki: Pki,
}

impl Authority {
    pub fn new(folder: &std::path::Path) -> Self {
        let now = Clock::starting_at(Timestamp(0)).now();
        Self { pki: Pki::open(folder, now).expect("an authority") }
    }

    /// What judges signatures of its leader.
    pub fn judge(&self) -> client::IsLeaders {
        let authority = self.credentials("judge", false).authority().clone();
        Arc::new(move |bytes, signature| verify(&authority, bytes, signature))
    }

    /// What a board of this name holds.
    pub fn credentials(&self, name: &str, is_master: bool) -> Credentials {
        let key = BoardKey::generate().expect("a key");
        let issued = self.pki.issue_board(name, &key.public_key(), is_master);
        let certificate = issued.expect("a certificate");
        Credentials::new(&key, &certificate, self.pki.ca_certificate()).expect("they fit")
    }
}

/// Sees every message to a board before the board does.
pub type Tap = Box<dyn FnMut(&Bytes) + Send>;

/// Store, controllers and what boards and masters are made of.
pub struct Bed {
    pub loops: Loops,
    pub authority: Arc<Authority>,
    /// Lines that the next master tells over the bus.
    pub audit: Mutex<Option<AuditLines>>,
    /// How often masters say what they have.
    pub beat: Duration,
    images: ImageStore,
    messages: Messages,
    /// The last: what lies in it is in use before.
    pub folder: Folder,
}

impl Bed {
    pub async fn new(name: &str) -> Self {
        let folder = Folder::new(&format!("bus-{name}"));
        let loops = Loops::start(folder.path()).await;
        Self {
            loops,
            authority: Arc::new(Authority::new(folder.path())),
            audit: Mutex::default(),
            beat: Duration::from_millis(100),
            images: images(folder.path()),
            messages: Messages::default(),
            folder,
        }
    }

    /// The bus of a master of this rank, on any port.
    pub async fn master(&self, rank: (u64, u64)) -> Master {
        self.master_at(rank, 0).await
    }

    pub async fn master_at(&self, rank: (u64, u64), port: u16) -> Master {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        self.master_over(rank, port, BusOver::Own(listener.into()))
    }

    /// A master of this rank whose bus goes over somebody else's broker, with these keys.
    pub fn master_by(&self, rank: (u64, u64), url: &BrokerUrl, sessions: &Sessions) -> Master {
        let authority = self.authority.clone();
        let external = ExternalOptions {
            cluster: CLUSTER.to_owned(),
            name: "boss".to_owned(),
            url: url.clone(),
            tls: url.tls.then(unverified_config),
            sessions: sessions.clone(),
            sign: Arc::new(move |bytes| authority.pki.sign(bytes)),
        };
        self.master_over(rank, 8883, BusOver::External(external))
    }

    fn master_over(&self, rank: (u64, u64), port: u16, over: BusOver) -> Master {
        let signed = self.signed(rank, port);
        let (stop, stopped) = watch::channel(false);
        let (epoch, term) = rank;
        let keys = Keys::new(self.loops.registry.clone());
        let options = BoardsOptions {
            cluster: CLUSTER.to_owned(),
            own: "boss".to_owned(),
            over,
            credentials: self.authority.credentials("boss", true),
            admitted: Arc::new(move |peer| peer.name != "evicted" && keys.is_admitted(peer)),
            turned_out: watch::Sender::new(()),
            views: self.loops.views.clone(),
            registry: self.loops.registry.clone(),
            contacts: self.contacts(),
            as_leader: dispatcher::Options {
                epoch,
                term,
                beat: self.beat,
                ..dispatcher::Options::default()
            },
            gate: Gate::open(),
            record: watch::Sender::new(signed.clone()).subscribe(),
            messages: self.messages.clone(),
            audit: self.audit.lock().expect("no panic").take(),
        };
        let task = tokio::spawn(async move { boards::run(options, stopped).await.expect("TLS") });
        Master { port, signed, stop, task }
    }

    /// A bus with nobody behind it.
    pub async fn bus_alone(&self) -> (Broker, Master) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let credentials = self.authority.credentials("boss", true);
        let tls = credentials.server_config(Clients::Required, &[bus::ALPN]).expect("TLS");
        let identify = |chain: &[CertificateDer<'_>]| {
            board_peer(chain).map(|peer| (peer.name, peer.key)).map_err(|_| "not a board's")
        };
        let (server, broker) = bus::Server::new(CLUSTER, "boss", tls, Arc::new(identify));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(server.serve(listener, stopped));
        (broker, Master { port, signed: self.signed((1, 1), port), stop, task })
    }

    fn signed(&self, rank: (u64, u64), port: u16) -> SignedRecord {
        let signed = SignedRecord::sign(record(rank, port), |bytes| self.authority.pki.sign(bytes));
        signed.expect("a good record")
    }

    /// A board with a real agent, whose client follows this master.
    pub async fn board(&self, name: &str, master: &Master) -> Board {
        self.board_by(name, master.signed.record().clone()).await
    }

    /// The same, with a record that may lead elsewhere than to the master.
    pub async fn board_by(&self, name: &str, record: LeaderRecord) -> Board {
        self.board_over(name, record, None).await
    }

    /// The same, over somebody else's broker.
    pub async fn board_over(
        &self,
        name: &str,
        record: LeaderRecord,
        broker: Option<BrokerOptions>,
    ) -> Board {
        self.board_on(name, record, broker, None).await
    }

    /// A board whose agent is told nothing that does not go through `tap` as well.
    pub async fn board_tapped(&self, name: &str, master: &Master, tap: Tap) -> Board {
        let record = master.signed.record().clone();
        self.board_on(name, record, None, Some(tap)).await
    }

    async fn board_on(
        &self,
        name: &str,
        record: LeaderRecord,
        broker: Option<BrokerOptions>,
        tap: Option<Tap>,
    ) -> Board {
        let (end, mut board_end) = link::pair();
        if let Some(mut tap) = tap {
            let (down, tapped) = mpsc::channel(LINK_FRAMES_MAX);
            let mut from = std::mem::replace(&mut board_end.down, tapped);
            tokio::spawn(async move {
                while let Some(told) = from.recv().await {
                    tap(&told.message);
                    if down.send(told).await.is_err() {
                        return;
                    }
                }
            });
        }
        let leader = watch::Sender::new(Some(record));
        let (state, states) = watch::channel(BusState::default());
        let (announced, announcements) = watch::channel(None);
        let fetch = Arc::new(Kept {
            board: name.to_owned(),
            messages: self.messages.clone(),
            count: AtomicUsize::new(0),
        });
        let credentials = self.authority.credentials(name, false);
        let options = ClientOptions {
            cluster: CLUSTER.to_owned(),
            name: name.to_owned(),
            tls: {
                let tls = credentials.client_config(&[bus::ALPN]).expect("TLS");
                Arc::new(move |_: &str| Ok(tls.clone()))
            },
            leader: leader.subscribe(),
            fetch: fetch.clone(),
            state,
            announced,
            broker,
        };
        let (stop, stopped) = watch::channel(false);
        let client = tokio::spawn(client::run(options, end, stopped));
        let site = Site {
            name: name.to_owned(),
            folder: self.folder.path().join(name),
            address: "10.0.0.1".to_owned(),
            images: self.images.clone(),
            source: None,
        };
        let agent = SimulatedBoard::start(site, board_end).await;
        Board { state: states, announced: announcements, leader, fetch, stop, client, agent }
    }

    pub fn contacts(&self) -> Contacts {
        Contacts::new(&self.loops.views)
    }

    pub fn running(&self) -> usize {
        let world = self.loops.views.world();
        world.pods().filter(|pod| pod.phase == Phase::Running).count()
    }

    pub fn bound(&self) -> usize {
        self.loops.views.world().pods().filter(|pod| !pod.node.is_empty()).count()
    }

    pub fn pod_uids(&self) -> BTreeSet<model::ids::Uid> {
        self.loops.views.world().pods().map(|pod| pod.meta.uid).collect()
    }

    /// Whether all pods with names that begin so are being deleted.
    pub fn leaving_or_gone(&self, name: &str) -> bool {
        let world = self.loops.views.world();
        let mut pods = world.pods().filter(|pod| pod.meta.name.starts_with(name));
        pods.all(|pod| pod.meta.deleting.is_some())
    }
}

fn record((epoch, term): (u64, u64), port: u16) -> LeaderRecord {
    LeaderRecord {
        cluster: CLUSTER.to_owned(),
        epoch,
        term,
        name: "boss".to_owned(),
        addresses: vec![Ipv4Addr::LOCALHOST],
        api_port: 6443,
        mqtt_port: port,
        peer_port: 7443,
        ca: [7; 16],
    }
}

/// A master's bus.
pub struct Master {
    pub port: u16,
    pub signed: SignedRecord,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Master {
    /// Ends it as the role does.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        ended.expect("it ends when told").expect("no panic");
    }

    /// Ends it in the middle of whatever it does; gives its port.
    pub async fn kill(self) -> u16 {
        self.task.abort();
        assert!(self.task.await.expect_err("it was killed").is_cancelled());
        self.port
    }
}

/// A board: agent, link and client.
pub struct Board {
    pub state: watch::Receiver<BusState>,
    pub announced: watch::Receiver<Option<SignedRecord>>,
    leader: watch::Sender<Option<LeaderRecord>>,
    fetch: Arc<Kept>,
    stop: watch::Sender<bool>,
    client: JoinHandle<Result<(), link::Closed>>,
    pub agent: SimulatedBoard,
}

impl Board {
    pub fn follow(&self, master: &Master) {
        self.leader.send_replace(Some(master.signed.record().clone()));
    }

    /// Follows it under another name: for the client somebody else leads.
    pub fn follow_as(&self, master: &Master, name: &str) {
        let record = master.signed.record().clone();
        self.leader.send_replace(Some(LeaderRecord { name: name.to_owned(), ..record }));
    }

    pub fn lives(&self) -> bool {
        self.agent.lives() && !self.client.is_finished()
    }

    pub fn fetched(&self) -> usize {
        self.fetch.count.load(Ordering::Relaxed)
    }

    /// The client vanishes in the middle of whatever it does.
    pub fn vanish(&self) {
        self.client.abort();
    }

    pub async fn end(self) {
        self.agent.end().await;
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(10), self.client).await;
        // The agent closed its link, or the stop came first: both are its orderly end.
        let _closed = ended.expect("it ends when told").expect("no panic");
    }
}

/// Plays the tunnel: asks the master's messages directly.
struct Kept {
    board: String,
    messages: Messages,
    count: AtomicUsize,
}

impl Fetch for Kept {
    fn fetch(
        &self,
        digest: [u8; 32],
        bytes: u64,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>> {
        Box::pin(async move {
            let message = self.messages.get(&self.board, &digest).ok_or("it is not kept")?;
            assert_eq!(message.len() as u64, bytes);
            self.count.fetch_add(1, Ordering::Relaxed);
            Ok(message)
        })
    }
}

pub fn deployment(name: &str, replicas: u32, pod: Value) -> Value {
    let mut spec = json!({ "containers": [{ "name": "main", "image": IMAGE }] });
    for (field, value) in pod.as_object().cloned().unwrap_or_default() {
        spec[field] = value;
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
        },
    })
}
