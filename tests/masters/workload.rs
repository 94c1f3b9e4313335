//! What runs on a cluster whose masters come and go: pods that must not notice, and a Deployment that
//! somebody must look after.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::Board;
use crate::busybox;
use crate::switch::{Cluster, is_ready};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WITHIN: Duration = Duration::from_secs(60);

/// A pod on a board, which runs when this returns; its container and how often that was started.
pub(crate) fn start_steady(cluster: &Cluster, master: &Board, index: usize) -> String {
    cluster.import_busybox(index);
    let node = cluster.boards[index].node();
    let pod = json!({"metadata": {"name": format!("steady-{node}")}, "spec": {
        "nodeName": node, "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}], "containers": [sleeper()],
    }});
    master.create(PODS, &pod);
    let path = format!("{PODS}/steady-{node}");
    master.wait_for("a steady pod runs", &path, WITHIN, |pod| is_ready(pod) == Some(true));
    container(master, node)
}

/// Container of a board's steady pod, and how often that was started.
pub(crate) fn container(master: &Board, node: &str) -> String {
    let pod = master.get(&format!("{PODS}/steady-{node}"));
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["containerID"].is_string(), "{pod}");
    format!("{} {}", status["containerID"], status["restartCount"])
}

/// A Deployment on all boards that have the image; leaves lost boards at once.
pub(crate) fn deploy(master: &Board, name: &str, replicas: usize) {
    let soon = |reason: &str| {
        let key = format!("node.kubernetes.io/{reason}");
        json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1})
    };
    let spread = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": name}}});
    let deployment = json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "topologySpreadConstraints": [spread],
            "tolerations": [soon("not-ready"), soon("unreachable")],
            "containers": [sleeper()],
        }},
    }});
    master.create(DEPLOYMENTS, &deployment);
    wait_running(master, name, replicas, None);
}

/// Scales it and waits until as many of its pods run on boards other than one that is lost.
pub(crate) fn scale(master: &Board, name: &str, replicas: usize, lost: &Board) -> Duration {
    let path = format!("{DEPLOYMENTS}/{name}/scale");
    let mut scale = master.get(&path);
    scale["spec"]["replicas"] = json!(replicas);
    master.api("PUT", &path, Some(&scale)).expect("scaled");
    wait_running(master, name, replicas, Some(lost.node()))
}

fn wait_running(master: &Board, name: &str, replicas: usize, lost: Option<&str>) -> Duration {
    let began = Instant::now();
    let path = format!("{PODS}?labelSelector=app={name}");
    master.wait_for("all pods of a Deployment run", &path, WITHIN, |list| {
        let pods = list["items"].as_array().map_or(&[][..], Vec::as_slice);
        let runs =
            |pod: &&Value| is_ready(pod) == Some(true) && pod["spec"]["nodeName"].as_str() != lost;
        pods.iter().filter(runs).count() >= replicas
    });
    began.elapsed()
}

fn sleeper() -> Value {
    json!({"name": "main", "image": busybox::IMAGE, "command": ["/bin/sleep", "100000"]})
}
