//! Sandbox and volumes: when they fail, are lost, or go; restarts of the agent meanwhile.

use super::*;

fn exec() -> Value {
    json!({"exec": {"command": ["x"]}})
}

fn is_ready(board: &mut Board) -> bool {
    board.status()["containerStatuses"][0]["ready"] == true
}

/// Answers everything well for some time.
fn run(board: &mut Board) {
    for _ in 0..8 {
        board.settle();
        board.wake();
    }
    board.settle();
}

#[test]
fn a_restart_during_post_start_leaves_the_pod_able_to_be_ready() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i",
        "lifecycle": {"postStart": exec()}, "readinessProbe": exec()})));
    while !board.pending.iter().any(|effect| matches!(effect, Effect::Hook { .. })) {
        let effect = board.pending.remove(0);
        board.answer(effect, true);
    }
    board.restart_agent(false);
    let hooks = |effect: &Effect| matches!(effect, Effect::Hook { .. });
    assert!(!board.pending.iter().any(hooks), "kubelet does not repeat a hook either");
    run(&mut board);
    assert!(is_ready(&mut board), "{:#?}", board.machine.state());
}

#[test]
fn volumes_that_cannot_be_filled_again_leave_the_pod_as_it_is() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i", "livenessProbe": exec()})));
    run(&mut board);
    assert!(board.machine.refreshes_volumes());
    let failed =
        || Event::VolumesFailed { message: "configmap \"a\" not found".into(), retry: false };
    board.feed(failed());
    assert!(board.reports.iter().any(|(reason, _)| *reason == "FailedMount"));
    assert!(board.machine.next_wake().is_some(), "it is probed");
    // What they were filled with outlives the agent too.
    board.restart_agent(false);
    let volumes = board.pending.iter().position(|effect| *effect == Effect::PrepareVolumes);
    board.pending.remove(volumes.expect("filled again"));
    board.feed(failed());
    board.settle();
    assert!(board.machine.next_wake().is_some(), "it is probed");
    board.exit("c", 1);
    board.settle();
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 1);
    assert!(is_ready(&mut board));
    // Nothing of it runs, between two starts.
    board.exit("c", 1);
    board.settle();
    assert!(board.running.is_empty());
    board.feed(failed());
    board.wake();
    board.settle();
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 2);
}

#[test]
fn volumes_of_a_pod_that_ends_do_not_come_back() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let mut stopped = Board::new(pod(spec.clone()));
    let mut over = Board::new(pod(spec));
    assert!(!over.machine.refreshes_volumes(), "they are being filled");
    stopped.settle();
    stopped.feed(Event::Desired(deleted(stopped.machine.pod(), 30)));
    over.settle();
    over.exit("c", 0);
    assert!(!stopped.machine.refreshes_volumes() && !over.machine.refreshes_volumes());
}

/// A pod that has ended for good, and whose sandbox is to be removed.
fn finished() -> Board {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    board.exit("c", 0);
    board.pending.retain(|effect| *effect == Effect::RemoveSandbox);
    assert_eq!(board.pending.len(), 1);
    board
}

#[test]
fn a_sandbox_that_is_not_removed_is_removed_later() {
    let mut board = finished();
    for delay in [1_000, 2_000, 4_000] {
        let effect = board.pending.remove(0);
        board.answer(effect, false);
        assert!(board.pending.is_empty(), "not at once");
        let before = board.now.ticks;
        assert!(board.wake());
        assert_eq!(board.now.ticks - before, delay);
    }
    assert!(board.reports.contains(&("FailedKillPod", "error killing pod: trouble".to_owned())));
    board.settle();
    assert!(!board.sandbox);
    assert_eq!(board.machine.next_wake(), None);
    board.feed(Event::Timer);
    assert!(board.pending.is_empty(), "once it is gone nobody asks again");
}

#[test]
fn a_finished_pods_sandbox_goes_although_the_agent_restarts() {
    let mut board = finished();
    board.restart_agent(false);
    assert!(board.pending.contains(&Effect::RemoveSandbox), "{:?}", board.pending);
    board.settle();
    assert!(!board.sandbox);
    board.restart_agent(false);
    assert!(board.pending.is_empty(), "{:?}", board.pending);
}

