//! Figures of the store on ext4 on a loop device: `cargo run --profile fast --example store_bench`.
//!
//! Prints acknowledged writes per second with 1, 4 and 64 writers, their latency, the device bytes of
//! one durable write at 10 writes/s, bytes of an idle store, and memory with 10,000 objects. Needs
//! root; with a directory as argument it uses that instead of a loop device and skips device bytes.

#[path = "../tests/harness/disk.rs"]
mod disk;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use disk::Disk;
use kumquat::io::store::{Base, ListRange, Op, Options, Store};
use model::ids::{ObjectKey, Uid};

fn op(namespace: usize, name: usize) -> Op {
    let filler = "x".repeat(950);
    let body = format!(r#"{{"metadata":{{"name":"o{name}"}},"f":"{filler}"}}"#);
    Op {
        key: ObjectKey {
            kind: "/configmaps".into(),
            namespace: format!("n{namespace}"),
            name: format!("o{name}"),
        },
        base: Base::Any,
        uid: Uid([1; 16]),
        body: Some(Bytes::from(body)),
        keep_old: false,
    }
}

/// A field of /proc/self/status in kB.
fn status_kilobytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

async fn throughput(store: &Store, writers: usize) {
    let end = Instant::now() + Duration::from_secs(4);
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut micros = Vec::new();
                let mut name = 0;
                while Instant::now() < end {
                    let before = Instant::now();
                    store.propose(vec![op(writer, name % 100)]).await.expect("written");
                    micros.push(before.elapsed().as_micros());
                    name += 1;
                }
                micros
            })
        })
        .collect();
    let mut micros = Vec::new();
    for task in tasks {
        micros.extend(task.await.expect("writer"));
    }
    let seconds = started.elapsed().as_secs_f64();
    micros.sort_unstable();
    let rank = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    println!(
        "{writers:3} writers: {:7.0} writes/s, p50 {} us, p99 {} us",
        micros.len() as f64 / seconds,
        rank(50),
        rank(99)
    );
}

/// Ten writes of about 1 kB a second over 200 objects, the flush of the state included.
async fn device_bytes(store: &Store, disk: &Disk) {
    let writes = 300;
    sync(disk.folder());
    let before = disk.bytes_written();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for nth in 0..writes {
        ticks.tick().await;
        store.propose(vec![op(100, nth % 200)]).await.expect("written");
    }
    let log = disk.bytes_written() - before;
    tokio::time::sleep(Duration::from_secs(8)).await;
    sync(disk.folder());
    let all = disk.bytes_written() - before;
    println!(
        "10 writes/s of 1 kB: {} device bytes per write, {} with the state's flush and the file system's own",
        log / writes as u64,
        all / writes as u64
    );
    let before = disk.bytes_written();
    tokio::time::sleep(Duration::from_secs(20)).await;
    println!("idle for 20 s: {} device bytes", disk.bytes_written() - before);
}

fn sync(folder: &Path) {
    let done = std::process::Command::new("sync").arg("-f").arg(folder).status();
    assert!(done.is_ok_and(|status| status.success()), "sync");
}

async fn memory(store: &Store) {
    let before = status_kilobytes("RssAnon");
    for name in 0..100 {
        let ops = (0..100).map(|namespace| op(200 + namespace, name)).collect();
        store.propose(ops).await.expect("written");
    }
    println!(
        "10,000 more objects of 1 kB: {} kB of anonymous memory, {} kB before; {} kB of file pages",
        status_kilobytes("RssAnon"),
        before,
        status_kilobytes("RssFile"),
    );
    let started = Instant::now();
    let range =
        ListRange { kind: "/configmaps".into(), namespace: None, after: None, limit: usize::MAX };
    let records = store.list(&range).expect("listed").records.len();
    println!("LIST of {records} objects: {} ms", started.elapsed().as_millis());
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let given = std::env::args_os().nth(1).map(PathBuf::from);
    let disk = given.is_none().then(|| Disk::new("bench", 512));
    let folder = given.or(disk.as_ref().map(|disk| disk.folder().to_owned())).expect("a directory");
    let options = Options::new(folder.join("store"));
    let store = Store::open_alone(options.clone(), Box::new(())).expect("opens");
    if let Some(disk) = &disk {
        device_bytes(&store, disk).await;
    }
    for writers in [1, 4, 64] {
        throughput(&store, writers).await;
    }
    memory(&store).await;
    store.close().await;
    let started = Instant::now();
    let store = Store::open_alone(options, Box::new(())).expect("opens");
    println!(
        "open again: {} ms, {} kB anonymous",
        started.elapsed().as_millis(),
        status_kilobytes("RssAnon")
    );
    store.close().await;
}
