//! Power cuts: four concurrent writers on ext4 on a loop device, cut at a random moment by SIGKILL or
//! by a shutdown of the file system that drops what was not synced; mounted again, opened unattended.
//!
//! Acknowledged writes lost: 0. Versions repeated: 0. The control runs the same with syncs turned
//! into nothing (strace) and must lose writes: the test can fail. Rounds are few here and 200 in
//! `cargo xtask soak power`. Needs root, loop devices, mkfs.ext4; says so and skips otherwise.

#[path = "harness/disk.rs"]
mod disk;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use disk::{Disk, remount, shut_down};
use kumquat::io::store::{Base, ListRange, Op, Options, ProposeError, Store};
use model::ids::{ObjectKey, Uid, Version};

/// Where the writer process finds its store; without it the writer's test does nothing.
const WRITER_DIR: &str = "KUMQUAT_POWER_WRITER_DIR";
const WRITERS: usize = 4;
/// Keys of one writer: each is overwritten and at times deleted.
const KEYS: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    Kill,
    Power,
}

/// What the writers said was done: by key, the version and counter of every write, in order.
#[derive(Default)]
struct Acknowledged {
    writes: BTreeMap<Version, (ObjectKey, Option<u64>)>,
    repeated: usize,
    total: usize,
}

#[derive(Debug, Default)]
struct Outcome {
    acknowledged: usize,
    lost: usize,
    repeated: usize,
    kills: usize,
    cuts: usize,
}

fn rounds() -> u64 {
    std::env::var("KUMQUAT_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// Whether loop devices can be mounted here; says why not.
fn possible() -> bool {
    // SAFETY: geteuid has no conditions.
    let root = unsafe { libc::geteuid() } == 0;
    let loops = Path::new("/dev/loop-control").exists();
    let tools = ["mkfs.ext4", "losetup", "strace"]
        .iter()
        .all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !(root && loops && tools) {
        println!("SKIPPED: power cuts need root, loop devices, mkfs.ext4 and strace");
    }
    root && loops && tools
}

fn key(writer: usize, counter: u64) -> ObjectKey {
    let name = format!("k{}", counter % KEYS);
    ObjectKey { kind: "/configmaps".into(), namespace: format!("w{writer}"), name }
}

/// Every tenth write of a key deletes it.
fn body(writer: usize, counter: u64) -> Option<Bytes> {
    let filler = "x".repeat(200 + (counter as usize * 37 + writer) % 2500);
    let deletes = counter / KEYS % 10 == 9;
    (!deletes).then(|| Bytes::from(format!(r#"{{"metadata":{{}},"n":{counter},"f":"{filler}"}}"#)))
}

/// The other process: writes until it is stopped and prints every acknowledged write.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("runtime").block_on(async {
        let store =
            Store::open_alone(Options::new(PathBuf::from(dir)), Box::new(())).expect("opens");
        println!("\nopen {}", store.version());
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write_for_ever(store.clone(), writer)))
            .collect();
        for task in tasks {
            // After a power cut the disk fails: the writers end and so does the process.
            task.await.expect("a writer does not panic");
        }
    });
}

