//! The test command: what the README gives and CI calls.
//!
//! Builds every test binary, runs each with a deadline, and closes with a table: tests by kind, seconds,
//! and what this machine could not run and why. A test that cannot run here says so in a line that
//! starts with [`NOT_RUN`]. Most tests of boards wait for something to happen, so [`LANES`] binaries run
//! side by side, except those whose results a busy machine changes ([`ALONE`]).

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup;
use crate::shell::cargo;

/// How the line of a test starts that this machine cannot run.
const NOT_RUN: &str = "not run: ";
/// No test binary takes longer, or something hangs.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long the last lines of an ended test binary may take to arrive. A process that it left behind
/// may hold the pipe for ever.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Test binaries, beside the unit tests, whose folders lie in memory: they show what the code does,
/// not what a disk does, and a busy disk makes them a hundred times slower.
const IN_MEMORY: [&str; 4] = ["api", "corpus", "kubectl", "watch"];
/// Test binaries whose tests mostly wait for somebody to notice something, and how many run at a time.
const WAITING: [(&str, usize); 2] = [("faults", 4), ("masters", 4)];
/// Test binaries of boards that leave most of a machine idle: they begin when those that keep it busy
/// have begun or ended.
const LATE: [&str; 4] = ["cluster", "faults", "keeper", "power"];
/// Test binaries whose tests measure how soon something happens, look for what the whole machine has
/// left, or keep both cores busy: they run alone.
const ALONE: [&str; 3] = ["demo", "masters", "services"];
/// Other test binaries that run at a time.
const LANES: usize = 3;
/// Memory that Linux offers as a folder.
const MEMORY: &str = "/dev/shm";

/// One binary with tests.
struct Binary {
    name: String,
    program: PathBuf,
    folder: PathBuf,
}

/// What a run of a binary showed.
#[derive(Default)]
struct Outcome {
    name: String,
    passed: usize,
    failed: usize,
    seconds: f64,
    not_run: BTreeSet<String>,
    /// Why the binary itself failed, when no test says it.
    broken: Option<String>,
}

/// Runs all tests, or those that `filter` names.
pub(crate) fn run_tests(filter: &[String]) -> Result<()> {
    setup::for_tests()?;
    let start = Instant::now();
    // Boards of tests run what users run, a static binary, and can be told to fail. Each of the two builds
    // now and then has work for one core only.
    let (binaries, board) = std::thread::scope(|scope| {
        let board = scope.spawn(|| setup::build_with_faults("tested"));
        let binaries = build();
        (binaries, board.join().expect("a build does not panic"))
    });
    let (binaries, board) = (binaries?, board?);
    eprintln!("xtask: {} test binaries built in {:.0} s", binaries.len(), seconds(start));
    let (alone, mut others): (Vec<_>, Vec<_>) =
        binaries.iter().partition(|binary| ALONE.contains(&binary.name.as_str()));
    others.sort_by_key(|binary| LATE.contains(&binary.name.as_str()));
    let mut outcomes = side_by_side(others, filter, &board)?;
    for binary in alone {
        outcomes.push(binary.run(filter, &board, &mut |line| println!("{line}"))?);
    }
    eprintln!("xtask: tests took {:.0} s with the build", seconds(start));
    summary(&outcomes);
    let failed = |outcome: &&Outcome| outcome.failed > 0 || outcome.broken.is_some();
    let bad: Vec<_> = outcomes.iter().filter(failed).map(|o| o.name.as_str()).collect();
    if !bad.is_empty() {
        bail!("tests failed in: {}", bad.join(", "));
    }
    if outcomes.iter().all(|outcome| outcome.passed == 0) {
        bail!("no test has such a name: {}", filter.join(" "));
    }
    Ok(())
}

/// Runs test binaries in [`LANES`] lanes; each one's lines are shown together when it has ended.
fn side_by_side(binaries: Vec<&Binary>, filter: &[String], board: &Path) -> Result<Vec<Outcome>> {
    let queue = Mutex::new(VecDeque::from(binaries));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let lane = || {
        let mut outcomes = Vec::new();
        while let Some(binary) = next() {
            let mut lines = Vec::new();
            outcomes.push(binary.run(filter, board, &mut |line| lines.push(line.to_owned()))?);
            println!("{}", lines.join("\n"));
        }
        anyhow::Ok(outcomes)
    };
    let lanes = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().map(|lane| lane.join().expect("a lane does not panic")).collect()
    });
    let lanes: Result<Vec<_>> = lanes;
    let mut outcomes: Vec<Outcome> = lanes?.into_iter().flatten().collect();
    outcomes.sort_by_key(|outcome| (!outcome.name.ends_with("(unit)"), outcome.name.clone()));
    Ok(outcomes)
}

/// Builds all test binaries; gives them in the order of their names, unit tests first.
fn build() -> Result<Vec<Binary>> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    // Boards of tests can be told to fail.
    command.args(["--features", "kumquat/fault-injection"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut binaries: Vec<Binary> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| binary(&serde_json::from_slice(line).ok()?))
        .collect();
    binaries.sort_by_key(|binary| (!binary.name.ends_with("(unit)"), binary.name.clone()));
    Ok(binaries)
}

/// The test binary that a line of cargo's messages announces.
fn binary(message: &Value) -> Option<Binary> {
    let program = PathBuf::from(message["executable"].as_str()?);
    if message["profile"]["test"] != true {
        return None;
    }
    let target = message["target"]["name"].as_str()?;
    let name = match message["target"]["kind"][0].as_str()? {
        "test" => target.to_owned(),
        "bin" => format!("{target} program (unit)"),
        _ => format!("{target} (unit)"),
    };
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Binary { name, program, folder })
}

