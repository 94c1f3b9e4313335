//! Boards with servers and clients in pods.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::Board;
use crate::busybox;
use crate::inside::Inside;
use crate::switch::{Cluster, is_ready};

pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub(crate) const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
/// TCP and UDP port of a server pod.
pub(crate) const PORT: u16 = 8080;
/// Generous, for a machine that is busy.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Says its pod's name over HTTP. It ends at once when it is told to, as the rudest program does:
/// whatever comes to it after that is lost.
pub(crate) fn server(image: &str) -> Value {
    let script = format!(
        "trap 'exit 0' TERM; cd /tmp; /bin/cat /etc/hostname > index.html; \
         /bin/busybox httpd -f -p {PORT} -h /tmp & wait"
    );
    json!({
        "name": "server", "image": image, "command": ["/bin/sh", "-c", script],
        "ports": [{"name": "web", "containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    })
}

/// Waits to be used.
pub(crate) fn idle() -> Value {
    let script = "trap 'exit 0' TERM; while true; do sleep 1 & wait; done";
    json!({"name": "idle", "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script]})
}

/// A cluster with the image on every board.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
}

impl Bed {
    pub(crate) fn new(name: &str, boards: u8) -> Self {
        let bed = Self { cluster: Cluster::new(name, boards) };
        bed.cluster.import_busybox(0);
        bed
    }

    pub(crate) fn master(&self) -> &Board {
        self.cluster.master()
    }

    /// Creates a pod on a board.
    pub(crate) fn pod(&self, name: &str, index: usize, labels: &Value, container: &Value) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "nodeName": self.cluster.boards[index].node(),
                "terminationGracePeriodSeconds": 2,
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
            },
        });
        self.master().create(PODS, &pod);
    }

    /// Waits until a pod is ready; gives its address and a way into it.
    pub(crate) fn ready(&self, name: &str) -> (Ipv4Addr, Inside) {
        let path = format!("{PODS}/{name}");
        let pod = self.master().wait_for(name, &path, WITHIN, |pod| {
            is_ready(pod) == Some(true) && address(pod).is_some()
        });
        let node = pod["spec"]["nodeName"].as_str().expect("bound");
        let board = self.cluster.boards.iter().find(|board| board.node() == node);
        let uid = pod["metadata"]["uid"].as_str().expect("uid");
        let inside = Inside::pod(board.expect("a board of ours"), name, uid);
        (address(&pod).expect("an address"), inside)
    }

    /// Creates a Service; gives its address (none for a headless one).
    pub(crate) fn service(&self, name: &str, spec: &Value) -> (Option<Ipv4Addr>, u16) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
        });
        let made = self.master().create(SERVICES, &object);
        let address = made["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok());
        let node_port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        (address, u16::try_from(node_port).expect("a port"))
    }

    /// A Deployment of servers.
    pub(crate) fn deployment(&self, name: &str, replicas: usize) {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 5,
                        "affinity": {"podAntiAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [{
                                "weight": 100,
                                "podAffinityTerm": {
                                    "topologyKey": "kubernetes.io/hostname",
                                    "labelSelector": {"matchLabels": {"app": name}}}}]}},
                        "tolerations": [
                            {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                             "effect": "NoExecute", "tolerationSeconds": 2}],
                        "containers": [server(busybox::IMAGE)],
                        "volumes": [{"name": "tmp", "emptyDir": {}}],
                    },
                },
            },
        });
        self.master().create(DEPLOYMENTS, &deployment);
        self.rolled_out(name);
        for board in &self.cluster.boards {
            let log = board.log();
            // Namespaces that are made beforehand lasted until pods took them.
            let (unmade, broken) = ("pods get no network", "the pod's link");
            assert!(!log.contains(unmade) && !log.contains(broken), "{log}");
        }
    }

    /// Waits until a Deployment is as its newest template says, all of it and nothing else.
    pub(crate) fn rolled_out(&self, name: &str) -> Duration {
        let began = Instant::now();
        let path = format!("{DEPLOYMENTS}/{name}");
        self.master().wait_for(name, &path, WITHIN, |object| {
            let (status, wanted) = (&object["status"], object["spec"]["replicas"].as_u64());
            // A count of none is left out.
            let count = |name: &str| Some(status[name].as_u64().unwrap_or(0));
            status["observedGeneration"] == object["metadata"]["generation"]
                && ["updatedReplicas", "replicas", "availableReplicas"]
                    .iter()
                    .all(|name| count(name) == wanted)
        });
        let rolled = began.elapsed();
        let pods = format!("{PODS}?labelSelector=app%3D{name}");
        self.master().wait_for("old pods gone", &pods, WITHIN, |list| {
            let items = list["items"].as_array().expect("pods");
            items.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        });
        rolled
    }
}

fn address(pod: &Value) -> Option<Ipv4Addr> {
    pod["status"]["podIP"].as_str()?.parse().ok()
}

/// Asks until `accept` likes the answer; the time it took.
pub(crate) fn until<T: std::fmt::Debug>(
    what: &str,
    mut ask: impl FnMut() -> T,
    accept: impl Fn(&T) -> bool,
) -> Duration {
    let began = Instant::now();
    loop {
        let answer = ask();
        if accept(&answer) {
            return began.elapsed();
        }
        assert!(began.elapsed() < WITHIN, "{what}: not within {WITHIN:?}; last: {answer:?}");
        std::thread::sleep(POLL_EVERY);
    }
}
