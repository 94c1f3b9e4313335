//! The demo with the static binary: it shows what it promises and leaves nothing, also when killed.
//!
//! The binary runs as an image, too: `cargo xtask test` builds a static one and names it in
//! `KUMQUAT_BINARY`; without it these tests say that they were not run.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// All that a demo could leave on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    links: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
    processes: BTreeSet<String>,
    rules: String,
}

impl Host {
    fn now() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let point = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
        let mut cgroups = BTreeSet::new();
        collect(Path::new("/sys/fs/cgroup"), 5, &mut cgroups);
        let mut files = BTreeSet::new();
        for folder in ["/run", "/run/kumquat-demo", "/run/netns"] {
            collect(Path::new(folder), 0, &mut files);
        }
        let demos = |path: &PathBuf| path.to_string_lossy().contains("demo");
        let rules = Command::new("nft").args(["list", "ruleset"]).output();
        Self {
            mounts: mounts.lines().map(point).filter(|path| path.contains("demo")).collect(),
            cgroups: cgroups
                .into_iter()
                .filter(|path| path.to_string_lossy().contains("demo"))
                .collect(),
            links: names("/sys/class/net").filter(|name| name.starts_with("kqd")).collect(),
            files: files.into_iter().filter(demos).collect(),
            processes: processes(),
            rules: rules.map_or_else(
                |_| String::new(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            ),
        }
    }
}

fn names(folder: &str) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn collect(folder: &Path, depth: usize, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if depth > 0 && path.is_dir() && !path.is_symlink() {
            collect(&path, depth - 1, into);
        }
        into.insert(path);
    }
}

fn processes() -> BTreeSet<String> {
    names("/proc")
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("kumquat-demo").then(|| format!("{pid} {line}"))
        })
        .collect()
}

/// The static binary, or none with a word why.
fn binary(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("KUMQUAT_BINARY").map(PathBuf::from);
    if path.is_none() || !nix::unistd::geteuid().is_root() {
        println!("not run: {test} needs root and KUMQUAT_BINARY (cargo xtask test sets it)");
        return None;
    }
    path
}

fn demo(binary: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary);
    command.arg("demo").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("the demo starts")
}

/// Reads on until a line has `word`; gives what the demo printed.
fn until(child: &mut Child, word: &str) -> String {
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.as_mut().expect("piped"));
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).expect("readable") == 0 {
            panic!("the demo ended before {word:?}:\n{text}");
        }
        text += &line;
        if line.contains(word) {
            return text;
        }
    }
}

fn until_ready(child: &mut Child) -> String {
    until(child, "demo ready in ")
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signal");
}

fn finish(child: Child) {
    let output = child.wait_with_output().expect("wait");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("nothing is left"), "{text}");
}

/// One test, because they all look at the same machine.
#[test]
fn the_demo_shows_a_cluster_and_leaves_nothing() {
    let Some(binary) = binary("demo") else { return };
    // A demo that was killed before this test is not this test's business.
    finish(demo(&binary, &["--once", "--boards", "1"]));
    let before = Host::now();

    let mut once = demo(&binary, &["--once"]);
    let text = until_ready(&mut once);
    println!("{text}");
    assert_eq!(text.matches(" is Ready\n").count(), 4, "three boards, and one again:\n{text}");
    assert!(text.contains("boards Ready: 3 of 3"), "{text}");
    assert!(text.contains("spread: board-1 1, board-2 1, board-3 1"), "{text}");
    assert_eq!(text.matches("  ready\n").count(), 3, "three replicas come up:\n{text}");
    assert_eq!(text.matches(": hello from hello-").count(), 3, "each shows a line:\n{text}");
    let calls = text.lines().filter(|line| line.contains(" calls, 30 answers from 3 pods"));
    assert_eq!(calls.count(), 6, "two names, called on each board:\n{text}");
    for step in [" is NotReady\n", "pods replaced: ", "surplus pods gone: "] {
        assert_eq!(text.matches(step).count(), 1, "{step}:\n{text}");
    }
    finish(once);
    assert_eq!(Host::now(), before, "after --once");

    let alone = ["--boards", "1"];
    let (mut one, mut two) = (demo(&binary, &alone), demo(&binary, &alone));
    until_ready(&mut one);
    until_ready(&mut two);
    send(&one, Signal::SIGINT);
    send(&two, Signal::SIGTERM);
    finish(one);
    finish(two);
    assert_eq!(Host::now(), before, "after two at once, ended by SIGINT and SIGTERM");

    let mut killed = demo(&binary, &[]);
    until(&mut killed, "spread: ");
    send(&killed, Signal::SIGKILL);
    killed.wait().expect("wait");
    assert_ne!(Host::now(), before, "a killed demo leaves its boards");
    finish(demo(&binary, &["--once", "--boards", "1"]));
    assert_eq!(Host::now(), before, "the next demo cleans up after it");
}
