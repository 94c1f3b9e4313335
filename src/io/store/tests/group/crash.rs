//! Cuts, installs and purges that end at any call, as a power cut ends them.

use std::fs;

use sha2::{Digest, Sha256};

use super::*;
use crate::io::store::file::Faults;

/// A store with this history in its log, of which some is applied.
async fn filled(log: &[LogEntry], applied: usize) -> Dir {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    replica.append(log.to_vec()).await.expect("appended");
    replica.commit(log[..applied].to_vec()).await.expect("applied");
    replica.store.close().await;
    dir
}

fn copy(origin: &Dir) -> Dir {
    let dir = Dir::new();
    copy_dir(&origin.0, &dir.0);
    dir
}

fn failing(dir: &Dir, nth: i64) -> (Options, Faults) {
    let mut options = Options::new(&dir.0);
    options.faults = Faults::at(nth, libc::EIO, true);
    let faults = options.faults.clone();
    (options, faults)
}

#[tokio::test]
async fn a_cut_that_ends_anywhere_leaves_what_was_to_be_kept_and_can_be_repeated() {
    // Four entries to a segment.
    let log = history(12, 300_000);
    let origin = filled(&log, 2).await;
    assert!(fs::read_dir(origin.0.join("log")).expect("listed").count() >= 3);
    for keep in [2usize, 3, 4, 5, 7, 8, 11, 12] {
        for nth in 1.. {
            let dir = copy(&origin);
            let (options, faults) = failing(&dir, nth);
            let replica = Replica::open_with(options).await;
            let cut = replica.truncate(keep as u64).await;
            assert_eq!(cut.is_err(), faults.fired());
            if cut.is_err() {
                let after = replica.append(vec![blank(2, keep as u64 + 1)]).await;
                assert!(after.is_err(), "written after a failed cut");
            }
            replica.store.abandon().await;
            let replica = Replica::open(&dir.0).await;
            let left = replica.read(1, 99, usize::MAX).await;
            assert!(left.len() >= keep && left == log[..left.len()], "call {nth}, keep {keep}");
            assert!(cut.is_err() || left.len() == keep, "call {nth}, keep {keep}");
            replica.truncate(keep as u64).await.expect("cut");
            let next = keep as u64 + 1;
            let other = [blank(2, next), pod(2, next + 1, 400_000), pod(2, next + 2, 10)];
            replica.append(other.to_vec()).await.expect("goes on");
            replica.store.abandon().await;
            let replica = Replica::open(&dir.0).await;
            let wanted = [&log[..keep], &other].concat();
            assert_eq!(replica.read(1, 99, usize::MAX).await, wanted, "call {nth}, keep {keep}");
            replica.store.abandon().await;
            if !faults.fired() {
                break;
            }
        }
    }
}

async fn newest(replica: &Replica) -> Option<SnapshotFile> {
    replica.ask(|done| GroupRequest::Newest { done }).await.expect("looked")
}

/// A snapshot of `log`, in a file that may be moved.
async fn snapshot_of(log: &[LogEntry]) -> (Dir, SnapshotFile) {
    let dir = filled(log, log.len()).await;
    let replica = Replica::open(&dir.0).await;
    let file = replica.snapshot().await;
    replica.store.close().await;
    (dir, file)
}

fn download(file: &SnapshotFile, dir: &Dir) -> SnapshotFile {
    let path = dir.0.join("incoming");
    fs::copy(&file.path, &path).expect("copied");
    SnapshotFile { path, head: file.head.clone() }
}

