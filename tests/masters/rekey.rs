//! A stolen master: what its disk signs is refused once it is evicted, and everybody else goes on.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use kumquat::io::net;
use kumquat::io::peer::{ALPN, Connection};
use kumquat::io::tls::{BoardKey, BoardPeer, Credentials, Pinned, Pki, TokenKeys};
use model::timestamp::Timestamp;
use serde_json::Value;

use crate::board::{Board, possible, text};
use crate::busybox;
use crate::clients::{Client, Doors, Sent};
use crate::keys::{as_bearer, furnish, issue, run, start, token_in};
use crate::switch::{Cluster, is_ready};
use crate::three::{leader, status, wait_until};

const WITHIN: Duration = Duration::from_secs(60);
const SECRET: &str = "/api/v1/namespaces/default/secrets/word";
const ROOT_CA: &str = "/api/v1/namespaces/default/configmaps/kube-root-ca.crt";

/// Whoever is asked says that it knows this board: what the *server* says of a certificate is tried.
struct Anybody;

impl Pinned for Anybody {
    fn is_board(&self, _: &BoardPeer) -> bool {
        true
    }

    fn is_master(&self, _: &BoardPeer) -> bool {
        true
    }
}

#[test]
fn what_a_stolen_master_signs_is_refused_once_it_is_evicted() {
    if !possible("rekey") || !busybox::present("rekey") {
        return;
    }
    let mut cluster = Cluster::of_masters("rekey", 3);
    let waited = cluster.boards[0].command(&["wait", "--voters", "3", "--timeout", "120s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[0].log());
    for number in [4, 5] {
        cluster.boards.push(cluster.switch.board(number));
        let token = cluster.boards[0].token_for("worker");
        cluster.boards[number as usize - 1].start(&["--token", &token]);
        cluster.wait_ready(number as usize - 1, WITHIN);
    }
    cluster.switch.listen();
    let first = leader(&cluster.boards[..3], |_| true).expect("somebody leads");
    let (victim, other) = ((first + 1) % 3, (first + 2) % 3);
    let (online, away) = (3, 4);
    cluster.import_busybox(other);
    cluster.import_busybox(online);
    let master = &cluster.boards[first];
    furnish(master);
    let pods = [("one", other), ("other", online)];
    for (name, at) in pods {
        start(master, name, cluster.boards[at].node());
    }
    let processes = pods.map(|(name, _)| run(master, name));
    let containers = pods.map(|(name, _)| container(master, name));
    let old = std::fs::read_to_string(master.kubeconfig()).expect("read");
    let issued = issue(master);
    assert_eq!(as_bearer(&cluster, &old, first, &issued), 200);
    assert_eq!(as_admin(&cluster, &old, first), 200);
    let join_token = master.token_for("worker");
    let before = authority(&cluster.boards[first]);
    wait_until("everybody knows who the masters are", &cluster.boards, WITHIN, || {
        [online, away].iter().all(|at| {
            let known = std::fs::read(cluster.boards[*at].data_dir().join("cluster.json"));
            let known: Value =
                serde_json::from_slice(&known.unwrap_or_default()).unwrap_or_default();
            known["masters"].as_array().is_some_and(|masters| masters.len() == 3)
        })
    });
    cluster.boards[away].kill();

    let thief = steal(&cluster.boards[victim]);
    let began = Instant::now();
    let name = cluster.boards[victim].node().to_owned();
    let evicted = cluster.boards[other].command(&["board", "evict", &name]);
    assert!(evicted.status.success(), "{}", text(&evicted));
    assert!(text(&evicted).contains("kumquat kubeconfig"), "{}", text(&evicted));
    let rest = [first, other, online];
    wait_until("another authority", &cluster.boards, WITHIN, || {
        rest.iter().all(|at| authority(&cluster.boards[*at]) != before)
    });
    println!("three boards have another authority {:?} after the eviction began", began.elapsed());
    let now = authority(&cluster.boards[first]);
    assert!(rest.iter().all(|at| authority(&cluster.boards[*at]) == now), "one and the same");
    let masters = [first, other];
    wait_until("somebody leads", &cluster.boards, WITHIN, || {
        led(&cluster.boards, masters).is_some()
    });
    wait_until("the rest is well", &cluster.boards, WITHIN, || {
        // One that was given in the last moment of the old authority is no good.
        cluster.boards.iter().for_each(Board::forget_kubeconfig);
        led(&cluster.boards, masters)
            .is_some_and(|lead| rest.iter().all(|at| ready(&cluster.boards, lead, *at)))
    });
    println!("all of them are ready {:?} after it", began.elapsed());
    let lead = led(&cluster.boards, masters).expect("it was there");
    let new = std::fs::read_to_string(cluster.boards[lead].kubeconfig()).expect("read");

    forged(&cluster, &thief, (&old, &new), lead, &issued);
    let master = &cluster.boards[lead];
    assert_eq!(master.get(SECRET)["data"]["word"], STANDARD.encode("sesame"));
    wait_until("the authority in every namespace", &cluster.boards, WITHIN, || {
        let map = master.api("GET", ROOT_CA, None);
        map.is_ok_and(|map| map["data"]["ca.crt"] == now.as_str())
    });
    for process in &processes {
        wait_until("another token in its volume", &cluster.boards, WITHIN, || {
            as_bearer(&cluster, &new, lead, &token_in(process)) == 200
        });
        let inside = "root/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
        wait_until("the authority in its volume", &cluster.boards, WITHIN, || {
            std::fs::read_to_string(process.join(inside)).is_ok_and(|found| found == now)
        });
    }
    assert_eq!(pods.map(|(name, _)| container(master, name)), containers, "nothing restarted");
    assert!(!text(&master.command(&["token", "list"])).contains(&join_token[3..13]));
    let said = status(master);
    assert!(!said["warnings"].to_string().contains(&name), "{said}");

    // Whoever was off knows a master by its key, and nothing else of all this.
    cluster.boards[away].start(&[]);
    wait_until("the board that was away is back", &cluster.boards, WITHIN, || {
        authority(&cluster.boards[away]) == now && ready(&cluster.boards, lead, away)
    });
    // And all that lies on the disks by now.
    cluster.boards[lead].kill();
    cluster.boards[lead].start(&[]);
    wait_until("it leads on after a crash", &cluster.boards, WITHIN, || {
        as_admin(&cluster, &new, lead) == 200
            && led(&cluster.boards, masters)
                .is_some_and(|lead| ready(&cluster.boards, lead, online))
    });
    assert_eq!(authority(&cluster.boards[lead]), now);
    let master = &cluster.boards[lead];
    assert_eq!(pods.map(|(name, _)| container(master, name)), containers, "nothing restarted");
    let _gone = std::fs::remove_dir_all(thief);
}

/// Whatever the stolen disk makes is refused.
fn forged(cluster: &Cluster, thief: &Path, (old, new): (&str, &str), lead: usize, issued: &str) {
    let authority = |text: &str| {
        let config: Value = serde_norway::from_str(text).expect("a kubeconfig");
        let data = &config["clusters"][0]["cluster"]["certificate-authority-data"];
        data.as_str().expect("a certificate").to_owned()
    };
    assert_ne!(authority(old), authority(new));
    assert_eq!(as_admin(cluster, new, lead), 200, "a new kubeconfig works");
    // It trusts the new authority, so that the server is what refuses.
    let trusting = |text: &str| text.replace(&authority(text), &authority(new));
    assert_eq!(as_admin(cluster, &trusting(old), lead), 401, "the old kubeconfig");
    std::fs::remove_file(thief.join("pki/admin.pem")).expect("a master's file");
    let stolen = Pki::open(thief, Timestamp::from_seconds(1_800_000_000)).expect("the old key");
    let admin = stolen.admin_kubeconfig("c", "https://127.0.0.1:6443");
    assert_eq!(as_admin(cluster, &trusting(&admin), lead), 401, "a forged administrator");

    assert_eq!(as_bearer(cluster, new, lead, issued), 401, "an old token");
    let claims = issued.split('.').nth(1).expect("claims");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let token = TokenKeys::open(thief).expect("the old keys").sign(&claims);
    assert_eq!(as_bearer(cluster, new, lead, &token), 401, "a forged token");

    let own = BoardKey::open(thief).expect("its key");
    let fresh = BoardKey::generate().expect("a key");
    let names = [cluster.boards[3].node(), cluster.boards[lead].node(), "board-9"];
    for (name, key) in names.map(|name| (name, &fresh)).into_iter().chain([(names[2], &own)]) {
        let certificate = stolen.issue_board(name, &key.public_key(), true).expect("signed");
        let shown = Credentials::new(key, &certificate, stolen.ca_certificate()).expect("a board");
        let refused = knock(cluster, lead, shown.pinning(Arc::new(Anybody)));
        assert!(refused.is_err(), "{name} came in: {refused:?}");
    }
}

/// Which of these boards leads.
fn led(boards: &[Board], masters: [usize; 2]) -> Option<usize> {
    leader(boards, |at| masters.contains(&at))
}

/// Whether a board is ready, as another one says.
fn ready(boards: &[Board], says: usize, of: usize) -> bool {
    let path = format!("/api/v1/nodes/{}", boards[of].node());
    boards[says].api("GET", &path, None).is_ok_and(|node| is_ready(&node) == Some(true))
}

/// The stolen disk, as far as keys go.
fn steal(board: &Board) -> std::path::PathBuf {
    let thief = std::env::temp_dir().join(format!("kumquat-thief-{}", std::process::id()));
    let _none = std::fs::remove_dir_all(&thief);
    std::fs::create_dir_all(thief.join("pki")).expect("a folder");
    for entry in std::fs::read_dir(board.data_dir().join("pki")).expect("its keys").flatten() {
        std::fs::copy(entry.path(), thief.join("pki").join(entry.file_name())).expect("copied");
    }
    thief
}

fn authority(board: &Board) -> String {
    std::fs::read_to_string(board.data_dir().join("pki/ca.crt")).unwrap_or_default()
}

/// Which container a pod has, and how often it was started again.
fn container(master: &Board, pod: &str) -> String {
    let pod = master.get(&format!("/api/v1/namespaces/default/pods/{pod}"));
    let status = &pod["status"]["containerStatuses"][0];
    format!("{} {}", status["containerID"], status["restartCount"])
}

/// What the API answers to the user of a kubeconfig.
fn as_admin(cluster: &Cluster, kubeconfig: &str, at: usize) -> u16 {
    let address = SocketAddr::from((cluster.boards[at].address(), 6443));
    let doors = Arc::new(Doors::new(kubeconfig, vec![address]));
    let asked = net::inside(cluster.switch.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            Client::new(0, doors).ask(&Method::GET, "/api/v1/nodes", None).await
        }))
    });
    match asked.expect("a client in the namespace") {
        Sent::Answered { code, .. } => code,
        Sent::Not(_) | Sent::Unknown(_) => 0,
    }
}

/// Connects to a master's port for boards and asks who leads.
fn knock(cluster: &Cluster, at: usize, shown: Credentials) -> Result<(), String> {
    let address = SocketAddr::from((cluster.boards[at].address(), 7443));
    let tls = shown.client_config(ALPN).expect("TLS");
    let asked = net::inside(cluster.switch.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let opened = Connection::open(address, tls, Duration::from_secs(5)).await;
            opened.map(drop).map_err(|error| error.to_string())
        }))
    });
    asked.expect("in the namespace")
}
