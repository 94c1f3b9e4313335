//! kube-rs in a pod, with nothing but what it finds there: address, certificate, token.

#[path = "../../harness/board.rs"]
mod board;
#[path = "../../harness/busybox.rs"]
mod busybox;
#[path = "../../harness/switch.rs"]
mod switch;

use std::fs::File;
use std::time::Duration;

use board::{Board, possible, text};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, Config, ResourceExt};
use kumquat::io::net;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use switch::Switch;
use tokio::time::timeout;

const CORE: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_client_in_a_pod_does_what_its_roles_allow_until_its_pod_is_gone() {
    if !possible("in-cluster") || !busybox::present("in-cluster") {
        return;
    }
    let switch = Switch::new("in-cluster");
    let mut board = switch.board(1);
    board.up(&[]);
    let archive = board.busybox();
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    // What the container's process is recognised by.
    let sleep = format!("9{}", std::process::id());
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "reader"}});
    board.create(&format!("{CORE}/serviceaccounts"), &account);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
        "spec": {"serviceAccountName": "reader", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": busybox::IMAGE, "command": ["/bin/sleep", sleep]}]},
    });
    board.create(&format!("{CORE}/pods"), &pod);
    let path = format!("{CORE}/pods/client");
    board.wait_for("running", &path, WITHIN, |pod| pod["status"]["phase"] == "Running");
    let pid = process(&sleep);

    let refused = list_pods(pid).expect_err("nobody allows it yet");
    let expected = "User \"system:serviceaccount:default:reader\" cannot list resource \"pods\"";
    assert!(format!("{refused:#}").contains(expected), "{refused:#}");
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reads"}, "rules": rules});
    board.create(&format!("{RBAC}/roles"), &role);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reads"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]});
    board.create(&format!("{RBAC}/rolebindings"), &binding);
    assert_eq!(list_pods(pid).expect("its role allows it"), ["client"]);

    let token = std::fs::read_to_string(format!("/proc/{pid}/root{TOKEN}")).expect("its token");
    let status = review(&board, &token);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:reader", "{status}");
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["client"]));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": ["vault"], "expirationSeconds": 600}});
    let made = board.create(&format!("{CORE}/serviceaccounts/reader/token"), &request);
    let other = made["status"]["token"].as_str().expect("a token");
    assert_eq!(review(&board, other)["authenticated"], Value::Null, "it is for another audience");
    let keys = board.get("/openid/v1/jwks");
    assert_eq!(keys["keys"][0]["kty"], "EC", "{keys}");

    board.api("DELETE", &path, None).expect("deleted");
    let gone = || board.api("GET", &path, None).is_err();
    let begun = std::time::Instant::now();
    while !gone() {
        assert!(begun.elapsed() < WITHIN, "the pod is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = review(&board, &token);
    assert_eq!(status["authenticated"], Value::Null, "{status}");
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains("invalidated"), "{status}");
}

/// What the API says of a token.
fn review(board: &Board, token: &str) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token}});
    board.create("/apis/authentication.k8s.io/v1/tokenreviews", &review)["status"].clone()
}

/// The container's process.
fn process(sleep: &str) -> i32 {
    let wanted = format!("/bin/sleep\0{sleep}\0");
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    };
    pids.find(is_it).expect("the container runs")
}

/// Names of the pods that a client in the container's namespaces sees.
fn list_pods(pid: i32) -> anyhow::Result<Vec<String>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
    let variable = |name: &str| {
        let entries = environment.split(|byte| *byte == 0);
        let mut texts = entries.filter_map(|entry| std::str::from_utf8(entry).ok());
        texts.find_map(|text| text.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let host = variable("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = variable("KUBERNETES_SERVICE_PORT").unwrap_or_default();
    let files = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let network = format!("/proc/{pid}/ns/net");
    net::inside(network.as_ref(), move || {
        unshare(CloneFlags::CLONE_FS)?;
        setns(files, CloneFlags::CLONE_NEWNS)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut config = Config::incluster_dns()?;
            config.cluster_url = format!("https://{host}:{port}").parse()?;
            let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config)?);
            let list = timeout(WITHIN, pods.list(&Default::default())).await??;
            Ok(list.items.iter().map(ResourceExt::name_any).collect())
        }))
    })?
}
