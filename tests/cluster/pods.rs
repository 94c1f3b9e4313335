//! What pods are promised: configuration, order, probes, a graceful end, neighbours left alone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use kumquat::io::host::DiskSpace;

use crate::board::{Board, possible, text};
use crate::disk::Disk;
use crate::traces::{Footprint, Traces};
use crate::{
    PODS, busybox, condition, container_pids, delete, logs, new_board, pod, restarts, wait_no_pods,
    wait_ready, wait_until,
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NODES: &str = "/api/v1/nodes";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn wait_log(board: &Board, pod: &str, text: &str) {
    wait_until(&format!("{text:?} in the log of {pod}"), Duration::from_secs(20), || {
        board
            .api_text(&format!("{PODS}/{pod}/log"))
            .is_ok_and(|log| log.lines().any(|line| line == text))
    });
}

#[test]
fn a_changed_config_map_reaches_the_volume_and_a_secret_the_environment() {
    let Some(board) = new_board("config") else { return };
    let map = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"},
            "data": {"greeting": text}})
    };
    board.create(CONFIG_MAPS, &map("one"));
    board.create(
        SECRETS,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"},
            "stringData": {"password": "s3cret"}}),
    );
    let script = "while true; do echo $(cat /config/greeting) $PASSWORD $MAP; sleep 0.1; done";
    let mut reader = pod("reader", script);
    reader["spec"]["volumes"] = json!([{"name": "config", "configMap": {"name": "map"}}]);
    let container = &mut reader["spec"]["containers"][0];
    container["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"}]);
    container["env"] = json!([
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "password"}}},
        {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "map", "key": "greeting"}}},
    ]);
    board.create(PODS, &reader);
    wait_log(&board, "reader", "one s3cret one");
    board
        .api("PATCH", &format!("{CONFIG_MAPS}/map"), Some(&json!({"data": {"greeting": "two"}})))
        .expect("patch");
    wait_log(&board, "reader", "two s3cret one");
    assert_eq!(restarts(&board.get(&format!("{PODS}/reader"))), 0);
}

#[test]
fn init_containers_run_in_order_before_the_others() {
    let Some(board) = new_board("init") else { return };
    let mut ordered = pod("ordered", "cat /shared/order; exec sleep 1000");
    ordered["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let mounts = json!([{"name": "shared", "mountPath": "/shared"}]);
    ordered["spec"]["containers"][0]["volumeMounts"] = mounts.clone();
    let init = |name: &str, script: String| {
        json!({"name": name, "image": crate::busybox::IMAGE, "volumeMounts": mounts,
            "command": ["/bin/sh", "-c", script]})
    };
    ordered["spec"]["initContainers"] = json!([
        init("slow", "sleep 0.5; echo slow >> /shared/order".to_owned()),
        // Fails the first time: the order must hold over its restart.
        init(
            "fails-once",
            "test -e /shared/tried && echo fails-once >> /shared/order || \
            { echo > /shared/tried; exit 1; }"
                .to_owned()
        ),
        init("quick", "echo quick >> /shared/order".to_owned()),
    ]);
    board.create(PODS, &ordered);
    let pod = wait_ready(&board, "ordered");
    assert_eq!(logs(&board, "ordered", "container=main"), "slow\nfails-once\nquick\n");
    let inits = pod["status"]["initContainerStatuses"].as_array().expect("statuses");
    let counts: Vec<_> = inits.iter().map(|status| status["restartCount"].as_u64()).collect();
    assert_eq!(counts, [Some(0), Some(1), Some(0)]);
    assert!(condition(&pod, "Initialized"));
}

#[test]
fn a_failing_probe_takes_ready_away_and_a_good_one_gives_it_back() {
    let Some(board) = new_board("probe") else { return };
    let mut probed = pod(
        "probed",
        "trap 'echo > /gone' USR1; echo > /up; while true; do \
        test -e /gone && { echo down; cat /gone > /dev/null; }; sleep 0.1; done",
    );
    probed["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": {"command": ["/bin/sh", "-c", "test ! -e /gone"]},
        "periodSeconds": 1, "failureThreshold": 2,
    });
    probed["metadata"]["labels"] = json!({"board": board.name()});
    probed["spec"]["containers"][0]["env"] = json!([{"name": "MARK", "value": board.name()}]);
    board.create(PODS, &probed);
    let ready = wait_ready(&board, "probed");
    let uid = ready["metadata"]["uid"].as_str().expect("uid").to_owned();
    let pids = first_processes(&uid);
    assert_eq!(pids.len(), 1, "one container");
    crate::signal(pids[0], nix::sys::signal::Signal::SIGUSR1);
    let path = format!("{PODS}/probed");
    let failed = board.wait_for("not ready", &path, Duration::from_secs(10), |pod| {
        !condition(pod, "Ready") && !condition(pod, "ContainersReady")
    });
    assert_eq!(failed["status"]["containerStatuses"][0]["ready"], false);
    assert_eq!((restarts(&failed), &failed["status"]["phase"]), (0, &json!("Running")));
    let root = format!("/proc/{}/root/gone", pids[0]);
    std::fs::remove_file(root).expect("heal it");
    wait_ready(&board, "probed");
}

/// Pids of the first processes of a pod's containers, by its uid in their cgroups.
fn first_processes(uid: &str) -> Vec<i32> {
    let read = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| read(*pid, "cgroup").is_ok_and(|text| text.contains(uid)))
        .filter(|pid| {
            read(*pid, "status").is_ok_and(|text| {
                text.lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"))
            })
        })
        .collect()
}

