//! Pods to talk to: they sleep, and the test enters their network namespaces.

#![allow(unreachable_pub, reason = "as in the harness")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kumquat::io::net;
use serde_json::{Value, json};

use crate::board::Board;
use crate::switch::Cluster;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// One try to connect.
const TRY: Duration = Duration::from_millis(500);

/// Where namespaced pods are.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    /// Index of its board.
    pub board: usize,
    pub address: Ipv4Addr,
    pub namespace: PathBuf,
}

/// A pod on a certain board; `change` makes it special.
pub fn create(cluster: &Cluster, name: &str, board: usize, change: impl FnOnce(&mut Value)) {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "nodeName": cluster.boards[board].node(),
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main",
                "image": crate::busybox::IMAGE,
                "command": ["/bin/sh", "-c", "echo IP=$POD_IP; cat /etc/hosts; echo END; exec sleep 1000000"],
                "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }],
        },
    });
    change(&mut pod);
    cluster.master().create(PODS, &pod);
}

/// Waits until the pod runs and has an address.
pub fn running(cluster: &Cluster, name: &str, board: usize) -> Pod {
    let path = format!("{PODS}/{name}");
    let pod = cluster.master().wait_for("a running pod with an address", &path, PATIENCE, |pod| {
        pod["status"]["phase"] == "Running"
            && pod["status"]["containerStatuses"][0]["ready"] == true
            && pod["status"]["podIP"].is_string()
    });
    let status = &pod["status"];
    assert_eq!(status["podIPs"], json!([{ "ip": status["podIP"] }]));
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    Pod {
        name: name.to_owned(),
        board,
        address: status["podIP"].as_str().and_then(|ip| ip.parse().ok()).expect("an address"),
        namespace: cluster.boards[board].run_dir().join("sandboxes").join(uid).join("net"),
    }
}

/// Who a listener in a pod sees when somebody in `from` connects to it.
pub fn seen_by(from: &Path, to: &Pod) -> io::Result<IpAddr> {
    let listener = net::inside(&to.namespace, || TcpListener::bind("0.0.0.0:0"))?;
    let at = SocketAddr::from((to.address, listener.local_addr()?.port()));
    let mut connected = net::inside(from, || TcpStream::connect_timeout(&at, TRY))?;
    let (mut accepted, peer) = listener.accept()?;
    connected.write_all(b"?")?;
    accepted.read_exact(&mut [0])?;
    Ok(peer.ip())
}

/// Tries until `from` reaches the pod; gives who it sees then, and the time that it took.
pub fn reaches(from: &Path, to: &Pod) -> (IpAddr, Duration) {
    let began = Instant::now();
    loop {
        match seen_by(from, to) {
            Ok(seen) => return (seen, began.elapsed()),
            Err(error) => {
                let waited = began.elapsed();
                assert!(waited < PATIENCE, "{} does not reach {to:?}: {error}", from.display());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every pod reaches every pod, itself too, and is seen under its own address.
pub fn all_reach_each_other(pods: &[Pod]) {
    for from in pods {
        for to in pods {
            let (seen, _) = reaches(&from.namespace, to);
            assert_eq!(seen, IpAddr::V4(from.address), "{} to {}", from.name, to.name);
        }
    }
}

/// Names of a board's links that belong to the pod network.
pub fn pod_links(board: &Board) -> Vec<String> {
    let links = net::inside(board.namespace(), || net::Links::open()?.list()).expect("links");
    links.into_iter().map(|link| link.name).filter(|name| name.starts_with("kq")).collect()
}

/// Waits until a board has as many links to pods, those made beforehand included.
pub fn wait_pod_links(board: &Board, count: usize) {
    let began = Instant::now();
    loop {
        let links = pod_links(board).into_iter().filter(|name| net::is_pod_link(name)).count();
        if links == count {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{links} links instead of {count} on {}", board.node());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The text that a pod has logged, once it is complete.
pub fn log(cluster: &Cluster, pod: &str) -> String {
    let began = Instant::now();
    loop {
        let text = cluster.master().api_text(&format!("{PODS}/{pod}/log")).unwrap_or_default();
        if text.contains("END") {
            return text;
        }
        assert!(began.elapsed() < PATIENCE, "log of {pod}: {text:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
