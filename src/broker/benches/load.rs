//! The broker and Debian's mosquitto side by side under 1,000 and 3,000 clients.
//!
//! Each broker is a process of its own; the clients are tasks of this one. Measured: resident memory
//! per connection, publish to deliver for single messages at a fixed rate, and one message to all.
//! The environment names our broker's program: `KUMQUAT_BROKER_SERVER`.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{Connect, Packet, Publish, Subscribe, SubscribeFilter};
use rumqttc::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const CLIENTS: [usize; 2] = [1000, 3000];
/// Single messages, and how many a second.
const SINGLES: usize = 10_000;
const SINGLES_PER_SECOND: u32 = 2_000;
/// Messages to all clients.
const BROADCASTS: usize = 30;
const PAYLOAD_BYTES: usize = 256;
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .expect("a limit of open files");
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)
        .expect("a soft limit up to the hard one");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    println!("{:>7}  {:<34} {:>10} {:>10} {:>7}", "clients", "", "ours", "mosquitto", "ratio");
    for clients in CLIENTS {
        let ours = runtime.block_on(measure(Server::ours(), clients));
        let theirs = Path::new(MOSQUITTO).exists();
        let theirs = theirs.then(|| runtime.block_on(measure(Server::mosquitto(), clients)));
        if theirs.is_none() {
            println!("not run: mosquitto (no {MOSQUITTO})");
        }
        report(&clients.to_string(), &ROWS, &ours, theirs.as_ref().map(|figures| &figures[..]));
    }
    let ours = runtime.block_on(stall(Server::ours()));
    let theirs = Path::new(MOSQUITTO).exists();
    let theirs = theirs.then(|| runtime.block_on(stall(Server::mosquitto())));
    let theirs = theirs.as_ref().map(|figures| &figures[..]);
    report("stalled", &STALLED_ROWS, &ours, theirs);
}

/// What a broker showed, in the order of [`ROWS`].
type Figures = [f64; ROWS.len()];

const ROWS: [&str; 9] = [
    "idle RSS, kB",
    "RSS per connection, kB",
    "RSS per connection after load, kB",
    "all connected and subscribed, ms",
    "publish to deliver p50, us",
    "publish to deliver p99, us",
    "one to all, last one p50, ms",
    "one to all, last one max, ms",
    "lost messages",
];

/// Beside a subscriber that reads nothing: what one that reads gets of [`LARGE_MESSAGES`].
const STALLED_ROWS: [&str; 4] = [
    "RSS growth at its peak, MB",
    "messages of 100 kB the healthy got",
    "its longest wait, ms",
    "all sent after, ms",
];

const LARGE_MESSAGES: usize = 2000;
const LARGE_BYTES: usize = 100_000;

fn report(what: &str, rows: &[&str], ours: &[f64], theirs: Option<&[f64]>) {
    for (row, (name, own)) in rows.iter().zip(ours).enumerate() {
        let (their, ratio) = match theirs.map(|theirs| theirs[row]) {
            Some(their) if their > 0.0 => (format!("{their:.1}"), format!("{:.2}", own / their)),
            Some(their) => (format!("{their:.1}"), "-".into()),
            None => ("-".into(), "-".into()),
        };
        println!("{what:>7}  {name:<34} {own:>10.1} {their:>10} {ratio:>7}");
    }
}

/// A broker's process.
struct Server {
    process: Child,
    address: SocketAddr,
    folder: Option<PathBuf>,
}

