//! A cluster of real boards whose bus goes over Debian's mosquitto: join, pods, logs, faults.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/mosquitto.rs"]
mod mosquitto;
#[path = "harness/switch.rs"]
mod switch;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use board::{possible, text};
use mosquitto::Mosquitto;
use serde_json::{Value, json};
use switch::{Cluster, Switch, is_ready};

const SOON: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/default/pods";

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn pod(name: &str, node: &str) -> Value {
    let command = format!("echo hello from {name}; sleep 1000");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": busybox::IMAGE, "command": ["sh", "-c", command] }] },
    })
}

fn run(cluster: &Cluster, name: &str, node: &str) -> Value {
    cluster.master().create(PODS, &pod(name, node));
    let told = cluster.master().wait_for("pod runs", &format!("{PODS}/{name}"), SOON, is_running);
    let log =
        cluster.master().api_text(&format!("{PODS}/{name}/log")).expect("log over the tunnel");
    assert_eq!(log, format!("hello from {name}\n"));
    told
}

#[test]
fn boards_work_over_somebody_elses_broker() {
    if !possible("broker") {
        return;
    }
    let switch = Switch::new("broker");
    let address = SocketAddr::from((switch.listen(), 1884));
    let folder = broker_folder();
    let broker = Mosquitto::inside(&folder, address, switch.namespace());
    let Some(mut broker) = broker else { return };
    let boards = (1..=3).map(|number| switch.board(number)).collect();
    let mut cluster = Cluster { boards, switch, role: "worker" };
    for board in &mut cluster.boards {
        board.configure(&format!("[bus]\nbroker = \"{}\"\n", broker.url()));
    }
    cluster.boards[0].up(&[]);
    let begun = Instant::now();
    for index in [1, 2] {
        cluster.start_joining(index);
    }
    for index in [1, 2] {
        cluster.wait_ready(index, SOON);
    }
    println!("two boards joined and are ready after {:?}", begun.elapsed());
    cluster.import_busybox(0);
    for (name, node) in [("one", "board-1"), ("two", "board-2"), ("three", "board-3")] {
        run(&cluster, name, node);
    }

    let before = cluster.master().get(&format!("{PODS}/two"));
    let begun = Instant::now();
    cluster.boards[2].pull_the_plug();
    let node = "/api/v1/nodes/board-3";
    let gone = |node: &Value| is_ready(node) != Some(true);
    cluster.master().wait_for("the board is missed", node, SOON, gone);
    println!("a board without power is missed after {:?}", begun.elapsed());
    cluster.boards[2].start(&[]);
    cluster.wait_ready(2, SOON);
    cluster.master().wait_for("its pod again", &format!("{PODS}/three"), SOON, is_running);

    let begun = Instant::now();
    broker.restart();
    run(&cluster, "later", "board-2");
    println!("the broker was killed: a new pod runs {:?} after it is back", begun.elapsed());
    cluster.boards[0].kill();
    cluster.boards[0].up(&[]);
    let begun = Instant::now();
    let waited = cluster.boards[0].command(&["wait", "--boards", "3", "--timeout", "60s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[1].log());
    println!("the master was killed: all boards are ready {:?} after its start", begun.elapsed());
    run(&cluster, "last", "board-3");
    let after = cluster.master().get(&format!("{PODS}/two"));
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(container(&before), container(&after), "the container went on");
    drop(cluster);
    std::fs::remove_dir_all(folder).expect("folder of the broker");
}

fn broker_folder() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("kumquat-broker-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder of the broker");
    folder
}
