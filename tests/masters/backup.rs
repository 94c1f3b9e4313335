//! A cluster is saved while it works, all its masters go, and a fresh board brings it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::{self, Board, text};
use crate::busybox;
use crate::disk::Disk;
use crate::switch::{Cluster, is_ready};
use crate::three::{MAPS, config_map, standing, status, wait_until};

const SOON: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// What nobody changes between the save and the restore, nor a new leader at its start.
const LASTING: [&str; 7] = [
    "/api/v1/namespaces",
    "/api/v1/secrets",
    "/api/v1/services",
    "/api/v1/serviceaccounts",
    "/apis/apps/v1/deployments",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
];

fn ran(board: &Board, words: &[&str]) -> String {
    let output = board.command(words);
    assert!(output.status.success(), "{words:?}: {}\n{}", text(&output), board.log());
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn refused(board: &Board, words: &[&str], why: &[&str]) {
    let output = board.command(words);
    let said = text(&output);
    assert!(!output.status.success(), "{words:?} is not refused: {said}");
    for word in why {
        assert!(said.contains(word), "{words:?}: {word:?} is not in {said}");
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of tests")
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("a version");
    text.parse().expect("a number")
}

/// Objects by kind and name, as the API shows them.
fn objects(board: &Board, paths: &[&str]) -> BTreeMap<String, Value> {
    let list = |path: &&str| (path.to_string(), board.get(path));
    let lists = paths.iter().map(list).flat_map(|(path, list)| {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(move |item| {
            let meta = &item["metadata"];
            (format!("{path} {} {}", meta["namespace"], meta["name"]), item)
        })
    });
    lists.collect()
}

/// Creates maps until told to stop; what is acknowledged is counted.
fn write(board: &Board, stop: &AtomicBool, acknowledged: &AtomicU64, last: &AtomicU64) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let written = board.api("POST", MAPS, Some(&config_map(&format!("map-{number:05}"))));
        last.store(version(&written.expect("written")), Ordering::SeqCst);
        acknowledged.store(number + 1, Ordering::SeqCst);
    }
}

/// Names of the maps that the writer made.
fn written(board: &Board) -> Vec<String> {
    let list = board.get(MAPS);
    let names = list["items"].as_array().into_iter().flatten();
    let names = names.filter_map(|map| map["metadata"]["name"].as_str());
    names.filter(|name| name.starts_with("map-")).map(str::to_owned).collect()
}

/// A cluster with something of everything; gives a service account's token.
fn furnish(cluster: &Cluster) -> String {
    let master = cluster.master();
    cluster.import_busybox(1);
    master.create(
        SECRETS,
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "door" },
            "stringData": { "code": "4711" } }),
    );
    let spec = json!({ "containers": [{ "name": "main", "image": busybox::IMAGE,
        "command": ["sh", "-c", "sleep 1000"] }], "nodeName": "board-2" });
    let meta = json!({ "name": "lasting" });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec });
    master.create(PODS, &pod);
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "expirationSeconds": 7200 } });
    let token = master.api("POST", TOKEN, Some(&request)).expect("a token");
    token["status"]["token"].as_str().expect("a token").to_owned()
}

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

fn container(pod: &Value) -> (Value, Value) {
    let status = &pod["status"]["containerStatuses"][0];
    (status["containerID"].clone(), status["restartCount"].clone())
}

/// Saves while somebody writes; gives how many writes were acknowledged before, and the newest version of all.
fn save_under_writes(cluster: &Cluster, file: &Path) -> (u64, u64) {
    let (stop, count, last) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let before = std::thread::scope(|scope| {
        scope.spawn(|| write(cluster.master(), &stop, &count, &last));
        wait_until("some writes", &cluster.boards, SOON, || count.load(Ordering::SeqCst) > 5);
        let before = count.load(Ordering::SeqCst);
        let said = ran(cluster.master(), &["backup", "save", utf8(file)]);
        assert!(said.contains("read back and verified"), "{said}");
        let after = count.load(Ordering::SeqCst);
        wait_until("more writes", &cluster.boards, SOON, || {
            count.load(Ordering::SeqCst) > after + 2
        });
        stop.store(true, Ordering::SeqCst);
        before
    });
    (before, last.load(Ordering::SeqCst))
}

