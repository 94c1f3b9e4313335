//! A board for tests of the keeper: run-dir, data-dir and an image of busybox, removed at the end.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kumquat::io::keeper::{Keeper, KeeperPaths, RunStateV1, SandboxV1, Start, cleanup};
use serde_json::json;

/// Directories and names of one test's board.
pub struct Board {
    pub dir: PathBuf,
    pub paths: KeeperPaths,
}

/// Runs a test on a fresh board, if this machine can.
pub fn run(name: &str, test: impl AsyncFnOnce(&Board)) {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 || !Path::new("/bin/busybox").exists() {
        println!("not run: needs root and busybox-static");
        return;
    }
    let board = Board::new(name);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(test(&board));
}

impl Board {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(format!("/tmp/kqk-{}-{name}", std::process::id()));
        let bin = dir.join("image/bin");
        for sub in ["run", "data", "image/bin", "image/proc", "image/dev", "image/tmp", "image/sys"]
        {
            fs::create_dir_all(dir.join(sub)).expect("tmp");
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox");
        for applet in [
            "sh", "sleep", "echo", "hostname", "id", "head", "readlink", "ip", "grep", "true", "dd",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("link");
        }
        let paths = KeeperPaths {
            run_dir: dir.join("run"),
            data_dir: dir.join("data"),
            cgroup: format!("kumquat-test-{}-{name}", std::process::id()),
            exe: std::env::var_os("KUMQUAT_BINARY")
                .map_or_else(|| env!("CARGO_BIN_EXE_kumquat").into(), PathBuf::from),
        };
        Self { dir, paths }
    }

    pub async fn keeper(&self) -> Keeper {
        Keeper::connect_or_spawn(self.paths.clone()).await.expect("a keeper")
    }

    pub async fn sandbox(&self, keeper: &Keeper, uid: &str) {
        let sandbox =
            SandboxV1 { uid: uid.into(), hostname: "pod-host".into(), ..SandboxV1::default() };
        keeper.sandbox_create(sandbox).await.expect("a sandbox");
    }

    /// A container that runs a shell script.
    pub fn start(&self, pod: &str, id: &str, script: &str) -> Start {
        Start {
            id: id.to_owned(),
            pod_uid: pod.to_owned(),
            lower_dirs: vec![self.dir.join("image")],
            writable_dir: self.dir.join("data").join(id),
            spec: self.spec_argv(&["sh", "-c", script]),
            log_path: self.log_path(id),
        }
    }

    pub fn spec_argv(&self, argv: &[&str]) -> Vec<u8> {
        let tmpfs = |at: &str| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]});
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": argv,
                "env": ["PATH=/bin", "NAME=old", "OTHER=kept"],
                "capabilities": {
                    "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                },
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                tmpfs("/dev"), tmpfs("/dev/shm"),
            ],
            "linux": {"resources": {}},
        })
        .to_string()
        .into_bytes()
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.dir.join("data/logs").join(format!("{id}.log"))
    }

    pub async fn await_log(&self, id: &str, text: &str) {
        until(|| log_text(self, id).contains(text)).await;
    }

    pub async fn await_exit(&self, keeper: &Keeper, id: &str) {
        let begun = Instant::now();
        loop {
            let states = keeper.list().await.expect("list");
            let ended = |s: &kumquat::io::keeper::ContainerStateV1| {
                s.id == id && matches!(s.state, RunStateV1::Exited(_))
            };
            if states.iter().any(ended) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{id} does not end: {states:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn await_gone(&self, pid: u32) {
        let path = PathBuf::from(format!("/proc/{pid}"));
        until(|| !path.exists()).await;
    }

    /// Waits until everything is as it was, and tells the difference if it does not come to that.
    pub async fn settle(&self, before: &Snapshot) {
        let begun = Instant::now();
        loop {
            let now = Snapshot::take(self);
            if now == *before {
                return;
            }
            if begun.elapsed() > Duration::from_secs(10) {
                assert_eq!(now.mounts, before.mounts);
                assert_eq!(now.cgroups, before.cgroups);
                assert_eq!(now.files, before.files);
                assert_eq!(now.processes, before.processes);
                assert_eq!(now.descriptors, before.descriptors);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let log = fs::read_to_string(self.paths.run_dir.join("keeper/keeper.log"));
        if let Ok(log) = log
            && !log.is_empty()
        {
            eprintln!("keeper.log: {log}");
        }
        let cleaned = cleanup(&self.paths);
        let removed = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            cleaned.expect("clean");
            removed.expect("removed");
        }
    }
}

/// What a board can leak.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    mounts: Vec<String>,
    cgroups: BTreeSet<PathBuf>,
    processes: Vec<String>,
    files: BTreeSet<PathBuf>,
    descriptors: usize,
}

impl Snapshot {
    /// Once nothing changes any more: what was just asked for may still be ending.
    pub async fn at_rest(board: &Board) -> Self {
        let mut latest = Self::take(board);
        let mut same = 0;
        while same < 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = Self::take(board);
            same = if now == latest { same + 1 } else { 0 };
            latest = now;
        }
        latest
    }

    pub fn take(board: &Board) -> Self {
        let here = board.dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc");
        let mounts = mounts.lines().filter(|l| l.contains(&here)).map(str::to_owned).collect();
        let mut cgroups = BTreeSet::new();
        let roots = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten();
        let roots = roots.map(|root| root.path()).chain(["/sys/fs/cgroup".into()]);
        for root in roots {
            walk(&root.join(&board.paths.cgroup), &mut |path| {
                if path.is_dir() {
                    cgroups.insert(path.to_owned());
                }
            });
        }
        let mut files = BTreeSet::new();
        walk(&board.paths.run_dir, &mut |path| {
            files.insert(path.to_owned());
        });
        let ours: Vec<PathBuf> =
            processes().filter(|process| command(process).contains(&here)).collect();
        let descriptors = ours
            .iter()
            .map(|process| fs::read_dir(process.join("fd")).map_or(0, Iterator::count))
            .sum();
        let mut commands: Vec<String> = ours.iter().map(|p| command(p)).collect();
        commands.sort();
        Self { mounts, cgroups, processes: commands, files, descriptors }
    }
}

fn command(process: &Path) -> String {
    let bytes = fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    entries.map(|entry| entry.path()).filter(|path| path.join("cmdline").exists())
}

fn walk(path: &Path, act: &mut dyn FnMut(&Path)) {
    let Ok(kind) = fs::symlink_metadata(path) else { return };
    act(path);
    if kind.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), act);
        }
    }
}

/// The whole log of a container, its rotated part first.
pub fn log_text(board: &Board, id: &str) -> String {
    let path = board.log_path(id);
    let older = fs::read_to_string(path.with_extension("log.1")).unwrap_or_default();
    older + &fs::read_to_string(path).unwrap_or_default()
}

/// Processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |process: &Path| -> Option<u32> {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let ours = processes().filter(|process| parent(process) == Some(pid));
    ours.filter_map(|process| process.file_name()?.to_str()?.parse().ok()).collect()
}

pub fn kill(pid: u32) {
    let pid = i32::try_from(pid).expect("a pid");
    // SAFETY: kill has no memory preconditions; the pid was just told by the keeper.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

async fn until(mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come to pass");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