impl Binary {
    fn in_memory(&self) -> bool {
        self.name.ends_with("(unit)") || IN_MEMORY.contains(&self.name.as_str())
    }

    fn run(&self, filter: &[String], board: &Path, show: &mut dyn FnMut(&str)) -> Result<Outcome> {
        show(&format!("\n== {}", self.name));
        let start = Instant::now();
        let mut command = Command::new(&self.program);
        command.arg("--show-output").args(filter).current_dir(&self.folder);
        if let Some((_, threads)) = WAITING.iter().find(|(name, _)| *name == self.name) {
            command.arg(format!("--test-threads={threads}"));
        }
        command.env("CARGO_MANIFEST_DIR", &self.folder).env("KUMQUAT_BINARY", board);
        if self.in_memory() && Path::new(MEMORY).is_dir() {
            command.env("TMPDIR", MEMORY);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let lines = lines_of(&mut child);
        let mut outcome = Outcome { name: self.name.clone(), ..Outcome::default() };
        let finished = follow(&mut child, &lines, &mut outcome, show);
        if !finished {
            child.kill().context("cannot end a hanging test binary")?;
            outcome.broken = Some(format!("hung for {} s", DEADLINE.as_secs()));
        }
        let status = child.wait()?;
        if finished && !status.success() && outcome.failed == 0 {
            outcome.broken = Some(status.to_string());
        }
        outcome.seconds = seconds(start);
        Ok(outcome)
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(64);
    let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Reads a test binary's lines until it ends; false when it does not end in time.
fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    outcome: &mut Outcome,
    show: &mut dyn FnMut(&str),
) -> bool {
    let deadline = Instant::now() + DEADLINE;
    let mut ended: Option<Instant> = None;
    let mut quiet = false;
    while ended.is_none_or(|at| at.elapsed() < LAST_LINES) {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if note(&line, &mut quiet, outcome) {
                    show(&line);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) if ended.is_some() => (),
            Err(RecvTimeoutError::Timeout) => {
                ended = child.try_wait().ok().flatten().map(|_| Instant::now());
            }
        }
        if ended.is_none() && Instant::now() > deadline {
            return false;
        }
    }
    true
}

/// Takes in one line; whether it is for the reader, and not what a passed test printed.
///
/// A test may start test binaries of its own: the last result line is the binary's.
fn note(line: &str, quiet: &mut bool, outcome: &mut Outcome) -> bool {
    match line {
        "successes:" => *quiet = true,
        "failures:" => *quiet = false,
        _ => (),
    }
    if let Some(why) = line.strip_prefix(NOT_RUN) {
        outcome.not_run.insert(why.to_owned());
    }
    let result = line.strip_prefix("test result: ");
    if let Some(result) = result {
        outcome.passed = count(result, "passed");
        outcome.failed = count(result, "failed");
    }
    (result.is_some() || !*quiet) && !line.is_empty()
}

/// The number before `word` in libtest's result line.
fn count(result: &str, word: &str) -> usize {
    let before = result.split(word).next().unwrap_or_default();
    before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn summary(outcomes: &[Outcome]) {
    println!("\n{:<28} {:>6} {:>6} {:>8}", "tests", "passed", "failed", "seconds");
    for outcome in outcomes.iter().filter(|o| o.passed + o.failed > 0 || o.broken.is_some()) {
        let Outcome { name, passed, failed, seconds, .. } = outcome;
        let broken = outcome.broken.as_deref().unwrap_or_default();
        println!("{name:<28} {passed:>6} {failed:>6} {seconds:>8.1} {broken}");
    }
    let sum = |part: fn(&Outcome) -> usize| outcomes.iter().map(part).sum::<usize>();
    let all: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
    println!("{:<28} {:>6} {:>6} {all:>8.1}", "all", sum(|o| o.passed), sum(|o| o.failed));
    let missing = outcomes.iter().flat_map(|o| o.not_run.iter().map(move |why| (&o.name, why)));
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        println!("everything was run");
        return;
    }
    println!("not run on this machine:");
    for (name, why) in missing {
        println!("  {name}: {why}");
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

#[cfg(test)]
mod reading {
    use super::*;

    #[test]
    fn the_result_line_of_a_test_binary_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured";
        let mut outcome = Outcome::default();
        note("test result: ok. 1 passed; 0 failed", &mut true, &mut outcome);
        assert!(note(line, &mut true, &mut outcome), "shown although passed tests are quiet");
        assert_eq!((outcome.passed, outcome.failed), (12, 3));
    }

    #[test]
    fn what_was_not_run_is_kept_though_passed_tests_are_quiet() {
        let mut outcome = Outcome::default();
        let mut quiet = false;
        for line in ["test a ... ok", "successes:", "---- a stdout ----", "not run: no root"] {
            note(line, &mut quiet, &mut outcome);
        }
        assert!(quiet);
        assert_eq!(Vec::from_iter(outcome.not_run), ["no root"]);
    }

    #[test]
    fn test_binaries_are_told_from_other_artifacts() {
        let mut message = serde_json::json!({
            "executable": "/t/power-1", "profile": {"test": true}, "manifest_path": "/r/Cargo.toml",
            "target": {"name": "power", "kind": ["test"]},
        });
        let found = binary(&message).expect("a test binary");
        assert_eq!((found.name.as_str(), found.folder), ("power", PathBuf::from("/r")));
        message["profile"]["test"] = false.into();
        assert!(binary(&message).is_none());
    }
}
