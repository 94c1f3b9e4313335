//! The API on every board: clients come to a follower or a worker, and the leader answers.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use kumquat::io::net;
use kumquat::io::peer::{self, ALPN, Connection};
use kumquat::io::tls::{BoardKey, Credentials, Pki};
use model::masters::{ApiCallV1, CallerV1};
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use crate::board::{possible, text};
use crate::busybox;
use crate::clients::{Client, Doors, Sent, parsed};
use crate::kubectl::{Kubectl, programs};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, leader, wait_until, wait_voters};
use crate::workload;

const PODS: &str = "/api/v1/namespaces/default/pods";
const IMAGE: &str = "kumquat.test/doors:v1";
const TOOLS: [&str; 6] = ["bin/sh", "bin/sleep", "bin/echo", "bin/cat", "bin/httpd", "bin/head"];
/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);
/// For the first write after the leader's death: five times the promise, on a busy machine.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Masters of the cluster; one more board is a worker.
const MASTERS: usize = 3;

#[test]
fn every_board_answers_clients_of_the_api() {
    if !possible("doors") || !busybox::present("doors") {
        return;
    }
    let began = Instant::now();
    let mut cluster = grown();
    println!("three masters and a worker after {:?}", began.elapsed());
    let old = leader(&cluster.boards, |_| true).expect("somebody leads");
    let followers: Vec<usize> = (0..MASTERS).filter(|index| *index != old).collect();
    let worker = MASTERS;
    start_pod(&cluster, old, worker);
    everybody_lists_all_masters(&cluster);
    let kubectls = programs();
    for (door, kubectl) in [(followers[0], kubectls.first()), (worker, kubectls.last())] {
        let Some((minor, program)) = kubectl else { continue };
        let kubectl = at(&cluster, door, *minor, program);
        let began = Instant::now();
        use_kubectl(&kubectl, &format!("door-{door}"), cluster.boards[door].namespace());
        println!("kubectl 1.{minor} at the door of board {door}: {:?}", began.elapsed());
    }
    commands_reach_the_leader(&cluster, followers[0], worker);
    assertions_count_from_members_only(&cluster, old, followers[0], worker);

    (0..=worker).for_each(|index| cluster.import_busybox(index));
    workload::deploy(&cluster.boards[old], "spread", worker + 1);

    // The leader dies under a kubectl that waits at each door.
    let waiting: Vec<_> = match kubectls.last() {
        Some((minor, program)) => [followers[0], followers[1], worker]
            .map(|door| wait_for_map(&at(&cluster, door, *minor, program)))
            .into(),
        None => Vec::new(),
    };
    let doors = doors(&cluster, &[followers[0]]);
    std::thread::sleep(Duration::from_millis(500));
    cluster.boards[old].kill();
    let killed = Instant::now();
    let written = ask(&cluster, &doors, |mut client| async move {
        client.patience = Duration::from_secs(5);
        loop {
            let path = format!("{MAPS}/waited");
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "waited"}, "data": {"key": "after"}});
            match client.ask(&Method::PUT, &path, Some(&map)).await {
                Sent::Answered { code: 200, .. } => return killed.elapsed(),
                other => {
                    println!("at {:?}: {other:?}", killed.elapsed());
                    assert!(killed.elapsed() < WITHIN, "{other:?}");
                }
            }
        }
    });
    println!("next accepted write through a follower's door: {written:?}");
    assert!(written < WRITTEN_WITHIN, "{written:?}");
    for child in waiting {
        let output = child.wait_with_output().expect("kubectl ends");
        assert!(output.status.success(), "a kubectl that waited: {}", text(&output));
    }
    let new = leader(&cluster.boards, |index| index != old).expect("somebody leads");
    if let Some((minor, program)) = kubectls.last() {
        let door = followers.iter().copied().find(|index| *index != new).expect("one more");
        let kubectl = at(&cluster, door, *minor, program);
        use_kubectl(&kubectl, "after", cluster.boards[door].namespace());
    }
    let scaled = workload::scale(&cluster.boards[new], "spread", worker + 2, &cluster.boards[old]);
    println!("scaled by the new leader, and moved off the board of the old one: {scaled:?}");
    let last = followers.into_iter().find(|index| *index != new).expect("one more");
    let evicted = cluster.boards[last].command(&["board", "evict", cluster.boards[worker].node()]);
    assert!(evicted.status.success(), "{}", text(&evicted));
    let refused = assert_as(&cluster, new, &forged(&cluster, new, worker));
    assert!(refused.is_err(), "an evicted board's word: {refused:?}");
    nobody_leads(&mut cluster, new, last);
}

/// Three masters and a worker.
fn grown() -> Cluster {
    let mut cluster = Cluster::off("doors", 4);
    cluster.role = "auto";
    cluster.boards[0].up(&[]);
    for index in 1..MASTERS {
        cluster.start_joining(index);
    }
    cluster.role = "worker";
    cluster.start_joining(MASTERS);
    for index in 1..=MASTERS {
        cluster.wait_ready(index, WITHIN);
    }
    wait_voters(&cluster, 0, "3");
    cluster.switch.listen();
    cluster
}

