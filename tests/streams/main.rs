//! exec, attach, cp and port-forward: every kubectl that is here, on the master's own board and on a
//! worker across the tunnel.

#[path = "../harness/board.rs"]
mod board;
#[path = "../harness/busybox.rs"]
mod busybox;
mod ends;
mod forward;
#[path = "../harness/kubectl.rs"]
mod kubectl;
#[path = "../harness/switch.rs"]
mod switch;
mod terminal;

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use board::{possible, text};
use kubectl::{Kubectl, programs};
use serde_json::{Value, json};
use switch::Cluster;

const PODS: &str = "/api/v1/namespaces/default/pods";
const IMAGE: &str = "kumquat.test/tools:v1";
const TOOLS: [&str; 14] = [
    "bin/sh",
    "bin/sleep",
    "bin/echo",
    "bin/cat",
    "bin/true",
    "bin/tar",
    "bin/head",
    "bin/wc",
    "bin/sha256sum",
    "bin/stty",
    "bin/httpd",
    "bin/dd",
    "bin/ls",
    "bin/usleep",
];
/// Bytes that are sent both ways.
const LARGE: usize = 20 * 1024 * 1024;
/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// A cluster of two boards, and what is run against it.
struct Bed {
    cluster: Cluster,
    kubectls: Vec<Kubectl>,
}

impl Bed {
    /// `None` where the machine lacks something, which is said.
    fn new(test: &str) -> Option<Self> {
        if !possible(test) || !busybox::present(test) {
            return None;
        }
        let programs = programs();
        if programs.is_empty() {
            return None;
        }
        let cluster = Cluster::new(test, 2);
        let folder = cluster.master().data_dir().join("..");
        let archive = busybox::archive_with(&folder, IMAGE, &TOOLS);
        for board in &cluster.boards {
            let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
            assert!(imported.status.success(), "{}", text(&imported));
        }
        let kubeconfig = cluster.master().kubeconfig();
        let kubectls = programs.into_iter().map(|(minor, program)| {
            let kubectl = Kubectl::new(minor, program, &kubeconfig, &folder);
            kubectl.inside(cluster.master().namespace())
        });
        Some(Self { kubectls: kubectls.collect(), cluster })
    }

    /// The oldest (SPDY) and the newest (WebSocket).
    fn extremes(&self) -> Vec<&Kubectl> {
        let mut both: Vec<&Kubectl> = self.kubectls.first().into_iter().collect();
        both.extend(self.kubectls.last().filter(|last| last.minor != both[0].minor));
        both
    }

    /// Creates a pod on the board with that index and waits until it runs.
    fn pod(&self, name: &str, index: usize, script: &str, more: &Value) {
        let mut container =
            json!({"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script]});
        for (key, value) in more.as_object().into_iter().flatten() {
            container[key] = value.clone();
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": self.cluster.boards[index].node(), "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1, "containers": [container],
            },
        });
        self.cluster.master().create(PODS, &pod);
        self.wait_phase(name, "Running");
    }

    fn wait_phase(&self, name: &str, phase: &str) {
        let path = format!("{PODS}/{name}");
        self.cluster.master().wait_for(phase, &path, WITHIN, |pod| pod["status"]["phase"] == phase);
    }
}

/// A command's end, with its output apart from its errors.
fn run(kubectl: &Kubectl, arguments: &[&str], input: Option<Vec<u8>>) -> (i32, Vec<u8>, String) {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = kubectl.start(arguments, [stdin, Stdio::piped(), Stdio::piped()]);
    let writing = input.map(|input| {
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::spawn(move || {
            // A command that ends early does not read all of it.
            let _ = stdin.write_all(&input);
        })
    });
    let (mut stdout, mut stderr) =
        (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        text
    });
    let mut output = Vec::new();
    stdout.read_to_end(&mut output).expect("output");
    let status = child.wait().expect("it ends");
    if let Some(thread) = writing {
        thread.join().expect("written");
    }
    (status.code().unwrap_or(-1), output, errors.join().expect("read"))
}

