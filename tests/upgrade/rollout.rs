//! `kumquat upgrade` on three boards: binaries that work, that end, that hang, that are for another
//! processor, and a power cut in the middle.
//!
//! The new build is the one under test with bytes behind its end: another file that runs the same.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Request;
use kumquat::io::tls::Credentials;
use kumquat::io::{exchange, net, peer};

use crate::bed::{self, Containers, GAP_MAX, Users, WITHIN};
use crate::board::{Board, possible, text};
use crate::busybox;
use crate::history;
use crate::switch::Cluster;

/// Offset of the machine in the head of a program (elf(5)), and the number of 64-bit ARM.
const MACHINE: usize = 18;
const AARCH64: u8 = 183;

/// Says a version, and then does not what a board should.
const BROKEN: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "version")) {
        puts("{\"version\":\"9.9.9\"}");
        return 0;
    }
#ifdef HANGS
    for (;;) pause();
#endif
    return 7;
}
"#;

/// Files to upgrade to; removed with it.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kumquat-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        Self(folder)
    }

    /// Another build that works.
    fn build(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::copy(Board::binary_path(), &path).expect("copied");
        // Smaller is sooner there; where there is no such tool it only takes longer.
        let _stripped = Command::new("strip").arg(&path).status();
        let mut file = fs::File::options().append(true).open(&path).expect("opened");
        file.write_all(name.as_bytes()).expect("another file");
        path
    }

    /// Where the leader takes it.
    fn path_of(&self, file: &Path) -> String {
        let digest = exchange::digest_of(file).expect("read");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("/v1/upgrade/{hex}")
    }

    /// The same for another processor.
    fn foreign(&self) -> PathBuf {
        let path = self.build("foreign");
        let mut bytes = fs::read(&path).expect("read");
        bytes[MACHINE] = AARCH64;
        fs::write(&path, bytes).expect("written");
        path
    }

    /// A program that is no kumquat; none where there is no compiler.
    fn broken(&self, name: &str, define: &str) -> Option<PathBuf> {
        let (source, path) = (self.0.join(format!("{name}.c")), self.0.join(name));
        fs::write(&source, BROKEN).expect("written");
        let built = Command::new("cc").arg(define).arg("-o").arg(&path).arg(&source).status();
        built.is_ok_and(|status| status.success()).then_some(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// What the leader answers on its port to a worker that wants to give all boards a binary.
fn asked_by_a_worker(cluster: &Cluster, method: &str, path: &str) -> Result<u16, String> {
    let worker = &cluster.boards[1];
    let own = Credentials::load(&worker.data_dir()).expect("readable").expect("it has joined");
    let tls = own.client_config(peer::ALPN).expect("a configuration");
    let address = SocketAddr::from((cluster.master().address(), 7443));
    let asked = net::inside(worker.namespace(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let opened = peer::Connection::open(address, tls, WITHIN).await;
            let connection = opened.map_err(|error| error.to_string())?;
            let request = Request::builder().method(method).uri(path).body(peer::full("{}"));
            let answer = connection.send(request.map_err(|error| error.to_string())?).await;
            Ok(answer.map_err(|error| error.to_string())?.status().as_u16())
        }))
    });
    asked.expect("the worker's namespace")
}

/// Runs the command on a board; whether it went well, and what it said.
fn upgrade(board: &Board, file: &Path, more: &[&str]) -> (bool, String) {
    let began = Instant::now();
    let path = file.to_str().expect("text");
    let output = board.command(&[&["upgrade", "--from", path], more].concat());
    let name = file.file_name().unwrap_or_default();
    println!("upgrade to {name:?} {more:?} on {}: {:.2?}", board.node(), began.elapsed());
    println!("{}", text(&output));
    (output.status.success(), text(&output))
}

/// The names of the boards whose `kumquat up` runs this very file, and whose binary it is.
fn running<'a>(cluster: &'a Cluster, file: &Path) -> Vec<&'a str> {
    let wanted = fs::read(file).expect("read");
    let runs = |board: &&Board| {
        let program = fs::read(format!("/proc/{}/exe", board.up_pid())).unwrap_or_default();
        program == wanted && fs::read(board.binary_file()).is_ok_and(|file| file == wanted)
    };
    cluster.boards.iter().filter(runs).map(Board::node).collect()
}

fn assert_untouched(board: &Board, before: &Containers) {
    assert_eq!(bed::containers(board), *before, "no container is touched");
}

#[test]
fn one_master_and_two_workers() {
    if !possible("upgrade") || !busybox::present("upgrade") {
        return;
    }
    let files = Files::new("upgrade");
    let mut cluster = Cluster::new("rollout", 3);
    bed::fill(&cluster);
    let containers = bed::containers(cluster.master());
    let first = Board::binary_path();
    let new = files.build("second");
    let (fine, said) = upgrade(cluster.master(), &new, &["--dry-run"]);
    assert!(fine && said.matches("would be exchanged").count() == 3, "{said}");
    let (fine, said) = upgrade(&cluster.boards[1], &new, &[]);
    assert!(!fine && said.contains("on the master board"), "a worker may not: {said}");
    for (method, path) in [("POST", "/v1/upgrade".to_owned()), ("PUT", files.path_of(&new))] {
        assert_eq!(asked_by_a_worker(&cluster, method, &path), Ok(403), "{method} {path}");
    }
    assert_eq!(running(&cluster, &first).len(), 3, "nothing was done");
    let (fine, said) = upgrade(cluster.master(), &new, &[]);
    assert!(fine, "{said}");
    let at = |board: &str| said.find(&format!("{board}: fetches")).expect("it was exchanged");
    assert!(at("board-2") < at("board-1") && at("board-3") < at("board-1"), "the leader is last");
    assert_eq!(running(&cluster, &new).len(), 3);
    assert_untouched(cluster.master(), &containers);
    let (fine, said) = upgrade(cluster.master(), &new, &[]);
    assert!(fine && said.matches("runs it already").count() == 3, "{said}");
    let (fine, said) = upgrade(cluster.master(), &files.foreign(), &[]);
    assert!(!fine && said.matches("no file for its architecture").count() == 3, "{said}");
    let Some(hangs) = broken(&cluster, &files) else {
        println!("not run: binaries that never become ready need a C compiler");
        return;
    };
    file_gone(&cluster, &files.build("third"));
    assert_eq!(running(&cluster, &new).len(), 3, "all have what they had");
    assert_untouched(cluster.master(), &containers);
    power_cut(&mut cluster, &hangs, &new);
}

