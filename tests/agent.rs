//! The agent with real containers; the test plays the master by wire messages.
//!
//! Needs root and busybox-static; prints that it skips otherwise.

#[path = "harness/busybox.rs"]
mod busybox;

mod agent_board;

use std::time::{Duration, Instant};

use agent_board::{Board, deleted, pod, run, uid};
use model::wire::LogsRequestV1;
use serde_json::{Value, json};

const FOREVER: &str = "trap 'exit 0' TERM; echo up; while :; do usleep 50000; done";

#[test]
fn a_pod_runs_logs_and_goes() {
    run("life", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let node: Value =
            serde_json::from_slice(&master.hello.as_ref().expect("heard").node).expect("json");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
        let begun = Instant::now();
        let pod = pod(1, FOREVER, |_| ());
        master.desire(std::slice::from_ref(&pod), &[], &[]).await;
        master.await_status(uid(1), "/phase", "Running").await;
        println!("desired to Running: {} ms", begun.elapsed().as_millis());
        master.await_ready(uid(1)).await;
        master.await_log(uid(1), "main", "up\n").await;
        let status = master.status(uid(1));
        assert_eq!(status["hostIP"], "10.1.2.3");
        assert!(
            status["containerStatuses"][0]["imageID"].as_str().expect("text").contains("@sha256:")
        );
        for reason in ["Pulled", "Created", "Started"] {
            master.await_event(reason, "").await;
        }
        master.desire(&[deleted(pod, 5)], &[], &[]).await;
        master.until("removable", |m| m.statuses.get(&uid(1)).is_some_and(|s| s.1)).await;
        master.await_event("Killing", "Stopping container main").await;
        let status = master.status(uid(1));
        assert_eq!(
            status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0,
            "{status}"
        );
        assert_eq!(master.pids().await, []);
        master.desire(&[], &[], &[uid(1)]).await;
        master.end().await;
        for left in ["data/pods", "data/logs", "run/pods"] {
            assert_eq!(entries(board, left), Vec::<String>::new(), "{left}");
        }
    });
}

fn entries(board: &Board, sub: &str) -> Vec<String> {
    let Ok(listing) = std::fs::read_dir(board.dir.join(sub)) else { return Vec::new() };
    listing.map(|entry| entry.expect("readable").file_name().to_string_lossy().into()).collect()
}

#[test]
fn a_crash_loop_backs_off_and_keeps_the_previous_log() {
    run("crash", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let script = "echo attempt; echo why > /dev/termination-log; exit 3";
        master.desire(&[pod(2, script, |_| ())], &[], &[]).await;
        let waiting = "/containerStatuses/0/state/waiting/reason";
        master.await_status(uid(2), waiting, "CrashLoopBackOff").await;
        let status = master.status(uid(2)).clone();
        let container = &status["containerStatuses"][0];
        assert_eq!(container["restartCount"], 1);
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(container["lastState"]["terminated"]["message"], "why\n");
        assert_eq!(status["phase"], "Running");
        master.await_event("BackOff", "Back-off restarting failed container main").await;
        let request = LogsRequestV1 {
            pod: uid(2),
            container: "main".to_owned(),
            previous: true,
            ..Default::default()
        };
        assert_eq!(master.logs(request).await.as_deref(), Ok("attempt\n"));
        master.desire(&[], &[], &[uid(2)]).await;
        master.end().await;
    });
}

#[test]
fn containers_outlive_the_agent_and_come_back_after_a_reboot() {
    run("restart", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        master.desire(&[pod(3, FOREVER, |_| ())], &[], &[]).await;
        master.await_ready(uid(3)).await;
        let before = master.pids().await;
        master.end().await;
        let mut master = board.agent(&images).await;
        assert_eq!(master.revision, 1, "the board remembers its desired set");
        master.await_ready(uid(3)).await;
        assert_eq!(master.pids().await, before);
        assert_eq!(master.status(uid(3))["containerStatuses"][0]["restartCount"], 0);
        master.end().await;
        board.reboot();
        // No master says anything: the board alone brings the pod back.
        let mut master = board.agent(&images).await;
        master.await_ready(uid(3)).await;
        assert_eq!(master.status(uid(3))["containerStatuses"][0]["restartCount"], 1);
        assert_ne!(master.pids().await, before);
        master.desire(&[], &[], &[uid(3)]).await;
        master.end().await;
    });
}