/// Bytes without a pattern that a lost or doubled chunk would keep.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(next).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn processes_of_every_kubectl_on_both_boards() {
    let Some(bed) = Bed::new("exec") else { return };
    for (index, name) in ["own", "far"].into_iter().enumerate() {
        bed.pod(name, index, "exec sleep 100000", &json!({}));
    }
    for kubectl in &bed.kubectls {
        for pod in ["own", "far"] {
            output_and_codes(kubectl, pod);
            small_input(kubectl, pod);
            copies(kubectl, pod, &bed);
        }
    }
    for kubectl in bed.extremes() {
        large_both_ways(kubectl, "own");
        large_both_ways(kubectl, "far");
    }
}

fn output_and_codes(kubectl: &Kubectl, pod: &str) {
    let minor = kubectl.minor;
    let script = "echo out; echo err >&2; exit 3";
    let (code, output, errors) = run(kubectl, &["exec", pod, "--", "sh", "-c", script], None);
    assert_eq!((code, &output[..]), (3, &b"out\n"[..]), "1.{minor} {pod}: {errors}");
    assert_eq!(errors, "err\ncommand terminated with exit code 3\n", "1.{minor} {pod}");
    let (code, output, errors) = run(kubectl, &["exec", pod, "--", "true"], None);
    assert_eq!((code, output.len(), errors.as_str()), (0, 0, ""), "1.{minor} {pod}");
    let killed = ["exec", pod, "--", "sh", "-c", "kill -9 $$"];
    assert_eq!(run(kubectl, &killed, None).0, 137, "1.{minor} {pod}");
    let (code, _, errors) = run(kubectl, &["exec", pod, "--", "absent-program"], None);
    assert!(code != 0 && errors.contains("absent-program"), "1.{minor} {pod}: {code} {errors}");
    let (code, _, errors) = run(kubectl, &["exec", pod, "-c", "other", "--", "true"], None);
    let told = format!("container other is not valid for pod {pod}");
    assert!(code == 1 && errors.contains(&told), "1.{minor} {pod}: {errors}");
}

fn small_input(kubectl: &Kubectl, pod: &str) {
    let input = b"one\ntwo\n".to_vec();
    let (code, output, errors) =
        run(kubectl, &["exec", "-i", pod, "--", "cat"], Some(input.clone()));
    assert_eq!((code, &output), (0, &input), "1.{} {pod}: {errors}", kubectl.minor);
    // A process that leaves without reading its input.
    let much = noise(1024 * 1024);
    let (code, output, _) =
        run(kubectl, &["exec", "-i", pod, "--", "head", "-c", "5"], Some(much.clone()));
    assert_eq!((code, &output[..]), (0, &much[..5]), "1.{} {pod}", kubectl.minor);
}

fn large_both_ways(kubectl: &Kubectl, pod: &str) {
    let began = Instant::now();
    let input = noise(LARGE);
    let (code, output, errors) =
        run(kubectl, &["exec", "-i", pod, "--", "cat"], Some(input.clone()));
    assert_eq!(code, 0, "{errors}");
    assert!(
        output == input,
        "1.{} {pod}: {} of {LARGE} bytes came back the same",
        kubectl.minor,
        output.len()
    );
    println!(
        "kubectl 1.{} {pod}: {LARGE} bytes there and back in {:?}",
        kubectl.minor,
        began.elapsed()
    );
}

fn copies(kubectl: &Kubectl, pod: &str, bed: &Bed) {
    let folder = bed.cluster.master().data_dir().join("../copies");
    let _gone = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("tree/inner")).expect("folder");
    let content = noise(300_000);
    std::fs::write(folder.join("tree/inner/file"), &content).expect("file");
    let (there, back) = (folder.join("tree"), folder.join("back"));
    let at = format!("{pod}:/tree-{}", kubectl.minor);
    let (code, _, errors) = run(kubectl, &["cp", there.to_str().expect("path"), &at], None);
    assert_eq!(code, 0, "1.{} {pod}: {errors}", kubectl.minor);
    let (code, _, errors) = run(kubectl, &["cp", &at, back.to_str().expect("path")], None);
    assert_eq!(code, 0, "1.{} {pod}: {errors}", kubectl.minor);
    let found = std::fs::read(back.join("inner/file")).expect("copied");
    assert!(found == content, "1.{} {pod}: the copy differs", kubectl.minor);
}
