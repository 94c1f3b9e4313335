//! The command line as a contract: JSON fields, exit codes, streams, help, where flags may stand.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use board::{Board, possible, text};
use kumquat::io::net;
use nix::pty::openpty;
use serde_json::Value;

/// Every command with its own help.
const COMMANDS: [&[&str]; 18] = [
    &["up"],
    &["wait"],
    &["status"],
    &["board"],
    &["board", "list"],
    &["token"],
    &["token", "create"],
    &["token", "list"],
    &["token", "revoke"],
    &["kubeconfig"],
    &["image"],
    &["image", "import"],
    &["image", "list"],
    &["image", "export"],
    &["image", "rm"],
    &["demo"],
    &["repair"],
    &["version"],
];

fn kumquat(arguments: &[&str]) -> Output {
    let mut command = Command::new(Board::binary_path());
    command.args(arguments).stdin(Stdio::null()).output().expect("kumquat starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn help_goes_to_stdout_teaches_and_exits_0() {
    for command in COMMANDS {
        let help = kumquat(&[command, &["--help"]].concat());
        let said = stdout(&help);
        assert_eq!(help.status.code(), Some(0), "{command:?}");
        assert!(help.stderr.is_empty(), "{command:?}: {}", text(&help));
        for word in ["Example", "--data-dir", "--run-dir"] {
            assert!(said.contains(word), "{command:?}: no {word} in {said}");
        }
        let example = format!("kumquat {}", command.join(" "));
        assert!(said.matches(&example).count() >= 2, "{command:?}: no example in {said}");
    }
    let help = stdout(&kumquat(&["--help"]));
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {} ", command[0])), "{command:?} in {help}");
    }
    assert!(!help.contains("hello"), "the demo's own workload is hidden");
}

