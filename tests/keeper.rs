//! The keeper with real containers: busybox in an overlay, through the real binary.
//!
//! Needs root and busybox-static; prints that it skips otherwise.

mod keeper_board;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use keeper_board::{Snapshot, log_text, run};
use kumquat::io::keeper::{
    ExecV1, ExitV1, Keeper, KeeperError, KeeperEvent, Refusal, RunStateV1, SandboxV1, Start,
};
use model::limits::IMAGE_LAYERS_MAX;
use serde_json::json;

#[test]
fn exit_codes_signals_and_events() {
    run("exits", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let mut events = keeper.events();
        assert!(
            matches!(events.next().await, Ok(KeeperEvent::States(states)) if states.is_empty())
        );
        for (id, command, code) in [("c0", "exit 0", 0), ("c7", "exit 7", 7)] {
            keeper.start(board.start("pod", id, command)).await.expect("started");
            assert_eq!(next_exit(&mut events, id).await.code, Some(code));
        }
        keeper
            .start(board.start(
                "pod",
                "term",
                "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done",
            ))
            .await
            .expect("started");
        board.await_log("term", "up").await;
        keeper.signal("term", libc::SIGTERM).await.expect("sent");
        assert_eq!(next_exit(&mut events, "term").await.code, Some(9));
        keeper.start(board.start("pod", "kill", "sleep 1000")).await.expect("started");
        keeper.signal("kill", libc::SIGKILL).await.expect("sent");
        let exit = next_exit(&mut events, "kill").await;
        assert_eq!((exit.code, exit.signal, exit.oom), (None, Some(libc::SIGKILL), false));
        assert_eq!(exit.shell_code(), 137);
        keeper.signal("kill", libc::SIGKILL).await.expect("an ended one takes it silently");
        assert!(keeper.signal("none", 9).await.expect_err("unknown").is_not_found());
        assert_eq!(keeper.list().await.expect("list").len(), 4);
    });
}

#[test]
fn errors_say_what_happened_and_leave_nothing() {
    run("errors", async |board| {
        let keeper = board.keeper().await;
        let refused = async |start: Start| match keeper.start(start).await {
            Err(KeeperError::Refused { refusal, text }) => (refusal, text),
            other => panic!("not refused: {other:?}"),
        };
        let (refusal, text) = refused(board.start("pod", "c", "true")).await;
        assert_eq!(refusal, Refusal::NotFound, "{text}");
        board.sandbox(&keeper, "pod").await;
        // The first container makes the pod's cgroup, which stays until the sandbox goes.
        keeper.start(board.start("pod", "first", "true")).await.expect("started");
        keeper.remove("first").await.expect("removed");
        let before = Snapshot::at_rest(board).await;
        let mut start = board.start("pod", "c", "true");
        start.spec = board.spec_argv(&["/no/such/program"]);
        let (_, text) = refused(start).await;
        assert!(text.contains("/no/such/program"), "{text}");
        let mut start = board.start("pod", "c", "true");
        start.lower_dirs = vec!["/nonexistent/layer".into()];
        assert!(refused(start).await.1.contains("/nonexistent/layer"));
        let mut start = board.start("pod", "c", "true");
        start.spec = b"{".to_vec();
        assert_eq!(refused(start).await.0, Refusal::Invalid);
        let mut start = board.start("pod", "c", "true");
        start.id = "../c".to_owned();
        assert_eq!(refused(start).await.0, Refusal::Invalid);
        board.settle(&before).await;
        keeper.start(board.start("pod", "c", "sleep 1000")).await.expect("started");
        assert_eq!(refused(board.start("pod", "c", "true")).await.0, Refusal::AlreadyExists);
        assert_eq!(keeper.list().await.expect("list").len(), 1);
        keeper.remove("c").await.expect("removed");
        keeper.remove("c").await.expect("again");
        board.settle(&before).await;
    });
}

#[test]
fn a_hundred_thousand_lines_arrive_in_order() {
    run("lines", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let script = "i=0; while [ $i -lt 50000 ]; do echo line $i; echo err $i >&2; i=$((i+1)); done; printf tail";
        let mut events = keeper.events();
        events.next().await.expect("states");
        keeper.start(board.start("pod", "c", script)).await.expect("started");
        assert_eq!(next_exit(&mut events, "c").await.code, Some(0));
        let text = log_text(board, "c");
        let of = |stream: &str| -> Vec<String> {
            let mark = format!(" {stream} F ");
            text.lines().filter_map(|l| l.split_once(&mark).map(|(_, t)| t.to_owned())).collect()
        };
        let (out, err) = (of("stdout"), of("stderr"));
        assert_eq!((out.len(), err.len()), (50_001, 50_000));
        for index in 0..50_000 {
            assert_eq!(out[index], format!("line {index}"));
            assert_eq!(err[index], format!("err {index}"));
        }
        assert_eq!(out[50_000], "tail");
    });
}

