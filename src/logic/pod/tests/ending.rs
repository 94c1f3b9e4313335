//! How pods end, how probes and gates decide, in what order signals go.

use super::*;

/// What is asked for, without the probes.
fn asked(board: &mut Board) -> Vec<String> {
    let word = |effect: Effect| match effect {
        Effect::Signal { container, signal, .. } => Some(format!("{signal} {container}")),
        Effect::Hook { container, kind, .. } => Some(format!("{kind:?} {container}")),
        Effect::Teardown => Some("Teardown".to_owned()),
        _ => None,
    };
    board.pending.drain(..).filter_map(word).collect()
}

fn with_pre_stop(name: &str) -> Value {
    let hook = json!({"exec": {"command": ["x"]}});
    json!({"name": name, "image": "i", "lifecycle": {"preStop": hook}})
}

fn hooked(board: &mut Board, container: &str, result: Result<(), String>) {
    let kind = HookKind::PreStop;
    board.feed(Event::Hooked { container: container.to_owned(), attempt: 0, kind, result });
}

fn delete(board: &mut Board, grace_seconds: i64) {
    let gone = deleted(board.machine.pod(), grace_seconds);
    board.feed(Event::Desired(gone));
}

#[test]
fn the_signal_comes_after_the_hook() {
    let mut board = Board::new(one(with_pre_stop("c")));
    board.settle();
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["PreStop c"]);
    board.advance(3_000);
    hooked(&mut board, "c", Ok(()));
    assert_eq!(asked(&mut board), ["SIGTERM c"]);
    board.wake();
    assert_eq!(asked(&mut board), ["SIGKILL c"]);
    let begun = Timestamp::from_seconds(START);
    assert_eq!(board.now.wall, begun.plus_millis(30_000), "the hook counts as grace");
}

#[test]
fn a_hook_that_outlives_the_grace_leaves_two_seconds_after_the_signal() {
    let mut board = Board::new(one(with_pre_stop("c")));
    board.settle();
    delete(&mut board, 5);
    assert_eq!(asked(&mut board), ["PreStop c"]);
    let begun = board.now.ticks;
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board)), (5_000, vec!["SIGTERM c".to_owned()]));
    // That the driver gave the hook up is no news.
    hooked(&mut board, "c", Err("command timed out".to_owned()));
    assert!(board.reports.iter().all(|(reason, _)| *reason != "FailedPreStopHook"));
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board)), (7_000, vec!["SIGKILL c".to_owned()]));
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board).len()), (17_000, 1), "and again");
}

#[test]
fn a_failed_hook_is_told_and_the_stop_goes_on() {
    let mut board = Board::new(one(with_pre_stop("c")));
    board.settle();
    delete(&mut board, 5);
    asked(&mut board);
    hooked(&mut board, "c", Err("exit 1".to_owned()));
    assert_eq!(asked(&mut board), ["SIGTERM c"]);
    let told = ("FailedPreStopHook", "PreStopHook failed: exit 1".to_owned());
    assert!(board.reports.contains(&told), "{:?}", board.reports);
}

#[test]
fn a_pod_that_is_gone_is_killed_at_once() {
    let mut board = Board::new(one(with_pre_stop("c")));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["PreStop c"]);
    board.feed(Event::Gone);
    assert_eq!(asked(&mut board), ["SIGKILL c"]);
    board.feed(Event::Timer);
    assert!(asked(&mut board).is_empty(), "once is enough for a while");
}

