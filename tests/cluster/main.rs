//! One board end to end: real store, API, controllers, scheduler, keeper and containers.
//!
//! `survival` has what must survive (a crashed container, a killed `kumquat up`, a killed keeper, a
//! reboot): few rounds here, many in `cargo xtask soak restarts`. The others have what happens once.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/disk.rs"]
mod disk;
mod endings;
mod interrupted;
mod pods;
mod survival;
mod tokens;
#[path = "../harness/traces.rs"]
mod traces;

use std::time::{Duration, Instant};

use board::{Board, possible, text};
use serde_json::{Value, json};
use traces::Footprint;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Counts in its log, about a hundred lines a second, so that a gap is seen.
const COUNTER: &str = "i=0; while true; do i=$((i+1)); echo line $i; usleep 10000; done";

fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script]}],
        },
    })
}

fn deployment(name: &str, replicas: u32, script: &str) -> Value {
    let template = &pod(name, script)["spec"];
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template},
        },
    })
}

fn new_board(test: &str) -> Option<Board> {
    if !possible(test) || !busybox::present(test) {
        return None;
    }
    let mut board = Board::new(test);
    board.up(&[]);
    let archive = board.busybox();
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    Some(board)
}

fn condition(object: &Value, kind: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == "True"))
}

fn wait_ready(board: &Board, pod: &str) -> Value {
    let path = format!("{PODS}/{pod}");
    board.wait_for("pod ready", &path, Duration::from_secs(30), |pod| condition(pod, "Ready"))
}

fn wait_deployment(board: &Board, name: &str, replicas: u64) {
    let path = format!("{DEPLOYMENTS}/{name}");
    board.wait_for("deployment ready", &path, Duration::from_secs(30), |deployment| {
        deployment["status"]["readyReplicas"].as_u64().unwrap_or(0) == replicas
            && deployment["status"]["replicas"].as_u64().unwrap_or(0) == replicas
    });
}

/// First process of each container whose command line holds `mark`, as this host numbers it.
fn container_pids(mark: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let is_first = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .is_some_and(|pids| pids.split_whitespace().count() > 1 && pids.ends_with("\t1"));
        if line.starts_with("/bin/sh -c") && line.contains(mark) && is_first {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

fn kill(pid: i32) {
    signal(pid, nix::sys::signal::Signal::SIGKILL);
}

fn delete(board: &Board, path: &str) {
    board.api("DELETE", path, None).unwrap_or_else(|error| panic!("DELETE {path}: {error}"));
}

fn wait_no_pods(board: &Board) {
    board.wait_for("pods gone", PODS, Duration::from_secs(40), |pods| {
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
}

/// Every pod of the namespace: `count` of them, all ready.
fn wait_pods_ready(board: &Board, count: usize, accept: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let answer = board.api("GET", PODS, None).unwrap_or_default();
        let pods = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        if pods.len() == count && pods.iter().all(|pod| condition(pod, "Ready") && accept(pod)) {
            return;
        }
        let statuses: Vec<&Value> = pods.iter().map(|pod| &pod["status"]).collect();
        assert!(Instant::now() < deadline, "{count} pods are not ready: {statuses:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a board has after its first pod has come and gone: it keeps a few folders from then on.
fn warm(board: &Board) -> Footprint {
    board.create(PODS, &pod("first", "sleep 1000; true"));
    wait_ready(board, "first");
    delete(board, &format!("{PODS}/first"));
    wait_no_pods(board);
    Footprint::settled(board)
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().expect("a count")
}

fn wait_until(what: &str, within: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + within;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
}

fn logs(board: &Board, pod: &str, options: &str) -> String {
    board.api_text(&format!("{PODS}/{pod}/log?{options}")).expect("logs")
}

/// The numbers of `line N` in a log; they must be 1, 2, 3, ... without a gap.
fn assert_complete(log: &str) -> u64 {
    let mut last = 0;
    for line in log.lines() {
        let number = line.strip_prefix("line ").and_then(|number| number.parse().ok());
        assert_eq!(number, Some(last + 1), "after line {last} the log has {line:?}");
        last += 1;
    }
    assert!(last > 0, "no line in {log:?}");
    last
}

#[test]
fn a_deployment_runs_scales_and_goes() {
    let Some(board) = new_board("deploy") else { return };
    board.create(DEPLOYMENTS, &deployment("web", 3, "echo up; exec sleep 1000"));
    wait_deployment(&board, "web", 3);
    let scale = json!({"spec": {"replicas": 1}});
    board.api("PATCH", &format!("{DEPLOYMENTS}/web/scale"), Some(&scale)).expect("scale");
    wait_deployment(&board, "web", 1);
    let pods = board.get(PODS);
    let name = pods["items"][0]["metadata"]["name"].as_str().expect("a pod").to_owned();
    assert_eq!(logs(&board, &name, ""), "up\n");
    delete(&board, &format!("{DEPLOYMENTS}/web"));
    wait_no_pods(&board);
}

#[test]
fn a_changed_template_replaces_the_pods() {
    let Some(board) = new_board("roll") else { return };
    board.create(DEPLOYMENTS, &deployment("web", 2, "echo one; exec sleep 1000"));
    wait_deployment(&board, "web", 2);
    let container = json!([{"name": "main", "image": busybox::IMAGE,
        "command": ["/bin/sh", "-c", "echo two; exec sleep 1000"]}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": container}}}});
    board.api("PATCH", &format!("{DEPLOYMENTS}/web"), Some(&patch)).expect("patch");
    board.wait_for("rolled", PODS, Duration::from_secs(40), |pods| {
        let all = pods["items"].as_array().cloned().unwrap_or_default();
        all.len() == 2
            && all.iter().all(|pod| {
                condition(pod, "Ready")
                    && pod["spec"]["containers"][0]["command"][2]
                        .as_str()
                        .is_some_and(|script| script.starts_with("echo two"))
            })
    });
}
