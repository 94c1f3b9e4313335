//! A real founder: tokens from its command line, boards at its peer port, a crowd in front of it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use kumquat::app::join::{JoinError, Newcomer, join};
use kumquat::io::peer::{ALPN, Connection, PeerError};
use kumquat::io::tls::{BoardKey, Credentials};
use kumquat::io::{host, net};
use model::join::{EVICTED, key_text};
use model::token::Token;
use serde_json::{Value, json};

use super::SOON;
use crate::board::{Board, possible, text};
use crate::switch::Switch;

const PEER_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
/// Silent connections in front of the port.
const CROWD: usize = 2_000;

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Runs `work` in the board's network namespace.
fn inside<T: Send>(board: &Board, work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    };
    net::inside(board.namespace(), run).expect("a runtime in the namespace")
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    if !possible("tokens_are_made_listed_and_revoked") {
        return;
    }
    let mut board = Board::new("token");
    board.up(&[]);
    let made = stdout(&board.command(&["token", "create"]));
    let token: Token = made.strip_suffix('\n').expect("a line").parse().expect("a token, alone");
    let many = ["token", "create", "--uses", "3", "--ttl", "1h", "--role", "master"];
    let many = stdout(&board.command(&many));
    let many: Token = many.trim().parse().expect("a token");
    assert_eq!(many.pin, token.pin);

    let listed = stdout(&board.command(&["token", "list", "-o", "json"]));
    let shown = stdout(&board.command(&["token", "list"]));
    for secret in [&made[11..37], &many.to_string()[11..37]] {
        assert!(!listed.contains(secret) && !shown.contains(secret), "{listed}\n{shown}");
    }
    let tokens: Value = serde_json::from_str(&listed).expect("JSON");
    let find = |id: &str| {
        let all = tokens.as_array().expect("a list");
        all.iter().find(|one| one["id"] == *id).expect("listed").clone()
    };
    let (one, three) = (find(&token.id.to_string()), find(&many.id.to_string()));
    assert_eq!((&one["role"], &one["usesLeft"]), (&"auto".into(), &1.into()));
    assert_eq!((&three["role"], &three["usesLeft"]), (&"master".into(), &3.into()));
    assert!(one["expires"].as_str() > three["expires"].as_str(), "{listed}");
    assert_eq!(shown.lines().count(), 3, "{shown}");

    stdout(&board.command(&["token", "revoke", &token.id.to_string()]));
    let left = stdout(&board.command(&["token", "list", "-o", "json"]));
    assert!(!left.contains(&token.id.to_string()) && left.contains(&many.id.to_string()), "{left}");
    let again = board.command(&["token", "revoke", &token.id.to_string()]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("kumquat token list"), "{}", text(&again));
    for (wrong, code) in [
        (&["token", "create", "--uses", "0"][..], 1),
        (&["token", "create", "--ttl", "soon"], 2),
        (&["token", "revoke", "nonsense-id"], 2),
    ] {
        let refused = board.command(wrong);
        assert_eq!(refused.status.code(), Some(code), "{wrong:?}: {}", text(&refused));
        assert!(refused.stdout.is_empty(), "{wrong:?}");
    }
    // Tokens survive the process.
    board.stop();
    assert_eq!(board.command(&["token", "create"]).status.code(), Some(1));
    board.up(&[]);
    assert_eq!(stdout(&board.command(&["token", "list", "-o", "json"])), left);
}

#[test]
fn a_board_joins_a_founder_behind_a_crowd() {
    if !possible("a_board_joins_a_founder_behind_a_crowd") {
        return;
    }
    let files = host::allow_open_files(2 * CROWD as u64 + 1024).expect("limit of open files");
    assert!(files >= CROWD as u64 + 512, "only {files} files may be open");
    let mut board = Board::new("crowd");
    board.up(&[]);
    let token: Token = board.token().parse().expect("a token");
    let disk = board.run_dir().join("joiner");
    let quiet = api_latency(&board);
    let crowd = || (0..CROWD).map(|_| TcpStream::connect(PEER_PORT)).collect();
    let crowd: Vec<TcpStream> = net::inside(board.namespace(), crowd).expect("connections");
    let begun = Instant::now();
    inside(&board, async || join_and_open(&token, &disk).await);
    let joined = begun.elapsed();
    println!("join and first connection behind {CROWD} silent ones: {joined:?}");
    assert!(joined < Duration::from_secs(3), "{joined:?}");
    let crowded = api_latency(&board);
    drop(crowd);
    println!("GET of the nodes, slowest of 20: {quiet:?} alone, {crowded:?} behind the crowd");
    assert!(crowded < Duration::from_secs(1), "{crowded:?}");
    let nodes = board.api("GET", "/api/v1/nodes/pi-2", None).expect("the Node of the board");
    assert!(nodes["metadata"]["annotations"][model::join::BOARD_KEY].is_string());
    let list = stdout(&board.command(&["token", "list"]));
    assert!(list.contains("pi-2"), "{list}");
    let log = board.log();
    assert!(log.matches("too many unknown connections").count() <= 3, "{log}");
}