#[test]
fn a_full_disk_costs_lines_and_not_the_container() {
    run("full", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let logs = board.dir.join("data/logs");
        std::fs::create_dir_all(&logs).expect("tmp");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(&logs)
            .status();
        assert!(mounted.expect("util-linux").success());
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo waits; while [ ! -e /go ]; do sleep 0.05; done; echo after";
        keeper.start(board.start("pod", "c", script)).await.expect("started");
        let filled = || std::fs::metadata(board.log_path("c")).map_or(0, |log| log.len());
        let begun = Instant::now();
        let ready = || std::fs::read_to_string(board.paths.run_dir.join("keeper/keeper.log"));
        while !ready().is_ok_and(|text| text.contains("lines are lost")) {
            assert!(begun.elapsed() < Duration::from_secs(30), "never full: {}", filled());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let whole = |text: &str| {
            text.ends_with('\n') && text.lines().all(|line| line[30..].starts_with(" stdout F "))
        };
        // A half line may be seen for a moment, until it is cut off.
        while !whole(&log_text(board, "c")) {
            assert!(begun.elapsed() < Duration::from_secs(30), "a half line stays");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let exec = |script: &str| ExecV1 {
            id: "c".into(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            timeout_ms: 30_000,
            output_bytes_max: 100,
            ..ExecV1::default()
        };
        // Room again, and the container, which never stopped, is heard again.
        let room =
            std::process::Command::new("mount").args(["-o", "remount,size=8m"]).arg(&logs).status();
        assert!(room.expect("util-linux").success());
        keeper.exec(exec("echo > /go")).await.expect("ran");
        board.await_log("c", "stdout F after\n").await;
        assert!(whole(&log_text(board, "c")));
        let complaints = ready().expect("there");
        assert!(complaints.lines().count() <= 3, "{complaints}");
    });
}

#[test]
fn logs_are_whole_while_holder_and_pump_are_killed() {
    run("kills", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let script = "i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); done; sleep 1000";
        let started = keeper.start(board.start("pod", "c", script)).await.expect("started");
        let mut kills = 0;
        let begun = Instant::now();
        while !log_text(board, "c").contains("line 99999\n") {
            assert!(begun.elapsed() < Duration::from_secs(120), "the log does not grow");
            let info = keeper.info().await.expect("alive");
            let victim = if kills % 4 == 3 { Some(info.pid) } else { info.pump };
            if let Some(pid) = victim {
                keeper_board::kill(pid);
                kills += 1;
            }
            tokio::time::sleep(Duration::from_millis(7 + kills % 13 * 3)).await;
        }
        println!("{kills} kills");
        assert!(kills > 8, "too fast to have been disturbed: {kills}");
        let text = log_text(board, "c");
        let mut next = 0;
        let mut part = String::new();
        for line in text.lines() {
            let (_, rest) = line.split_once(" stdout ").expect("a CRI line");
            let (tag, text) = rest.split_at(2);
            part.push_str(text);
            if tag == "F " {
                assert_eq!(part, format!("line {next}"));
                part.clear();
                next += 1;
            }
        }
        assert_eq!(next, 100_000);
        let states = keeper.list().await.expect("list");
        assert_eq!(states[0].pid, started.pid);
        assert_eq!(states[0].state, RunStateV1::Running);
    });
}

#[test]
fn a_new_holder_knows_what_the_old_one_knew() {
    run("holder", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        keeper
            .start(board.start("pod", "runs", "while :; do echo tick; sleep 0.05; done"))
            .await
            .expect("started");
        keeper.start(board.start("pod", "ended", "exit 5")).await.expect("started");
        keeper.start(board.start("pod", "ends", "sleep 1000")).await.expect("started");
        let pids: Vec<u32> = keeper.list().await.expect("list").iter().map(|s| s.pid).collect();
        let mut events = keeper.events();
        events.next().await.expect("states");
        board.await_exit(&keeper, "ended").await;
        let before = keeper.info().await.expect("info");
        keeper_board::kill(before.pid);
        board.await_gone(before.pid).await;
        // Without any holder, containers and their logs go on.
        let size = log_text(board, "runs").len();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(log_text(board, "runs").len() > size);
        let again = loop {
            if let KeeperEvent::States(states) = events.next().await.expect("revived") {
                break states;
            }
        };
        assert_eq!(again.iter().map(|s| s.pid).collect::<Vec<_>>(), pids);
        let state = |id: &str| again.iter().find(|s| s.id == id).map(|s| s.state.clone());
        assert_eq!(state("runs"), Some(RunStateV1::Running));
        assert!(matches!(state("ended"), Some(RunStateV1::Exited(ExitV1 { code: Some(5), .. }))));
        assert_ne!(keeper.info().await.expect("info").pid, before.pid);
        keeper.signal("ends", libc::SIGKILL).await.expect("sent");
        let exit = next_exit(&mut events, "ends").await;
        assert_eq!((exit.code, exit.signal), (None, None), "nobody saw the code");
        let size = log_text(board, "runs").len();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(log_text(board, "runs").len() > size);
        for id in ["runs", "ended", "ends"] {
            keeper.remove(id).await.expect("removed");
        }
        assert_eq!(keeper.list().await.expect("list"), []);
    });
}