#[tokio::test]
async fn an_install_that_ends_anywhere_is_finished_or_never_happened() {
    let log = history(20, 40_000);
    let (_leader, file) = snapshot_of(&log).await;
    let with_other_end = [&log[..5], &[blank(2, 6), pod(2, 7, 50)]].concat();
    let with_same_end = [log.clone(), vec![pod(1, 21, 60), pod(1, 22, 70)]].concat();
    for (own, last) in [(with_other_end, 20), (with_same_end, 22)] {
        let origin = filled(&own, 5).await;
        let (mut finished, mut never) = (0, 0);
        for nth in 1.. {
            let dir = copy(&origin);
            let (options, faults) = failing(&dir, nth);
            let replica = Replica::open_with(options).await;
            let installed = replica.install(download(&file, &dir)).await;
            assert!(installed.is_ok() != faults.fired(), "call {nth}: {installed:?}");
            if installed.is_ok() {
                assert_eq!(pods(&replica.store), named(3..=20));
                assert_eq!(replica.store.members(), Some(group()));
            }
            replica.store.abandon().await;
            let mut replica = Replica::open(&dir.0).await;
            if replica.state.applied == id(1, 5) {
                assert!(installed.is_err(), "call {nth}: an installed snapshot is gone");
                assert_eq!(replica.read(1, 99, usize::MAX).await, own, "call {nth}");
                assert_eq!(pods(&replica.store), named(3..=5), "call {nth}");
                never += 1;
                replica.install(download(&file, &dir)).await.expect("installs");
            } else {
                finished += 1;
                assert_eq!(replica.state.applied, id(1, 20), "call {nth}");
                assert_eq!(replica.state.last, id(1, last), "call {nth}");
            }
            assert_eq!(pods(&replica.store), named(3..=20), "call {nth}");
            replica.store.abandon().await;
            replica = Replica::open(&dir.0).await;
            let next = last + 1;
            let rest = replica.read(21, last, usize::MAX).await;
            let more = [rest, vec![pod(1, next, 10)]].concat();
            replica.append(vec![pod(1, next, 10)]).await.expect("goes on");
            replica.commit(more).await.expect("applied");
            assert_eq!(pods(&replica.store), named(3..=next), "call {nth}");
            replica.store.abandon().await;
            if !faults.fired() {
                break;
            }
        }
        assert!(finished > 3 && never > 3, "{finished} finished, {never} never happened");
    }
}

/// What tells the engine that a replica has something must come after the mark that it had it.
#[tokio::test]
async fn nothing_is_acknowledged_before_the_loss_of_it_would_show() {
    let (_leader, file) = snapshot_of(&history(20, 1000)).await;
    for installs in [false, true] {
        let (mut acknowledged, mut failed) = (0, 0);
        for nth in 1.. {
            let dir = Dir::new();
            Replica::open(&dir.0).await.store.close().await;
            let (options, faults) = failing(&dir, nth);
            let replica = Replica::open_with(options).await;
            let done = match installs {
                true => replica.install(download(&file, &dir)).await,
                false => replica.append(history(3, 100)).await,
            };
            replica.store.abandon().await;
            if done.is_ok() {
                for lost in ["log", "state", "snapshots"] {
                    let _gone = fs::remove_dir_all(dir.0.join(lost));
                }
                let opened = Store::open(Options::new(&dir.0));
                assert!(matches!(opened, Err(OpenError::Lost(_))), "call {nth}: {opened:?}");
                acknowledged += 1;
            } else {
                // It goes on, with or without.
                Replica::open(&dir.0).await.store.abandon().await;
                failed += 1;
            }
            if !faults.fired() {
                break;
            }
        }
        assert!(acknowledged > 0 && failed > 3, "{acknowledged} and {failed}");
    }
}

#[tokio::test]
async fn watches_from_before_an_install_begin_again() {
    let log = history(20, 1000);
    let (_leader, file) = snapshot_of(&log).await;
    let dir = filled(&log[..6], 4).await;
    let replica = Replica::open(&dir.0).await;
    let mut everything = replica.store.watch_from(replica.store.version()).expect("now");
    let mut from_disk = replica.store.watch_kind(&"/pods".into(), None, Version(0)).expect("all");
    assert_eq!(from_disk.next().await.expect("change").key.name, "p3");
    replica.install(download(&file, &dir)).await.expect("installs");
    assert_eq!(everything.next().await.err(), Some(WatchError::Expired));
    assert_eq!(from_disk.next().await.err(), Some(WatchError::Expired));
    let version = replica.store.version();
    assert!(version >= Version::of_entry(20, 0));
    let mut watch = replica.store.watch_kind(&"/pods".into(), None, version).expect("now");
    replica.append_and_commit(&[pod(1, 21, 10)]).await;
    assert_eq!(watch.next().await.expect("change").version, Version::of_entry(21, 0));
    let old = replica.store.watch_kind(&"/pods".into(), None, Version::of_entry(10, 0));
    assert!(old.is_err(), "the log does not reach back");
    replica.store.close().await;
}

