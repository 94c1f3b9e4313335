//! Real connections over loopback: who gets in, what they can reach, and what strangers cannot spoil.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::timestamp::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::io::tls::{BoardKey, Clients, Credentials, Pki, pinned_client_config};

const SOON: Duration = Duration::from_secs(20);
/// Its answer does not end by itself.
const HOLD: &str = "/v1/hold";

/// Says who asked; remembers what it saw.
#[derive(Default)]
struct Echo {
    shut: AtomicBool,
    judged: watch::Sender<()>,
    evicted: Mutex<String>,
    gone: AtomicUsize,
    /// Answers that never end.
    held: Mutex<Vec<tokio::sync::mpsc::Sender<Result<Bytes, String>>>>,
    exporters: Mutex<Vec<[u8; 32]>>,
}

impl PeerHandler for Echo {
    fn admits(&self, board: &BoardPeer) -> bool {
        !self.shut.load(Ordering::Relaxed) && board.name != *self.evicted.lock().unwrap()
    }

    fn judged_anew(&self) -> watch::Receiver<()> {
        self.judged.subscribe()
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        self.exporters.lock().unwrap().push(caller.exporter);
        Box::pin(async move {
            if request.uri().path() == HOLD {
                let (sender, chunks) = tokio::sync::mpsc::channel(1);
                self.held.lock().unwrap().push(sender);
                return Response::new(super::chunks(chunks, ()));
            }
            let name = caller.board.as_ref().map_or("stranger", |board| &board.name).to_owned();
            let path = request.uri().path().to_owned();
            match read(request.into_body(), 16).await {
                Ok(body) => text(StatusCode::OK, format!("{name} {path} {}", body.len())),
                Err(why) => text(StatusCode::PAYLOAD_TOO_LARGE, why),
            }
        })
    }

    fn gone(&self, _caller: &Caller) {
        self.gone.fetch_add(1, Ordering::Relaxed);
    }
}

struct Cluster {
    folder: PathBuf,
    pki: Pki,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("kumquat-peer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let pki = Pki::open(&folder, Timestamp::from_seconds(1_795_305_600)).unwrap();
        Self { folder, pki }
    }