#[test]
fn a_container_that_ends_while_nobody_looks_is_restarted() {
    run("unseen", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        master.desire(&[pod(4, FOREVER, |_| ())], &[], &[]).await;
        master.await_ready(uid(4)).await;
        let (id, _) = master.pids().await.remove(0);
        let keeper = master.keeper.clone();
        master.end().await;
        keeper.signal(&id, libc::SIGKILL).await.expect("sent");
        let mut master = board.agent(&images).await;
        master.await_status(uid(4), "/containerStatuses/0/restartCount", 1).await;
        master.await_ready(uid(4)).await;
        let last = &master.status(uid(4))["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(last["exitCode"], 137);
        master.desire(&[], &[], &[uid(4)]).await;
        master.end().await;
    });
}

#[test]
fn objects_reach_containers_as_environment_and_files() {
    run("objects", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let script = "echo env $A $B $POD $NODE; cat /etc/config/file /etc/secret/key /etc/pod/labels; \
            echo; echo shared > /scratch/x; while :; do cat /etc/config/file; usleep 100000; done";
        let pod = pod(5, script, |pod| {
            let container = &mut pod["spec"]["containers"][0];
            container["envFrom"] = json!([{"configMapRef": {"name": "config"}}]);
            container["env"] = json!([
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "key"}}},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "NODE", "value": "on-$(A)"}]);
            container["volumeMounts"] = json!([
                {"name": "config", "mountPath": "/etc/config"},
                {"name": "secret", "mountPath": "/etc/secret"},
                {"name": "pod", "mountPath": "/etc/pod"},
                {"name": "scratch", "mountPath": "/scratch"}]);
            pod["spec"]["volumes"] = json!([
                {"name": "config", "configMap": {"name": "config", "items": [{"key": "A", "path": "file"}]}},
                {"name": "secret", "secret": {"secretName": "secret"}},
                {"name": "pod", "downwardAPI": {"items": [
                    {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
        });
        // First without its objects: it waits and says for what.
        master.desire(&[pod], &[], &[]).await;
        master.await_event("FailedMount", "configmap \"config\" not found").await;
        let config = |value: &str| ("configmaps default/config", json!({"data": {"A": value}}));
        let secret = ("secrets default/secret", json!({"data": {"key": "aHVzaA=="}}));
        master.desire(&[], &[config("one"), secret], &[]).await;
        master.await_ready(uid(5)).await;
        master.await_log(uid(5), "main", "env one hush pod-5 on-one\nonehushapp=\"test\"").await;
        master.desire(&[], &[config("two")], &[]).await;
        master.await_log(uid(5), "main", "two").await;
        master.desire(&[], &[], &[uid(5)]).await;
        master.until("removed", |_| entries(board, "run/pods").is_empty()).await;
        master.end().await;
    });
}

#[test]
fn probes_decide_readiness_and_restarts() {
    run("probes", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let script = "while :; do usleep 50000; done";
        let exec = |command: &str| {
            json!({"exec": {"command": ["/bin/sh", "-c", command]}, "periodSeconds": 1,
                "failureThreshold": 1, "timeoutSeconds": 5})
        };
        let ready = pod(6, script, |pod| {
            pod["spec"]["containers"][0]["readinessProbe"] = exec("echo not yet; false");
        });
        let sick = pod(7, script, |pod| {
            pod["spec"]["containers"][0]["livenessProbe"] = exec("exit 1");
            pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
        });
        let closed = pod(8, script, |pod| {
            let probe = json!({"tcpSocket": {"port": 81}, "periodSeconds": 1, "timeoutSeconds": 5});
            pod["spec"]["containers"][0]["readinessProbe"] = probe;
        });
        let http = pod(9, script, |pod| {
            let probe = json!({"httpGet": {"path": "/x", "port": 82}, "periodSeconds": 1, "timeoutSeconds": 5});
            pod["spec"]["containers"][0]["readinessProbe"] = probe;
        });
        master.desire(&[ready, sick, closed, http], &[], &[]).await;
        master.await_event("Unhealthy", "Readiness probe failed: not yet").await;
        master.await_event("Unhealthy", "dial tcp 127.0.0.1:81: connect: connection refused").await;
        master.await_event("Unhealthy", "Get \"http://127.0.0.1:82/x\"").await;
        master.await_event("Killing", "failed liveness probe, will be restarted").await;
        master.await_status(uid(7), "/containerStatuses/0/restartCount", 1).await;
        assert_eq!(master.status(uid(6))["containerStatuses"][0]["ready"], false);
        serve_inside(&master, 82).await;
        master.await_ready(uid(9)).await;
        let all = [6, 7, 8, 9].map(uid);
        master.desire(&[], &[], &all).await;
        master.end().await;
    });
}