#[test]
fn an_upgrade_keeps_children_and_their_exit_codes() {
    run("upgrade", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        keeper
            .start(board.start(
                "pod",
                "c",
                "trap 'exit 33' TERM; while :; do echo tick; sleep 0.05; done",
            ))
            .await
            .expect("started");
        let before = keeper.info().await.expect("info");
        keeper.upgrade(&board.paths.exe).await.expect("upgraded");
        let after = keeper.info().await.expect("info");
        assert_eq!(after.pid, before.pid, "execve keeps the process");
        assert_ne!(after.pump, before.pump, "workers are replaced");
        let size = log_text(board, "c").len();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(log_text(board, "c").len() > size);
        let mut events = keeper.events();
        events.next().await.expect("states");
        keeper.signal("c", libc::SIGTERM).await.expect("sent");
        assert_eq!(next_exit(&mut events, "c").await.code, Some(33));
    });
}

#[test]
fn descriptors_outlive_the_agent_and_an_upgrade() {
    run("kept", async |board| {
        let keeper = board.keeper().await;
        assert!(keeper.kept("dns").await.expect_err("nothing yet").is_not_found());
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        keeper.keep("dns", &[socket.into()]).await.expect("kept");
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        sender.send_to(b"waits", address).expect("somebody holds the port");
        for _upgrade in 0..2 {
            keeper.upgrade(&board.paths.exe).await.expect("upgraded");
        }
        // A client of its own, as after a restart of the agent.
        let again = board.keeper().await;
        let fd = again.kept("dns").await.expect("kept").pop().expect("one");
        let socket = std::net::UdpSocket::from(fd);
        let mut bytes = [0; 8];
        assert_eq!(socket.recv(&mut bytes).expect("queued"), 5);
        again.keep("dns", &[]).await.expect("forgotten");
        assert!(again.kept("dns").await.expect_err("forgotten").is_not_found());
        drop(socket);
        std::net::UdpSocket::bind(address).expect("nobody holds the port");
    });
}

