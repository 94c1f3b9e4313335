//! Measures what saving and restoring a cluster costs: time, size of the file, memory.
//!
//! `cargo xtask bench backup [OBJECTS]` builds the static release binary and runs this with
//! `KUMQUAT_BINARY` set to it. Both data-dirs lie on an ext4 loop device. Prints figures; it never fails on a
//! slow machine, but it does when what was restored is not what was saved.

#[path = "../tests/harness/board.rs"]
mod board;
#[path = "../tests/harness/busybox.rs"]
mod busybox;
#[path = "../tests/harness/disk.rs"]
mod disk;

use std::path::Path;
use std::time::{Duration, Instant};

use board::{Board, text};
use bytes::Bytes;
use disk::Disk;
use http::Request;
use http_body_util::Full;
use kumquat::app::api_client::ApiClient;
use kumquat::io::net;
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 16;
/// Bytes of data in each object.
const OBJECT_BYTES: usize = 1000;

fn main() {
    if !board::possible("bench") {
        return;
    }
    let objects: usize =
        std::env::var("KUMQUAT_OBJECTS").ok().and_then(|m| m.parse().ok()).unwrap_or(10_000);
    let disk = Disk::new("bench-backup", 1024);
    let mut board = Board::on("bench-backup", disk.folder());
    board.up(&[]);
    let empty = save(&board, disk.folder(), "empty");
    println!("empty cluster: {empty}");
    let began = Instant::now();
    create(&board, objects);
    println!("{objects} objects of {OBJECT_BYTES} bytes created in {:.1} s", seconds(began));
    let before = memory(&board);
    let file = disk.folder().join("full.backup");
    println!("save with the recovery key: {}", save(&board, disk.folder(), "full"));
    std::fs::write(disk.folder().join("phrase"), "one two three four five").expect("written");
    let phrase = disk.folder().join("phrase").display().to_string();
    timed(
        "save with a passphrase",
        &board,
        &["backup", "save", "/tmp/kq-phrase.backup", "--key-file", &phrase],
    );
    let _gone = std::fs::remove_file("/tmp/kq-phrase.backup");
    let path = file.display().to_string();
    timed("verify", &board, &["backup", "verify", &path]);
    println!("memory of the board (PSS): {before} kB before, {} kB after", memory(&board));
    let key = disk.folder().join("key");
    let printed = board.command(&["backup", "key"]);
    std::fs::write(&key, printed.stdout).expect("written");
    let all = names(&board);
    board.kill();
    let mut fresh = Board::on("bench-restored", disk.folder());
    let key = key.display().to_string();
    timed(
        "restore",
        &fresh,
        &["backup", "restore", &path, "--key-file", &key, "--name", "restored"],
    );
    let began = Instant::now();
    start(&mut fresh);
    println!("restored board: API ready {:.2} s after its start", seconds(began));
    let restored = names(&fresh);
    assert!(all.len() >= objects && all == restored, "what was restored is what was saved");
    let rusage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN);
    println!("most memory of any command: {} kB", rusage.map_or(0, |usage| usage.max_rss()));
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// The identity is there: names on the command line would contradict it.
fn start(board: &mut Board) {
    board.start_restored();
    let deadline = Instant::now() + Duration::from_secs(60);
    let answers = |board: &Board| board.command(&["kubeconfig"]).status.success();
    while !answers(board) || board.api_text("/readyz").is_err() {
        assert!(Instant::now() < deadline, "{}", board.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn save(board: &Board, folder: &Path, name: &str) -> String {
    let file = folder.join(format!("{name}.backup"));
    let began = Instant::now();
    let saved = board.command(&["backup", "save", file.to_str().expect("path"), "-o", "json"]);
    assert!(saved.status.success(), "{}", text(&saved));
    let took = seconds(began);
    let said: Value = serde_json::from_slice(&saved.stdout).expect("JSON");
    let megabytes = said["bytes"].as_f64().unwrap_or_default() / 1e6;
    format!("{took:.2} s, {} objects, {megabytes:.2} MB", said["objects"])
}

fn timed(what: &str, board: &Board, words: &[&str]) {
    let began = Instant::now();
    let output = board.command(words);
    assert!(output.status.success(), "{}", text(&output));
    println!("{what}: {:.2} s", seconds(began));
}

fn memory(board: &Board) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", board.pid()));
    let rollup = rollup.unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Names and versions of all maps, page by page.
fn names(board: &Board) -> Vec<(String, String)> {
    let (mut names, mut next) = (Vec::new(), String::new());
    loop {
        let page = board.get(&format!("{CONFIG_MAPS}?limit=1000&continue={next}"));
        let items = page["items"].as_array().into_iter().flatten();
        names.extend(items.map(|item| {
            let text =
                |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
            (text("name"), text("resourceVersion"))
        }));
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if next.is_empty() {
            return names;
        }
    }
}

fn create(board: &Board, objects: usize) {
    let kubeconfig = std::fs::read_to_string(board.kubeconfig()).expect("kubeconfig");
    let data = "x".repeat(OBJECT_BYTES);
    let write = |writer: usize| {
        let (kubeconfig, data) = (&kubeconfig, &data);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = ApiClient::from_kubeconfig(kubeconfig, None).map_err(other)?;
                for number in (writer..objects).step_by(WRITERS) {
                    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
                        "metadata": { "name": format!("map-{number:06}") }, "data": { "x": data } });
                    let request = Request::post(CONFIG_MAPS)
                        .header("content-type", "application/json")
                        .body(Full::new(Bytes::from(map.to_string())))
                        .map_err(std::io::Error::other)?;
                    client.json(request).await.map_err(other)?;
                }
                Ok(())
            })
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let run = write(writer);
            scope.spawn(move || net::inside(board.namespace(), run).expect("written"));
        }
    });
}

fn other(error: anyhow::Error) -> std::io::Error {
    std::io::Error::other(format!("{error:#}"))
}
