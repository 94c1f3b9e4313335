//! What `kumquat up` becomes on boards that share a link: founder, member, or a refusal with a remedy;
//! and what a member says of its cluster with its leader there and away.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/switch.rs"]
mod switch;

use std::process::Output;
use std::time::{Duration, Instant};

use board::{Board, possible, text};
use kumquat::io::discovery::{Discovery, Options};
use kumquat::io::net;
use model::leader::{LeaderRecord, SignedRecord};
use model::token::Token;
use serde_json::{Value, json};
use switch::Cluster;

const SOON: Duration = Duration::from_secs(30);

fn refusal(output: &Output, words: &[&str]) {
    assert_eq!(output.status.code(), Some(1), "{}", text(output));
    for word in words {
        assert!(text(output).contains(word), "{word}: {}", text(output));
    }
}

fn status(board: &Board) -> Value {
    let output = board.command(&["status", "-o", "json"]);
    assert!(output.status.success(), "{}\n{}", text(&output), board.log());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn names(status: &Value) -> Vec<&str> {
    let boards = status["boards"].as_array().expect("boards");
    boards.iter().filter_map(|board| board["name"].as_str()).collect()
}

fn wait_boards(board: &Board, count: &str) {
    let waited = board.command(&["wait", "--boards", count, "--timeout", "30s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), board.log());
}

#[test]
fn a_board_that_hears_a_cluster_needs_its_token() {
    if !possible("roles-hear") {
        return;
    }
    let cluster = Cluster::founded("roles-hear", 3);
    let name = cluster.switch.cluster();
    let said = cluster.boards[1].up_refused(&[]);
    refusal(&said, &[name, "board-1", "kumquat token create", "--cluster OTHERNAME"]);
    let worker = cluster.boards[1].up_refused(&["--role", "worker"]);
    refusal(&worker, &["kumquat token create"]);
    assert!(!cluster.boards[1].data_dir().join("board.json").exists(), "it is nothing yet");
    // Another name founds another cluster on the same link.
    let mut other = Board::plugged(&format!("{name}-other"), "board-1", cluster.switch.wire(9));
    other.up(&[]);
    assert_eq!(names(&status(&other)), ["board-1"]);
    assert_eq!(status(&other)["cluster"], format!("{name}-other"));
}

#[test]
fn a_token_lets_one_board_in() {
    if !possible("roles-token") {
        return;
    }
    let mut cluster = Cluster::founded("roles-token", 3);
    let token = cluster.master().token();
    refusal(&cluster.boards[1].up_refused(&["--token", "kq1abc"]), &["kumquat token create"]);
    cluster.boards[1].start(&["--token", &token]);
    cluster.wait_ready(1, SOON);
    let second = cluster.boards[2].up_refused(&["--token", &token]);
    refusal(&second, &["used up", "kumquat token create"]);
    // The same board comes back, with its token still in its start script.
    cluster.boards[1].stop();
    cluster.boards[1].start(&["--token", &token]);
    wait_boards(cluster.master(), "2");
    cluster.boards[0].stop();
    refusal(&cluster.boards[0].up_refused(&["--token", &token]), &["leave --token away"]);
}

/// Discovery is kept off the link, as where multicast is filtered.
#[test]
fn a_named_board_is_asked_where_nothing_is_heard() {
    if !possible("roles-peers") {
        return;
    }
    let mut cluster = Cluster::founded("roles-peers", 2);
    let token = cluster.master().token();
    let alone = cluster.boards[1].up_refused(&["--peers", "198.19.0.1"]);
    refusal(&alone, &["--token TOKEN"]);
    let peers = format!("198.19.0.77,{}", cluster.master().address());
    cluster.boards[1].start(&["--interface", "lo", "--token", &token, "--peers", &peers]);
    cluster.wait_ready(1, SOON);
    // From then on it knows the address itself.
    cluster.boards[1].stop();
    cluster.boards[1].start(&["--interface", "lo"]);
    wait_boards(&cluster.boards[1], "2");
}

#[test]
fn a_member_tells_of_its_cluster_and_lives_without_it() {
    if !possible("roles-member") {
        return;
    }
    let mut cluster = Cluster::new("roles-member", 2);
    wait_boards(&cluster.boards[1], "2");
    let seen = status(&cluster.boards[1]);
    assert_eq!(names(&seen), ["board-1", "board-2"]);
    assert_eq!(seen["leader"], "board-1");
    let roles: Vec<&Value> =
        seen["boards"].as_array().expect("boards").iter().map(|board| &board["role"]).collect();
    assert_eq!(roles, ["master", "worker"]);
    for command in [&["kubeconfig"][..], &["token", "create"]] {
        refusal(&cluster.boards[1].command(command), &["on the master board board-1"]);
    }
    cluster.import_busybox(1);
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "lasting" },
        "spec": { "nodeName": "board-2", "containers": [{ "name": "main",
            "image": busybox::IMAGE, "command": ["sh", "-c", "echo hello; sleep 1000"] }] },
    });
    let path = format!("{pods}/lasting");
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    cluster.master().create(pods, &pod);
    let before = cluster.master().wait_for("pod runs", &path, SOON, running);
    let log = cluster.master().api_text(&format!("{path}/log")).expect("log over the tunnel");
    assert_eq!(log, "hello\n");

    cluster.boards[0].stop();
    // Started without its leader, it is up all the same, and says what is wrong.
    cluster.boards[1].stop();
    cluster.boards[1].start(&[]);
    let alone = cluster.boards[1].command(&["wait", "--boards", "1", "--timeout", "2s"]);
    assert_eq!(alone.status.code(), Some(3), "{}", text(&alone));
    let alone = status(&cluster.boards[1]);
    assert_eq!((&alone["leader"], names(&alone)), (&Value::Null, vec!["board-2"]));
    let warning = &alone["warnings"][0];
    assert!(warning["reason"].as_str().is_some_and(|r| r.contains("board-1")), "{alone}");
    assert!(warning["remedy"].as_str().is_some_and(|r| r.contains("power")), "{alone}");

    cluster.boards[0].start(&[]);
    wait_boards(&cluster.boards[1], "2");
    let after = cluster.master().wait_for("pod runs", &path, SOON, running);
    let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(container(&before), container(&after), "nothing was restarted");
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
}

