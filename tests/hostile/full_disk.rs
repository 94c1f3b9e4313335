//! A full disk: writes fail with a remedy, all else goes on, and space brings writes back.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::board::{Board, possible, text};
use super::disk::Disk;
use super::{
    CONFIG_MAPS, PODS, SOON, assert_quiet, assert_refused, busybox, config_map, import_busybox,
    pod, wait_ready,
};

const MEGABYTES: u64 = 64;

/// A board whose data-dir is a small disk of its own.
struct Small {
    /// Dropped first, but its folder can only go when nothing is mounted in it.
    board: Option<Board>,
    disk: Option<Disk>,
    folder: PathBuf,
}

impl Small {
    fn new(test: &str) -> Option<Self> {
        if !possible(test) || !busybox::present(test) {
            return None;
        }
        let board = Board::new(test);
        let disk = Disk::at(&board.data_dir(), test, MEGABYTES);
        let folder = board.data_dir().parent().expect("folder of the board").to_owned();
        Some(Self { board: Some(board), disk: Some(disk), folder })
    }

    fn board(&mut self) -> &mut Board {
        self.board.as_mut().expect("there until dropped")
    }

    fn filler(&mut self) -> PathBuf {
        self.board().data_dir().join("filler")
    }

    /// Fills the disk to the last block.
    fn fill(&mut self) {
        let path = self.filler();
        let mut file = File::options().create(true).append(true).open(&path).expect("filler");
        for size in [1 << 20, 64 << 10, 4 << 10, 512, 1] {
            let piece = vec![b'f'; size];
            while file.write_all(&piece).is_ok() {}
        }
        let _full = file.sync_all();
    }

    fn free(&mut self) {
        fs::remove_file(self.filler()).expect("filler");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(self.board.take());
        drop(self.disk.take());
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// Writes until one is refused for want of space; gives the server's words. The log has room set
/// aside, so that the first few writes still fit.
fn refusal(board: &Board, prefix: &str) -> String {
    let value = "v".repeat(200_000);
    for number in 0..400 {
        let name = format!("{prefix}-{number}");
        if let Err(error) = board.api("POST", CONFIG_MAPS, Some(&config_map(&name, &value))) {
            return error;
        }
    }
    panic!("80 MB went onto a full disk");
}

/// Tries a write until it works; gives the time that took.
fn writes_again(board: &Board, name: &str) -> Duration {
    let began = Instant::now();
    loop {
        match board.api("POST", CONFIG_MAPS, Some(&config_map(name, "back"))) {
            Ok(_) => return began.elapsed(),
            Err(error) => assert!(began.elapsed() < SOON, "still refused: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_without_a_restart() {
    let Some(mut small) = Small::new("full") else { return };
    small.board().up(&[]);
    let board = small.board();
    import_busybox(board);
    let counting = "i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done";
    board.create(PODS, &pod("steady", counting));
    let before = wait_ready(board, "steady");
    let pid = board.pid();
    board.create(CONFIG_MAPS, &config_map("kept", "kept"));

    small.fill();
    let board = small.board();
    let said = refusal(board, "big");
    println!("the refusal: {said}");
    assert!(said.starts_with("500"), "{said}");
    for word in ["no space is left", "free some space", "kumquat image rm"] {
        assert!(said.contains(word), "{said}");
    }
    // Reads, watches, the pod and its log go on.
    assert_eq!(board.get(&format!("{CONFIG_MAPS}/kept"))["data"]["value"], "kept");
    let listed = board.get(&format!("{CONFIG_MAPS}?limit=5"));
    let version = listed["metadata"]["resourceVersion"].as_str().expect("version").to_owned();
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&resourceVersion={version}");
    board.api_text(&path).expect("a watch can begin");
    std::thread::sleep(Duration::from_secs(8));
    let now = board.get(&format!("{PODS}/steady"));
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(now["metadata"][field], before["metadata"][field]);
    }
    let status = |pod: &serde_json::Value| pod["status"]["containerStatuses"][0].clone();
    assert_eq!(status(&now)["restartCount"], 0, "{now}");
    assert_eq!(status(&now)["containerID"], status(&before)["containerID"]);
    assert_eq!(board.pid(), pid);
    let told = board.command(&["status", "-o", "json"]);
    assert!(told.status.success(), "{}", text(&told));

    // Still full: a restart comes up, reads, and keeps the pod.
    board.kill();
    board.start(&[]);
    board.wait_for("reads after a restart", &format!("{CONFIG_MAPS}/kept"), SOON, |map| {
        map["data"]["value"] == "kept"
    });
    let said = refusal(board, "more");
    assert!(said.contains("free some space"), "{said}");
    // A clean stop works too, although nothing can be flushed.
    board.stop();
    board.start(&[]);
    board.wait_for("reads after a stop", &format!("{CONFIG_MAPS}/kept"), SOON, |map| {
        map["data"]["value"] == "kept"
    });

    small.free();
    let board = small.board();
    println!(
        "a write works {:.1} s after space came back",
        writes_again(board, "back").as_secs_f64()
    );
    let ready = board.command(&["wait", "--timeout", "30s"]);
    assert!(ready.status.success(), "{}\n{}", text(&ready), board.log());
    board.create(PODS, &pod("after", "echo after; exec sleep 1000"));
    wait_ready(board, "after");
    let now = board.get(&format!("{PODS}/steady"));
    assert_eq!(status(&now)["restartCount"], 0, "{now}");
    assert_eq!(status(&now)["containerID"], status(&before)["containerID"]);
    board.stop();
    assert_quiet(board);
    // Nothing that was acknowledged is lost.
    board.up(&[]);
    for name in ["kept", "back"] {
        board.get(&format!("{CONFIG_MAPS}/{name}"));
    }
}

#[test]
fn an_import_that_fills_the_disk_leaves_nothing_and_harms_nobody() {
    let Some(mut small) = Small::new("fullimport") else { return };
    small.board().up(&[]);
    small.fill();
    let board = small.board();
    let archive = board.data_dir().with_file_name("busybox-outside");
    fs::create_dir_all(&archive).expect("folder");
    let archive = busybox::archive(&archive);
    let refused = board.command(&["image", "import", archive.to_str().expect("path")]);
    println!("the refusal: {}", text(&refused).trim());
    assert_refused("import", &refused, &["No space left", "free some space"]);
    assert_eq!(super::archives::leftovers(board), Vec::<PathBuf>::new());
    small.free();
    let board = small.board();
    println!("a write works after {:.1} s", writes_again(board, "back").as_secs_f64());
    let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
    assert!(imported.status.success(), "{}", text(&imported));
    assert_quiet(board);
}

#[test]
fn a_new_board_on_a_full_disk_says_so() {
    let Some(mut small) = Small::new("fullnew") else { return };
    small.fill();
    let refused = small.board().up_refused(&[]);
    println!("the refusal: {}", text(&refused).trim());
    assert_refused("up on a full disk", &refused, &["No space left", "free some space"]);
    small.free();
    let board = small.board();
    board.up(&[]);
    board.create(CONFIG_MAPS, &json!({"metadata": {"name": "founded"}}));
}