/// Binaries with which a board does not get ready; gives one that hangs.
fn broken(cluster: &Cluster, files: &Files) -> Option<PathBuf> {
    let script = files.0.join("script");
    fs::write(&script, "#!/bin/sh\nexit 0\n").expect("written");
    let (fine, said) = upgrade(cluster.master(), &script, &[]);
    assert!(!fine && said.contains("no Linux program"), "{said}");
    let (ends, hangs) = (files.broken("ends", "-DENDS")?, files.broken("hangs", "-DHANGS")?);
    let (fine, said) = upgrade(cluster.master(), &ends, &[]);
    assert!(!fine && said.contains("board-2 went back") && said.contains("by itself"), "{said}");
    assert!(!said.contains("board-3: fetches"), "no further board: {said}");
    cluster.wait_ready(1, WITHIN);
    let (fine, said) = upgrade(cluster.master(), &hangs, &["--ready-within", "4s"]);
    assert!(!fine && said.contains("not ready within 4 s"), "{said}");
    cluster.wait_ready(1, WITHIN);
    Some(hangs)
}

/// Somebody removes the file of a binary on trial: nobody but the guard starts the board again.
fn file_gone(cluster: &Cluster, third: &Path) {
    let board = &cluster.boards[1];
    let staged = exchange::staged_beside(&board.binary_file());
    let said = std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| upgrade(cluster.master(), third, &[]));
        let deadline = Instant::now() + WITHIN;
        let runs = || fs::read_link(format!("/proc/{}/exe", board.up_pid()));
        while !runs().is_ok_and(|program| program == staged) {
            assert!(Instant::now() < deadline, "it never began");
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(&staged).expect("on trial");
        upgrading.join().expect("the command")
    });
    assert!(!said.0 && said.1.contains("cannot take the place of"), "{}", said.1);
    cluster.wait_ready(1, WITHIN);
}

/// The plug is pulled while a binary is on trial: the board comes back as what it was.
fn power_cut(cluster: &mut Cluster, hangs: &Path, new: &Path) {
    let (master, others) = cluster.boards.split_first_mut().expect("boards");
    let board = &mut others[0];
    let said = std::thread::scope(|scope| {
        let master = &*master;
        let upgrading = scope.spawn(move || upgrade(master, hangs, &[]));
        let deadline = Instant::now() + WITHIN;
        while !board.is_on_trial() {
            assert!(Instant::now() < deadline, "it never began");
            std::thread::sleep(Duration::from_millis(20));
        }
        board.pull_the_plug();
        board.start(&[]);
        upgrading.join().expect("the command")
    });
    assert!(!said.0 && said.1.contains("lost its power"), "{}", said.1);
    assert_eq!(fs::read(board.binary_file()).expect("there"), fs::read(new).expect("there"));
    cluster.wait_ready(1, WITHIN);
}

#[test]
fn three_masters() {
    if !possible("upgrade of masters") || !busybox::present("upgrade of masters") {
        return;
    }
    let files = Files::new("masters");
    let cluster = Cluster::of_masters("rollmasters", 3);
    bed::fill(&cluster);
    let waited = cluster.master().command(&["wait", "--voters", "3", "--timeout", "120s"]);
    assert!(waited.status.success(), "{}", text(&waited));
    let containers = bed::containers(cluster.master());
    let (began, from) = (Instant::now(), history::now());
    let users = Users::start(&cluster);
    let new = files.build("second");
    let (fine, said) = upgrade(cluster.master(), &new, &[]);
    let until = history::now();
    let (written, calls) = users.stop();
    assert!(fine, "{said}");
    assert_eq!(running(&cluster, &new).len(), 3);
    let failed = bed::failed(&calls, began);
    let gap = written.longest_gap(from, until);
    println!(
        "{} accepted writes, the longest time without {gap:.2?}; {} calls of the Service, {failed} failed",
        written.accepted().len(),
        calls.len()
    );
    assert_eq!(failed, 0, "no call of the Service fails");
    assert!(gap < GAP_MAX, "{gap:?} without an accepted write");
    let leads = |board: &&Board| {
        let said = board.command(&["status", "-o", "json"]);
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        said["leader"] == board.node()
    };
    let leader = cluster.boards.iter().find(leads).expect("one leads");
    assert_ne!(leader.node(), "board-1", "the lead was handed over");
    assert_untouched(leader, &containers);
    let Some(ends) = files.broken("ends", "-DENDS") else { return };
    let follower = cluster.boards.iter().find(|board| board.node() != leader.node());
    // Another master passes the command on to the leader.
    let (fine, said) = upgrade(follower.expect("two follow"), &ends, &[]);
    assert!(!fine && said.contains("went back"), "{said}");
}