/// Answers HTTP in the namespace of pod 9, as a container of it would.
async fn serve_inside(master: &agent_board::Master, port: u16) {
    let netns = master.keeper.sandbox_netns(&uid(9).to_string());
    let (ready, listening) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let namespace = std::fs::File::open(netns).expect("a sandbox");
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entered");
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("bound");
        ready.send(()).expect("waited for");
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().expect("a probe");
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    listening.await.expect("listens");
}

#[test]
fn a_missing_image_waits_for_its_import() {
    run("image", async |board| {
        let images = board.images();
        let mut master = board.agent(&images).await;
        master.desire(&[pod(10, FOREVER, |_| ())], &[], &[]).await;
        let waiting = "/containerStatuses/0/state/waiting/reason";
        master.await_status(uid(10), waiting, "ErrImagePull").await;
        master.await_event("Failed", "kumquat image import FILE").await;
        master.await_status(uid(10), waiting, "ImagePullBackOff").await;
        let request =
            LogsRequestV1 { pod: uid(10), container: "main".to_owned(), ..Default::default() };
        let error = master.logs(request).await.expect_err("no log yet");
        assert!(error.contains("is waiting to start: ImagePullBackOff"), "{error}");
        let importing = images.clone();
        tokio::task::block_in_place(|| board.import(&importing));
        master.await_ready(uid(10)).await;
        assert!(images.remove(busybox::IMAGE).is_ok());
        assert_eq!(images.list().len(), 1, "a running container keeps its image");
        master.desire(&[], &[], &[uid(10)]).await;
        master.until("the image's end", |_| images.list().is_empty()).await;
        master.end().await;
    });
}

#[test]
fn a_program_that_ignores_the_signal_is_killed_in_time() {
    run("stubborn", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let stubborn = pod(11, "trap '' TERM; echo up; while :; do usleep 50000; done", |_| ());
        master.desire(std::slice::from_ref(&stubborn), &[], &[]).await;
        master.await_log_ready(uid(11)).await;
        let begun = Instant::now();
        master.desire(&[deleted(stubborn, 2)], &[], &[]).await;
        master.until("removable", |m| m.statuses.get(&uid(11)).is_some_and(|s| s.1)).await;
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        let state = &master.status(uid(11))["containerStatuses"][0]["state"];
        assert_eq!(state["terminated"]["exitCode"], 137);
        master.desire(&[], &[], &[uid(11)]).await;
        master.end().await;
    });
}

impl agent_board::Master {
    async fn await_log_ready(&mut self, uid: model::ids::Uid) {
        self.await_ready(uid).await;
        self.await_log(uid, "main", "up\n").await;
    }
}