/// A pod on a board, with something to read, to run and to connect to.
fn start_pod(cluster: &Cluster, leader: usize, index: usize) {
    let board = &cluster.boards[index];
    let folder = board.data_dir().join("..");
    let archive = busybox::archive_with(&folder, IMAGE, &TOOLS);
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    let script = "echo begun; echo served > /page; httpd -p 127.0.0.1:8080 -h /; exec sleep 100000";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "served"},
        "spec": {
            "nodeName": board.node(), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script]}],
        },
    });
    cluster.boards[leader].create(PODS, &pod);
    cluster.boards[leader].create(MAPS, &config_map("waited"));
    let path = format!("{PODS}/served");
    let is_running = |pod: &Value| pod["status"]["phase"] == "Running";
    cluster.boards[leader].wait_for("the pod runs", &path, WITHIN, is_running);
}

/// Pods find every master behind the `kubernetes` Service.
fn everybody_lists_all_masters(cluster: &Cluster) {
    let mut expected: Vec<String> =
        cluster.boards[..MASTERS].iter().map(|board| board.address().to_string()).collect();
    expected.sort();
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    cluster.boards[0].wait_for("all masters are endpoints", path, WITHIN, |endpoints| {
        let listed = endpoints["subsets"][0]["addresses"].as_array().into_iter().flatten();
        let mut listed: Vec<String> =
            listed.filter_map(|it| it["ip"].as_str().map(str::to_owned)).collect();
        listed.sort();
        listed == expected
    });
}

/// A kubectl on a board, at that board's own door.
fn at(cluster: &Cluster, door: usize, minor: u8, program: &Path) -> Kubectl {
    let board = &cluster.boards[door];
    let kubeconfig = board.data_dir().join("../door-kubeconfig");
    let admin = std::fs::read_to_string(cluster.boards[0].kubeconfig()).expect("kubeconfig");
    let own = format!("https://{}:6443", board.address());
    std::fs::write(&kubeconfig, admin.replace("https://127.0.0.1:6443", &own)).expect("written");
    let folder = board.data_dir().join("..");
    Kubectl::new(minor, program.into(), &kubeconfig, &folder).inside(board.namespace())
}

fn use_kubectl(kubectl: &Kubectl, name: &str, namespace: &Path) {
    let run = |arguments: &[&str]| kubectl.run(arguments);
    assert!(run(&["get", "namespaces"]).contains("kube-system"), "get");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"key": "value"}})
    .to_string();
    let applied = kubectl.run_with(&["apply", "-f", "-"], &map);
    assert_eq!(applied, format!("configmap/{name} created\n"));
    let changed = kubectl.run_with(&["apply", "-f", "-"], &map.replace("value", "other"));
    assert_eq!(changed, format!("configmap/{name} configured\n"));
    assert_eq!(run(&["logs", "served"]), "begun\n");
    let followed = kubectl.follow(&["logs", "-f", "served"]);
    assert_eq!(followed.line(), "begun");
    drop(followed);
    let echoed = ["exec", "-i", "served", "--", "cat"];
    assert_eq!(kubectl.run_with(&echoed, "there and back\n"), "there and back\n");
    let ended = run(&["exec", "served", "--", "sh", "-c", "exit 3"]);
    assert!(ended.contains("exit code 3"), "{ended}");
    let forwarding = kubectl.follow(&["port-forward", "pod/served", ":8080"]);
    let line = forwarding.line();
    let port = line.strip_prefix("Forwarding from 127.0.0.1:");
    let port: u16 = port
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("port-forward says {line:?}"));
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    let mut stream = net::inside(namespace, connect).expect("kubectl listens");
    stream.set_read_timeout(Some(WITHIN)).expect("a socket");
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("an answer");
    assert!(page.ends_with("served\n"), "{page}");
}

/// Begins to wait until somebody writes the map.
fn wait_for_map(kubectl: &Kubectl) -> std::process::Child {
    let arguments =
        ["wait", "--for=jsonpath={.data.key}=after", "configmap/waited", "--timeout=60s"];
    kubectl.start(&arguments, [Stdio::null(), Stdio::piped(), Stdio::piped()])
}

/// A person's commands on a board that does not lead.
fn commands_reach_the_leader(cluster: &Cluster, follower: usize, worker: usize) {
    let made = cluster.boards[follower].command(&["token", "create", "--role", "worker"]);
    assert!(made.status.success(), "{}", text(&made));
    let token = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(token.to_lowercase().starts_with("kq1"), "{token}");
    let listed = cluster.boards[follower].command(&["token", "list"]);
    assert!(listed.status.success(), "{}", text(&listed));
    let refused = cluster.boards[worker].command(&["token", "create"]);
    let told = text(&refused);
    assert!(!refused.status.success() && told.contains("run `kumquat token` on"), "{told}");
}