#[test]
fn usage_errors_exit_2_on_stderr() {
    for arguments in [
        &[][..],
        &["fly"],
        &["up", "--fly"],
        &["wait", "--timeout", "soon"],
        &["wait", "--boards", "-1"],
        &["status", "-o", "yaml"],
        &["repair"],
        &["image"],
        &["image", "import"],
        &["demo", "--boards", "0"],
    ] {
        let refused = kumquat(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {}", text(&refused));
        assert!(refused.stdout.is_empty(), "{arguments:?}: {}", text(&refused));
        assert!(!refused.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn version_speaks_both_formats() {
    let version = json(&kumquat(&["version", "-o", "json"]));
    assert_eq!(fields(&version), BTreeSet::from(["version", "kubernetes", "gitVersion", "arch"]));
    let short = version["version"].as_str().expect("text");
    assert!(version["gitVersion"].as_str().expect("text").ends_with(short), "{version}");
    assert!(version["kubernetes"].as_str().expect("text").starts_with("v1."), "{version}");
    let plain = stdout(&kumquat(&["version"]));
    assert_eq!(plain.lines().count(), 1);
    assert!(plain.contains(short), "{plain}");
}

#[test]
fn nobody_there_is_said_with_the_remedy() {
    let folder = std::env::temp_dir().join(format!("kumquat-cli-{}", std::process::id()));
    let folder = folder.to_str().expect("path");
    for command in [&["status"][..], &["kubeconfig"], &["image", "list"], &["image", "rm", "a:1"]] {
        let refused = kumquat(&[command, &["--run-dir", folder]].concat());
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {}", text(&refused));
        assert!(refused.stdout.is_empty(), "{command:?}: {}", text(&refused));
        let said = text(&refused);
        assert!(said.contains("kumquat up") && said.contains(folder), "{command:?}: {said}");
    }
    let began = Instant::now();
    let waited = kumquat(&["wait", "--timeout", "300ms", "--run-dir", folder]);
    assert_eq!(waited.status.code(), Some(3), "{}", text(&waited));
    assert!(waited.stdout.is_empty(), "{}", text(&waited));
    let taken = began.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&taken), "{taken:?}");
}

#[test]
fn a_board_answers_as_the_contract_says() {
    if !possible("cli") {
        return;
    }
    let mut board = Board::new("cli");
    board.up(&[]);
    let status = json(&board.command(&["status", "-o", "json"]));
    let contract = ["cluster", "epoch", "term", "leader", "boards", "voters", "warnings"];
    assert!(fields(&status).is_superset(&contract.into()), "{status}");
    assert_eq!(status["cluster"], board.name());
    assert_eq!(status["leader"], "board");
    assert_eq!(status["voters"], serde_json::json!(["board"]));
    for number in ["epoch", "term"] {
        assert!(status[number].is_u64(), "{number}: {status}");
    }
    assert!(status["warnings"].is_array(), "{status}");
    for warning in status["warnings"].as_array().expect("an array") {
        assert!(fields(warning).is_superset(&["board", "reason", "remedy"].into()), "{warning}");
    }
    let own = &status["boards"][0];
    let contract = ["name", "address", "role", "ready", "version"];
    assert!(fields(own).is_superset(&contract.into()), "{own}");
    assert_eq!((&own["name"], &own["role"]), (&"board".into(), &"master".into()));
    assert_eq!(own["ready"], true, "{own}");
    let version = json(&kumquat(&["version", "-o", "json"]));
    assert_eq!(own["version"], version["version"]);
    let boards = json(&board.command(&["board", "list", "-o", "json"]));
    assert_eq!(boards.as_array().map(Vec::len), Some(1), "{boards}");
    let own = &boards[0];
    assert_eq!(
        (&own["name"], &own["ready"], &own["pods"]),
        (&"board".into(), &true.into(), &0.into())
    );
    assert!(own["architecture"].is_string() && own["lastHeardSeconds"].is_u64(), "{own}");
    let table = stdout(&board.command(&["board", "list"]));
    assert!(table.contains("LAST HEARD") && table.contains("board "), "{table}");

    let doctor = board.command(&["doctor", "-o", "json"]);
    let said: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(fields(&said), BTreeSet::from(["state", "board", "findings"]));
    let failed = said["state"] == "fail";
    assert_eq!(doctor.status.code(), Some(i32::from(failed)), "{said}");
    let findings = said["findings"].as_array().expect("an array");
    let of = |check: &str| findings.iter().find(|it| it["check"] == check).expect("it is checked");
    assert!(fields(of("clock")).is_superset(&["check", "state", "what"].into()), "{said}");
    let cluster = of("cluster")["what"].as_str().expect("text");
    assert!(cluster.contains(board.name()) && cluster.contains("1 of 1 boards"), "{cluster}");
    let ports = of("ports")["what"].as_str().expect("text");
    assert!(ports.contains("6443/tcp is kumquat's"), "{ports}");

    let term = status["term"].as_u64().expect("number");
    board.stop();
    board.up(&[]);
    let again = json(&board.command(&["status", "-o", "json"]));
    assert!(again["term"].as_u64().expect("number") > term, "{again}");
    assert_eq!(again["epoch"], status["epoch"]);

    let waited = board.command(&["wait", "--boards", "2", "--timeout", "200ms"]);
    assert_eq!(waited.status.code(), Some(3), "{}", text(&waited));
    assert!(text(&waited).contains("1 boards ready"), "{}", text(&waited));
    let met = board.command(&["wait", "--boards", "1", "--voters", "1", "--timeout", "5s"]);
    assert_eq!(met.status.code(), Some(0), "{}", text(&met));

    assert_eq!(json(&board.command(&["image", "list", "-o", "json"])), serde_json::json!([]));
    let kubeconfig = stdout(&board.command(&["kubeconfig", "--server", "https://pi-1.local:6443"]));
    assert!(kubeconfig.contains("server: https://pi-1.local:6443"), "{kubeconfig}");
    for evil in ["http://a", "https://a b", "https://a\nusers: []"] {
        let refused = board.command(&["kubeconfig", "--server", evil]);
        assert_eq!(refused.status.code(), Some(1), "{evil}: {}", text(&refused));
        assert!(text(&refused).contains("https://ADDRESS:6443"), "{evil}: {}", text(&refused));
    }
}

#[test]
fn folders_may_stand_before_or_after() {
    if !possible("cli-folders") {
        return;
    }
    let mut board = Board::new("cli-folders");
    board.up(&[]);
    let (data, run) = (board.data_dir(), board.run_dir());
    let (data, run) = (data.to_str().expect("path"), run.to_str().expect("path"));
    for arguments in [
        &["--data-dir", data, "--run-dir", run, "status"][..],
        &["status", "--data-dir", data, "--run-dir", run],
        &["--run-dir", run, "status", "-o", "json", "--data-dir", data],
        &["--run-dir", run, "image", "list"],
        &["image", "--run-dir", run, "list"],
        &["image", "list", "--run-dir", run],
        &["wait", "--run-dir", run, "--timeout", "5s"],
    ] {
        let output = kumquat(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
}

/// What `kumquat up` logs on a terminal until the API is ready.
fn logged_on_a_terminal(test: &str, variables: &[(&str, &str)]) -> String {
    let board = Board::new(test);
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = Command::new(Board::binary_path());
    command.args(["up", "--name", "board", "--cluster", board.name(), "--config", "/dev/null"]);
    command.arg("--data-dir").arg(board.data_dir()).arg("--run-dir").arg(board.run_dir());
    command.env_remove("NO_COLOR").envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::from(terminal.slave));
    let child = net::inside(board.namespace(), || command.spawn());
    let mut child = child.expect("kumquat up starts");
    drop(command);
    let mut terminal = File::from(terminal.master);
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while !said.contains("API ready") {
        // A terminal whose other side is closed ends with an error instead of an end.
        let count = terminal.read(&mut piece).unwrap_or_else(|error| panic!("{error}: {said}"));
        said += &String::from_utf8_lossy(&piece[..count]);
    }
    // A board that is ready has its keeper, which goes with the board when this test ends.
    let ready = board.command(&["wait", "--timeout", "30s"]);
    assert!(ready.status.success(), "{}", text(&ready));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal");
    child.wait().expect("wait");
    said
}

#[test]
fn no_color_is_honoured() {
    if !possible("cli-colour") {
        return;
    }
    let colourful = logged_on_a_terminal("cli-colour", &[]);
    assert!(colourful.contains('\u{1b}'), "{colourful:?}");
    let plain = logged_on_a_terminal("cli-plain", &[("NO_COLOR", "1")]);
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
}