/// Joins as pi-2, is refused as another board with the same token, connects as pi-2.
async fn join_and_open(token: &Token, disk: &Path) {
    let key = BoardKey::open(disk).expect("a key");
    let joined = join(PEER_PORT, token, &Newcomer::new("pi-2", "0", &key)).await.expect("joined");
    joined.save(disk).expect("saved");
    let other = BoardKey::generate().expect("a key");
    let refused = join(PEER_PORT, token, &Newcomer::new("pi-3", "0", &other)).await;
    assert!(matches!(refused, Err(JoinError::Refused { .. })), "{refused:?}");
    let tls = joined.credentials.client_config(ALPN).expect("TLS");
    let connection = Connection::open(PEER_PORT, tls, SOON).await.expect("accepted");
    assert_eq!(connection.master().name, "board");
}

/// The slowest of some requests.
fn api_latency(board: &Board) -> Duration {
    let once = |_| {
        let begun = Instant::now();
        board.api("GET", "/api/v1/nodes", None).expect("the nodes");
        begun.elapsed()
    };
    (0..20).map(once).max().expect("some")
}

#[test]
fn a_second_board_comes_and_a_stolen_certificate_does_not() {
    if !possible("a_second_board_comes_and_a_stolen_certificate_does_not") {
        return;
    }
    let switch = Switch::new("trust");
    let (mut founder, mut worker) = (switch.board(1), switch.board(2));
    founder.up(&[]);
    worker.up(&["--token", &founder.token()]);
    let elsewhere = worker.command(&["token", "create"]);
    assert_eq!(elsewhere.status.code(), Some(1));
    let said = text(&elsewhere);
    assert!(elsewhere.stdout.is_empty() && said.contains("master board board-1"), "{said}");

    // Its key and certificate, copied by a thief, open its own connections and no more: they are no
    // master's. Once the key is evicted they open nothing.
    let master = SocketAddr::new(founder.address().into(), 7443);
    let stolen = Credentials::load(&worker.data_dir()).expect("readable").expect("joined");
    assert!(!stolen.peer().is_master);
    let open = || {
        let tls = stolen.client_config(ALPN).expect("TLS");
        inside(&worker, async || Connection::open(master, tls, SOON).await)
    };
    assert!(open().is_ok());
    // Nobody writes the list past the command.
    let list = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": EVICTED },
        "data": { key_text(&stolen.peer().key): "stolen" } });
    let maps = "/api/v1/namespaces/kube-system/configmaps";
    let refused = founder.api("POST", maps, Some(&list)).expect_err("the masters keep it");
    assert!(refused.contains("403") && refused.contains("board evict"), "{refused}");
    // What the thief has open when it is told of, ends too.
    inside(&worker, async || {
        let tls = stolen.client_config(ALPN).expect("TLS");
        let held = Connection::open(master, tls, SOON).await.expect("still admitted");
        let evicted = founder.command(&["board", "evict", worker.node()]);
        assert!(evicted.status.success(), "{}", text(&evicted));
        let ended = tokio::time::timeout(Duration::from_secs(10), held.closed()).await;
        ended.expect("the connection of an evicted board ends");
    });
    let refused = open().expect_err("evicted");
    assert!(matches!(refused, PeerError::Refused { .. }), "{refused}");
    let board = founder.node().to_owned();
    let unharmed = founder.api("GET", &format!("/api/v1/nodes/{board}"), None).expect("a Node");
    let conditions = unharmed["status"]["conditions"].as_array().expect("conditions").clone();
    assert!(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
}