impl Server {
    fn ours() -> Self {
        let program =
            std::env::var_os("KUMQUAT_BROKER_SERVER").expect("`cargo xtask bench broker`");
        let mut command = Command::new(program);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("our broker starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("stdout was asked to be a pipe");
        BufReader::new(output).read_line(&mut line).expect("its port");
        let port = line.trim().parse().expect("its port");
        Self { process, address: (Ipv4Addr::LOCALHOST, port).into(), folder: None }
    }

    fn mosquitto() -> Self {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let name = format!("kumquat-mosquitto-bench-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("own folder");
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n\
             set_tcp_nodelay true\nlog_dest none\n",
            address.port()
        );
        std::fs::write(&config, text).expect("configuration");
        let mut command = Command::new(MOSQUITTO);
        let process = command.arg("-c").arg(&config).stderr(Stdio::null()).spawn();
        Self { process: process.expect("mosquitto starts"), address, folder: Some(folder) }
    }

    /// Resident memory in kB.
    fn rss(&self) -> f64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> f64 {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(path).expect("the process runs");
        let line = text.lines().find(|line| line.starts_with(field)).expect("a size");
        line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a size")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// When a message came, and to whom.
struct Arrival {
    latency: Duration,
    at: Instant,
}

async fn measure(server: Server, clients: usize) -> Figures {
    let epoch = Instant::now();
    while TcpStream::connect(server.address).await.is_err() {
        assert!(epoch.elapsed() < DEADLINE, "the broker does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let idle = server.rss();
    let (sender, mut arrivals) = mpsc::channel(clients * 4);
    let start = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..clients {
        let client = subscriber(server.address, number).await;
        tasks.push(tokio::spawn(receive(client, epoch, sender.clone())));
    }
    let connected = start.elapsed();
    // Buffers of the last handshakes are given back.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let per_connection = (server.rss() - idle) / clients as f64;
    let mut writer = connect(server.address, "writer").await;
    let (latencies, lost_singles) = singles(&mut writer, epoch, clients, &mut arrivals).await;
    let (lasts, lost_broadcasts) = broadcasts(&mut writer, epoch, clients, &mut arrivals).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = (server.rss() - idle) / clients as f64;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let micros = |part| percentile(&latencies, part).as_secs_f64() * 1e6;
    let millis = |part| percentile(&lasts, part).as_secs_f64() * 1e3;
    [
        idle,
        per_connection,
        after,
        connected.as_secs_f64() * 1e3,
        micros(0.50),
        micros(0.99),
        millis(0.50),
        millis(1.0),
        (lost_singles + lost_broadcasts) as f64,
    ]
}

/// 200 MB to a subscriber that reads and to one that does not.
async fn stall(server: Server) -> [f64; STALLED_ROWS.len()] {
    let start = Instant::now();
    while TcpStream::connect(server.address).await.is_err() {
        assert!(start.elapsed() < DEADLINE, "the broker does not listen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = server.rss();
    let _stalled = subscriber(server.address, 0).await;
    let mut healthy = subscriber(server.address, 1).await;
    let mut writer = connect(server.address, "writer").await;
    let reading = tokio::spawn(async move {
        let mut sink = vec![0; 1 << 20];
        let (mut bytes, mut longest) = (0, Duration::ZERO);
        loop {
            let begun = Instant::now();
            match timeout(Duration::from_secs(5), healthy.read(&mut sink)).await {
                Ok(Ok(read)) if read > 0 => bytes += read,
                _ => return (bytes / LARGE_BYTES, longest),
            }
            longest = longest.max(begun.elapsed());
        }
    });
    let large = Publish::new("bench/all/net", QoS::AtMostOnce, vec![1; LARGE_BYTES]);
    let mut packet = BytesMut::new();
    large.write(&mut packet).expect("a packet");
    let start = Instant::now();
    for _ in 0..LARGE_MESSAGES {
        timeout(DEADLINE, writer.write_all(&packet)).await.expect("in time").expect("written");
    }
    let sent = start.elapsed();
    let (received, longest) = reading.await.expect("the healthy one");
    let growth = (server.memory("VmHWM:") - before) / 1024.0;
    [growth, received as f64, longest.as_secs_f64() * 1e3, sent.as_secs_f64() * 1e3]
}

/// Messages to one client each, at a fixed rate; their latencies and how many did not come.
async fn singles(
    writer: &mut TcpStream,
    epoch: Instant,
    clients: usize,
    arrivals: &mut mpsc::Receiver<Arrival>,
) -> (Vec<Duration>, usize) {
    let collect = async {
        let mut latencies = Vec::new();
        while latencies.len() < SINGLES {
            let Ok(Some(arrival)) = timeout(Duration::from_secs(5), arrivals.recv()).await else {
                break;
            };
            latencies.push(arrival.latency);
        }
        latencies.sort();
        latencies
    };
    let send = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / SINGLES_PER_SECOND * 10);
        for number in 0..SINGLES {
            if number % 10 == 0 {
                tick.tick().await;
            }
            let topic = format!("bench/nodes/{}/down/beat", number * 7919 % clients);
            publish(writer, &topic, epoch).await;
        }
    };
    let (latencies, ()) = tokio::join!(collect, send);
    let lost = SINGLES - latencies.len();
    (latencies, lost)
}

/// One message to all, again and again; the time until the last has it, and how many have not.
async fn broadcasts(
    writer: &mut TcpStream,
    epoch: Instant,
    clients: usize,
    arrivals: &mut mpsc::Receiver<Arrival>,
) -> (Vec<Duration>, usize) {
    let (mut lasts, mut lost) = (Vec::new(), 0);
    for _ in 0..BROADCASTS {
        let start = Instant::now();
        publish(writer, "bench/all/net", epoch).await;
        let mut last = start;
        for arrived in 0..clients {
            match timeout(Duration::from_secs(5), arrivals.recv()).await {
                Ok(Some(arrival)) => last = last.max(arrival.at),
                _ => {
                    lost += clients - arrived;
                    break;
                }
            }
        }
        lasts.push(last - start);
    }
    lasts.sort();
    (lasts, lost)
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * part).round() as usize).copied().unwrap_or_default()
}

async fn publish(writer: &mut TcpStream, topic: &str, epoch: Instant) {
    let mut payload = vec![0; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
    let publish = Publish::from_bytes(topic, QoS::AtMostOnce, Bytes::from(payload));
    let mut bytes = BytesMut::new();
    publish.write(&mut bytes).expect("a packet");
    timeout(DEADLINE, writer.write_all(&bytes)).await.expect("in time").expect("written");
}

async fn connect(address: SocketAddr, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a broker listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut connect = Connect::new(id);
    connect.keep_alive = 600;
    let mut bytes = BytesMut::new();
    connect.write(&mut bytes).expect("a packet");
    stream.write_all(&bytes).await.expect("written");
    answer(&mut stream, &[0x20, 2, 0, 0]).await;
    stream
}

/// A client with a board's subscriptions.
async fn subscriber(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = connect(address, &format!("node-{number}")).await;
    let own = format!("bench/nodes/{number}/down/#");
    let filters = ["bench/leader", "bench/all/#", &own];
    let filters = filters.map(|path| SubscribeFilter { path: path.into(), qos: QoS::AtMostOnce });
    let mut subscribe = Subscribe::new_many(filters);
    subscribe.pkid = 1;
    let mut bytes = BytesMut::new();
    subscribe.write(&mut bytes).expect("a packet");
    stream.write_all(&bytes).await.expect("written");
    answer(&mut stream, &[0x90, 5, 0, 1, 0, 0, 0]).await;
    stream
}

async fn answer(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    timeout(DEADLINE, stream.read_exact(&mut bytes)).await.expect("in time").expect("an answer");
    assert_eq!(bytes, expected);
}

async fn receive(mut stream: TcpStream, epoch: Instant, arrivals: mpsc::Sender<Arrival>) {
    let mut bytes = BytesMut::with_capacity(1024);
    while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        let at = Instant::now();
        loop {
            match Packet::read(&mut bytes, 1024) {
                Ok(Packet::Publish(publish)) => {
                    let sent = publish.payload[..8].try_into().expect("8 bytes");
                    let sent = epoch + Duration::from_nanos(u64::from_le_bytes(sent));
                    let arrival = Arrival { latency: at.saturating_duration_since(sent), at };
                    if arrivals.send(arrival).await.is_err() {
                        return;
                    }
                }
                Ok(_) => (),
                Err(Error::InsufficientBytes(_)) => break,
                Err(error) => panic!("the broker sent garbage: {error}"),
            }
        }
    }
}