#[test]
fn exec_has_limits() {
    run("exec", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        keeper.start(board.start("pod", "c", "sleep 1000")).await.expect("started");
        let exec = |script: &str| ExecV1 {
            id: "c".into(),
            argv: vec!["sh".into(), "-c".into(), script.into()],
            timeout_ms: 10_000,
            output_bytes_max: 1000,
            ..ExecV1::default()
        };
        let result =
            keeper.exec(exec("echo out; echo err >&2; hostname; exit 3")).await.expect("ran");
        assert_eq!((result.code, result.timed_out, result.truncated), (Some(3), false, false));
        assert_eq!(String::from_utf8_lossy(&result.output), "out\nerr\npod-host\n");
        let result = keeper
            .exec(exec("while :; do echo xxxxxxxxxxxx; done | head -c 100000"))
            .await
            .expect("ran");
        assert_eq!((result.code, result.output.len(), result.truncated), (Some(0), 1000, true));
        let begun = Instant::now();
        let slow = ExecV1 { timeout_ms: 300, ..exec("echo before; sleep 1000") };
        let result = keeper.exec(slow).await.expect("ran");
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(result.timed_out);
        assert_eq!(result.output, b"before\n");
        let with = ExecV1 {
            env: vec!["NAME=new".into()],
            cwd: Some("/bin".into()),
            user: Some((1000, 1001)),
            ..exec("echo $NAME $OTHER $(pwd) $(id -u):$(id -g)")
        };
        let result = keeper.exec(with).await.expect("ran");
        assert_eq!(String::from_utf8_lossy(&result.output), "new kept /bin 1000:1001\n");
        let missing = ExecV1 { argv: vec!["/no/such".into()], ..exec("") };
        let error = keeper.exec(missing).await.expect_err("no such program").to_string();
        assert!(error.contains("/no/such"), "{error}");
        let left = |dir: &str| {
            let entries = std::fs::read_dir(board.paths.run_dir.join(dir)).expect("there");
            entries.flatten().map(|entry| entry.file_name()).collect::<BTreeSet<_>>()
        };
        let names = ["begun", "config.json", "exit", "l", "record", "rootfs", "stderr", "stdout"];
        let strange =
            left("keeper/containers/c").into_iter().filter(|name| !names.iter().any(|n| name == n));
        assert_eq!(strange.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
        let sockets = left("keeper/runtime/c")
            .into_iter()
            .filter(|name| name.to_string_lossy().contains("tenant"));
        assert_eq!(sockets.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new());
        let unknown = ExecV1 { id: "other".into(), ..exec("true") };
        assert!(keeper.exec(unknown).await.expect_err("unknown").is_not_found());
    });
}

#[test]
fn limits_hold_and_oom_is_told() {
    run("limits", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let mut start =
            board.start("pod", "c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200; sleep 1000");
        let mut spec: serde_json::Value = serde_json::from_slice(&start.spec).expect("own");
        spec["linux"]["resources"] =
            json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}, "pids": {"limit": 30}});
        spec["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "hard": 1_u64 << 30, "soft": 1024}]);
        spec["process"]["oomScoreAdj"] = json!(500);
        spec["process"]["args"] = json!(["sh", "-c", "x=a; while :; do x=$x$x; done"]);
        start.spec = spec.to_string().into_bytes();
        let mut events = keeper.events();
        events.next().await.expect("states");
        let started = keeper.start(start).await.expect("started");
        println!("{started:?}");
        if std::env::var_os(UNIFIED).is_some() {
            // This hierarchy has none of the controllers; the container starts all the same.
            assert_eq!(started.unenforced, ["memory", "pids"]);
            return;
        }
        if started.unenforced.iter().any(|what| what == "memory") {
            println!("not run: this kernel has no memory controller");
            return;
        }
        let exit = next_exit(&mut events, "c").await;
        assert!(exit.oom, "{exit:?}");
    });
}

/// Set for tests that run again with an empty version 2 hierarchy in place of the machine's own.
const UNIFIED: &str = "KUMQUAT_TEST_UNIFIED";

#[test]
fn the_same_on_unified_cgroups_without_controllers() {
    if std::env::var_os(UNIFIED).is_some() {
        return;
    }
    run("unified", async |_| {
        let script = "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup || exit 77\n\
            grep -qw memory /sys/fs/cgroup/cgroup.controllers && exit 77\n\
            exec \"$0\" --exact exec_has_limits limits_hold_and_oom_is_told nothing_is_left_after_twenty_rounds";
        let output = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(std::env::current_exe().expect("runs"))
            .env(UNIFIED, "1")
            .output();
        let output = output.expect("util-linux");
        if output.status.code() == Some(77) {
            println!("not run: this machine's version 2 hierarchy is in use");
            return;
        }
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("3 passed"), "{text}");
    });
}