#[test]
fn a_pod_stops_gracefully_after_its_hook_and_not_later_than_its_grace() {
    let Some(board) = new_board("grace") else { return };
    // Ends by itself after the signal; the hook must have run before it.
    let script = "trap 'cat /hook; echo ended; exit 0' TERM; while true; do sleep 0.05; done";
    let mut polite = pod("polite", script);
    polite["spec"]["terminationGracePeriodSeconds"] = json!(20);
    polite["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 1; echo hooked > /hook"]}}});
    board.create(PODS, &polite);
    let mut stubborn = pod("stubborn", "trap '' TERM; while true; do sleep 0.05; done");
    stubborn["spec"]["terminationGracePeriodSeconds"] = json!(3);
    board.create(PODS, &stubborn);
    wait_ready(&board, "polite");
    wait_ready(&board, "stubborn");

    let follow = format!("{PODS}/polite/log?follow=true");
    std::thread::scope(|scope| {
        let last_words = scope.spawn(|| board.api_text(&follow));
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        delete(&board, &format!("{PODS}/polite"));
        delete(&board, &format!("{PODS}/stubborn"));
        let gone = |name: &str| {
            let path = format!("{PODS}/{name}");
            wait_until(name, Duration::from_secs(15), || board.api("GET", &path, None).is_err());
            begun.elapsed().as_secs_f64()
        };
        let polite = gone("polite");
        let stubborn = gone("stubborn");
        println!("polite gone after {polite:.2} s, stubborn after {stubborn:.2} s");
        assert!((1.0..3.0).contains(&polite), "hook of 1 s, then at once: {polite}");
        assert!((3.0..5.0).contains(&stubborn), "killed after its grace of 3 s: {stubborn}");
        let words = last_words.join().expect("thread").expect("log");
        assert_eq!(words, "hooked\nended\n");
    });
}

#[test]
fn two_boards_on_one_machine_leave_each_other_alone() {
    let (Some(mut one), Some(two)) = (new_board("one"), new_board("two")) else { return };
    for board in [&one, &two] {
        let script = format!(": {}; while true; do sleep 0.05; done", board.name());
        board.create(PODS, &pod("same", &script));
    }
    wait_ready(&one, "same");
    wait_ready(&two, "same");
    let (pids, footprint) = (container_pids(two.name()), Footprint::settled(&two));
    assert_eq!(pids.len(), 1);
    crate::kill(container_pids(one.name())[0]);
    one.pull_the_plug();
    one.up(&[]);
    wait_ready(&one, "same");
    delete(&one, &format!("{PODS}/same"));
    wait_no_pods(&one);
    let name = one.name().to_owned();
    drop(one);
    assert_eq!(Traces::of(&name), Traces::default());
    assert_eq!(container_pids(two.name()), pids);
    let pod: Value = wait_ready(&two, "same");
    assert_eq!(restarts(&pod), 0);
    footprint.assert_same(&two, "after the other board");
}

#[test]
fn a_full_disk_is_a_condition_that_says_what_to_do() {
    if !possible("full") || std::process::Command::new("mkfs.ext4").arg("-V").output().is_err() {
        println!("not run: needs root and mkfs.ext4");
        return;
    }
    let disk = Disk::new("pressure", 2048);
    let mut board = Board::on("full", disk.folder());
    board.up(&[]);
    let status = || text(&board.command(&["status"]));
    // A machine may have ailments of its own, as a clock without a time server.
    let warned = || status().contains("KubeletHasDiskPressure");
    assert!(!warned(), "{}", status());
    // The blocks that ext4 reserves for root are not free: 9 % of the rest is pressure.
    let space = DiskSpace::of(disk.folder()).expect("space");
    let filler = std::fs::File::create(disk.folder().join("filler")).expect("file");
    let bytes = space.available_bytes - space.total_bytes / 100 * 9;
    let bytes = i64::try_from(bytes).expect("a small disk");
    nix::fcntl::fallocate(
        std::os::fd::AsRawFd::as_raw_fd(&filler),
        nix::fcntl::FallocateFlags::empty(),
        0,
        bytes,
    )
    .expect("room");
    wait_until("the warning", Duration::from_secs(12), warned);
    let shown = status();
    assert!(shown.contains("remedy"), "{shown}");
    assert!(shown.contains("kumquat image rm"), "{shown}");
    filler.set_len(0).expect("room again");
    wait_until("no warning", Duration::from_secs(12), || !warned());
    drop(board);
}

#[test]
fn a_node_lists_the_images_of_its_board() {
    let Some(board) = new_board("images") else { return };
    let within = Duration::from_secs(10);
    let listed = |all: &Value| all["items"][0]["status"]["images"].as_array().map_or(0, Vec::len);
    let found = board.wait_for("image listed", NODES, within, |all| listed(all) == 1);
    let image = &found["items"][0]["status"]["images"][0];
    let names: Vec<&str> =
        image["names"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    assert!(names[0].starts_with("kumquat.test/busybox@sha256:"), "{names:?}");
    assert_eq!(names[1], busybox::IMAGE);
    assert!(image["sizeBytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{image}");
    let removed = board.command(&["image", "rm", busybox::IMAGE]);
    assert!(removed.status.success(), "{}", text(&removed));
    board.wait_for("no image listed", NODES, within, |all| listed(all) == 0);
}
