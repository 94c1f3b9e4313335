//! Nobody notices an update: while pods on every board make fifty new connections a second to a
//! Service, its pods are replaced, and then a board is drained. No retries, no keep-alive.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kumquat::io::net;
use serde_json::{Value, json};

use crate::bed::{PATIENCE, PODS, Pod, create, running};
use crate::board::possible;
use crate::busybox::{IMAGE, present};
use crate::switch::Cluster;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/web";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const EVERY: Duration = Duration::from_millis(20);
/// A call that takes longer has failed.
const CALL: Duration = Duration::from_secs(1);

/// The web server ends at once on its stop signal, connections and all.
fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
                "name": "main", "image": IMAGE, "ports": [{"name": "web", "containerPort": 8080}],
                // As the first process it would ignore the signal.
                "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; /bin/busybox httpd -f -p 8080 & wait"],
                "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 1},
            }]}},
        },
    })
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]}})
}

/// What the callers saw.
#[derive(Default)]
struct Calls {
    made: AtomicU64,
    failed: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Calls {
    fn call(&self, from: &Path, to: Ipv4Addr) {
        let begun = Instant::now();
        let called = net::inside(from, || {
            while !self.stop.load(Ordering::Relaxed) {
                let next = Instant::now() + EVERY;
                if let Err(error) = ask(to) {
                    let at = begun.elapsed().as_secs_f64();
                    self.failed
                        .lock()
                        .expect("callers do not panic")
                        .push(format!("{at:.3} s: {error}"));
                }
                self.made.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        });
        called.expect("the pod's namespace");
    }
}

/// One call over a connection of its own; any answer of the web server counts.
fn ask(to: Ipv4Addr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, 80)), CALL)?;
    stream.set_read_timeout(Some(CALL))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    match &answer {
        b"HTTP/" => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}

/// Runs `act` while every pod calls; gives the calls made and those that failed.
fn while_called(callers: &[Pod], to: Ipv4Addr, act: impl FnOnce()) -> (u64, Vec<String>) {
    let calls = Calls::default();
    std::thread::scope(|scope| {
        for caller in callers {
            scope.spawn(|| calls.call(&caller.namespace, to));
        }
        let settle = || std::thread::sleep(Duration::from_secs(1));
        settle();
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        settle();
        calls.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = acted {
            std::panic::resume_unwind(panic);
        }
    });
    (calls.made.into_inner(), calls.failed.into_inner().expect("callers do not panic"))
}

fn wait_rolled_out(cluster: &Cluster) {
    cluster.master().wait_for("the roll-out's end", DEPLOYMENT, PATIENCE, |web| {
        let count = |name: &str| web["status"][name].as_u64().unwrap_or_default();
        web["status"]["observedGeneration"] == web["metadata"]["generation"]
            && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|it| count(it) == 3)
    });
}

/// Names of the web server's pods on a board.
fn web_pods(cluster: &Cluster, board: usize) -> Vec<String> {
    let pods = cluster.master().get(&format!("{PODS}?labelSelector=app%3Dweb"));
    let on_board = |pod: &&Value| pod["spec"]["nodeName"] == cluster.boards[board].node();
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let names = pods.iter().filter(on_board).filter_map(|pod| pod["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}

#[test]
fn an_update_and_a_drain_fail_no_call() {
    let name = "an_update_and_a_drain_fail_no_call";
    if !possible(name) || !present(name) {
        return;
    }
    let cluster = Cluster::new("roll", 3);
    cluster.import_busybox(0);
    for number in 0..3 {
        create(&cluster, &format!("caller{number}"), number, |_| {});
    }
    let made = cluster.master().create(SERVICES, &service());
    let address = made["spec"]["clusterIP"].as_str().and_then(|ip| ip.parse().ok());
    let address: Ipv4Addr = address.expect("an address");
    let deployments = DEPLOYMENT.trim_end_matches("/web");
    cluster.master().create(deployments, &deployment());
    let callers: Vec<Pod> =
        (0..3).map(|number| running(&cluster, &format!("caller{number}"), number)).collect();
    wait_rolled_out(&cluster);
    for caller in &callers {
        let begun = Instant::now();
        while let Err(error) = net::inside(&caller.namespace, || ask(address)) {
            assert!(begun.elapsed() < PATIENCE, "{caller:?} does not reach the Service: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    for round in 0..2 {
        let begun = Instant::now();
        let (made, failed) = while_called(&callers, address, || {
            let restart = json!({"spec": {"template": {"metadata": {"annotations": {
                "kubectl.kubernetes.io/restartedAt": round.to_string()}}}}});
            cluster.master().api("PATCH", DEPLOYMENT, Some(&restart)).expect("patched");
            wait_rolled_out(&cluster);
        });
        println!("update {round}: {made} calls, {} failed, {:.2?}", failed.len(), begun.elapsed());
        assert!(failed.is_empty(), "{failed:#?}");
    }

    let begun = Instant::now();
    let (made, failed) = while_called(&callers, address, || {
        let node = format!("/api/v1/nodes/{}", cluster.boards[2].node());
        let cordon = json!({"spec": {"unschedulable": true}});
        cluster.master().api("PATCH", &node, Some(&cordon)).expect("patched");
        for pod in web_pods(&cluster, 2) {
            cluster.master().api("DELETE", &format!("{PODS}/{pod}"), None).expect("deleted");
        }
        let all = format!("{PODS}?labelSelector=app%3Dweb");
        cluster.master().wait_for("the drained board's pods gone", &all, PATIENCE, |_| {
            web_pods(&cluster, 2).is_empty()
        });
        wait_rolled_out(&cluster);
    });
    println!("drain: {made} calls, {} failed, {:.2?}", failed.len(), begun.elapsed());
    assert!(failed.is_empty(), "{failed:#?}");
}
