//! Three masters, and everybody who should not reach them: a board with a valid certificate that asks
//! for all that is not its own, strangers at the leader and at a follower, forged leaders, a token that
//! was used, a master that was evicted.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kumquat::io::clock::Clock;
use kumquat::io::net;
use kumquat::io::peer::{self, ALPN, Connection};
use kumquat::io::tls::{Credentials, Pki};
use model::leader::{LeaderRecord, SignedRecord};
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::board::{Board, possible, text};
use super::clients::{Client, Doors, Sent, parsed};
use super::forgery::{announcement, forgery, send_all};
use super::strangers::{
    ATTACKS, BUS, PEERS, connect_packet, garbage, half_open, hung_up, multicast, noise, say, tls,
    writes,
};
use super::switch::Cluster;
use super::{CONFIG_MAPS, PODS, assert_quiet, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const WITHIN: Duration = Duration::from_secs(60);
/// A board that was evicted is cut off within this time.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// A write during the attack that takes longer is a failure, on however slow a machine.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
const FORGED_RECORDS: usize = 10_000;
/// Paths of the log's port.
const LOG_PATHS: [&str; 3] = ["/v1/raft/stream", "/v1/raft/offset", "/v1/raft/snapshot"];
/// What a board may do beside what is its own, as `verb resource`: ask about itself.
const ALLOWED: [&str; 3] = [
    "create selfsubjectaccessreviews",
    "create selfsubjectreviews",
    "create selfsubjectrulesreviews",
];

#[test]
fn whoever_is_no_master_reaches_nothing_of_three() {
    if !possible("hostile-masters") {
        return;
    }
    let mut cluster = Cluster::off("mhostile", 5);
    cluster.role = "auto";
    cluster.boards[0].up(&[]);
    let token = cluster.boards[0].token();
    cluster.start_joining(1);
    cluster.start_joining(2);
    cluster.boards[3].start(&["--token", &token]);
    let waited = cluster.boards[0].command(&["wait", "--voters", "3", "--timeout", "120s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[0].log());
    cluster.wait_ready(3, WITHIN);
    cluster.switch.listen();
    let leader = leader(&cluster);
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let before = status(&cluster.boards[leader]);
    furnish(&cluster, leader);

    under_attack(&cluster, leader, others[0]);
    // A machine that is too busy may have changed the leader.
    let leader = self::leader(&cluster);
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();

    // The thief has the card of board 4, which is not there itself.
    cluster.boards[3].kill();
    let masters = [&cluster.boards[leader], &cluster.boards[others[0]]];
    let thief = &cluster.boards[3];
    // A follower passes them on, with the board's name.
    for door in [leader, others[0]] {
        verbs(&cluster, door);
    }
    let stolen = Credentials::load(&thief.data_dir()).expect("readable").expect("joined");
    topics(masters[0], &stolen);
    let stolen = Arc::new(stolen);
    for master in masters {
        for path in LOG_PATHS {
            let answer = ask(thief, master, &stolen, path);
            assert!(answer.starts_with("403"), "{path} of {}: {answer}", master.node());
        }
    }
    println!("log port: {} paths on leader and follower refused", LOG_PATHS.len());
    let again = cluster.boards[4].up_refused(&["--token", &token]);
    println!("replayed token: {}", text(&again).trim());
    assert!(text(&again).contains("the token is used up"), "{}", text(&again));

    evicted(&cluster, leader, &others);
    wait_rekeyed(&cluster, [leader, others[0]], others[1]);

    let after = status(&cluster.boards[leader]);
    assert_eq!(after["epoch"], before["epoch"]);
    println!("term before {} and after {}", before["term"], after["term"]);
    cluster.boards[leader].create(CONFIG_MAPS, &config_map("at-last", "x"));
    cluster.boards[3].start(&[]);
    cluster.boards[leader].wait_for(
        "board 4 is welcome itself",
        &format!("/api/v1/nodes/{}", cluster.boards[3].node()),
        WITHIN,
        |node| super::switch::is_ready(node) == Some(true),
    );
    cluster.boards.iter().for_each(assert_quiet);
}

/// Whatever the evicted master has counts no more: the others have another authority, and so has whoever
/// asks for a kubeconfig from here on.
fn wait_rekeyed(cluster: &Cluster, masters: [usize; 2], evicted: usize) {
    let authority = |at: usize| {
        std::fs::read(cluster.boards[at].data_dir().join("pki/ca.crt")).unwrap_or_default()
    };
    let stolen = authority(evicted);
    let begun = Instant::now();
    let is_led = |at: usize| status(&cluster.boards[at])["leader"].is_string();
    while !masters.iter().all(|at| authority(*at) != stolen && is_led(*at)) {
        assert!(begun.elapsed() < WITHIN, "{}", cluster.boards[masters[0]].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // One that was given in the last moment of the old authority is no good.
    let fresh = |at: usize| {
        cluster.boards[at].forget_kubeconfig();
        cluster.boards[at].api("GET", CONFIG_MAPS, None).is_ok()
    };
    while !masters.iter().all(|at| fresh(*at)) {
        assert!(begun.elapsed() < WITHIN, "{}", cluster.boards[masters[0]].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("another authority after {:?}", begun.elapsed());
}

fn status(board: &Board) -> Value {
    let said = board.command(&["status", "-o", "json"]);
    serde_json::from_slice(&said.stdout).unwrap_or_default()
}

fn leader(cluster: &Cluster) -> usize {
    let begun = Instant::now();
    loop {
        let name = status(&cluster.boards[0])["leader"].clone();
        let found = cluster.boards.iter().position(|board| board.node() == name);
        if let Some(index) = found {
            return index;
        }
        assert!(begun.elapsed() < WITHIN, "nobody leads: {name}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A pod on the leader with a Secret, and one on board 4 with another.
fn furnish(cluster: &Cluster, leader: usize) {
    let master = &cluster.boards[leader];
    for (name, node) in [("theirs", master.node()), ("own", cluster.boards[3].node())] {
        let secret = json!({"metadata": {"name": name}, "stringData": {"word": name}});
        master.create(SECRETS, &secret);
        master.create(CONFIG_MAPS, &config_map(name, name));
        let pod = json!({"metadata": {"name": name}, "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "secret": {"secretName": name}}],
            "containers": [{"name": "c", "image": "none.test/none:1", "command": ["sleep", "1000"],
                "imagePullPolicy": "Never", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        }});
        master.create(PODS, &pod);
    }
}

/// Strangers at every port of the leader and of a follower, and forged leaders on the wire, while
/// somebody writes.
fn under_attack(cluster: &Cluster, leader: usize, follower: usize) {
    let (master, follower) = (&cluster.boards[leader], &cluster.boards[follower]);
    let theirs = master.data_dir().parent().expect("the board's folder").join("theirs");
    say("before", &writes(master, "calm"));
    let ended = AtomicBool::new(false);
    let over_and_over = |attack: &dyn Fn()| {
        while !ended.load(Ordering::Relaxed) {
            attack();
        }
    };
    let during = std::thread::scope(|scope| {
        let mut attackers = Vec::new();
        for attack in ATTACKS {
            let (over_and_over, theirs) = (&over_and_over, &theirs);
            attackers.push(scope.spawn(move || over_and_over(&|| attack(master, theirs))));
        }
        attackers.push(scope.spawn(|| {
            over_and_over(&|| {
                garbage(follower, &theirs, &[PEERS]);
                multicast(follower);
                drop(half_open(follower));
            });
        }));
        let forging = scope.spawn(|| {
            let real = true_record(cluster, leader);
            let records = (0..FORGED_RECORDS).map(|number| match number % 2 {
                0 => forgery(&format!("evil-{number}")),
                // As this cluster's own, in a later term, with somebody's signature.
                _ => announcement(&format!("evil-{number}"), &pretended(&real, number)),
            });
            send_all(records, &cluster.switch)
        });
        let mut during = writes(master, "attack");
        let forged = forging.join().expect("sent");
        println!("{forged} forged records sent");
        assert!(forged > FORGED_RECORDS * 9 / 10, "{forged}");
        during.extend(writes(master, "more"));
        during.sort();
        ended.store(true, Ordering::Relaxed);
        attackers.into_iter().for_each(|it| it.join().expect("each attack ends as it should"));
        during
    });
    say("during", &during);
    assert!(during.last().is_some_and(|worst| *worst < WRITE_WITHIN), "{during:?}");
    for board in &cluster.boards[..4] {
        let is_led = || {
            let said = status(board)["leader"].clone();
            cluster.boards[..3].iter().any(|master| master.node() == said)
        };
        until_led(board, is_led);
    }
}

/// Waits until a board says that a master of this cluster leads: a machine that is too busy may have
/// changed the leader a moment ago.
fn until_led(board: &Board, is_led: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_led() {
        assert!(
            begun.elapsed() < WITHIN,
            "{} is misled: {}",
            board.node(),
            status(board)["leader"]
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn true_record(cluster: &Cluster, leader: usize) -> LeaderRecord {
    let (said, master) = (status(&cluster.boards[leader]), &cluster.boards[leader]);
    let ca = Credentials::load(&cluster.boards[3].data_dir()).expect("read").expect("joined").pin();
    LeaderRecord {
        cluster: master.cluster().to_owned(),
        epoch: said["epoch"].as_u64().expect("an epoch"),
        term: said["term"].as_u64().expect("a term"),
        name: master.node().to_owned(),
        addresses: vec![master.address()],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: 7443,
        ca: ca[..16].try_into().expect("half of it"),
    }
}

fn pretended(real: &LeaderRecord, number: usize) -> SignedRecord {
    let record = LeaderRecord {
        term: real.term + number as u64,
        name: format!("evil-{number}"),
        addresses: vec![Ipv4Addr::new(198, 19, 0, 254)],
        ..real.clone()
    };
    SignedRecord::sign(record, |_| noise(70)).expect("valid")
}

/// Every verb of every resource that the API has, on what is not the board's own.
fn verbs(cluster: &Cluster, door: usize) {
    let (thief, master) = (&cluster.boards[3], &cluster.boards[door]);
    let addresses =
        cluster.boards[..3].iter().map(|board| SocketAddr::from((board.address(), 6443)));
    let doors = Doors::new(&kubeconfig(thief), addresses.collect());
    let requests = requests(master);
    let count = requests.len();
    let allowed = net::inside(thief.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut client = Client::new(door, Arc::new(doors));
            let mut allowed = BTreeSet::new();
            for (what, method, path) in requests {
                let body =
                    (method == Method::POST || method == Method::PUT || method == Method::PATCH)
                        .then(|| json!({"metadata": {"name": "theirs"}}));
                match client.ask(&method, &path, body.as_ref()).await {
                    Sent::Answered { code: 401 | 403, .. } => {}
                    Sent::Answered { code, body } => {
                        println!("  {what}: {code} {:.120}", parsed(&body)["message"]);
                        allowed.insert(what);
                    }
                    other => panic!("{what}: {other:?}"),
                }
            }
            let own = client.ask(&Method::GET, &format!("{SECRETS}/own"), None).await;
            assert!(matches!(own, Sent::Answered { code: 200, .. }), "its own pod's: {own:?}");
            allowed
        }))
    });
    let allowed = allowed.expect("a client in the namespace");
    println!("{count} requests as a board at {}, {} of them allowed", master.node(), allowed.len());
    let expected: BTreeSet<String> = ALLOWED.iter().map(|it| (*it).to_owned()).collect();
    let beyond: Vec<_> = allowed.difference(&expected).collect();
    assert!(beyond.is_empty(), "a board may: {beyond:?}");
}

/// All verbs that discovery lists: `verb resource`, method, path.
fn requests(master: &Board) -> Vec<(String, Method, String)> {
    let groups = master.get("/apis");
    let versions = groups["groups"].as_array().into_iter().flatten();
    let versions = versions.flat_map(|group| group["versions"].as_array().into_iter().flatten());
    let mut bases = vec!["/api/v1".to_owned()];
    bases
        .extend(versions.map(|it| format!("/apis/{}", it["groupVersion"].as_str().expect("text"))));
    let mut requests = Vec::new();
    for base in bases {
        let listed = master.get(&base);
        for resource in listed["resources"].as_array().into_iter().flatten() {
            let name = resource["name"].as_str().expect("a name");
            let (plural, sub) = name.split_once('/').unwrap_or((name, ""));
            let collection = match resource["namespaced"].as_bool() {
                Some(true) => format!("{base}/namespaces/default/{plural}"),
                _ => format!("{base}/{plural}"),
            };
            let of = if plural == "nodes" { master.node() } else { "theirs" };
            let object = match sub {
                "" => format!("{collection}/{of}"),
                sub => format!("{collection}/{of}/{sub}"),
            };
            for verb in resource["verbs"].as_array().into_iter().flatten() {
                let verb = verb.as_str().expect("a verb");
                let (method, path) = match verb {
                    "get" => (Method::GET, object.clone()),
                    "list" => (Method::GET, collection.clone()),
                    "watch" => (Method::GET, format!("{collection}?watch=true&timeoutSeconds=1")),
                    "create" if sub.is_empty() => (Method::POST, collection.clone()),
                    "create" => (Method::POST, object.clone()),
                    "update" => (Method::PUT, object.clone()),
                    "patch" => (Method::PATCH, object.clone()),
                    "delete" => (Method::DELETE, object.clone()),
                    _ => (Method::DELETE, collection.clone()),
                };
                requests.push((format!("{verb} {name}"), method, path));
            }
        }
    }
    requests
}

/// A kubeconfig with the certificate of a board.
fn kubeconfig(board: &Board) -> String {
    let read = |name: &str| std::fs::read_to_string(board.data_dir().join("pki").join(name));
    let (own, authority) =
        (read("board.pem").expect("its key"), read("ca.crt").expect("authority"));
    let at = own.find("-----BEGIN PRIVATE KEY-----").expect("a key");
    let encoded = |text: &str| STANDARD.encode(text);
    json!({
        "clusters": [{"name": "c", "cluster": {"certificate-authority-data": encoded(&authority)}}],
        "users": [{"name": "u", "user": {
            "client-certificate-data": encoded(&own[..at]), "client-key-data": encoded(&own[at..]),
        }}],
    })
    .to_string()
}

/// Topics of the leader and of other boards.
fn topics(master: &Board, stolen: &Credentials) {
    let config = stolen.client_config(&[b"mqtt"]).expect("TLS");
    let (cluster, own) = (master.cluster(), stolen.peer().name.clone());
    let foreign = [
        "#".to_owned(),
        "kumquat/#".to_owned(),
        format!("kumquat/{cluster}/#"),
        format!("kumquat/{cluster}/nodes/+/down/#"),
        format!("kumquat/{cluster}/nodes/+/up/#"),
        format!("kumquat/{cluster}/nodes/{}/down/#", master.node()),
        format!("kumquat/{cluster}/nodes/{}/up/status", master.node()),
        format!("kumquat/{cluster}/nodes/{}/audit", master.node()),
        format!("kumquat/{cluster}/nodes/{own}/up/#"),
        "$SYS/#".to_owned(),
    ];
    let mut stream = tls(master, BUS, &config).expect("accepts");
    stream.write_all(&connect_packet(own.as_bytes())).expect("sent");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("CONNACK");
    assert_eq!(answer, [0x20, 2, 0, 0], "it is a member");
    for filter in &foreign {
        stream
            .write_all(&packet(0x82, &[&[0, 7], &string(filter)[..], &[0]].concat()))
            .expect("sent");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("SUBACK");
        assert_eq!(answer, [0x90, 3, 0, 7, 0x80], "{filter} is refused");
    }
    let targets = [
        format!("kumquat/{cluster}/leader"),
        format!("kumquat/{cluster}/all/net"),
        format!("kumquat/{cluster}/nodes/{}/down/desired", master.node()),
        format!("kumquat/{cluster}/nodes/{}/up/status", master.node()),
        format!("kumquat/{cluster}/nodes/{own}/down/desired"),
        "$SYS/broker/clients".to_owned(),
    ];
    for topic in &targets {
        let stream = tls(master, BUS, &config).expect("accepts");
        let publish = packet(0x30, &[&string(topic)[..], b"forged"].concat());
        let all = [connect_packet(own.as_bytes()), publish].concat();
        assert!(hung_up(stream, &all), "{topic} is taken");
    }
    println!("bus: {} filters and {} topics refused", foreign.len(), targets.len());
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("short");
    assert!(length < 128, "one byte of length");
    [&[kind, length][..], body].concat()
}

/// A runtime in the namespace of a board.
fn runtime(board: &Board) -> tokio::runtime::Runtime {
    let runtime = net::inside(board.namespace(), || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
    });
    runtime.expect("runtime")
}

/// Asks a path of a master's port for boards, with garbage; status and words, or why there are none.
fn ask(from: &Board, to: &Board, credentials: &Arc<Credentials>, path: &str) -> String {
    let runtime = runtime(from);
    let config = credentials.client_config(ALPN).expect("TLS");
    let address = SocketAddr::from((IpAddr::V4(to.address()), PEERS));
    let path = path.to_owned();
    let asking = runtime.spawn(async move {
        let connection = Connection::open(address, config, WITHIN).await?;
        let request = http::Request::post(path).body(peer::full(noise(5_000))).expect("a request");
        let answer = connection.send(request).await?;
        let status = answer.status().as_u16();
        let body = peer::read(answer.into_body(), 1 << 20).await.unwrap_or_else(|why| why.into());
        Ok::<_, peer::PeerError>(format!("{status} {}", String::from_utf8_lossy(&body)))
    });
    runtime.block_on(asking).expect("a task").unwrap_or_else(|error| format!("not sent: {error}"))
}

/// A master is evicted: its live connections end, its key is refused by leader and follower.
fn evicted(cluster: &Cluster, leader: usize, others: &[usize]) {
    let (master, stays, goes) =
        (&cluster.boards[leader], &cluster.boards[others[0]], &cluster.boards[others[1]]);
    let own = as_master(goes);
    // Garbage of a master that is still one harms nobody, either.
    for to in [master, stays] {
        for path in LOG_PATHS {
            let answer = ask(goes, to, &own, path);
            println!("garbage of a master at {path}: {answer:.80}");
            assert!(!answer.contains("not sent"), "{answer}");
        }
    }
    let runtime = runtime(goes);
    let open = |to: &Board| {
        let config = own.client_config(ALPN).expect("TLS");
        let address = SocketAddr::from((IpAddr::V4(to.address()), PEERS));
        let opening = runtime.spawn(Connection::open(address, config, WITHIN));
        runtime.block_on(opening).expect("a task").expect("a master is let in")
    };
    let held = [open(master), open(stays)];
    let begun = Instant::now();
    let command = master.command(&["board", "evict", goes.node()]);
    assert!(command.status.success(), "{}", text(&command));
    println!("evicted a master in {:?}", begun.elapsed());
    let done = Instant::now();
    for (connection, of) in held.iter().zip(["leader", "follower"]) {
        let closed =
            runtime.block_on(async { tokio::time::timeout(CUT_WITHIN, connection.closed()).await });
        assert!(closed.is_ok(), "its connection to the {of} lives on");
        println!("its connection to the {of} was cut {:?} later", done.elapsed());
    }
    for to in [master, stays] {
        for path in LOG_PATHS {
            let answer = ask(goes, to, &own, path);
            let refused = answer.starts_with("not sent") || answer.starts_with("403");
            assert!(refused, "{path} of {}: {answer}", to.node());
        }
    }
}

/// A master's certificate, as it made it out for itself.
fn as_master(board: &Board) -> Arc<Credentials> {
    let data: &Path = &board.data_dir();
    let pki = Pki::open(data, Clock::starting_at(Timestamp(0)).now()).expect("its authority");
    Arc::new(Credentials::founder(&pki, data, board.node()).expect("its own"))
}
