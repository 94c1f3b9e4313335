//! One board end to end: real store, API, controllers, scheduler, keeper and containers.
//!
//! What must survive: a crashed container, a killed `kumquat up`, a killed keeper, a reboot. Rounds
//! are few here and many in `cargo xtask soak restarts`.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;

use std::time::{Duration, Instant};

use board::{Board, Traces, possible, rounds, text};
use serde_json::{Value, json};

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

/// Process on this host of the container whose command line holds `mark`.
fn container_pids(mark: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with("/bin/sh -c") && line.contains(mark) {
            pids.push(pid);
        }
    }
    // While busybox's shell runs one of its own programs it has a child that looks like itself.
    let all = pids.clone();
    pids.retain(|pid| parent(*pid).is_none_or(|parent| !all.contains(&parent)));
    pids.sort_unstable();
    pids
}

fn parent(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
}

fn logs(board: &Board, pod: &str, options: &str) -> String {
    board.api_text(&format!("{PODS}/{pod}/log?{options}")).expect("logs")
}

/// The numbers of `line N` in a log; they must be 1, 2, 3, ... without a gap.
fn assert_complete(log: &str) -> u64 {
    let numbers = log.lines().filter_map(|line| line.strip_prefix("line ")?.parse::<u64>().ok());
    let mut last = 0;
    for number in numbers {
        assert_eq!(number, last + 1, "the log jumps from {last} to {number}");
        last = number;
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
    board.api("DELETE", &format!("{DEPLOYMENTS}/web"), None).expect("delete");
    board.wait_for("pods gone", PODS, Duration::from_secs(30), |pods| {
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
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

#[test]
fn a_killed_container_comes_back_with_back_off() {
    let Some(board) = new_board("crash") else { return };
    let script = format!("echo {}; sleep 1000; true", board.name());
    board.create(PODS, &pod("crash", &script));
    wait_ready(&board, "crash");
    for round in 1..=2_u64 {
        let pids = container_pids(board.name());
        assert_eq!(pids.len(), 1, "one container");
        signal(pids[0], nix::sys::signal::Signal::SIGKILL);
        let killed = Instant::now();
        let path = format!("{PODS}/crash");
        board.wait_for("restarted", &path, Duration::from_secs(60), |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"] == round && status["state"]["running"].is_object()
        });
        println!("restart {round}: back after {:.2} s", killed.elapsed().as_secs_f64());
        if round == 2 {
            assert!(killed.elapsed() > Duration::from_secs(8), "no back-off before restart 2");
        }
    }
    let last = board.get(&format!("{PODS}/crash"));
    let ended = &last["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 137, "{ended}");
}

#[test]
fn a_killed_agent_leaves_containers_and_logs_alone() {
    let Some(mut board) = new_board("agent") else { return };
    let script = format!(": {}; {COUNTER}", board.name());
    board.create(PODS, &pod("count", &script));
    wait_ready(&board, "count");
    let pids = container_pids(board.name());
    for round in 1..=rounds(3) {
        board.kill();
        std::thread::sleep(Duration::from_millis(200));
        board.up(&[]);
        assert_eq!(container_pids(board.name()), pids, "round {round}: other processes");
        let pod = wait_ready(&board, "count");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "round {round}");
    }
    let lines = assert_complete(&logs(&board, "count", ""));
    println!("{lines} lines without a gap over {} restarts of the agent", rounds(3));
}

#[test]
fn a_killed_keeper_leaves_containers_and_logs_alone() {
    let Some(board) = new_board("keeper") else { return };
    let script = format!(": {}; {COUNTER}", board.name());
    board.create(PODS, &pod("count", &script));
    wait_ready(&board, "count");
    let pids = container_pids(board.name());
    for round in 1..=rounds(3) {
        let holder = board.keeper_pid();
        signal(holder, nix::sys::signal::Signal::SIGKILL);
        let before = assert_complete(&logs(&board, "count", ""));
        let deadline = Instant::now() + Duration::from_secs(30);
        while assert_complete(&logs(&board, "count", "")) < before + 50 {
            assert!(Instant::now() < deadline, "round {round}: the log stands still");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(container_pids(board.name()), pids, "round {round}: other processes");
        let pod = board.get(&format!("{PODS}/count"));
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "round {round}");
        assert_ne!(board.keeper_pid(), holder, "round {round}: a new holder");
    }
}

#[test]
fn a_reboot_brings_the_pods_back_and_nothing_is_left_at_the_end() {
    let Some(mut board) = new_board("reboot") else { return };
    let name = board.name().to_owned();
    let script = format!(": {name}; echo boot; exec sleep 1000");
    board.create(DEPLOYMENTS, &deployment("web", 2, &script));
    wait_deployment(&board, "web", 2);
    for round in 1..=rounds(3) {
        board.pull_the_plug();
        assert_eq!(
            Traces::of(&name).process_count(),
            0,
            "round {round}: the plug is out: {:?}",
            Traces::of(&name)
        );
        board.up(&[]);
        board.wait_for("pods back", PODS, Duration::from_secs(40), |pods| {
            let all = pods["items"].as_array().cloned().unwrap_or_default();
            all.len() == 2
                && all.iter().all(|pod| {
                    condition(pod, "Ready")
                        && pod["status"]["containerStatuses"][0]["restartCount"] == round as u64
                })
        });
    }
    board.api("DELETE", &format!("{DEPLOYMENTS}/web"), None).expect("delete");
    board.wait_for("pods gone", PODS, Duration::from_secs(30), |pods| {
        pods["items"].as_array().is_some_and(Vec::is_empty)
    });
    drop(board);
    let left = Traces::of(&name);
    assert_eq!(left, Traces::of("a name that nothing has"), "left behind");
}
