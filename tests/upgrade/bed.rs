//! A cluster with data and pods, and those who use it without a pause.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::Board;
use crate::busybox;
use crate::clients::Doors;
use crate::inside::Inside;
use crate::switch::{Cluster, is_ready};
use crate::writers::{self, Plan, Written};

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Objects that must be the same afterwards.
const DATA: [&str; 4] = [MAPS, SECRETS, SERVICES, DEPLOYMENTS];
/// How many of each kind of data.
const EACH: usize = 20;
/// Port of the servers in pods.
const PORT: u16 = 8080;
/// Generous, for a machine that is busy.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// Longest time without an accepted write: five times what SPEC promises, on a busy machine.
pub(crate) const GAP_MAX: Duration = Duration::from_secs(10);
/// Between two calls of one caller.
const CALL_EVERY: Duration = Duration::from_millis(50);

/// Container, restarts and beginning of each pod, by name.
pub(crate) type Containers = BTreeMap<String, (String, u64, String)>;

/// Gives every board what it needs for pods, makes data, and waits until all of it runs.
pub(crate) fn fill(cluster: &Cluster) {
    for index in 0..cluster.boards.len() {
        cluster.import_busybox(index);
    }
    let master = cluster.master();
    for number in 0..EACH {
        let meta = |kind: &str| json!({"name": format!("{kind}-{number}")});
        let data = json!({"key": format!("value {number}")});
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("map"), "data": data});
        master.create(MAPS, &map);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("secret"), "stringData": data});
        master.create(SECRETS, &secret);
    }
    let script =
        format!("cd /tmp; cat /etc/hostname > index.html; exec busybox httpd -f -p {PORT} -h /tmp");
    let server = json!({
        "name": "server", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    });
    let spread = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "web"}}}}]}});
    master.create(
        DEPLOYMENTS,
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": cluster.boards.len(), "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                    "affinity": spread, "terminationGracePeriodSeconds": 1, "containers": [server],
                    "volumes": [{"name": "tmp", "emptyDir": {}}]}}},
        }),
    );
    master.create(
        SERVICES,
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]},
        }),
    );
    for (index, board) in cluster.boards.iter().enumerate() {
        let idle = json!({"name": "idle", "image": busybox::IMAGE,
            "command": ["/bin/sh", "-c", "while true; do sleep 1; done"]});
        master.create(
            PODS,
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("caller-{index}")},
                "spec": {"nodeName": board.node(), "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}], "containers": [idle]},
            }),
        );
    }
    let pods = 2 * cluster.boards.len();
    master.wait_for("all pods", PODS, WITHIN, |list| {
        let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        items.len() == pods && items.iter().all(|pod| is_ready(pod) == Some(true))
    });
}

/// Runs a pod on a board and takes it away.
pub(crate) fn run_one_more(cluster: &Cluster, index: usize) {
    let (master, path) = (cluster.master(), format!("{PODS}/mixed"));
    let idle = json!({"name": "idle", "image": busybox::IMAGE,
        "command": ["/bin/sh", "-c", "while true; do sleep 1; done"]});
    // Boards of the first release mount no tokens.
    let spec = json!({"nodeName": cluster.boards[index].node(), "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false, "containers": [idle]});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mixed"}, "spec": spec});
    master.create(PODS, &pod);
    master.wait_for("one more pod", &path, WITHIN, |pod| is_ready(pod) == Some(true));
    master.api("DELETE", &path, None).expect("deleted");
    let gone = |list: &Value| {
        let items = list["items"].as_array().into_iter().flatten();
        items.into_iter().all(|pod| pod["metadata"]["name"] != "mixed")
    };
    master.wait_for("it is gone", PODS, WITHIN, gone);
}