    fn board(&self, name: &str, is_master: bool) -> Credentials {
        let key = BoardKey::generate().unwrap();
        let certificate = self.pki.issue_board(name, &key.public_key(), is_master).unwrap();
        Credentials::new(&key, &certificate, self.pki.ca_certificate()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Server {
    address: SocketAddr,
    echo: Arc<Echo>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn server(credentials: &Credentials) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let echo = Arc::new(Echo::default());
    let (stop, stopping) = watch::channel(false);
    let tls = credentials.server_config(Clients::Optional, ALPN).unwrap();
    let task = tokio::spawn(serve(listener, tls, echo.clone(), stopping));
    Server { address, echo, stop, task }
}

fn post(path: &str, body: &str) -> Request<Body> {
    Request::post(path).body(full(body.to_owned())).unwrap()
}

async fn ask(connection: &Connection, path: &str, body: &str) -> (u16, String) {
    let answer = timeout(SOON, connection.send(post(path, body))).await.unwrap().unwrap();
    let status = answer.status().as_u16();
    let text = timeout(SOON, read(answer.into_body(), 1024)).await.unwrap().unwrap();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn boards_and_strangers_get_what_is_theirs() {
    let cluster = Cluster::new("theirs");
    let (master, worker) = (cluster.board("pi-1", true), cluster.board("pi-2", false));
    let server = server(&master).await;
    let open = |tls| Connection::open(server.address, tls, SOON);
    let board = open(worker.client_config(ALPN).unwrap()).await.unwrap();
    assert_eq!(board.master(), master.peer());
    assert_eq!(ask(&board, "/v1/x", "12345").await, (200, "pi-2 /v1/x 5".into()));
    assert_eq!(ask(&board, "/v1/x", &"1".repeat(17)).await.0, 413);
    assert_eq!(server.echo.exporters.lock().unwrap()[0], *board.exporter());

    let tls = pinned_client_config(cluster.pki.pin(), ALPN).unwrap();
    let stranger = open(tls).await.unwrap();
    assert_eq!(ask(&stranger, JOIN, "12").await, (200, "stranger /v1/join 2".into()));
    assert_eq!(ask(&stranger, "/v1/x", "12").await.0, 401);
    assert_eq!(ask(&stranger, "/v1/join/x", "12").await.0, 401);
    assert_ne!(stranger.exporter(), board.exporter());

    // Evicted: an open connection is of no use any more, and a new one is told why it ends.
    server.echo.shut.store(true, Ordering::Relaxed);
    assert_eq!(ask(&board, "/v1/x", "").await.0, 403);
    let refused = open(worker.client_config(ALPN).unwrap()).await.unwrap_err();
    assert!(
        matches!(&refused, PeerError::Refused { why, .. } if why.contains("pi-2")),
        "{refused}"
    );

    drop(stranger);
    until("the handler hears of an end", || server.echo.gone.load(Ordering::Relaxed) >= 2).await;
    server.stop.send(true).unwrap();
    timeout(SOON, board.closed()).await.unwrap();
    timeout(SOON, server.task).await.unwrap().unwrap();
    assert!(board.is_closed());
    assert!(matches!(board.send(post("/", "")).await, Err(PeerError::Broken { .. })));
}

#[tokio::test]
async fn neither_end_takes_another_clusters_board() {
    let (ours, theirs) = (Cluster::new("ours"), Cluster::new("others"));
    let server = server(&ours.board("pi-1", true)).await;
    let stranger = theirs.board("pi-1", true);
    let opened = |tls| Connection::open(server.address, tls, SOON);
    let error = opened(stranger.client_config(ALPN).unwrap()).await.unwrap_err();
    assert!(matches!(error, PeerError::Untrusted { .. }), "{error}");
    let tls = pinned_client_config(theirs.pki.pin(), ALPN).unwrap();
    let error = opened(tls).await.unwrap_err();
    assert!(matches!(error, PeerError::Untrusted { .. }), "{error}");
    assert_eq!(server.echo.gone.load(Ordering::Relaxed), 0);

    // A worker that listens where a master should be.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopping) = watch::channel(false);
    let tls = ours.board("pi-2", false).server_config(Clients::Optional, ALPN).unwrap();
    tokio::spawn(serve(listener, tls, Arc::new(Echo::default()), stopping));
    let client = ours.board("pi-3", false).client_config(ALPN).unwrap();
    let error = Connection::open(address, client, SOON).await.unwrap_err();
    assert!(matches!(error, PeerError::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let cluster = Cluster::new("garbage");
    let server = server(&cluster.board("pi-1", true)).await;
    let board = cluster.board("pi-2", false).client_config(ALPN).unwrap();
    let board = Connection::open(server.address, board, SOON).await.unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0x16, 3, 1, 0xff, 0xff], b"\x10"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // An error is an end, too: the kernel may reset instead of closing.
        let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("ended in time");
    }
    // Proper TLS, then no HTTP/2.
    let tls = pinned_client_config(cluster.pki.pin(), ALPN).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("kumquat").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
    stream.write_all(&[b'x'; 4096]).await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("ended in time");
    assert_eq!(ask(&board, "/v1/x", "").await.0, 200);
}

#[tokio::test]
async fn half_open_connections_keep_nobody_out() {
    let cluster = Cluster::new("crowd");
    let server = server(&cluster.board("pi-1", true)).await;
    let tls = cluster.board("pi-2", false).client_config(ALPN).unwrap();
    let mut crowd = Vec::new();
    for _ in 0..2 * model::limits::PEER_STRANGERS_MAX {
        crowd.push(TcpStream::connect(server.address).await.unwrap());
    }
    let start = Instant::now();
    let board = Connection::open(server.address, tls, SOON).await.unwrap();
    assert_eq!(ask(&board, "/v1/x", "").await.0, 200);
    // Far less than the time after which silent ones are cut off.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    // The oldest of the crowd had to make room.
    let mut byte = [0];
    let read = timeout(Duration::from_secs(3), crowd[0].read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_board_has_few_connections_and_the_newest_stay() {
    let cluster = Cluster::new("few");
    let server = server(&cluster.board("pi-1", true)).await;
    let [greedy, other] =
        ["pi-2", "pi-3"].map(|name| cluster.board(name, false).client_config(ALPN).unwrap());
    let other = Connection::open(server.address, other, SOON).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..2 * model::limits::PEER_BOARD_CONNECTIONS_MAX {
        all.push(Connection::open(server.address, greedy.clone(), SOON).await.unwrap());
    }
    let kept = all.split_off(model::limits::PEER_BOARD_CONNECTIONS_MAX);
    for old in &all {
        timeout(SOON, old.closed()).await.expect("the oldest give way");
    }
    for connection in kept.iter().chain([&other]) {
        assert_eq!(ask(connection, "/v1/x", "").await.0, 200);
    }
}

#[tokio::test]
async fn a_board_that_is_not_admitted_stays_in_the_crowd() {
    let cluster = Cluster::new("refused");
    let server = server(&cluster.board("pi-1", true)).await;
    server.echo.shut.store(true, Ordering::Relaxed);
    let tls = cluster.board("pi-2", false).client_config(ALPN).unwrap();
    let mut held = Vec::new();
    for _ in 0..=model::limits::PEER_STRANGERS_MAX {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("kumquat").unwrap();
        let stream = tokio_rustls::TlsConnector::from(tls.clone()).connect(name, stream);
        held.push(timeout(SOON, stream).await.unwrap().unwrap());
    }
    // One too many: the oldest is cut off long before its time is over.
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(3), held[0].read_to_end(&mut rest)).await;
    let _ = end.expect("its place was taken");
    server.echo.shut.store(false, Ordering::Relaxed);
    let board = Connection::open(server.address, tls, SOON).await.unwrap();
    assert_eq!(ask(&board, "/v1/x", "").await.0, 200);
}

#[tokio::test]
async fn an_evicted_board_is_cut_off_from_what_it_has_open() {
    let cluster = Cluster::new("evicted");
    let server = server(&cluster.board("pi-1", true)).await;
    let mut open = Vec::new();
    for name in ["pi-2", "pi-3"] {
        let tls = cluster.board(name, false).client_config(ALPN).unwrap();
        let connection = Connection::open(server.address, tls, SOON).await.unwrap();
        let answer = timeout(SOON, connection.send(post(HOLD, ""))).await.unwrap().unwrap();
        open.push((connection, answer.into_body()));
    }
    let held = std::mem::take(&mut *server.echo.held.lock().unwrap());
    // Judged anew, but nobody is out.
    server.echo.judged.send_replace(());
    assert_eq!(ask(&open[0].0, "/v1/x", "").await.0, 200);
    *server.echo.evicted.lock().unwrap() = "pi-2".to_owned();
    server.echo.judged.send_replace(());
    timeout(SOON, open[0].0.closed()).await.expect("the connection ends");
    timeout(SOON, held[0].closed()).await.expect("and what it was answered with");
    assert!(read(open.remove(0).1, 16).await.is_err(), "which is no proper end");
    assert_eq!(server.echo.gone.load(Ordering::Relaxed), 1);
    assert_eq!(ask(&open[0].0, "/v1/x", "").await.0, 200);
    assert!(!held[1].is_closed(), "the other board keeps what it has");
}
