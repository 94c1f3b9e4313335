//! A board is thrown out: at once, on every port, for good.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kumquat::app::api_client::ApiClient;
use kumquat::io::net;
use kumquat::io::peer::{self, ALPN, Connection};
use kumquat::io::tls::Credentials;
use serde_json::json;

use super::*;
use board::possible;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, node: &str, secret: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": {
        "nodeName": node, "terminationGracePeriodSeconds": 1,
        "volumes": [{ "name": "v", "secret": { "secretName": secret } }],
        "containers": [{ "name": "c", "image": "busybox", "command": ["sleep", "1000"],
            "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
    } })
}

/// Connects as the board with these credentials does; what its first request is answered, and the
/// connection itself.
fn open(board: &Board, address: SocketAddr, tls: Arc<Credentials>) -> Result<Held, String> {
    let runtime = net::inside(board.namespace(), || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
    });
    let runtime = runtime.expect("runtime");
    let config = tls.client_config(ALPN).expect("TLS");
    // Its threads live in the board's namespace, this one does not.
    let opening = runtime.spawn(Connection::open(address, config, WITHIN));
    let opened = runtime.block_on(opening).expect("a task");
    opened.map(|connection| Held { connection, runtime }).map_err(|error| error.to_string())
}

struct Held {
    connection: Connection,
    runtime: tokio::runtime::Runtime,
}

impl Held {
    fn is_open(&self) -> bool {
        let request = http::Request::get("/v1/leader").body(peer::empty()).expect("request");
        let connection = self.connection.clone();
        let asked = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(2), connection.send(request)).await
        });
        asked.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
    }
}

/// Asks the API with the certificate of a board.
fn api_as(board: &Board, server: &str, path: &str) -> Result<Value, String> {
    let read = |name: &str| std::fs::read_to_string(board.data_dir().join("pki").join(name));
    let (own, authority) =
        (read("board.pem").expect("its key"), read("ca.crt").expect("authority"));
    let at = own.find("-----BEGIN PRIVATE KEY-----").expect("a key");
    let encoded = |text: &str| STANDARD.encode(text);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: c\n  context: {{cluster: c, user: u}}\n\
         current-context: c\nusers:\n- name: u\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\n",
        encoded(&authority),
        encoded(&own[..at]),
        encoded(&own[at..]),
    );
    let request = http::Request::get(path).body(Default::default()).expect("request");
    let answer = net::inside(board.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime
            .block_on(async { ApiClient::from_kubeconfig(&kubeconfig, None)?.json(request).await }))
    });
    answer.expect("request thread").map_err(|error| format!("{error:#}"))
}

#[test]
fn a_board_is_thrown_out_at_once_on_every_port() {
    if !possible("a_board_is_thrown_out_at_once_on_every_port") {
        return;
    }
    let switch = Switch::new("evicting");
    let mut all = boards(&switch, 3);
    all[0].up(&[]);
    for at in [1, 2] {
        let token = all[0].token();
        all[at].start(&["--token", &token]);
    }
    wait_boards(&all[0], 3);
    for name in ["db", "tls", "others"] {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "stringData": { "password": "x" } });
        all[0].create(SECRETS, &secret);
    }
    let (thief, honest) = (all[1].node().to_owned(), all[2].node().to_owned());
    for (name, node, secret) in
        [("a", &thief, "db"), ("b", &thief, "tls"), ("c", &thief, "db"), ("d", &honest, "others")]
    {
        all[0].create(PODS, &pod(name, node, secret));
    }
    // A live connection of the stolen card's keys, besides those of the board itself.
    let stolen = Credentials::load(&all[1].data_dir()).expect("readable").expect("joined");
    let stolen = Arc::new(stolen);
    let peers = SocketAddr::from((IpAddr::V4(all[0].address()), 7443));
    let held = open(&all[1], peers, Arc::clone(&stolen)).expect("a member");
    assert!(held.is_open());

    let api = format!("https://{}:6443", all[0].address());
    let own_node = format!("/api/v1/nodes/{thief}");
    let asked = api_as(&all[1], &api, &own_node).expect("a board reads its own Node");
    assert_eq!(asked["metadata"]["name"], *thief);

    let began = Instant::now();
    let evicted = all[0].command(&["board", "evict", &thief]);
    assert!(evicted.status.success(), "{}", text(&evicted));
    let listed = String::from_utf8_lossy(&evicted.stdout).into_owned();
    assert_eq!(listed, "default/db\ndefault/tls\n", "what its pods used, and nothing else");
    let cut = until("its connection is cut", WITHIN, || !held.is_open());
    println!("evict to live connection cut: {:?} (command {:?})", cut, began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let refused = open(&all[1], peers, Arc::clone(&stolen)).err().expect("out for good");
    assert!(refused.contains("not a member") || refused.contains("refuses"), "{refused}");
    let bus = SocketAddr::from((IpAddr::V4(all[0].address()), 8883));
    let reached = net::inside(all[1].namespace(), || Ok(TcpStream::connect(bus).is_ok()));
    assert!(reached.expect("tried"), "the port itself is there");
    until("it is off the bus", WITHIN, || all[0].log().contains("board left the bus"));

    let refused = api_as(&all[1], &api, &own_node).expect_err("refused at the API, too");
    assert!(refused.contains("401") || refused.contains("Unauthorized"), "{refused}");

    // Its Node and pods are gone, the others stay as they are.
    let names = |path: &str| -> Vec<String> {
        let list = all[0].get(path);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|it| it["metadata"]["name"].as_str().unwrap_or("-").to_owned()).collect()
    };
    assert_eq!(names("/api/v1/nodes").len(), 2);
    until("its pods are gone", WITHIN, || names(PODS) == ["d"]);
    wait_boards(&all[2], 2);

    // Neither a token nor a person's word brings that key back.
    let again = all[0].command(&["board", "evict", &thief]);
    assert_eq!(again.status.code(), Some(1), "{}", text(&again));
    let own = all[0].command(&["board", "evict", all[0].node()]);
    assert!(text(&own).contains("leads"), "{}", text(&own));
    all[1].kill();
    std::fs::remove_file(all[1].data_dir().join("board.json")).expect("a member's file");
    let token = all[0].token();
    let refused = all[1].up_refused(&["--token", &token]);
    assert!(text(&refused).contains("evicted"), "{}", text(&refused));
}