#[test]
fn a_saved_cluster_comes_back_on_a_fresh_board() {
    if !board::possible("backup") || !busybox::present("backup") {
        return;
    }
    let began = Instant::now();
    let mut cluster = Cluster::new("backup", 2);
    let token = furnish(&cluster);
    let pod = format!("{PODS}/lasting");
    let pod_before = cluster.master().wait_for("pod runs", &pod, SOON, running);
    let folder = cluster.master().data_dir().parent().expect("its folder").to_owned();
    let (file, key) = (folder.join("lab.backup"), folder.join("key"));
    refused(&cluster.boards[1], &["backup", "save", utf8(&file)], &["on the master board board-1"]);
    let lasting = objects(cluster.master(), &LASTING);
    let (before, newest) = save_under_writes(&cluster, &file);
    std::fs::write(&key, ran(cluster.master(), &["backup", "key"])).expect("written down");
    let all = written(cluster.master());
    println!("saved after {:?}", began.elapsed());
    cluster.boards[0].kill();

    // A fresh board, under a name of its own.
    let fresh = cluster.switch.board(3);
    let words = |name: &'static str| {
        let (file, key) = (utf8(&file).to_owned(), utf8(&key).to_owned());
        [
            "backup".into(),
            "restore".into(),
            file,
            "--key-file".into(),
            key,
            "--name".into(),
            name.to_owned(),
        ]
    };
    let restore = |board: &Board, name| {
        let words = words(name);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = board.command(&words);
        (output.status.success(), text(&output))
    };
    let (done, said) = restore(&fresh, "board-2");
    assert!(!done && said.contains("--name"), "{said}");
    let (done, said) = restore(&cluster.boards[1], "board-3");
    assert!(!done && (said.contains("in use") || said.contains("another kumquat runs")), "{said}");
    let wrong = folder.join("wrong");
    std::fs::write(&wrong, "a passphrase of somebody").expect("written");
    let wrong = ["backup", "restore", utf8(&file), "--key-file", utf8(&wrong), "--name", "board-3"];
    refused(&fresh, &wrong, &["recovery key"]);
    assert!(!fresh.data_dir().join("restore.new").exists(), "nothing half-made is left");
    let (done, said) = restore(&fresh, "board-3");
    assert!(done && said.contains("board evict"), "{said}");
    cluster.boards.push(fresh);
    cluster.boards[2].start(&[]);
    let led = wait_until("the restored board leads", &cluster.boards, SOON, || {
        status(&cluster.boards[2])["leader"] == "board-3"
    });
    println!("restored board leads {led:?} after its start");
    check_objects(&cluster.boards[2], &lasting, &all, before);
    check_trust(&cluster.boards[2], &token, newest);
    check_boards(&mut cluster, &pod_before);
    println!("whole trial: {:?}", began.elapsed());
}

fn check_objects(board: &Board, lasting: &BTreeMap<String, Value>, all: &[String], before: u64) {
    let now = objects(board, &LASTING);
    assert!(lasting.len() > 70, "{}", lasting.len());
    for (name, object) in lasting {
        // A token that was revoked since the backup would let boards in again.
        let kept = (!name.contains("\"bootstrap-token-")).then_some(object);
        assert_eq!(now.get(name), kept, "{name}");
    }
    assert!(lasting.keys().any(|name| name.contains("\"bootstrap-token-")), "a board has joined");
    let door = &now["/api/v1/secrets \"default\" \"door\""];
    assert_eq!(door["data"]["code"], "NDcxMQ==", "readable");
    let kept = written(board);
    assert!(kept.len() as u64 >= before, "{} of {before}", kept.len());
    assert!(kept.len() < all.len(), "what came after the backup is lost");
    assert_eq!(kept, all[..kept.len()], "the state at one moment");
}

fn check_trust(board: &Board, token: &str, newest: u64) {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": token } });
    let reviewed = board.api("POST", REVIEW, Some(&review)).expect("reviewed");
    assert_eq!(reviewed["status"]["authenticated"], true, "{reviewed}");
    let after = board.create(MAPS, &config_map("after"));
    assert!(version(&after) > newest, "versions grow: {} after {newest}", version(&after));
}