#[tokio::test]
async fn a_bad_snapshot_is_not_installed() {
    let (_leader, file) = snapshot_of(&history(20, 1000)).await;
    let log = history(6, 100);
    for damage in 0..3 {
        let dir = filled(&log, 6).await;
        let replica = Replica::open(&dir.0).await;
        let mut download = download(&file, &dir);
        match damage {
            0 => {
                let mut bytes = fs::read(&download.path).expect("read");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&download.path, bytes).expect("written");
            }
            1 => download.head.last.index += 1,
            _ => download.head.epoch += 1,
        }
        assert!(replica.install(download).await.is_err(), "damage {damage}");
        replica.store.abandon().await;
        let replica = Replica::open(&dir.0).await;
        assert_eq!(pods(&replica.store), named(3..=6), "damage {damage}");
        replica.store.abandon().await;
    }
}

#[tokio::test]
async fn a_large_log_asks_for_a_snapshot_and_is_cut_when_nobody_needs_it() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.log_bytes = 3_000_000;
    let mut replica = Replica::open_with(options.clone()).await;
    let log = history(14, 300_000);
    replica.append_and_commit(&log).await;
    let asked = tokio::time::timeout(Duration::from_secs(20), replica.asks.recv()).await;
    assert!(matches!(asked, Ok(Some(Ask::Snapshot))), "{asked:?}");
    let file = newest(&replica).await.expect("written before the engine was told");
    assert_eq!((file.head.last.index, &file.head.members), (14, &group()));
    let bytes = fs::read(&file.path).expect("there");
    assert_eq!(file.head.bytes, bytes.len() as u64);
    assert_eq!(file.head.sha256, *Sha256::digest(&bytes));
    replica.store.engine().send(GroupRequest::Purge { upto: 14 }).expect("runs");
    let begun = std::time::Instant::now();
    while !replica.read(1, 1, 100).await.is_empty() {
        assert!(begun.elapsed().as_secs() < 10, "nothing is removed");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let kept = replica.read(14, 14, 100).await;
    assert_eq!(kept, log[13..]);
    replica.store.abandon().await;
    // LMDB lost: the snapshot and what the log still has are enough.
    fs::remove_dir_all(dir.0.join("state")).expect("removed");
    let replica = Replica::open_with(options).await;
    let GroupState { purged, applied, first_of_terms, .. } = replica.state.clone();
    let purged = purged.expect("the beginning is gone");
    assert!(purged.index > 1 && purged.term == 1, "{purged:?}");
    assert_eq!(first_of_terms, [LogIdV1 { term: 1, index: purged.index + 1 }]);
    assert_eq!(applied, id(1, 14));
    assert_eq!(pods(&replica.store), named(3..=14));
    replica.store.close().await;
}

#[tokio::test]
async fn a_purge_beyond_the_log_removes_nothing_that_is_needed() {
    let (_leader, file) = snapshot_of(&history(20, 1000)).await;
    let dir = filled(&history(6, 100), 6).await;
    let replica = Replica::open(&dir.0).await;
    replica.store.engine().send(GroupRequest::Purge { upto: 20 }).expect("runs");
    assert_eq!(replica.read(6, 6, 100).await.len(), 1, "the thread goes on");
    replica.install(download(&file, &dir)).await.expect("installs");
    replica.store.engine().send(GroupRequest::Purge { upto: 20 }).expect("runs");
    replica.append_and_commit(&[pod(1, 21, 10)]).await;
    assert_eq!(pods(&replica.store), named(3..=21));
    replica.store.close().await;
}