#[test]
fn sidecars_end_after_the_others_the_last_one_first() {
    let sidecar = |name: &str| {
        let mut container = with_pre_stop(name);
        container["restartPolicy"] = "Always".into();
        container
    };
    let spec = json!({"initContainers": [sidecar("a"), sidecar("b")],
        "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    assert_eq!(board.running.len(), 3);
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["PreStop b", "PreStop a", "SIGTERM c"], "hooks do not wait");
    hooked(&mut board, "a", Ok(()));
    hooked(&mut board, "b", Ok(()));
    assert!(asked(&mut board).is_empty());
    board.exit("c", 0);
    assert_eq!(asked(&mut board), ["SIGTERM b"]);
    board.exit("b", 143);
    assert_eq!(asked(&mut board), ["SIGTERM a"]);
    board.exit("a", 143);
    assert_eq!(asked(&mut board), ["Teardown"]);
}

#[test]
fn sidecars_whose_turn_does_not_come_are_signalled_when_the_grace_is_over() {
    let spec = json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    delete(&mut board, 10);
    assert_eq!(asked(&mut board), ["SIGTERM c"]);
    board.wake();
    assert_eq!(asked(&mut board), ["SIGTERM s", "SIGKILL c"]);
    board.wake();
    assert_eq!(asked(&mut board), ["SIGKILL s"]);
}

#[test]
fn a_pod_whose_work_is_done_is_over_when_its_sidecars_have_ended() {
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "i"}]});
    let mut board = Board::new(pod(spec));
    board.settle();
    board.exit("c", 0);
    assert_eq!(board.status()["phase"], "Running", "the sidecar is there");
    assert_eq!(asked(&mut board), ["SIGTERM s"]);
    board.exit("s", 143);
    assert_eq!(board.status()["phase"], "Succeeded");
}

#[test]
fn a_served_pod_is_drained_before_the_signal() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 30);
    let begun = board.now.ticks;
    assert!(asked(&mut board).is_empty(), "services still know it");
    board.advance(60);
    board.feed(served(false));
    assert!(asked(&mut board).is_empty(), "other boards may not have heard of it");
    assert!(board.machine.is_draining(board.now));
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board)), (360, vec!["SIGTERM c".to_owned()]));
    board.wake();
    assert_eq!(board.now.ticks - begun, 30_000, "the grace counts from the deletion");
}

#[test]
fn a_drain_ends_by_itself_and_is_not_begun_twice() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 30);
    let begun = board.now.ticks;
    board.advance(700);
    board.feed(served(true));
    delete(&mut board, 20);
    board.restart_agent(false);
    assert!(asked(&mut board).is_empty());
    board.wake();
    assert_eq!(
        (board.now.ticks - begun, asked(&mut board)),
        (10_000, vec!["SIGTERM c".to_owned()])
    );
}

#[test]
fn a_drain_takes_half_of_the_grace_at_most_and_a_second_without_a_master() {
    for (grace, led, expected) in
        [(30, true, 10_000), (12, true, 6_000), (30, false, 1_000), (1, false, 500)]
    {
        let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
        board.settle();
        board.feed(Event::Served { calls: true, led });
        delete(&mut board, grace);
        let begun = board.now.ticks;
        board.wake();
        let waited = board.now.ticks - begun;
        assert_eq!((waited, asked(&mut board)), (expected, vec!["SIGTERM c".to_owned()]));
    }
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 30);
    let begun = board.now.ticks;
    board.advance(500);
    delete(&mut board, 4);
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board)), (2_500, vec!["SIGTERM c".to_owned()]));
}

#[test]
fn a_pod_that_nobody_calls_is_not_drained_and_a_short_grace_cuts_a_drain_off() {
    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(served(true));
    board.feed(served(false));
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["SIGTERM c"]);

    let mut board = Board::new(one(json!({"name": "c", "image": "i"})));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 1);
    board.wake();
    assert_eq!(asked(&mut board), ["SIGTERM c"], "with the two seconds that everybody gets");
    board.wake();
    assert_eq!(asked(&mut board), ["SIGKILL c"]);
}

#[test]
fn hooks_run_while_a_pod_is_drained() {
    let mut board = Board::new(one(with_pre_stop("c")));
    board.settle();
    board.feed(served(true));
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["PreStop c"]);
    board.advance(10);
    hooked(&mut board, "c", Ok(()));
    assert!(asked(&mut board).is_empty());
    board.feed(served(false));
    board.wake();
    assert_eq!(asked(&mut board), ["SIGTERM c"]);
}

