//! Streams that end otherwise than by themselves, and clients that do not keep up.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Bed, PODS, Stdio, run, until};
use crate::kubectl::Kubectl;

/// Growth of a process that has a client which does not read: queues and windows, not what was said.
const GROWTH_BYTES_MAX: u64 = 6 * 1024 * 1024;

#[test]
fn streams_end_with_their_client_pod_and_board() {
    let Some(bed) = Bed::new("ends") else { return };
    for (index, name) in ["own", "far"].into_iter().enumerate() {
        bed.pod(name, index, "exec sleep 100000", &json!({}));
    }
    for kubectl in bed.extremes() {
        for (index, pod) in ["own", "far"].into_iter().enumerate() {
            client_that_goes(kubectl, pod, &format!("4{}{index}", kubectl.minor));
            client_that_does_not_read(&bed, kubectl, pod);
        }
        pod_that_goes(&bed, kubectl);
    }
    container_that_does_not_run(&bed);
    board_that_goes(bed);
}

/// Processes of this machine with these arguments.
pub(super) fn running(arguments: &[&str]) -> usize {
    let wanted = arguments.join("\0") + "\0";
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    entries
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        })
        .count()
}

fn client_that_goes(kubectl: &Kubectl, pod: &str, mark: &str) {
    let seconds = format!("{mark}.25");
    let process = ["sleep", seconds.as_str()];
    let mut child = kubectl.start(
        &[&["exec", pod, "--"], &process[..]].concat(),
        [Stdio::null(), Stdio::null(), Stdio::null()],
    );
    until("the process runs", || running(&process) > 0);
    child.kill().expect("alive");
    child.wait().expect("killed");
    until("the process is killed", || running(&process) == 0);
}

fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn client_that_does_not_read(bed: &Bed, kubectl: &Kubectl, pod: &str) {
    let boards: Vec<u32> = bed.cluster.boards.iter().map(crate::board::Board::pid).collect();
    let before: Vec<u64> = boards.iter().map(|pid| memory(*pid)).collect();
    let mut child = kubectl.start(
        &["exec", pod, "--", "cat", "/dev/zero"],
        [Stdio::null(), Stdio::piped(), Stdio::null()],
    );
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 100_000]).expect("it begins");
    // Then nothing is read any more; other streams go on.
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(run(kubectl, &["exec", pod, "--", "true"], None).0, 0);
        rounds += 1;
    }
    for (pid, before) in boards.iter().zip(before) {
        let growth = memory(*pid).saturating_sub(before);
        assert!(growth < GROWTH_BYTES_MAX, "1.{} {pod}: grew by {growth} bytes", kubectl.minor);
    }
    assert!(rounds > 0);
    stdout.read_exact(&mut vec![0; 5_000_000]).expect("it goes on");
    child.kill().expect("alive");
    child.wait().expect("killed");
    until("the process is killed", || running(&["cat", "/dev/zero"]) == 0);
}

fn pod_that_goes(bed: &Bed, kubectl: &Kubectl) {
    let name = format!("gone-{}", kubectl.minor);
    bed.pod(&name, 1, "exec httpd -f -p 127.0.0.1:8080 -h /", &json!({}));
    let mut child = kubectl.start(
        &["exec", &name, "--", "sleep", "10000"],
        [Stdio::null(), Stdio::piped(), Stdio::piped()],
    );
    until("the process runs", || running(&["sleep", "10000"]) > 0);
    let began = Instant::now();
    bed.cluster.master().api("DELETE", &format!("{PODS}/{name}"), None).expect("deleted");
    let mut status = None;
    until("kubectl ends", || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    println!("1.{}: exec ended {:?} after the deletion of its pod", kubectl.minor, began.elapsed());
    let mut errors = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    assert_eq!(status.and_then(|status| status.code()), Some(137), "1.{}: {errors}", kubectl.minor);
}

fn container_that_does_not_run(bed: &Bed) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "waits"},
        "spec": {"nodeName": bed.cluster.boards[1].node(), "containers": [
            {"name": "main", "image": "kumquat.test/absent:v1"}]},
    });
    bed.cluster.master().create(PODS, &pod);
    for kubectl in bed.extremes() {
        until("the board knows the pod", || {
            let (code, _, errors) = run(kubectl, &["exec", "waits", "--", "true"], None);
            assert_eq!(code, 1, "{errors}");
            errors.contains("container not found (\"main\")")
        });
    }
}

fn board_that_goes(mut bed: Bed) {
    let names = bed.extremes().iter().map(|kubectl| kubectl.minor).collect::<Vec<_>>();
    let children: Vec<_> = bed
        .extremes()
        .iter()
        .map(|kubectl| {
            let streams = [Stdio::null(), Stdio::null(), Stdio::piped()];
            kubectl.start(&["exec", "far", "--", "sleep", "20000"], streams)
        })
        .collect();
    until("the processes run", || running(&["sleep", "20000"]) == names.len());
    bed.cluster.boards[1].kill();
    for (minor, child) in names.iter().zip(children) {
        let output = child.wait_with_output().expect("ends");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "1.{minor}");
        assert!(errors.contains("connection"), "1.{minor}: {errors}");
    }
    until("the processes are killed", || running(&["sleep", "20000"]) == 0);
    for kubectl in bed.extremes() {
        let (code, _, errors) = run(kubectl, &["exec", "far", "--", "true"], None);
        assert!(code == 1 && errors.contains("is not connected to this master"), "{errors}");
    }
}