#[test]
fn a_forged_leader_record_is_told_of_and_not_followed() {
    if !possible("roles-forged") {
        return;
    }
    let cluster = Cluster::new("roles-forged", 3);
    let [_, member, forger] = &cluster.boards[..] else { unreachable!("three boards") };
    let token: Token = cluster.master().token().parse().expect("a token");
    let record = LeaderRecord {
        cluster: cluster.switch.cluster().into(),
        epoch: 9,
        term: 99,
        name: "evil".into(),
        addresses: vec![forger.address()],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: 7443,
        ca: token.pin[..16].try_into().expect("half of a pin"),
    };
    let forged = SignedRecord::sign(record, |_| b"forged".to_vec()).expect("well formed");
    let runtime = net::inside(forger.namespace(), || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
    });
    let runtime = runtime.expect("runtime");
    let evil = runtime.block_on(async { Discovery::start(Options::default()) });
    evil.announce(forged);
    let deadline = Instant::now() + SOON;
    while !member.log().contains("a forged leader record is on this network") {
        assert!(Instant::now() < deadline, "{}", member.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(member)["leader"], "board-1", "{}", member.log());
    let kept = std::fs::read_to_string(member.data_dir().join("cluster.json")).expect("kept");
    assert!(kept.contains("n=board-1"), "{kept}");
    let told = member.log().matches("a forged leader record").count();
    assert_eq!(told, 1, "{}", member.log());
    runtime.block_on(evil.stop());
}