fn check_boards(cluster: &mut Cluster, pod_before: &Value) {
    let node = "/api/v1/nodes/board-2";
    let came = Instant::now();
    cluster.boards[2]
        .wait_for("the worker is back", node, SOON, |node| is_ready(node) == Some(true));
    println!("the worker is back after {:?}", came.elapsed());
    let pod = format!("{PODS}/lasting");
    let after = cluster.boards[2].wait_for("pod runs", &pod, SOON, running);
    assert_eq!(container(pod_before), container(&after), "nothing was restarted");
    assert_eq!(pod_before["metadata"]["uid"], after["metadata"]["uid"]);
    let said = status(&cluster.boards[2]);
    assert_eq!(said["epoch"].as_u64(), Some(2), "{said}");
    // The old master turns up after all.
    cluster.boards[0].start(&[]);
    wait_until("the old master is fenced", &cluster.boards, SOON, || {
        let said = status(&cluster.boards[2]);
        ["learner", "worker"].contains(&standing(&said, "board-1").as_str())
            && status(&cluster.boards[0])["leader"] == "board-3"
    });
    let log = cluster.boards[0].log();
    assert!(log.contains("reign ended") || log.contains("was promoted"), "{log}");
    let after = cluster.boards[2].wait_for("pod runs", &pod, SOON, running);
    assert_eq!(container(pod_before), container(&after), "nothing was restarted");
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    if !board::possible("backup-full") {
        return;
    }
    let mut board = Board::new("backup-full");
    board.configure(&format!(
        "[backup]\nevery = \"1h\"\nto = {:?}\nkeep = 2\n",
        board.data_dir().with_file_name("usb")
    ));
    let stick = Disk::at(&board.data_dir().with_file_name("usb"), "backup-full", 8);
    board.up(&[]);
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(stick.folder()).expect("listed").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !["lost+found", "ballast", "data"].contains(&name.as_str()));
        names.sort();
        names
    };
    // By itself, because there is none yet.
    let boards = std::slice::from_ref(&board);
    wait_until(
        "a backup by itself",
        boards,
        SOON,
        || matches!(&names()[..], [one] if one.ends_with(".backup")),
    );
    let to = ["backup", "save", "--to", utf8(stick.folder()), "--keep", "2", "-o", "json"];
    for _ in 0..3 {
        board.create(
            MAPS,
            &json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "generateName": "m-" } }),
        );
        let said: Value = serde_json::from_str(&ran(&board, &to)).expect("JSON");
        let file = said["file"].as_str().expect("a file").to_owned();
        let verified = ran(&board, &["backup", "verify", &file, "-o", "json"]);
        assert_eq!(serde_json::from_str::<Value>(&verified).expect("JSON"), said);
    }
    let kept = names();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let data = stick.folder().join("data");
    std::fs::create_dir_all(&data).expect("made");
    let ballast = stick.folder().join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("made");
    let full = std::io::copy(&mut std::io::repeat(7), &mut file).expect_err("full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let filled = file.metadata().expect("there").len();
    refused(&board, &to, &["cannot write", "free some space"]);
    assert_eq!(names(), kept, "what was there is there, and nothing else");
    // Nor does a restore, into a data-dir on the full stick.
    let (key, whole) = (board.run_dir().join("key"), board.run_dir().join("whole.backup"));
    std::fs::write(&key, ran(&board, &["backup", "key"])).expect("written");
    std::fs::copy(stick.folder().join(&kept[1]), &whole).expect("copied");
    let restore = || {
        let mut command = std::process::Command::new(Board::binary_path());
        command.args([
            "backup",
            "restore",
            utf8(&whole),
            "--key-file",
            utf8(&key),
            "--name",
            "new",
        ]);
        command.arg("--data-dir").arg(&data).arg("--run-dir").arg(board.run_dir().join("r"));
        let output = command.output().expect("started");
        (output.status.success(), text(&output))
    };
    let mut refusals = 0;
    for step in 0.. {
        file.set_len(filled.saturating_sub(step * 128 * 1024)).expect("some space");
        let (done, said) = restore();
        if done {
            break;
        }
        assert!(said.contains("free some space"), "{said}");
        let left: Vec<_> = std::fs::read_dir(&data).expect("listed").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "lock"), "{left:?}");
        refusals += 1;
    }
    println!("restore refused with {refusals} amounts of free space");
    assert!(refusals >= 3, "the disk fills at several steps");
    let (done, said) = restore();
    assert!(!done && said.contains("is in use"), "{said}");
    board.stop();
}
