//! What it takes to tell all boards that one endpoint changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::Board as Master;
use crate::{PATIENCE, figures, row};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Endpoints of each service.
const ENDPOINTS: usize = 10;
/// Changes that are measured.
const CHANGES: usize = 50;
/// Time for what came before to be over.
const QUIET: Duration = Duration::from_secs(10);

/// What boards were told of the network, all together.
#[derive(Default)]
pub(crate) struct Told {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Told {
    pub(crate) fn heard(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

fn service(number: usize) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{number}") },
        "spec": { "ports": [{ "name": "http", "port": 80 }] } })
}

fn endpoints(number: usize, unready: Option<usize>) -> Vec<Value> {
    let endpoint = |at: usize| {
        let place = number * ENDPOINTS + at;
        json!({ "addresses": [format!("10.{}.{}.{}", 64 + place / 62_500, place / 250 % 250,
                1 + place % 250)],
            "nodeName": format!("sim-{}", place % 1_000),
            "conditions": { "ready": unready != Some(at) },
            "targetRef": { "kind": "Pod", "name": format!("s{number}-6d4cf56db6-{at:05}") } })
    };
    (0..ENDPOINTS).map(endpoint).collect()
}

fn slice(number: usize) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("s{number}-x"),
            "labels": { "kubernetes.io/service-name": format!("s{number}") } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": endpoints(number, None) })
}

/// Makes the services and changes one endpoint after the other.
pub(crate) fn run(master: &Master, pid: u32, told: &Told, boards: usize, services: usize) {
    std::thread::sleep(QUIET);
    row("messages about the network so far", &told.messages().to_string(), "-");
    let (begun, cpu) = (Instant::now(), figures::cpu_seconds(pid));
    let (messages, bytes) = (told.messages(), told.bytes.load(Ordering::Relaxed));
    for number in 0..services {
        master.create(SERVICES, &service(number));
        master.create(SLICES, &slice(number));
    }
    let took = begun.elapsed().as_secs_f64();
    let used = figures::cpu_seconds(pid) - cpu;
    row("services made", &format!("{services} in {took:.1} s, {used:.1} s of processor"), "-");
    std::thread::sleep(QUIET);
    let messages = (told.messages() - messages) as f64 / boards as f64;
    let bytes = (told.bytes.load(Ordering::Relaxed) - bytes) as f64 / boards as f64;
    row("  each board is told", &format!("{messages:.0} messages, {bytes:.0} bytes"), "-");
    let (pss, heap) = (figures::pss_mb(pid), figures::pss_anon_mb(pid));
    row("master with services", &format!("{pss:.1} MB PSS ({heap:.1} MB of it heap)"), "256 MB");
    changes(master, pid, told, boards, services);
}

fn changes(master: &Master, pid: u32, told: &Told, boards: usize, services: usize) {
    let (mut written, mut heard) = (Vec::new(), Vec::new());
    let (cpu, bytes) = (figures::cpu_seconds(pid), told.bytes.load(Ordering::Relaxed));
    for change in 0..CHANGES {
        let number = change * 7 % services;
        let wanted = told.messages() + boards as u64;
        let begun = Instant::now();
        let patch = json!({ "endpoints": endpoints(number, Some(change % ENDPOINTS)) });
        master.api("PATCH", &format!("{SLICES}/s{number}-x"), Some(&patch)).expect("patched");
        written.push(begun.elapsed());
        while told.messages() < wanted {
            assert!(begun.elapsed() < PATIENCE, "a board does not hear of change {change}");
            std::thread::sleep(Duration::from_micros(200));
        }
        heard.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(300));
    }
    let used = (figures::cpu_seconds(pid) - cpu) / CHANGES as f64 * 1e3;
    let bytes = (told.bytes.load(Ordering::Relaxed) - bytes) / (CHANGES * boards) as u64;
    row("the write of one endpoint, with its connection", &percentiles(&mut written), "-");
    row("one endpoint, from the client to all boards", &percentiles(&mut heard), "100 ms");
    row("  message", &format!("{bytes} bytes"), "-");
    row("  processor time of the master", &format!("{used:.1} ms"), "-");
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms", at(50), at(99))
}
