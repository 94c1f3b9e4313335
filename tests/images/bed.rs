//! A master with its peer port, and boards whose tunnels lead through proxies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use kumquat::io::clock::Clock;
use kumquat::io::image::build::{SingleFile, write_archive};
use kumquat::io::image::{Digest, ImageStore};
use kumquat::io::link::{self, StreamOpen};
use kumquat::io::peer::{self, ALPN, Answer, Caller, PeerHandler};
use kumquat::io::tls::{BoardKey, BoardPeer, Clients, Credentials, Pki};
use kumquat::master::boards::Messages;
use kumquat::master::dispatcher;
use kumquat::master::tunnel::{Images, Routes, Streams};
use kumquat::node::tunnel::{Tunnel, TunnelOptions};
use model::leader::LeaderRecord;
use model::timestamp::Timestamp;
use model::view::Phase;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::loops::Loops;
use crate::proxy::Proxy;
use crate::simulated::{Folder, SimulatedBoard, Site};

pub(crate) const BOSS: &str = "boss";
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) struct Bed {
    pub(crate) loops: Loops,
    pub(crate) streams: Streams,
    images: Images,
    own: ImageStore,
    pki: Pki,
    pub(crate) port: SocketAddr,
    _stop: watch::Sender<bool>,
    /// The last: what lies in it is in use before.
    folder: Folder,
}

/// What stands between the peer port and the routes.
struct Door(Routes);

impl PeerHandler for Door {
    fn admits(&self, _board: &BoardPeer) -> bool {
        true
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        Box::pin(async move {
            match &caller.board {
                Some(board) if Routes::takes(request.uri().path()) => {
                    self.0.answer(board, request).await
                }
                _ => peer::text(StatusCode::NOT_FOUND, "not here"),
            }
        })
    }
}

impl Bed {
    pub(crate) async fn new(name: &str) -> Self {
        let folder = Folder::new(&format!("images-{name}"));
        let loops = Loops::start(folder.path()).await;
        let now = Clock::starting_at(Timestamp(0)).now();
        let pki = Pki::open(folder.path(), now).expect("an authority");
        let own = ImageStore::open(folder.path().join(BOSS).join("images"));
        let own = own.expect("an image store");
        let streams = Streams::new(1, 1);
        let (views, registry) = (loops.views.clone(), loops.registry.clone());
        let images = Images::new(BOSS, own.clone(), views, registry, streams.clone());
        let routes = Routes::new(streams.clone(), images.clone(), Messages::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound");
        let (stop, stopped) = watch::channel(false);
        let bed = Self { loops, streams, images, own, pki, port, _stop: stop, folder };
        let tls = bed.credentials(BOSS, true).server_config(Clients::Optional, ALPN).expect("TLS");
        tokio::spawn(peer::serve(listener, tls, Arc::new(Door(routes)), stopped));
        bed
    }

    pub(crate) fn credentials(&self, name: &str, is_master: bool) -> Credentials {
        let key = BoardKey::generate().expect("a key");
        let issued = self.pki.issue_board(name, &key.public_key(), is_master);
        let certificate = issued.expect("a certificate");
        Credentials::new(&key, &certificate, self.pki.ca_certificate()).expect("they fit")
    }

    /// The master's own board, over memory.
    pub(crate) async fn own_board(&self) -> Board {
        let board = self.start(BOSS, self.own.clone(), None).await;
        self.streams.register(BOSS, board.streams.clone());
        board
    }

    /// A board behind a tunnel.
    pub(crate) async fn board(&self, name: &str) -> Board {
        let images = ImageStore::open(self.folder.path().join(name).join("images"));
        let tunnel = Tunnel::new();
        let board = self.start(name, images.expect("an image store"), Some(tunnel)).await;
        board.connect();
        until("the tunnel is open", || self.streams.reaches(name)).await;
        board
    }

    async fn start(&self, name: &str, images: ImageStore, tunnel: Option<Tunnel>) -> Board {
        let (master_end, board_end) = link::pair();
        let streams = master_end.streams.clone();
        let (views, registry) = (self.loops.views.clone(), self.loops.registry.clone());
        let options = dispatcher::Options { epoch: 1, term: 1, ..Default::default() };
        let stop = self.loops.stop.subscribe();
        let own = name.to_owned();
        tokio::spawn(dispatcher::run(views, registry, options, own, master_end, stop));
        let source = match &tunnel {
            Some(tunnel) => Arc::new(tunnel.clone()),
            None => self.images.for_own_board(),
        };
        let folder = self.folder.path().join(name);
        let site = Site {
            name: name.to_owned(),
            folder: folder.clone(),
            address: "10.0.0.1".to_owned(),
            images: images.clone(),
            source: Some(source),
        };
        let agent = SimulatedBoard::start(site, board_end).await;
        until("its Node", || self.loops.views.world().node(name).is_some()).await;
        Board {
            name: name.to_owned(),
            folder,
            images,
            tunnel: tunnel.unwrap_or_default(),
            proxy: Proxy::start(self.port).await,
            credentials: self.credentials(name, false),
            streams,
            leader: watch::Sender::new(None),
            running: Mutex::default(),
            _agent: agent,
        }
    }

    /// Binds a pod with this image to a board.
    pub(crate) async fn pod(&self, board: &str, image: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod_name(board, image)},
            "spec": {"nodeName": board, "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "IfNotPresent",
            }]},
        });
        self.loops.create("/pods", "default", pod).await;
    }

    pub(crate) fn phase(&self, board: &str, image: &str) -> Option<Phase> {
        let world = self.loops.views.world();
        world.pod("default", &pod_name(board, image)).map(|pod| pod.phase)
    }

    pub(crate) async fn runs(&self, board: &str, image: &str) {
        let runs = || self.phase(board, image) == Some(Phase::Running);
        until(&format!("{image} runs on {board}"), runs).await;
    }

    /// Waits until the pod says that its image cannot be had, in these words.
    pub(crate) async fn waits(&self, board: &str, image: &str, text: &str) {
        let name = pod_name(board, image);
        let waits = || {
            self.loops.list("/pods").iter().any(|pod| {
                pod["metadata"]["name"] == name.as_str()
                    && pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
                        .as_str()
                        .is_some_and(|message| message.contains(text))
            })
        };
        until(text, waits).await;
    }

    /// Waits until a board's Node says that it has an image.
    pub(crate) async fn reports(&self, board: &str, image: &str) {
        let hash = model::view::image_hash(image);
        let has = || {
            let world = self.loops.views.world();
            world.node(board).is_some_and(|node| node.image_bytes(hash).is_some())
        };
        until(&format!("{board} reports {image}"), has).await;
    }

    /// Message of an event with this reason.
    pub(crate) fn event(&self, reason: &str) -> String {
        let events = self.loops.list("/events");
        let found = events.iter().find(|event| event["reason"] == reason);
        found.expect("there is one")["message"].as_str().expect("text").to_owned()
    }
}

