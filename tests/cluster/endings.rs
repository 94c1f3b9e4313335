//! Probes, gates, hooks and sidecars of real pods: who waits for whom, and in what order they end.

use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal};
use serde_json::{Value, json};

use crate::{
    PODS, busybox, condition, delete, logs, new_board, pod, restarts, wait_ready, wait_until,
};

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": busybox::IMAGE, "command": ["/bin/sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]})
}

/// Says when it begins and, on the stop signal, when it ends; `more` runs before and after.
fn recorder(name: &str, begin: &str, end: &str) -> Value {
    let script = format!(
        "{begin} echo {name} begins >> /shared/order; \
         trap 'echo {name} ends >> /shared/order; {end} exit 0' TERM; \
         echo > /shared/{name}-up; while true; do sleep 0.05; done"
    );
    container(name, &script)
}

#[test]
fn sidecars_start_before_the_others_and_end_after_them_in_reverse() {
    let Some(board) = new_board("sidecars") else { return };
    let mut web = pod("web", "");
    let sidecar = |mut container: Value| {
        container["restartPolicy"] = "Always".into();
        container
    };
    let mut slow = sidecar(recorder("slow", "sleep 0.7;", ""));
    slow["startupProbe"] = json!({"periodSeconds": 1, "failureThreshold": 20,
        "exec": {"command": ["/bin/sh", "-c", "test -e /shared/slow-up"]}});
    let first = sidecar(recorder("first", "", "/bin/busybox cat /shared/order;"));
    web["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    web["spec"]["terminationGracePeriodSeconds"] = 20.into();
    web["spec"]["initContainers"] = json!([first, slow]);
    web["spec"]["containers"] = json!([recorder("main", "", "")]);
    board.create(PODS, &web);
    let ready = wait_ready(&board, "web");
    let statuses = ready["status"]["initContainerStatuses"].as_array().expect("statuses").clone();
    assert!(statuses.iter().all(|it| it["started"] == true && it["ready"] == true), "{statuses:?}");

    let follow = format!("{PODS}/web/log?follow=true&container=first");
    let words = std::thread::scope(|scope| {
        let words = scope.spawn(|| board.api_text(&follow));
        std::thread::sleep(Duration::from_millis(300));
        delete(&board, &format!("{PODS}/web"));
        words.join().expect("thread").expect("log")
    });
    let order: Vec<&str> = words.lines().collect();
    let expected =
        ["first begins", "slow begins", "main begins", "main ends", "slow ends", "first ends"];
    assert_eq!(order, expected);
    let path = format!("{PODS}/web");
    wait_until("web gone", Duration::from_secs(10), || board.api("GET", &path, None).is_err());
}

#[test]
fn a_hook_that_outlives_the_grace_is_cut_off_and_the_signal_still_comes() {
    let Some(board) = new_board("hooks") else { return };
    let script = "trap 'echo ended; exit 0' TERM; while true; do sleep 0.05; done";
    let mut polite = pod("polite", script);
    polite["spec"]["terminationGracePeriodSeconds"] = 2.into();
    let hook = json!({"exec": {"command": ["/bin/sh", "-c", "sleep 60"]}});
    polite["spec"]["containers"][0]["lifecycle"] = json!({"preStop": hook});
    board.create(PODS, &polite);
    wait_ready(&board, "polite");
    let follow = format!("{PODS}/polite/log?follow=true");
    std::thread::scope(|scope| {
        let words = scope.spawn(|| board.api_text(&follow));
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let path = format!("{PODS}/polite");
        delete(&board, &path);
        wait_until("polite gone", Duration::from_secs(15), || {
            board.api("GET", &path, None).is_err()
        });
        let took = begun.elapsed().as_secs_f64();
        assert!((2.0..4.0).contains(&took), "the signal after 2 s, not SIGKILL: {took}");
        assert_eq!(words.join().expect("thread").expect("log"), "ended\n");
    });
}

#[test]
fn probes_over_http_and_tcp_with_named_ports_restart_what_fails() {
    let Some(board) = new_board("http-probes") else { return };
    // The first start loses its page after a while; later ones keep it.
    let script = "B=/bin/busybox; $B mkdir -p /www; echo fine > /www/ok; \
        test -e /shared/again || { (sleep 2; $B rm /www/ok) & }; echo > /shared/again; \
        exec $B httpd -f -p 8080 -h /www";
    let mut web = pod("web", script);
    web["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let main = &mut web["spec"]["containers"][0];
    main["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    main["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    main["startupProbe"] =
        json!({"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 10});
    main["readinessProbe"] = json!({"periodSeconds": 1, "httpGet": {"port": 8080, "path": "ok",
        "httpHeaders": [{"name": "Host", "value": "shop.example"}]}});
    main["livenessProbe"] = json!({"periodSeconds": 1, "failureThreshold": 2,
        "terminationGracePeriodSeconds": 1, "httpGet": {"port": "web", "path": "/ok"}});
    board.create(PODS, &web);
    wait_ready(&board, "web");
    let path = format!("{PODS}/web");
    board.wait_for("the restart", &path, Duration::from_secs(20), |pod| restarts(pod) == 1);
    wait_ready(&board, "web");
    let events = board.get("/api/v1/namespaces/default/events");
    let said = |reason: &str, message: &str| {
        let mut events = events["items"].as_array().into_iter().flatten();
        events.any(|it| it["reason"] == reason && it["message"] == message)
    };
    let status = "probe failed: HTTP probe failed with statuscode: 404";
    assert!(said("Unhealthy", &format!("Liveness {status}")), "{events:#}");
    assert!(said("Killing", "Container main failed liveness probe, will be restarted"));
}

#[test]
fn a_readiness_gate_opens_when_somebody_says_so() {
    let Some(board) = new_board("gates") else { return };
    let mut gated = pod("gated", "exec sleep 1000");
    gated["spec"]["readinessGates"] = json!([{"conditionType": "example.com/open"}]);
    board.create(PODS, &gated);
    let path = format!("{PODS}/gated");
    let closed = board.wait_for("running", &path, Duration::from_secs(20), |pod| {
        condition(pod, "ContainersReady")
    });
    assert!(!condition(&closed, "Ready"), "{}", closed["status"]);
    let mut conditions = closed["status"]["conditions"].as_array().expect("conditions").clone();
    conditions.push(json!({"type": "example.com/open", "status": "True"}));
    let patch = json!({"status": {"conditions": conditions}});
    board.api("PATCH", &format!("{path}/status"), Some(&patch)).expect("patched");
    let open = wait_ready(&board, "gated");
    assert!(condition(&open, "example.com/open"), "what others say stays");
}

#[test]
fn a_pod_whose_work_is_done_ends_its_sidecars_and_has_succeeded() {
    let Some(board) = new_board("work") else { return };
    let mut work = pod("work", "");
    let mut helper = recorder("helper", "", "echo helped;");
    helper["restartPolicy"] = "Always".into();
    work["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    work["spec"]["restartPolicy"] = "Never".into();
    work["spec"]["initContainers"] = json!([helper]);
    work["spec"]["containers"] = json!([container("main", "sleep 0.5; echo done")]);
    board.create(PODS, &work);
    let path = format!("{PODS}/work");
    let over = board.wait_for("success", &path, Duration::from_secs(30), |pod| {
        pod["status"]["phase"] == "Succeeded"
    });
    let helper = &over["status"]["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(helper["exitCode"], 0, "{over:#}");
    assert_eq!(logs(&board, "work", "container=helper"), "helped\n");
    assert_eq!(logs(&board, "work", "container=main"), "done\n");
}

#[test]
fn containers_that_share_their_processes_see_and_signal_each_other() {
    // Boards inherit this: one that was started under nohup runs containers all the same.
    // SAFETY: ignoring a signal runs no code.
    unsafe { nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigIgn) }.expect("ignored");
    let Some(board) = new_board("shared") else { return };
    let mut both = pod("both", "");
    both["spec"]["shareProcessNamespace"] = true.into();
    both["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let worker =
        "trap 'echo reloaded' HUP; echo $$$$ > /shared/pid; while true; do sleep 0.05; done";
    // An orphan that ends is reaped by the pod's first process.
    let other = "until test -s /shared/pid; do sleep 0.05; done; kill -HUP $(cat /shared/pid); \
        (sleep 0.1 & ); sleep 0.5; echo first: $(cat /proc/1/comm) zombies: \
        $(/bin/busybox grep -l '(zombie)' /proc/[0-9]*/status 2>/dev/null | /bin/busybox wc -l); \
        exec sleep 1000";
    both["spec"]["containers"] = json!([container("worker", worker), container("other", other)]);
    board.create(PODS, &both);
    wait_ready(&board, "both");
    let said = |container: &str| logs(&board, "both", &format!("container={container}"));
    wait_until("the signal", Duration::from_secs(10), || said("worker") == "reloaded\n");
    wait_until("the count", Duration::from_secs(10), || said("other").contains("zombies: 0"));
    assert!(!said("other").contains("first: sh"), "the first process is the pod's own");
    let path = format!("{PODS}/both");
    delete(&board, &path);
    wait_until("both gone", Duration::from_secs(15), || board.api("GET", &path, None).is_err());
    let name = board.name().to_owned();
    drop(board);
    assert_eq!(crate::traces::Traces::of(&name), crate::traces::Traces::default());
}
