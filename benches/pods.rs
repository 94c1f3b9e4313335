//! How long pods take: 100 one after another and 100 at once, from creation to Running seen on a watch
//! and to the first answer through a Service, and where the time goes.
//!
//! `cargo xtask bench pods` builds the static release binary and runs this with `KUMQUAT_BINARY` set to
//! it, and after it the keeper's bench, which starts the same bundle with crun and runc. The phases come
//! from the board's own log at level debug, so they are measured in a run of their own.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use board::{Board, text};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use kumquat::app::api_client::ApiClient;
use kumquat::io::net;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAMESPACE: &str = "/api/v1/namespaces/default";
/// Fewer than the 110 that a board takes.
const PODS: usize = 100;
const TRACED: usize = 30;
const SERVED_WITHIN: Duration = Duration::from_secs(15);
const ALL_WITHIN: Duration = Duration::from_secs(240);

fn main() {
    if !board::possible("bench pods") || !busybox::present("bench pods") {
        return;
    }
    let pods = std::env::var("KUMQUAT_BENCH_PODS").ok().and_then(|n| n.parse().ok());
    let pods = pods.unwrap_or(PODS);
    let mut board = Board::new("benchpods");
    board.up(&[]);
    let imported = board.command(&["image", "import", board.busybox().to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    board.kubeconfig();

    let served = is_served(&board);
    if !served {
        println!("Services do not answer on this board: no figures of first answers");
    }
    let singles: Vec<Times> =
        (0..pods).flat_map(|number| create(&board, "one", number..number + 1, served)).collect();
    print("one after another", &singles);
    clear(&board);
    let together = create(&board, "all", 0..pods, served);
    print("at once", &together);
    let last = together.iter().filter_map(|times| times.running).max();
    let first = together.iter().map(|times| times.asked).min();
    if let (Some(first), Some(last)) = (first, last) {
        println!("at once: {pods} pods Running after {:.2} s", (last - first) as f64 / 1e6);
    }
    clear(&board);
    trace(&mut board);
}

/// Microseconds since 1970 at which things happened to a pod.
#[derive(Clone, Debug, Default)]
struct Times {
    name: String,
    asked: u64,
    /// Durable: the API has answered.
    created: u64,
    bound: Option<u64>,
    running: Option<u64>,
    answered: Option<u64>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_micros()).expect("fits")
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"name": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "main", "image": busybox::IMAGE, "ports": [{"containerPort": 8080}],
             "command": ["/bin/busybox", "httpd", "-f", "-p", "8080"]}]}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"name": name}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// Whether the first pod of all answers through its Service.
fn is_served(board: &Board) -> bool {
    let times = create(board, "probe", 0..1, true);
    clear(board);
    times[0].answered.is_some()
}

/// Creates pods at the same moment and watches them until they run, and answer.
fn create(board: &Board, word: &str, numbers: std::ops::Range<usize>, served: bool) -> Vec<Times> {
    let names: Vec<String> = numbers.map(|number| format!("{word}-{number}")).collect();
    let mut addresses = Vec::new();
    for name in names.iter().filter(|_| served) {
        let made = board.create(&format!("{NAMESPACE}/services"), &service(name));
        addresses.push(made["spec"]["clusterIP"].as_str().expect("an address").to_owned());
    }
    let kubeconfig = std::fs::read_to_string(board.kubeconfig()).expect("kubeconfig");
    let done = net::inside(board.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = tokio::task::LocalSet::new();
        Ok(local.block_on(&runtime, watch_all(&kubeconfig, names, addresses)))
    });
    done.expect("a thread").unwrap_or_else(|error| panic!("{error:#}\n{}", board.log()))
}

async fn watch_all(
    kubeconfig: &str,
    names: Vec<String>,
    addresses: Vec<String>,
) -> anyhow::Result<Vec<Times>> {
    let client = Rc::new(ApiClient::from_kubeconfig(kubeconfig, None)?);
    let mut events = client.stream(&format!("{NAMESPACE}/pods?watch=true")).await?;
    let mut asks = Vec::new();
    for name in &names {
        let (client, body) = (client.clone(), Bytes::from(pod(name).to_string()));
        asks.push(tokio::task::spawn_local(async move {
            let request = Request::post(format!("{NAMESPACE}/pods"))
                .header("content-type", "application/json")
                .body(Full::new(body))?;
            let asked = now();
            client.json(request).await?;
            anyhow::Ok((asked, now()))
        }));
    }
    let answers: Vec<_> =
        addresses.into_iter().map(|address| tokio::task::spawn_local(answer(address))).collect();
    let mut seen: BTreeMap<String, Times> =
        names.iter().map(|name| (name.clone(), Times::default())).collect();
    tokio::time::timeout(ALL_WITHIN, follow(&mut events, &mut seen)).await??;
    for (name, ask) in names.iter().zip(asks) {
        let times = seen.get_mut(name).expect("asked for");
        (times.asked, times.created) = ask.await??;
        times.name.clone_from(name);
    }
    for (name, answer) in names.iter().zip(answers) {
        seen.get_mut(name).expect("asked for").answered = answer.await?;
    }
    Ok(seen.into_values().collect())
}