#[test]
fn layers_lie_upon_each_other_and_stay_untouched() {
    run("layers", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        let mut layers = Vec::new();
        for number in 0..IMAGE_LAYERS_MAX - 1 {
            let dir = board.dir.join(format!("layers/odd,name:{number}"));
            std::fs::create_dir_all(&dir).expect("tmp");
            std::fs::write(dir.join("top"), number.to_string()).expect("tmp");
            std::fs::write(dir.join(format!("own{number}")), "x").expect("tmp");
            layers.push(dir);
        }
        layers.push(board.dir.join("image"));
        let mut start = board.start(
            "pod",
            "c",
            "cd /; echo own*; read x < top; echo $x; echo new > top; echo made > made",
        );
        start.lower_dirs = layers.clone();
        keeper.start(start).await.expect("started");
        board.await_exit(&keeper, "c").await;
        board.await_log("c", "stdout F 0\n").await;
        let text = log_text(board, "c");
        let own = text.lines().next().expect("a line").split(" F ").nth(1).expect("text");
        assert_eq!(own.split(' ').count(), IMAGE_LAYERS_MAX - 1);
        assert_eq!(std::fs::read_to_string(layers[0].join("top")).expect("kept"), "0");
        assert!(!layers[0].join("made").exists());
        let upper = board.dir.join("data/c/upper");
        assert_eq!(std::fs::read_to_string(upper.join("made")).expect("written"), "made\n");
        keeper.remove("c").await.expect("removed");
        assert!(!upper.exists());
        layers.push(board.dir.join("image"));
        let mut start = board.start("pod", "d", "true");
        start.lower_dirs = layers;
        assert!(matches!(
            keeper.start(start).await,
            Err(KeeperError::Refused { refusal: Refusal::Invalid, .. })
        ));
    });
}

#[test]
fn host_network_is_the_boards_own() {
    run("hostnet", async |board| {
        let keeper = board.keeper().await;
        let sandbox = SandboxV1 {
            uid: "pod".into(),
            hostname: "here".into(),
            host_network: true,
            host_ipc: true,
        };
        keeper.sandbox_create(sandbox).await.expect("a sandbox");
        assert!(!keeper.sandbox_netns("pod").exists());
        let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; hostname";
        keeper.start(board.start("pod", "c", script)).await.expect("started");
        board.await_exit(&keeper, "c").await;
        board.await_log("c", " here\n").await;
        let text = log_text(board, "c");
        for namespace in ["net", "ipc"] {
            let own = std::fs::read_link(format!("/proc/self/ns/{namespace}")).expect("proc");
            assert!(text.contains(&*own.to_string_lossy()), "{text}");
        }
    });
}

#[test]
fn a_pod_shares_its_namespaces() {
    run("pods", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        board.sandbox(&keeper, "pod").await;
        board.sandbox(&keeper, "other").await;
        let show = "for n in net ipc uts; do readlink /proc/self/ns/$n; done; hostname; ip addr show lo | grep -c 'inet 127.0.0.1'";
        for (pod, id) in [("pod", "a"), ("pod", "b"), ("other", "c")] {
            keeper.start(board.start(pod, id, show)).await.expect("started");
            board.await_exit(&keeper, id).await;
        }
        let lines = |id: &str| -> Vec<String> {
            log_text(board, id).lines().map(|l| l[40..].to_owned()).collect()
        };
        let (a, b, c) = (lines("a"), lines("b"), lines("c"));
        assert_eq!(a, b);
        assert_eq!(a[3..], ["pod-host", "1"]);
        let distinct: BTreeSet<&String> = a[..3].iter().chain(&c[..3]).collect();
        assert_eq!(distinct.len(), 6, "{a:?} {c:?}");
        let mut uids = keeper.sandboxes().await.expect("list");
        uids.sort();
        assert_eq!(uids, ["other", "pod"]);
        assert!(keeper.sandbox_netns("pod").exists());
    });
}