fn pod_name(board: &str, image: &str) -> String {
    format!("{}-{board}", image.replace(':', "-"))
}

pub(crate) struct Board {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) images: ImageStore,
    pub(crate) tunnel: Tunnel,
    pub(crate) proxy: Proxy,
    pub(crate) credentials: Credentials,
    streams: mpsc::Sender<StreamOpen>,
    leader: watch::Sender<Option<LeaderRecord>>,
    running: Mutex<Option<watch::Sender<bool>>>,
    _agent: SimulatedBoard,
}

impl Board {
    /// Opens the tunnel, and keeps it open.
    pub(crate) fn connect(&self) {
        let IpAddr::V4(address) = self.proxy.address.ip() else { panic!("IPv4 only") };
        let record = LeaderRecord {
            cluster: "home".to_owned(),
            epoch: 1,
            term: 1,
            name: BOSS.to_owned(),
            addresses: vec![address],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: self.proxy.address.port(),
            ca: [7; 16],
        };
        self.leader.send_replace(Some(record));
        let options = TunnelOptions {
            tls: self.credentials.client_config(ALPN).expect("TLS"),
            leader: self.leader.subscribe(),
            streams: self.streams.clone(),
        };
        let (stop, stopped) = watch::channel(false);
        *self.running.lock().expect("no panic") = Some(stop);
        let tunnel = self.tunnel.clone();
        tokio::spawn(async move { tunnel.run(options, stopped).await });
    }

    /// Closes the tunnel.
    pub(crate) async fn disconnect(&self) {
        self.running.lock().expect("no panic").take();
        until("the tunnel is closed", || self.tunnel.connected_to().is_none()).await;
    }

    /// Bytes that came over its link.
    pub(crate) fn received(&self) -> u64 {
        self.proxy.down()
    }

    /// Imports an image with a layer of this many random bytes.
    pub(crate) fn import(&self, name: &str, bytes: usize) -> Digest {
        let mut program = vec![0; bytes];
        getrandom::fill(&mut program).expect("random bytes");
        let (file, archive) = (self.folder.join("program"), self.folder.join("image.tar"));
        std::fs::write(&file, program).expect("written");
        let image =
            SingleFile { name, program: &file, path: "app", links: &[], entrypoint: &["/app"] };
        let mut writer = std::fs::File::create(&archive).expect("made");
        // A bare name with a tag is what an archive may carry.
        write_archive(&image, &mut writer).expect("packed");
        let reader = std::fs::File::open(&archive).expect("there");
        tokio::task::block_in_place(|| self.images.import(reader, None)).expect("imported");
        self.images.resolve(name).expect("here").digest
    }
}