async fn write_for_ever(store: Store, writer: usize) {
    let start = last_counter(&store, writer) + 1;
    for counter in start.. {
        let body = body(writer, counter);
        let key = key(writer, counter);
        if body.is_none() && store.get(&key).expect("reads go on").is_none() {
            continue;
        }
        let what = if body.is_some() { counter.to_string() } else { "-".to_owned() };
        let op = Op { key, base: Base::Any, uid: Uid([1; 16]), body, keep_old: false };
        let Ok(committed) = store.propose(vec![op]).await else { return };
        let line = format!("ack {writer} {counter} {what} {}\n", committed.versions[0]);
        if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// Goes on well above everything that can have been written before.
fn last_counter(store: &Store, writer: usize) -> u64 {
    let newest = store.version().position();
    newest * KEYS * 10 + writer as u64
}

fn spawn_writer(dir: &Path, without_sync: bool) -> Child {
    let binary = std::env::current_exe().expect("own path");
    let mut command = if without_sync {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,msync"]);
        strace.args(["-e", "inject=fsync,fdatasync,msync:retval=0", "--"]).arg(binary);
        strace
    } else {
        Command::new(binary)
    };
    command.args(["writer_process", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(WRITER_DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("writer starts")
}

/// Lets the writers run, cuts, and gives the acknowledgements.
fn run_and_cut(
    mount: &Path,
    pause: Duration,
    cut: Cut,
    without_sync: bool,
    seen: &mut Acknowledged,
) {
    let mut child = spawn_writer(&mount.join("store"), without_sync);
    let output = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).collect::<Vec<_>>()
    });
    std::thread::sleep(pause);
    if cut == Cut::Power {
        shut_down(mount);
    }
    kill_tree(&mut child);
    let lines = reader.join().expect("reader");
    for line in &lines {
        seen.take(line);
    }
}

/// Kills the writer and, when strace runs it, the traced process too.
fn kill_tree(child: &mut Child) {
    let pid = child.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for word in children.unwrap_or_default().split_whitespace() {
        if let Ok(traced) = word.parse() {
            // SAFETY: kill takes numbers only; the process is a child of ours that is not reaped.
            unsafe { libc::kill(traced, libc::SIGKILL) };
        }
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let [_, writer, counter, what, version] = words[..] else { return };
        if words[0] != "ack" {
            return;
        }
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let version = Version(number(version));
        let key = key(number(writer) as usize, number(counter));
        let counter = (what != "-").then(|| number(what));
        self.total += 1;
        if self.writes.insert(version, (key, counter)).is_some() {
            self.repeated += 1;
        }
    }

    /// Compares with what the store holds; gives how many acknowledged writes are gone.
    async fn lost(&self, store: &Store, from: Version) -> usize {
        let range = ListRange {
            kind: "/configmaps".into(),
            namespace: None,
            after: None,
            limit: usize::MAX,
        };
        let page = store.list(&range).expect("list");
        let held: BTreeMap<ObjectKey, (Version, Bytes)> =
            page.records.into_iter().map(|r| (r.key, (r.version, r.body))).collect();
        let mut newest: BTreeMap<&ObjectKey, (Version, Option<u64>)> = BTreeMap::new();
        for (version, (key, counter)) in &self.writes {
            newest.insert(key, (*version, *counter));
        }
        let in_state = newest.iter().filter(|(key, (version, counter))| {
            let found = held.get(**key);
            match (found, counter) {
                // A later write was on its way when the power went.
                (Some((held, _)), _) if held > version => false,
                (Some((held, body)), Some(counter)) => {
                    let text = format!("\"n\":{counter},");
                    let same = std::str::from_utf8(body).is_ok_and(|body| body.contains(&text));
                    held != version || !same
                }
                (None, Some(_)) => !self.deleted_later(store, key, *version),
                (Some(_), None) => true,
                (None, None) => false,
            }
        });
        in_state.count().max(self.lost_in_history(store, from).await)
    }

    /// A delete that was durable but not acknowledged any more leaves nothing but its history.
    fn deleted_later(&self, store: &Store, key: &ObjectKey, after: Version) -> bool {
        let Ok(mut cursor) = store.watch_kind(&"/configmaps".into(), Some(&key.namespace), after)
        else {
            return false;
        };
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            runtime.block_on(async {
                loop {
                    let next =
                        tokio::time::timeout(Duration::from_millis(200), cursor.next()).await;
                    match next {
                        Ok(Ok(change)) if change.key == *key => return change.body.is_none(),
                        Ok(Ok(_)) => {}
                        _ => return false,
                    }
                }
            })
        })
    }

    /// Every acknowledged write since `from` is in the watch history, in order.
    async fn lost_in_history(&self, store: &Store, from: Version) -> usize {
        let wanted: Vec<_> = self.writes.range(Version(from.0 + 1)..).collect();
        let Some((last, _)) = wanted.last() else { return 0 };
        let Ok(mut cursor) = store.watch_kind(&"/configmaps".into(), None, from) else {
            // The log was cut meanwhile: the state above is what counts.
            return 0;
        };
        let (mut found, mut position) = (0, from);
        while position < **last {
            let next = tokio::time::timeout(Duration::from_secs(5), cursor.next()).await;
            let Ok(Ok(change)) = next else { break };
            assert!(change.version > position, "history is out of order");
            position = change.version;
            found += usize::from(self.writes.contains_key(&position));
        }
        wanted.len() - found
    }
}