/// Reads the watch until every pod has run.
async fn follow(
    events: &mut hyper::body::Incoming,
    seen: &mut BTreeMap<String, Times>,
) -> anyhow::Result<()> {
    let mut rest = Vec::new();
    while seen.values().any(|times| times.running.is_none()) {
        let Some(frame) = events.frame().await else { anyhow::bail!("the watch ended") };
        let at = now();
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            let object = &event["object"];
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let Some(times) = seen.get_mut(name) else { continue };
            if object["spec"]["nodeName"].is_string() {
                times.bound.get_or_insert(at);
            }
            if object["status"]["phase"] == "Running" {
                times.running.get_or_insert(at);
            }
        }
    }
    Ok(())
}

/// When a Service first answers a request; a packet that was lost before is not waited for.
async fn answer(address: String) -> Option<u64> {
    let give_up = tokio::time::Instant::now() + SERVED_WITHIN;
    while tokio::time::Instant::now() < give_up {
        let asked = tokio::time::timeout(Duration::from_millis(50), ask(&address)).await;
        if let Ok(Ok(at)) = asked {
            return Some(at);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    None
}

async fn ask(address: &str) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect((address, 80)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    stream.read_exact(&mut [0]).await?;
    Ok(now())
}

/// Removes all pods and Services of this bench.
fn clear(board: &Board) {
    for kind in ["pods", "services"] {
        let all = board.get(&format!("{NAMESPACE}/{kind}"));
        let names = all["items"].as_array().into_iter().flatten();
        for name in names.filter_map(|it| it["metadata"]["name"].as_str()) {
            if name != "kubernetes" {
                board.api("DELETE", &format!("{NAMESPACE}/{kind}/{name}"), None).expect("deleted");
            }
        }
    }
    let pods = format!("{NAMESPACE}/pods");
    board.wait_for("pods gone", &pods, Duration::from_secs(120), |pods| {
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
}

fn percentiles(mut samples: Vec<f64>) -> String {
    if samples.is_empty() {
        return "not measured".to_owned();
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
    format!("p50 {:.1} ms, p99 {:.1} ms (n={})", at(0.5), at(0.99), samples.len())
}

fn print(what: &str, all: &[Times]) {
    let since = |to: fn(&Times) -> Option<u64>| {
        let took = |times: &Times| Some(to(times)?.saturating_sub(times.asked) as f64 / 1e3);
        percentiles(all.iter().filter_map(took).collect())
    };
    let row = |name: &str, figure: String| println!("{what}: {name:<36} {figure}");
    row("create to durable", since(|times| Some(times.created)));
    row("create to bound seen on a watch", since(|times| times.bound));
    row("create to Running seen on a watch", since(|times| times.running));
    row("create to first answer of a Service", since(|times| times.answered));
}

/// The phases of a start, in the order of their ends, by what the board logs.
const PHASES: [(&str, &str); 6] = [
    ("board has it on its disk", "desired set applied"),
    ("network and names made", "effect=CreateSandbox"),
    ("volumes filled", "effect=PrepareVolumes"),
    ("image found", "effect=EnsureImage"),
    ("container started", "effect=Start "),
    ("status sent", "statuses sent"),
];

fn trace(board: &mut Board) {
    board.stop();
    board.environment(&[("KUMQUAT_LOG", "debug")]);
    board.up(&[]);
    let mut ends: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut all = Vec::new();
    for number in 0..TRACED {
        let begun = board.log().len();
        let times = create(board, "trace", number..number + 1, false).remove(0);
        let log = board.log()[begun..].to_owned();
        for (index, (_, mark)) in PHASES.iter().enumerate() {
            // What was sent before the start is another message.
            let after = if *mark == "statuses sent" { "effect=Start " } else { "" };
            let from = log.find(after).unwrap_or(0);
            let line = log[from..].lines().find(|line| line.contains(mark));
            if let Some(at) = line.and_then(|line| micros_of(line, times.asked)) {
                ends.entry(index).or_default().push(at.saturating_sub(times.asked) as f64 / 1e3);
            }
        }
        all.push(times);
    }
    print("traced", &all);
    for (index, (name, _)) in PHASES.iter().enumerate() {
        let figure = percentiles(ends.remove(&index).unwrap_or_default());
        println!("traced: create to {name:<26} {figure}");
    }
    clear(board);
}

/// The time of a log line, on the day of `near`.
fn micros_of(line: &str, near: u64) -> Option<u64> {
    const DAY: u64 = 86_400_000_000;
    let clock = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = clock.split(':');
    let mut number = || parts.next()?.parse::<f64>().ok();
    let seconds = number()? * 3_600.0 + number()? * 60.0 + number()?;
    Some(near / DAY * DAY + (seconds * 1e6) as u64)
}