/// Another master's word for who asks is taken; a worker's is not, whatever certificate it has.
fn assertions_count_from_members_only(
    cluster: &Cluster,
    leader: usize,
    follower: usize,
    worker: usize,
) {
    let own = |index: usize| {
        let loaded = Credentials::load(&cluster.boards[index].data_dir());
        loaded.expect("readable").expect("it has joined")
    };
    assert_eq!(assert_as(cluster, leader, &own(follower)), Ok(200));
    assert_eq!(assert_as(cluster, leader, &own(worker)), Ok(403), "a worker's certificate");
    let demoted = forged(cluster, leader, worker);
    assert!(demoted.peer().is_master);
    assert_eq!(assert_as(cluster, leader, &demoted), Ok(403), "of no member of the group");
    assert_eq!(assert_as(cluster, follower, &own(follower)), Ok(421), "by one that does not lead");
}

/// A master's certificate for a worker: what a master has that is none any more.
fn forged(cluster: &Cluster, leader: usize, worker: usize) -> Credentials {
    let now = Timestamp::from_seconds(1_795_305_600);
    let pki = Pki::open(&cluster.boards[leader].data_dir(), now).expect("the authority");
    let board = &cluster.boards[worker];
    let key = BoardKey::open(&board.data_dir()).expect("its key");
    let issued = pki.issue_board(board.node(), &key.public_key(), true).expect("a certificate");
    Credentials::new(&key, &issued, pki.ca_certificate()).expect("a pair")
}

/// Asks a board, on its port for boards, in the name of the admin.
fn assert_as(cluster: &Cluster, to: usize, credentials: &Credentials) -> Result<u16, String> {
    let call = ApiCallV1 {
        user: Some(CallerV1 {
            name: "kubernetes-admin".into(),
            groups: vec!["system:masters".into()],
            board_key: None,
        }),
        address: ([198, 19, 0, 9], 1234).into(),
        waited_ms: 0,
        refused: false,
        host: "kubernetes".into(),
        upgrade: None,
    };
    let tls = credentials.client_config(ALPN).expect("a configuration");
    let address = SocketAddr::from((cluster.boards[to].address(), 7443));
    let path = format!("{}/api/v1/namespaces/kube-system/secrets", ApiCallV1::PATH);
    let asked = net::inside(cluster.switch.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let opened = Connection::open(address, tls, WITHIN).await;
            let connection = opened.map_err(|error| error.to_string())?;
            let request = Request::get(path).header(ApiCallV1::HEADER, call.header());
            let request = request.body(peer::empty()).expect("a request");
            let answer = connection.send(request).await.map_err(|error| error.to_string())?;
            Ok(answer.status().as_u16())
        }))
    });
    asked.expect("a client in the namespace")
}

/// The last of three masters waits for two seconds, then says that there is no leader.
fn nobody_leads(cluster: &mut Cluster, leader: usize, last: usize) {
    cluster.boards[leader].freeze();
    let doors = doors(cluster, &[last]);
    wait_until("the leader is missed", &cluster.boards[last..=last], WITHIN, || {
        let asked =
            ask(
                cluster,
                &doors,
                |mut client| async move { client.ask(&Method::GET, MAPS, None).await },
            );
        !matches!(asked, Sent::Answered { code: 200, .. })
    });
    let (asked, took, retry) = ask(cluster, &doors, |mut client| async move {
        let began = Instant::now();
        let (path, map) = (format!("{MAPS}/late"), config_map("late"));
        let asked = client.ask(&Method::PUT, &path, Some(&map)).await;
        (asked, began.elapsed(), client.retry_after)
    });
    let Sent::Answered { code: 503, body } = asked else { panic!("{asked:?}") };
    assert_eq!(parsed(&body)["kind"], "Status", "{body:?}");
    assert_eq!(parsed(&body)["reason"], "ServiceUnavailable", "{body:?}");
    assert_eq!(retry.as_deref(), Some("1"));
    println!("nobody leads: told after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    // The majority is gone: this is when somebody opens a backup.
    wait_until("the recovery key", &cluster.boards[last..=last], WITHIN, || {
        let key = cluster.boards[last].command(&["backup", "key"]);
        key.status.success() && text(&key).contains("kqr-")
    });
    cluster.boards[leader].thaw();
}

fn doors(cluster: &Cluster, boards: &[usize]) -> Arc<Doors> {
    let kubeconfig = std::fs::read_to_string(cluster.boards[0].kubeconfig()).expect("read");
    let address = |index: &usize| SocketAddr::from((cluster.boards[*index].address(), 6443));
    Arc::new(Doors::new(&kubeconfig, boards.iter().map(address).collect()))
}

/// Runs a client in the switch's namespace.
fn ask<T: Send, F: Future<Output = T>>(
    cluster: &Cluster,
    doors: &Arc<Doors>,
    work: impl FnOnce(Client) -> F + Send,
) -> T {
    let done = net::inside(cluster.switch.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work(Client::new(0, Arc::clone(doors)))))
    });
    done.expect("a client in the namespace")
}