#[test]
fn readiness_is_asked_for_to_the_end_and_liveness_is_not() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut board = Board::new(one(
        json!({"name": "c", "image": "i", "readinessProbe": probe, "livenessProbe": probe}),
    ));
    board.settle();
    assert_eq!(condition(&board.status(), "Ready")["status"], "True");
    delete(&mut board, 30);
    assert_eq!(asked(&mut board), ["SIGTERM c"]);
    let mut kinds = BTreeSet::new();
    for _ in 0..3 {
        board.wake();
        while let Some(effect) = board.pending.pop() {
            if let Effect::Probe { kind, .. } = effect {
                kinds.insert(kind);
            }
            board.answer(effect, false);
        }
    }
    assert_eq!(kinds, BTreeSet::from([ProbeKind::Readiness]));
    let status = board.status();
    assert_eq!((&status["phase"], board.running.len()), (&json!("Running"), 1));
    assert_eq!(condition(&status, "Ready")["status"], "False");
}

#[test]
fn a_probe_that_could_not_ask_decides_nothing() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut board = Board::new(one(json!({"name": "c", "image": "i", "livenessProbe": probe})));
    for _ in 0..5 {
        while let Some(effect) = board.pending.pop() {
            match effect {
                Effect::Probe { container, attempt, kind } => {
                    let result = Err(ProbeFault::Unknown("no keeper".to_owned()));
                    board.feed(Event::Probed { container, attempt, kind, result });
                }
                effect => board.answer(effect, true),
            }
        }
        board.wake();
    }
    assert_eq!(board.status()["containerStatuses"][0]["restartCount"], 0);
    let text = "Liveness probe errored and resulted in unknown state: no keeper";
    assert!(board.reports.contains(&("Unhealthy", text.to_owned())), "{:?}", board.reports);
}

#[test]
fn a_probes_own_grace_counts_for_its_restart() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1,
        "terminationGracePeriodSeconds": 7});
    let mut board = Board::new(one(json!({"name": "c", "image": "i", "livenessProbe": probe})));
    loop {
        let Some(effect) = board.pending.pop() else {
            board.wake();
            continue;
        };
        match effect {
            Effect::Signal { signal, .. } => {
                assert_eq!(signal, "SIGTERM");
                break;
            }
            effect => {
                let good = !matches!(effect, Effect::Probe { .. });
                board.answer(effect, good);
            }
        }
    }
    let begun = board.now.ticks;
    board.wake();
    assert_eq!((board.now.ticks - begun, asked(&mut board)), (7_000, vec!["SIGKILL c".to_owned()]));
}

#[test]
fn a_closed_readiness_gate_keeps_a_pod_from_being_ready() {
    let gated = |conditions: Value| {
        let spec = json!({"containers": [{"name": "c", "image": "i"}],
            "readinessGates": [{"conditionType": "example.com/open"}]});
        let metadata = json!({"name": "p", "namespace": "default", "uid": UID});
        let pod = json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}});
        Arc::new(Pod::parse(pod.to_string().as_bytes()).expect("a test's pod"))
    };
    let says = |status: &str| json!([{"type": "example.com/open", "status": status}]);
    let mut board = Board::new(gated(json!([])));
    board.settle();
    let expected = [
        (
            json!([]),
            "corresponding condition of pod readiness gate \"example.com/open\" does not exist.",
        ),
        (
            says("False"),
            "the status of pod readiness gate \"example.com/open\" is not \"True\", but False",
        ),
        (says("True"), ""),
    ];
    for (conditions, message) in expected {
        board.feed(Event::Desired(gated(conditions)));
        let status = board.status();
        let all = status["conditions"].as_array().expect("conditions").clone();
        let ready = all.iter().find(|it| it["type"] == "Ready").expect("reported");
        assert_eq!(ready["status"], if message.is_empty() { "True" } else { "False" });
        assert_eq!(ready["message"].as_str().unwrap_or_default(), message);
        assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    }
}