#[test]
fn a_deleted_pods_teardown_waits_for_the_removal_of_its_sandbox() {
    let mut board = finished();
    board.feed(Event::Desired(deleted(board.machine.pod(), 0)));
    assert_eq!(board.pending, [Effect::RemoveSandbox]);
    let effect = board.pending.remove(0);
    board.answer(effect, false);
    assert_eq!(board.pending, [Effect::Teardown]);
    board.settle();
    assert!(board.machine.is_removable());
}

#[test]
fn a_pod_that_waits_for_the_network_tries_again_once_it_is_there() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    for _ in 0..9 {
        let create = board.pending.iter().position(|effect| *effect == Effect::CreateSandbox);
        let effect = board.pending.remove(create.expect("asked"));
        board.answer(effect, false);
        board.wake();
    }
    let create = board.pending.iter().position(|effect| *effect == Effect::CreateSandbox);
    let effect = board.pending.remove(create.expect("asked"));
    board.answer(effect, false);
    board.settle();
    assert!(board.machine.next_wake().is_some_and(|at| at >= board.now.ticks + 100_000));
    board.feed(Event::NetworkReady);
    assert_eq!(board.pending, [Effect::CreateSandbox]);
    board.settle();
    assert!(is_ready(&mut board));
    board.feed(Event::NetworkReady);
    assert!(board.pending.is_empty(), "who has a sandbox needs no other");
}

/// One of a version that knew no network, on a board that gets its addresses now.
#[test]
fn a_sandbox_gets_a_place_once_there_are_places() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.feed(Event::PlaceLost);
    board.settle();
    assert!(is_ready(&mut board));
    board.restart(false, false);
    let term = |e: &Effect| matches!(e, Effect::Signal { signal, .. } if signal == "SIGTERM");
    assert!(!board.pending.iter().any(term) && is_ready(&mut board), "it goes on until then");
    board.feed(Event::PlaceLost);
    assert!(board.pending.iter().any(term), "{:?}", board.pending);
}

/// A sandbox that has no place in the network: its containers end gracefully and start in another.
#[test]
fn a_sandbox_without_a_place_is_made_anew() {
    let containers = json!([{"name": "c", "image": "i", "livenessProbe": exec()}]);
    let init = json!([{"name": "a", "image": "i"}]);
    let mut board = Board::new(pod(json!({"initContainers": init, "containers": containers})));
    board.settle();
    board.exit("a", 0);
    run(&mut board);
    board.feed(Event::SandboxReady { address: Some([10, 42, 0, 7].into()) });
    board.restart(false, true);
    let term = |e: &Effect| matches!(e, Effect::Signal { signal, .. } if signal == "SIGTERM");
    assert!(board.pending.iter().any(term), "{:?}", board.pending);
    assert_eq!(board.machine.state().address, None);
    // The agent restarts once more before the signal is sent, and removing fails once.
    board.restart(false, true);
    board.wake();
    while board.pending != [Effect::RemoveSandbox] {
        let effect = board.pending.remove(0);
        assert!(!matches!(effect, Effect::Start { .. } | Effect::CreateSandbox), "{effect:?}");
        board.answer(effect, true);
    }
    let changed = "Pod sandbox changed, it will be killed and re-created.";
    assert!(board.reports.contains(&("SandboxChanged", changed.to_owned())));
    let effect = board.pending.remove(0);
    board.answer(effect, false);
    board.wake();
    assert_eq!(board.pending, [Effect::RemoveSandbox]);
    board.settle();
    board.exit("a", 0);
    run(&mut board);
    assert!(board.sandbox && is_ready(&mut board), "{:#?}", board.machine.state());
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 1);
    board.restart_agent(false);
    assert_eq!(board.running.len(), 1, "and only once");
}

#[test]
fn a_finished_pod_without_a_place_is_left_alone() {
    let mut board = finished();
    board.settle();
    board.restart(false, true);
    assert!(board.pending.is_empty(), "{:?}", board.pending);
}
