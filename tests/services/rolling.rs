//! Updates, drains and losses while pods on every board call the Service by name.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::bed::{Bed, DEPLOYMENTS, PODS, WITHIN};
use crate::board::{possible, rounds};
use crate::busybox;
use crate::callers::{Callers, judge, last_failure};
use crate::switch::is_ready;

/// Calls go on for this long before and after what happens.
const MARGIN: Duration = Duration::from_millis(500);

fn bed(name: &str) -> Option<Bed> {
    if !possible(name) || !busybox::present(name) {
        return None;
    }
    let bed = Bed::new(name, 3);
    bed.deployment("web", 3);
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]});
    bed.service("web", &spec);
    let (_, inside) = {
        bed.pod("first", 0, &json!({}), &crate::bed::idle());
        bed.ready("first")
    };
    crate::bed::until(
        "the Service answers",
        || inside.look_up("web").and_then(|found| inside.read(found[0], 80)),
        Result::is_ok,
    );
    Some(bed)
}

/// A board that runs none of the pods proves nothing.
fn assert_has_pod(bed: &Bed, node: &str) {
    let list = bed.master().get(&format!("{PODS}?labelSelector=app%3Dweb"));
    let pods = list["items"].as_array().expect("pods");
    let nodes: Vec<_> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert!(nodes.contains(&Some(node)), "no pod on {node}: {nodes:?}");
}

/// Changes what makes pods of the Deployment others, by a patch; gives the time of the roll.
fn roll(bed: &Bed, patch: &serde_json::Value) -> Duration {
    let path = format!("{DEPLOYMENTS}/web");
    let began = Instant::now();
    bed.master().api("PATCH", &path, Some(patch)).expect("patched");
    bed.rolled_out("web");
    began.elapsed()
}

#[test]
fn an_update_fails_no_call() {
    let Some(bed) = bed("roll") else { return };
    let archive = bed.master().data_dir().with_file_name("v2");
    std::fs::create_dir_all(&archive).expect("folder");
    let archive = busybox::archive_as(&archive, "kumquat.test/busybox:v2");
    let imported = bed.master().command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", crate::board::text(&imported));
    for round in 0..rounds(2) {
        let callers = Callers::start(&bed, "web");
        std::thread::sleep(MARGIN);
        let began = Instant::now();
        let (what, patch) = if round % 2 == 0 {
            let version = if round % 4 == 0 { "v2" } else { "v1" };
            let mut container = crate::bed::server(&format!("kumquat.test/busybox:{version}"));
            container["env"] = json!([{"name": "ROUND", "value": round.to_string()}]);
            ("set image", json!({"spec": {"template": {"spec": {"containers": [container]}}}}))
        } else {
            let mark = json!({"kubectl.kubernetes.io/restartedAt": round.to_string()});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": mark}}}});
            ("rollout restart", patch)
        };
        let took = roll(&bed, &patch);
        std::thread::sleep(MARGIN);
        let calls = callers.stop();
        let (made, failed) = judge(what, &calls, began);
        println!("{what}: {made} calls made, {failed} failed, the roll took {took:.2?}");
        assert!(made > 100, "callers were at work");
        assert_eq!(failed, 0, "{what} fails no call");
    }
}

#[test]
fn a_drained_board_fails_no_call() {
    let Some(bed) = bed("drain") else { return };
    let callers = Callers::start(&bed, "web");
    std::thread::sleep(MARGIN);
    let began = Instant::now();
    let node = bed.cluster.boards[2].node().to_owned();
    assert_has_pod(&bed, &node);
    let path = format!("/api/v1/nodes/{node}");
    let patch = json!({"spec": {"unschedulable": true}});
    bed.master().api("PATCH", &path, Some(&patch)).expect("cordoned");
    let list = bed.master().get(&format!("{PODS}?labelSelector=app%3Dweb"));
    for pod in list["items"].as_array().expect("pods") {
        if pod["spec"]["nodeName"] == node {
            let name = pod["metadata"]["name"].as_str().expect("name");
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                                  "metadata": {"name": name, "namespace": "default"}});
            bed.master().create(&format!("{PODS}/{name}/eviction"), &eviction);
        }
    }
    let took = bed.rolled_out("web").max(began.elapsed());
    std::thread::sleep(MARGIN);
    let calls = callers.stop();
    let (made, failed) = judge("drain", &calls, began);
    println!("drain: {made} calls made, {failed} failed, pods replaced after {took:.2?}");
    assert_eq!(failed, 0, "a drain fails no call");
}

#[test]
fn a_board_that_is_cut_off_is_called_no_more() {
    let Some(bed) = bed("cut") else { return };
    let callers = Callers::start(&bed, "web");
    std::thread::sleep(MARGIN);
    assert_has_pod(&bed, bed.cluster.boards[2].node());
    let began = Instant::now();
    bed.cluster.boards[2].unplug();
    let path = format!("/api/v1/nodes/{}", bed.cluster.boards[2].node());
    bed.master().wait_for("board lost", &path, WITHIN, |node| is_ready(node) != Some(true));
    let noticed = began.elapsed();
    std::thread::sleep(Duration::from_secs(3));
    let ended = Instant::now();
    let mut calls = callers.stop();
    bed.cluster.boards[2].replug();
    // What the lost board calls itself is not counted: it is alone.
    calls.truncate(2);
    let (made, failed) = judge("cut off", &calls, began);
    let last = last_failure(&calls, began);
    println!(
        "cut off: {made} calls made on the other boards, {failed} failed, the last {last:.2?} after \
         the cut (board NotReady after {noticed:.2?})"
    );
    assert!(last + MARGIN < ended - began, "calls fail for ever");
}
