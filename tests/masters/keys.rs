//! What masters share beside the log: the keys of tokens and of Secrets. Whoever leads next honours what
//! the one before has signed and reads what it has sealed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use kumquat::io::net;
use serde_json::{Value, json};

use crate::board::{Board, possible, text};
use crate::busybox;
use crate::clients::{Client, Doors, Sent, parsed};
use crate::switch::Cluster;
use crate::three::{leader, status, wait_until};

const CORE: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ACCOUNT: &str = "system:serviceaccount:default:reader";
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn tokens_and_secrets_outlive_the_leader_that_made_them() {
    if !possible("keys") || !busybox::present("keys") {
        return;
    }
    let mut cluster = Cluster::of_masters("keys", 3);
    let waited = cluster.boards[0].command(&["wait", "--voters", "3", "--timeout", "120s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), cluster.boards[0].log());
    cluster.switch.listen();
    let first = leader(&cluster.boards, |_| true).expect("somebody leads");
    let elsewhere = (first + 1) % 3;
    cluster.import_busybox(elsewhere);
    let kubeconfig = std::fs::read_to_string(cluster.boards[first].kubeconfig()).expect("read");
    let master = &cluster.boards[first];
    let sealed = furnish(master);
    let node = cluster.boards[elsewhere].node().to_owned();
    start(master, "before", &node);
    let issued = issue(master);
    let projected = token_in(&run(master, "before"));
    for token in [&issued, &projected] {
        assert_eq!(as_bearer(&cluster, &kubeconfig, first, token), 200, "{}", master.log());
    }
    let keys = master.get("/openid/v1/jwks");

    cluster.boards[first].kill();
    let others = |index: usize| index != first;
    wait_until("another leader", &cluster.boards, WITHIN, || {
        leader(&cluster.boards, others).is_some_and(|next| {
            cluster.boards[next].api("GET", "/api/v1/namespaces/default", None).is_ok()
        })
    });
    let next = leader(&cluster.boards, others).expect("it was there");
    println!("{} leads after {}", cluster.boards[next].node(), cluster.boards[first].node());
    let master = &cluster.boards[next];
    for (what, token) in [("issued", &issued), ("projected", &projected)] {
        assert_eq!(as_bearer(&cluster, &kubeconfig, next, token), 200, "{what}: {}", master.log());
        let spec = json!({"spec": {"token": token}});
        let said = master.create(REVIEWS, &spec);
        assert_eq!(said["status"]["user"]["username"], ACCOUNT, "{what}: {said}");
    }
    assert_eq!(as_bearer(&cluster, &kubeconfig, next, &issued[..issued.len() - 4]), 401);
    assert_eq!(master.get("/openid/v1/jwks"), keys, "the same keys");
    assert_eq!(master.get(&format!("{CORE}/secrets/word"))["data"], sealed["data"]);
    // A pod that starts under the new leader gets both.
    start(master, "after", &node);
    let process = run(master, "after");
    let fresh = token_in(&process);
    assert_eq!(as_bearer(&cluster, &kubeconfig, next, &fresh), 200, "{}", master.log());
    let environment = std::fs::read(process.join("environ")).expect("its environment");
    let has = environment.split(|byte| *byte == 0).any(|entry| entry == b"WORD=sesame");
    assert!(has, "{}", String::from_utf8_lossy(&environment));
    // And the first one, when it is back, honours what the second has signed.
    let issued = issue(master);
    cluster.boards[first].start(&[]);
    wait_until("the first one follows", &cluster.boards, WITHIN, || {
        status(&cluster.boards[first])["leader"] == cluster.boards[next].node()
    });
    cluster.boards[next].kill();
    wait_until("a third reign", &cluster.boards, WITHIN, || {
        leader(&cluster.boards, |index| index != next)
            .is_some_and(|third| as_bearer(&cluster, &kubeconfig, third, &issued) == 200)
    });
}

/// An account that may list ConfigMaps, and a Secret: as the API gives it back.
pub(crate) fn furnish(master: &Board) -> Value {
    master.create(&format!("{CORE}/serviceaccounts"), &json!({"metadata": {"name": "reader"}}));
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
    master
        .create(&format!("{RBAC}/roles"), &json!({"metadata": {"name": "reads"}, "rules": rules}));
    let binding = json!({"metadata": {"name": "reads"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]});
    master.create(&format!("{RBAC}/rolebindings"), &binding);
    let secret = json!({"metadata": {"name": "word"}, "stringData": {"word": "sesame"}});
    master.create(&format!("{CORE}/secrets"), &secret)
}

/// What tells the process of a pod's container from all others.
fn mark(pod: &str) -> String {
    format!("7{}{}", std::process::id(), pod.len())
}

/// A pod on a board, with the Secret and a token.
pub(crate) fn start(master: &Board, name: &str, node: &str) {
    let secret = json!({"secretKeyRef": {"name": "word", "key": "word"}});
    let pod = json!({"metadata": {"name": name}, "spec": {
        "serviceAccountName": "reader", "nodeName": node, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": busybox::IMAGE,
            "command": ["/bin/sleep", mark(name)],
            "env": [{"name": "WORD", "valueFrom": secret}]}],
    }});
    master.create(&format!("{CORE}/pods"), &pod);
}

/// Waits for it to run; the folder of its process.
pub(crate) fn run(master: &Board, name: &str) -> std::path::PathBuf {
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    master.wait_for("running", &format!("{CORE}/pods/{name}"), WITHIN, running);
    let mark = mark(name);
    let began = std::time::Instant::now();
    // It runs once it is started; whether it has become its command is another question.
    loop {
        let folders = std::fs::read_dir("/proc").expect("proc").flatten();
        let mut folders = folders.map(|entry| entry.path()).filter(|folder| {
            let line = std::fs::read(folder.join("cmdline")).unwrap_or_default();
            line == format!("/bin/sleep\0{mark}\0").as_bytes()
        });
        if let Some(folder) = folders.next() {
            return folder;
        }
        assert!(began.elapsed() < WITHIN, "no process of {name}: {}", master.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What kumquat put there for the pod.
pub(crate) fn token_in(process: &std::path::Path) -> String {
    std::fs::read_to_string(format!("{}/root{TOKEN}", process.display())).expect("its token")
}

pub(crate) fn issue(master: &Board) -> String {
    let request = json!({"spec": {"audiences": [], "expirationSeconds": 600}});
    let made = master.create(&format!("{CORE}/serviceaccounts/reader/token"), &request);
    made["status"]["token"].as_str().expect("a token").to_owned()
}

/// What the board's API answers to whoever has nothing but this token.
pub(crate) fn as_bearer(cluster: &Cluster, kubeconfig: &str, at: usize, token: &str) -> u16 {
    let address = SocketAddr::from((cluster.boards[at].address(), 6443));
    let doors = Arc::new(Doors::for_strangers(kubeconfig, vec![address]));
    let asked = net::inside(cluster.switch.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut client = Client::new(0, doors);
            client.bearer = Some(token.to_owned());
            client.ask(&Method::GET, &format!("{CORE}/configmaps"), None).await
        }))
    });
    match asked.expect("a client in the namespace") {
        Sent::Answered { code, body } => {
            if code == 200 {
                assert_eq!(parsed(&body)["kind"], "ConfigMapList");
            }
            code
        }
        _ => 0,
    }
}
