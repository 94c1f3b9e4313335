//! `kumquat up` killed in the middle of things, and what was asked for while the agent was away.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::board::Board;
use crate::traces::Traces;
use crate::{
    DEPLOYMENTS, PODS, container_pids, delete, deployment, new_board, pod, restarts,
    wait_deployment, wait_no_pods, wait_pods_ready, wait_ready, wait_until, warm,
};

/// From before the agent has heard to after it has done: image, sandbox, start, status.
const MOMENTS_MILLIS: &[u64] = &[0, 20, 50, 90, 150, 250];

fn forever(board: &Board) -> String {
    format!(": {}; sleep 1000; true", board.name())
}

#[test]
fn an_agent_killed_while_a_pod_is_made_makes_it_once() {
    let Some(mut board) = new_board("making") else { return };
    let footprint = warm(&board);
    for millis in MOMENTS_MILLIS {
        board.create(PODS, &pod("made", "sleep 1000; true"));
        std::thread::sleep(Duration::from_millis(*millis));
        board.kill();
        board.up(&[]);
        let pod = wait_ready(&board, "made");
        assert_eq!(restarts(&pod), 0, "killed after {millis} ms");
        let inside = Traces::of(pod["metadata"]["uid"].as_str().expect("uid"));
        assert_eq!(inside.process_count(), 2, "after {millis} ms, sh and sleep once: {inside:?}");
        delete(&board, &format!("{PODS}/made"));
        wait_no_pods(&board);
    }
    footprint.assert_same(&board, "after all of them");
}

#[test]
fn an_agent_killed_while_a_pod_goes_lets_it_go() {
    let Some(mut board) = new_board("going") else { return };
    let footprint = warm(&board);
    for millis in MOMENTS_MILLIS {
        // Takes a moment to stop, so that the later kills hit that, too.
        let script = "trap 'sleep 0.1; exit 0' TERM; while true; do sleep 0.05; done";
        let mut slow = pod("going", script);
        slow["spec"]["terminationGracePeriodSeconds"] = json!(10);
        board.create(PODS, &slow);
        wait_ready(&board, "going");
        delete(&board, &format!("{PODS}/going"));
        std::thread::sleep(Duration::from_millis(*millis));
        board.kill();
        board.up(&[]);
        board.wait_for("pod gone", PODS, Duration::from_secs(5), |pods| {
            pods["items"].as_array().is_some_and(Vec::is_empty)
        });
    }
    footprint.assert_same(&board, "after all of them");
}

/// Kills `kumquat up` and makes the agent forget what it heard since `heard` was copied.
fn kill_before_it_heard(board: &mut Board, heard: &Path) {
    board.kill();
    let node = board.data_dir().join("node");
    fs::remove_dir_all(&node).expect("desired set");
    copy(heard, &node);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folder");
    for entry in fs::read_dir(from).expect("folder").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("file");
    }
}

#[test]
fn a_pod_deleted_while_the_agent_was_away_is_removed() {
    let Some(mut board) = new_board("unheard") else { return };
    let footprint = warm(&board);
    let script = forever(&board);
    board.create(PODS, &pod("old", &script));
    wait_ready(&board, "old");
    let heard = board.data_dir().join("heard");
    copy(&board.data_dir().join("node"), &heard);
    board.api("DELETE", &format!("{PODS}/old?gracePeriodSeconds=0"), None).expect("delete");
    kill_before_it_heard(&mut board, &heard);
    board.up(&[]);
    wait_no_pods(&board);
    wait_until("container gone", Duration::from_secs(10), || {
        container_pids(board.name()).is_empty()
    });
    footprint.assert_same(&board, "after the pod");
}

#[test]
fn a_deployment_scaled_while_the_agent_was_away_has_its_pods() {
    let Some(mut board) = new_board("scaled") else { return };
    board.create(DEPLOYMENTS, &deployment("web", 2, &forever(&board)));
    wait_deployment(&board, "web", 2);
    for replicas in [4_u64, 1] {
        let heard = board.data_dir().join(format!("heard-{replicas}"));
        copy(&board.data_dir().join("node"), &heard);
        let scale = json!({"spec": {"replicas": replicas}});
        board.api("PATCH", &format!("{DEPLOYMENTS}/web/scale"), Some(&scale)).expect("scale");
        kill_before_it_heard(&mut board, &heard);
        board.up(&[]);
        wait_deployment(&board, "web", replicas);
        wait_pods_ready(&board, replicas as usize, |pod| restarts(pod) == 0);
        wait_until("containers", Duration::from_secs(10), || {
            container_pids(board.name()).len() as u64 == replicas
        });
    }
}

#[test]
fn stop_pods_stops_them_and_the_next_start_brings_them_back() {
    let Some(mut board) = new_board("stop-pods") else { return };
    board.kill();
    board.up(&["--stop-pods"]);
    board.create(DEPLOYMENTS, &deployment("web", 2, &forever(&board)));
    wait_deployment(&board, "web", 2);
    board.stop();
    let left = Traces::of(board.name());
    // The board's own network namespace is the harness's: one name, one mount.
    assert_eq!((left.process_count(), left.count()), (0, 2), "{left:?}");
    board.up(&[]);
    wait_pods_ready(&board, 2, |pod| restarts(pod) == 1);
    assert_eq!(container_pids(board.name()).len(), 2);
}