#[tokio::test]
async fn what_this_log_could_not_take_is_not_applied_although_the_group_committed_it() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.faults = Faults::volatile();
    let faults = options.faults.clone();
    let replica = Replica::open_with(options).await;
    replica.append_and_commit(&history(4, 100)).await;
    faults.fill(true);
    // More than the segment has room for. The engine hears of the failure after it has sent both.
    let entries = vec![pod(1, 5, 400_000)];
    let appended = replica.begin_append(entries.clone());
    let applied = replica.commit(entries.clone()).await;
    assert!(appended.await.expect("answered").is_err() && applied.is_err(), "{applied:?}");
    faults.fill(false);
    // Flushes what is applied.
    replica.store.close().await;
    let replica = Replica::open(&dir.0).await;
    assert_eq!((replica.state.last, replica.state.applied), (id(1, 4), id(1, 4)));
    assert_eq!(pods(&replica.store), named(3..=4));
    replica.append_and_commit(&entries).await;
    assert_eq!(pods(&replica.store), named(3..=5));
    replica.store.close().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_is_the_stores_own_trouble() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.log_bytes = 3_000_000;
    let mut replica = Replica::open_with(options).await;
    // No folder can be made where a file is.
    let snapshots = dir.0.join("snapshots");
    fs::write(&snapshots, "in the way").expect("written");
    replica.append_and_commit(&history(14, 300_000)).await;
    let asked = replica.ask(|done| GroupRequest::Snapshot { done }).await;
    assert!(asked.is_err(), "{asked:?}");
    assert!(
        replica.asks.try_recv().is_err(),
        "the engine was told of a snapshot that is not there"
    );
    fs::remove_file(&snapshots).expect("removed");
    replica.append_and_commit(&[pod(1, 15, 100)]).await;
    assert_eq!(replica.snapshot().await.head.last.index, 15);
    assert!(matches!(replica.asks.recv().await, Some(Ask::Snapshot)));
    replica.store.close().await;
}

#[tokio::test]
async fn a_snapshot_of_its_own_that_ends_during_an_install_takes_nothing_away() {
    let (_leader, file) = snapshot_of(&history(20, 1000)).await;
    for stall_ms in [1, 30, 100] {
        let dir = filled(&history(6, 100), 6).await;
        let options = Options::new(&dir.0);
        let faults = options.faults.clone();
        let replica = Replica::open_with(options).await;
        faults.stall(stall_ms);
        let (done, own) = oneshot::channel();
        replica.store.engine().send(GroupRequest::Snapshot { done }).expect("runs");
        replica.install(download(&file, &dir)).await.expect("installs");
        faults.stall(0);
        // Whatever became of it.
        let _ = own.await.expect("answered");
        let installed = newest(&replica).await.expect("there");
        assert_eq!(
            installed.head,
            SnapshotHeadV1 { vote: installed.head.vote, ..file.head.clone() }
        );
        let same = fs::read(&installed.path).expect("kept") == fs::read(&file.path).expect("read");
        assert!(same, "another snapshot stands in its place");
        replica.store.abandon().await;
        fs::remove_dir_all(dir.0.join("state")).expect("removed");
        let replica = Replica::open(&dir.0).await;
        assert_eq!(pods(&replica.store), named(3..=20), "{stall_ms} ms");
        replica.store.close().await;
    }
}

#[tokio::test]
async fn reading_a_snapshot_for_another_member_keeps_nobody_waiting() {
    let dir = filled(&history(20, 1000), 20).await;
    let replica = Replica::open(&dir.0).await;
    let file = replica.snapshot().await;
    replica.store.close().await;
    let options = Options::new(&dir.0);
    let faults = options.faults.clone();
    let replica = Replica::open_with(options).await;
    // The state is large.
    faults.stall(2_000);
    let (done, mut found) = oneshot::channel();
    replica.store.engine().send(GroupRequest::Newest { done }).expect("runs");
    assert_eq!(replica.read(20, 20, 100).await.len(), 1);
    assert!(found.try_recv().is_err(), "the thread has read all of it");
    let found = found.await.expect("answered").expect("looked");
    assert_eq!(found.map(|found| found.head), Some(file.head));
    faults.stall(0);
    replica.store.close().await;
}