/// Cuts `rounds` times; stops early once a write is lost.
async fn trial(name: &str, rounds: u64, seed: u64, without_sync: bool) -> Outcome {
    let disk = Disk::new(name, 256);
    let mount = disk.folder().to_owned();
    let mut random = seed | 1;
    let mut next = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    let mut outcome = Outcome::default();
    let mut seen = Acknowledged::default();
    let mut checked = Version(0);
    for round in 0..rounds {
        let cut = if without_sync || next(2) == 0 { Cut::Power } else { Cut::Kill };
        // From while it opens to well within its writing; strace makes everything slower.
        let millis = if without_sync { 1500 + next(500) } else { 10 + next(700) };
        run_and_cut(&mount, Duration::from_millis(millis), cut, without_sync, &mut seen);
        remount(&mount);
        let store = Store::open_alone(Options::new(mount.join("store")), Box::new(()));
        let store = store.unwrap_or_else(|error| panic!("round {round} {cut:?}: {error}"));
        let lost = seen.lost(&store, checked).await;
        if lost > 0 {
            println!("round {round}: {cut:?} after {millis} ms lost {lost} writes");
        }
        outcome.lost += lost;
        let newest = seen.writes.last_key_value().map_or(Version(0), |(version, _)| *version);
        if lost == 0 && store.version() <= newest.max(checked) {
            outcome.repeated += 1;
        }
        checked = store.version();
        store.close().await;
        match cut {
            Cut::Kill => outcome.kills += 1,
            Cut::Power => outcome.cuts += 1,
        }
        if outcome.lost > 0 {
            break;
        }
        if seen.writes.len() > 20_000 {
            // Older writes were checked in every round so far.
            seen.writes = seen.writes.split_off(&newest);
        }
    }
    outcome.acknowledged = seen.total;
    outcome.repeated += seen.repeated;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost() {
    if std::env::var_os(WRITER_DIR).is_some() || !possible() {
        return;
    }
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_secs());
    println!("seed {seed}");
    let outcome = trial("power", rounds(), seed, false).await;
    println!("{outcome:?}");
    assert_eq!((outcome.lost, outcome.repeated), (0, 0));
    assert!(outcome.acknowledged > 0, "the writers wrote nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_sync_writes_are_lost() {
    if std::env::var_os(WRITER_DIR).is_some() || !possible() {
        return;
    }
    let outcome = trial("nosync", 5, 1, true).await;
    println!("{outcome:?}");
    assert!(outcome.acknowledged > 0, "the writers wrote nothing");
    assert!(outcome.lost > 0, "the test cannot see a lost write");
}

fn configmap(name: &str, bytes: usize) -> Op {
    let key = ObjectKey { kind: "/configmaps".into(), namespace: "a".into(), name: name.into() };
    let body = Some(Bytes::from(format!(r#"{{"metadata":{{}},"f":"{}"}}"#, "x".repeat(bytes))));
    Op { key, base: Base::Any, uid: Uid([1; 16]), body, keep_old: false }
}

/// Fills the disk to its last block.
fn fill(file: &Path) {
    let mut file = File::create(file).expect("filler");
    for bytes in [1 << 20, 1 << 12, 1] {
        let block = vec![7; bytes];
        while file.write_all(&block).is_ok() {}
    }
    // A full disk may refuse this as well; what matters is that nothing is left.
    let _ = file.sync_all();
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_heals_when_space_returns() {
    if std::env::var_os(WRITER_DIR).is_some() || !possible() {
        return;
    }
    let disk = Disk::new("full", 32);
    let filler = disk.folder().join("filler");
    let open = || Store::open_alone(Options::new(disk.folder().join("store")), Box::new(()));
    let mut store = open().expect("opens");
    let first = store.propose(vec![configmap("first", 100)]).await.expect("put").versions[0];
    fill(&filler);
    let (mut written, mut refused) = (0, 0);
    for restart in [false, true] {
        if restart {
            store.close().await;
            store = open().expect("a full disk is no reason not to start");
        }
        for nth in 0..20 {
            match store.propose(vec![configmap(&format!("big{nth}"), 100_000)]).await {
                Ok(_) => written += 1,
                Err(ProposeError::NoSpace) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let first_key = configmap("first", 1).key;
        let found = store.get(&first_key).expect("reads go on").expect("still there");
        assert_eq!(found.version, first);
    }
    println!("full disk: {written} writes fitted into space of the log, {refused} were refused");
    assert!(refused > 20);
    std::fs::remove_file(&filler).expect("space");
    let after = store.propose(vec![configmap("after", 100_000)]).await.expect("space is back");
    assert!(after.versions[0] > first);
    store.close().await;
    let store = open().expect("opens");
    for name in ["first", "after"] {
        let found = store.get(&configmap(name, 1).key).expect("read");
        assert!(found.is_some(), "{name}");
    }
    store.close().await;
}
