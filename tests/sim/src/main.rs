//! A thousand boards in one process: the real agents over fake keepers, against a real master.
//!
//! `cargo xtask sim [--boards N] [--pods N] [--services N] [--link memory|bus]` builds and runs this. With `memory`
//! the master's loops run in this process and boards hang on in-memory links: what one agent costs.
//! Prints figures; a wait that takes too long fails with what is missing.

#[path = "../../harness/board.rs"]
mod board;
mod bus;
#[path = "../../harness/busybox.rs"]
mod busybox;
#[path = "../../harness/fake_keeper.rs"]
mod fake_keeper;
#[path = "../../harness/figures.rs"]
mod figures;
#[path = "../../harness/loops.rs"]
mod loops;
mod memory;
mod network;
#[path = "../../harness/simulated.rs"]
mod simulated;

use std::time::Duration;

/// Longest wait for any state of the whole cluster.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is simulated.
#[derive(Clone, Copy, Debug)]
struct Scale {
    boards: usize,
    /// On each board, on the average.
    pods: usize,
    /// With ten endpoints each; none leaves the network alone.
    services: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1)
    };
    let number = |flag: &str, default: usize| {
        value(flag).map_or(default, |text| text.parse().expect("a number"))
    };
    let scale = Scale {
        boards: number("--boards", 10),
        pods: number("--pods", 10),
        services: number("--services", 0),
    };
    raise_open_files();
    match value("--link").map_or("bus", String::as_str) {
        "memory" => runtime().block_on(memory::run(scale)),
        "bus" if board::possible("sim") => {
            let master = bus::master_here();
            bus::run(&runtime(), master, scale);
        }
        "bus" => {}
        other => panic!("no such link: {other}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().expect("runtime")
}

/// As many open files as the kernel allows: each board has a handful.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn row(what: &str, measured: &str, budget: &str) {
    println!("{what:<44} {measured:<44} budget {budget}");
}

/// Deployments of at most a hundred pods each that together are `pods`.
fn deployments(pods: usize) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    let mut left = pods;
    while left > 0 {
        let replicas = left.min(100);
        let name = format!("load-{}", all.len());
        all.push(serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{
                        "name": "main", "image": simulated::IMAGE,
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    }]},
                },
            },
        }));
        left -= replicas;
    }
    all
}