#[test]
fn init_containers_and_finished_pods() {
    run("init", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let once = pod(12, "cat /work/made; exit 0", |pod| {
            let mount = json!([{"name": "work", "mountPath": "/work"}]);
            pod["spec"]["restartPolicy"] = json!("Never");
            pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
            pod["spec"]["containers"][0]["volumeMounts"] = mount.clone();
            pod["spec"]["initContainers"] = json!([{"name": "make", "image": busybox::IMAGE,
                "command": ["/bin/sh", "-c", "echo made by init > /work/made"], "volumeMounts": mount}]);
        });
        master.desire(&[once], &[], &[]).await;
        master.await_status(uid(12), "/phase", "Succeeded").await;
        assert_eq!(master.log(uid(12), "main").await, "made by init\n");
        let status = master.status(uid(12)).clone();
        assert_eq!(
            status["initContainerStatuses"][0]["state"]["terminated"]["reason"],
            "Completed"
        );
        master.end().await;
        board.reboot();
        let mut master = board.agent(&images).await;
        master.await_status(uid(12), "/phase", "Succeeded").await;
        assert_eq!(master.pids().await, [], "a finished pod does not run again");
        master.desire(&[], &[], &[uid(12)]).await;
        master.end().await;
    });
}

#[test]
fn damage_of_the_desired_set_touches_no_pod() {
    run("damage", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let pods = [pod(20, FOREVER, |_| ()), pod(21, FOREVER, |_| ())];
        master.desire(&pods, &[], &[]).await;
        master.await_ready(uid(20)).await;
        master.await_ready(uid(21)).await;
        let before = master.pids().await;
        let layers = entries(board, "data/pods");
        master.end().await;
        let path = board.paths.data_dir.join("node/desired");
        let mut bytes = std::fs::read(&path).expect("there");
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).expect("rotten");
        let mut master = board.agent(&images).await;
        assert_eq!(master.revision, 0, "asks for the whole set");
        assert_eq!(master.pids().await, before, "nothing was swept");
        assert_eq!(entries(board, "data/pods"), layers);
        // The whole set: one pod is still wanted, one is not.
        master.desire(&pods[..1], &[], &[]).await;
        master.await_ready(uid(20)).await;
        let (kept, gone): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|(id, _)| id.starts_with(&uid(20).to_string()));
        assert_eq!(master.pids().await, kept, "{gone:?} goes, the other is the same process");
        assert_eq!(entries(board, "data/pods"), [uid(20).to_string()]);
        master.desire(&[], &[], &[uid(20)]).await;
        master.end().await;
    });
}

#[test]
fn a_leader_whose_time_is_over_is_not_obeyed_by_its_own_board() {
    run("late", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        master.desire_too_late(&[pod(30, FOREVER, |_| ())]).await;
        // Made of the same revision, so it only fits when the one before was not taken.
        master.desire(&[pod(31, FOREVER, |_| ())], &[], &[]).await;
        master.await_ready(uid(31)).await;
        assert_eq!(entries(board, "data/pods"), [uid(31).to_string()]);
        master.desire(&[], &[], &[uid(31)]).await;
        master.end().await;
    });
}

#[test]
fn what_a_board_refuses_fails_with_a_reason_and_goes() {
    run("refused", async |board| {
        let images = board.images();
        board.import(&images);
        let mut master = board.agent(&images).await;
        let sysctl = pod(22, FOREVER, |pod| {
            let sysctls = json!([{"name": "kernel.core_pattern", "value": "|/x"}]);
            pod["spec"]["securityContext"] = json!({"sysctls": sysctls});
        });
        let unreadable = pod(23, FOREVER, |pod| pod["spec"]["hostNetwork"] = json!("perhaps"));
        let late = pod(24, FOREVER, |pod| pod["spec"]["activeDeadlineSeconds"] = json!(1));
        master.desire(&[sysctl.clone(), unreadable.clone(), late], &[], &[]).await;
        master.await_status(uid(22), "/reason", "SysctlForbidden").await;
        master.await_status(uid(23), "/reason", "UnreadablePod").await;
        master.await_status(uid(24), "/reason", "DeadlineExceeded").await;
        for number in 22..=24 {
            assert_eq!(master.status(uid(number))["phase"], "Failed");
        }
        master.desire(&[deleted(sysctl, 0), deleted(unreadable, 0)], &[], &[]).await;
        for number in 22..=23 {
            master.until("removable", |m| m.statuses.get(&uid(number)).is_some_and(|s| s.1)).await;
        }
        master.desire(&[], &[], &[uid(22), uid(23), uid(24)]).await;
        master.end().await;
    });
}