#[test]
fn nothing_is_left_after_twenty_rounds() {
    run("leaks", async |board| {
        let keeper = board.keeper().await;
        let round = async |number: u32| {
            board.sandbox(&keeper, "pod").await;
            let id = format!("c{number}");
            keeper.start(board.start("pod", &id, "echo hello; sleep 1000")).await.expect("started");
            let exec = ExecV1 {
                id: id.clone(),
                argv: vec!["true".into()],
                timeout_ms: 10_000,
                ..ExecV1::default()
            };
            assert_eq!(keeper.exec(exec).await.expect("ran").code, Some(0));
            // A start returns before the program has run its first line.
            let begun = Instant::now();
            while !log_text(board, &id).contains("hello") {
                assert!(begun.elapsed() < Duration::from_secs(10), "nothing logged");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            keeper.remove(&id).await.expect("removed");
            keeper.sandbox_remove("pod").await.expect("removed");
        };
        round(0).await;
        let before = Snapshot::at_rest(board).await;
        for number in 1..=20 {
            round(number).await;
        }
        board.settle(&before).await;
    });
}

#[test]
fn a_start_cut_off_anywhere_leaves_nothing() {
    run("cut", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        keeper.start(board.start("pod", "first", "true")).await.expect("started");
        keeper.remove("first").await.expect("removed");
        // As the agent does: whoever listens for events revives the holder.
        let mut events = keeper.events();
        let listening = tokio::spawn(async move { while events.next().await.is_ok() {} });
        let before = Snapshot::at_rest(board).await;
        let (mut whole, mut cut) = (0, 0);
        for round in 0..40_u64 {
            let id = format!("c{round}");
            let holder = keeper.info().await.expect("alive");
            let (other, start) = (keeper.clone(), board.start("pod", &id, "sleep 1000"));
            let starting = tokio::spawn(async move { other.start(start).await });
            tokio::time::sleep(Duration::from_millis(round)).await;
            // Starters, intermediates and inits; in every fourth round the holder as well.
            for pid in keeper_board::children(holder.pid) {
                if Some(pid) != holder.pump {
                    keeper_board::kill(pid);
                }
            }
            if round % 4 == 3 {
                keeper_board::kill(holder.pid);
            }
            match starting.await.expect("no panic") {
                Ok(_) => whole += 1,
                Err(_) => cut += 1,
            }
            keeper.remove(&id).await.expect("removed");
            assert_eq!(keeper.list().await.expect("list"), []);
        }
        println!("{whole} started, {cut} cut off");
        assert!(cut > 5, "hardly any start was disturbed");
        board.settle(&before).await;
        listening.abort();
        let data = board.paths.data_dir.clone();
        let writable = std::fs::read_dir(data).expect("there").flatten();
        let left: Vec<_> = writable.map(|e| e.file_name()).filter(|n| n != "logs").collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
    });
}

#[test]
fn cleanup_removes_every_trace() {
    run("cleanup", async |board| {
        let before = Snapshot::at_rest(board).await;
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        keeper.start(board.start("pod", "c", "sleep 1000")).await.expect("started");
        drop(keeper);
        kumquat::io::keeper::cleanup(&board.paths).expect("clean");
        board.settle(&before).await;
        kumquat::io::keeper::cleanup(&board.paths).expect("again");
    });
}

#[test]
fn garbage_on_the_socket_ends_that_connection_only() {
    run("garbage", async |board| {
        use std::io::{Read, Write};
        let keeper = board.keeper().await;
        let info = keeper.info().await.expect("info");
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[255; 64], &[3, 0, 0, 0, 1, 0, 99]] {
            let path = board.paths.run_dir.join("keeper/keeper.sock");
            let mut stream = std::os::unix::net::UnixStream::connect(path).expect("listens");
            stream.write_all(garbage).expect("room");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
        }
        assert_eq!(keeper.info().await.expect("info").pid, info.pid);
    });
}

async fn next_exit(events: &mut kumquat::io::keeper::Events, id: &str) -> ExitV1 {
    let wait = async {
        loop {
            if let KeeperEvent::Exited(state) = events.next().await.expect("connected")
                && state.id == id
                && let RunStateV1::Exited(exit) = state.state
            {
                return exit;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("an exit in time")
}

#[allow(dead_code)]
fn is_send<T: Send>(_: T) {}

#[allow(dead_code)]
fn futures_can_be_spawned(keeper: Keeper, start: Start) {
    is_send(async move { keeper.start(start).await });
}

#[test]
fn a_record_that_cannot_be_read_costs_no_container() {
    run("record", async |board| {
        let keeper = board.keeper().await;
        board.sandbox(&keeper, "pod").await;
        for id in ["c", "other"] {
            keeper.start(board.start("pod", id, "sleep 1000")).await.expect("started");
        }
        let states = keeper.list().await.expect("list");
        let pid = states.iter().find(|state| state.id == "c").expect("runs").pid;
        let record = board.paths.run_dir.join("keeper/containers/c/record");
        let sound = std::fs::read(&record).expect("there");
        std::fs::write(&record, [99]).expect("of another build");
        keeper.upgrade(&board.paths.exe).await.expect("upgraded");
        let ids = |states: Vec<kumquat::io::keeper::ContainerStateV1>| {
            states.into_iter().map(|state| state.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(keeper.list().await.expect("list")), ["other"]);
        assert!(std::fs::exists(format!("/proc/{pid}")).expect("readable"), "it runs on");
        std::fs::write(&record, sound).expect("mended");
        keeper.upgrade(&board.paths.exe).await.expect("upgraded");
        assert_eq!(ids(keeper.list().await.expect("list")), ["c", "other"]);
        for id in ["c", "other"] {
            keeper.remove(id).await.expect("removed");
        }
    });
}