/// What must be the same whatever happened: identity and content of all data.
pub(crate) fn data(board: &Board) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for collection in DATA {
        let list = board.get(collection);
        for item in list["items"].as_array().expect("items") {
            let name = item["metadata"]["name"].as_str().expect("a name");
            // Written all the time, and by the control plane.
            if name.starts_with("writer-") || ["told", "kube-root-ca.crt"].contains(&name) {
                continue;
            }
            let kept = json!([
                item["metadata"]["uid"],
                item["metadata"]["creationTimestamp"],
                item["data"],
                item["spec"]
            ]);
            found.insert(format!("{collection}/{name}"), kept);
        }
    }
    assert!(found.len() >= 2 * EACH + 2, "{found:?}");
    found
}

/// The containers of all pods.
pub(crate) fn containers(board: &Board) -> Containers {
    let list = board.get(PODS);
    let pods = list["items"].as_array().expect("pods").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pods.map(|pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let restarts = status["restartCount"].as_u64().unwrap_or_default();
        let began = text(&status["state"]["running"]["startedAt"]);
        (text(&pod["metadata"]["name"]), (text(&status["containerID"]), restarts, began))
    })
    .collect()
}

/// The newest version of all.
pub(crate) fn version(board: &Board) -> u64 {
    let list = board.get(MAPS);
    list["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("one")
}

/// Those who use the cluster all the time.
pub(crate) struct Users {
    stop: Arc<AtomicBool>,
    writers: JoinHandle<Written>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

/// A call of the Service.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) failed: Option<String>,
}

impl Users {
    /// Writers outside, and one caller of the Service in a pod of each board.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let kubeconfig =
            std::fs::read_to_string(cluster.master().kubeconfig()).expect("kubeconfig");
        let addresses =
            cluster.boards.iter().map(|board| SocketAddr::from((board.address(), 6443)));
        let doors = Doors::new(&kubeconfig, addresses.collect());
        cluster.switch.listen();
        let namespace = cluster.switch.namespace().to_owned();
        let plan = Plan {
            collection: MAPS.to_owned(),
            writers: 2,
            padding: 100,
            pause: Duration::from_millis(20),
            patience: Duration::from_secs(3),
            values: Arc::new(AtomicU64::new(0)),
            last_accepted: Arc::new(AtomicU64::new(0)),
        };
        let told = Arc::clone(&stop);
        let writers = std::thread::spawn(move || writers::write(&namespace, &doors, &plan, &told));
        let master = cluster.master();
        let service = master.get(&format!("{SERVICES}/web"));
        let address: Ipv4Addr =
            service["spec"]["clusterIP"].as_str().and_then(|it| it.parse().ok()).expect("address");
        let callers = cluster.boards.iter().enumerate().map(|(index, board)| {
            let name = format!("caller-{index}");
            let pod = master.get(&format!("{PODS}/{name}"));
            let uid = pod["metadata"]["uid"].as_str().expect("uid");
            let inside = Inside::pod(board, &name, uid);
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || call(&inside, address, &stop))
        });
        let callers = callers.collect();
        Self { stop, writers, callers }
    }

    /// Ends them; what they met.
    pub(crate) fn stop(self) -> (Written, Vec<Call>) {
        self.stop.store(true, Ordering::SeqCst);
        let written = self.writers.join().expect("writers");
        let calls = self.callers.into_iter().flat_map(|caller| caller.join().expect("a caller"));
        (written, calls.collect())
    }
}

fn call(inside: &Inside, address: Ipv4Addr, stop: &AtomicBool) -> Vec<Call> {
    let work = || {
        let mut calls = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let at = Instant::now();
            let failed = crate::inside::read(address, 80).err().map(|error| error.to_string());
            calls.push(Call { at, failed });
            std::thread::sleep(CALL_EVERY.saturating_sub(at.elapsed()));
        }
        Ok(calls)
    };
    inside.run(work).expect("calls inside a pod")
}

/// Calls that failed; the first few are printed.
pub(crate) fn failed(calls: &[Call], began: Instant) -> usize {
    let failed: Vec<_> = calls.iter().filter(|call| call.failed.is_some()).collect();
    for call in failed.iter().take(10) {
        println!("a call failed after {:.2?}: {:?}", call.at - began, call.failed);
    }
    failed.len()
}
