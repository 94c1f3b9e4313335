//! The n-th write or sync fails, for every n until none fires.

use super::*;
use crate::io::store::file::Faults;

/// Puts with growing bodies; gives what was acknowledged and what was refused.
async fn writes(store: &Store) -> (Vec<(ObjectKey, Version)>, Vec<(ObjectKey, ProposeError)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for nth in 0..12 {
        let key = key("/pods", "a", &format!("p{nth}"));
        let body = Bytes::from(vec![b'x'; 1000 + nth * 30_000]);
        match store.propose(vec![put(key.clone(), Base::Absent, body)]).await {
            Ok(committed) => good.push((key, committed.versions[0])),
            Err(error) => bad.push((key, error)),
        }
    }
    (good, bad)
}

async fn check(errno: i32, for_good: bool) {
    for nth in 1.. {
        let dir = Dir::new();
        let mut options = Options::new(&dir.0);
        options.faults = Faults::at(nth, errno, for_good);
        let faults = options.faults.clone();
        let (good, bad) = match Store::open_alone(options, Box::new(())) {
            Ok(store) => {
                let outcome = writes(&store).await;
                store.list(&all("/pods")).expect("reads go on");
                store.abandon().await;
                outcome
            }
            Err(_) => (Vec::new(), Vec::new()),
        };
        if !faults.fired() {
            assert!(nth > 10, "hardly any call was counted");
            return;
        }
        let store = dir.open();
        let newest = good.last().map_or(Version(0), |(_, version)| *version);
        assert!(store.version() > newest, "call {nth}");
        for (key, version) in &good {
            let found = store.get(key).expect("read").map(|record| record.version);
            assert_eq!(found, Some(*version), "call {nth}: {key} was acknowledged");
        }
        for (key, error) in &bad {
            if matches!(error, ProposeError::NoSpace) {
                assert_eq!(store.get(key).expect("read"), None, "call {nth}: {key} was refused");
            }
        }
        let listed = store.list(&all("/pods")).expect("list").records;
        let mut versions: Vec<_> = listed.iter().map(|record| record.version).collect();
        versions.sort();
        versions.dedup();
        assert_eq!(versions.len(), listed.len(), "call {nth}: a version is used twice");
        let (more, refused) = writes_again(&store).await;
        assert!(refused.is_empty() && more > newest, "call {nth}: {refused:?}");
        store.close().await;
    }
}

async fn writes_again(store: &Store) -> (Version, Vec<ProposeError>) {
    match store.propose(vec![put(key("/pods", "b", "p"), Base::Any, body("x"))]).await {
        Ok(committed) => (committed.versions[0], Vec::new()),
        Err(error) => (Version(0), vec![error]),
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_a_call_fails() {
    check(libc::EIO, false).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_disk_dies() {
    check(libc::EIO, true).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_disk_is_full_for_a_call() {
    check(libc::ENOSPC, false).await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_heals_by_itself() {
    let mut full = 0;
    for nth in 1..60 {
        let dir = Dir::new();
        let mut options = Options::new(&dir.0);
        options.faults = Faults::at(nth, libc::ENOSPC, false);
        let Ok(store) = Store::open_alone(options, Box::new(())) else { continue };
        let (good, bad) = writes(&store).await;
        assert!(bad.len() <= 1, "call {nth}: {bad:?}");
        for (key, error) in bad {
            assert!(matches!(error, ProposeError::NoSpace), "call {nth}: {error}");
            assert_eq!(store.get(&key).expect("read"), None);
            let again = store.propose(vec![put(key.clone(), Base::Absent, body("x"))]).await;
            let version = again.expect("space is back").versions[0];
            assert!(good.iter().all(|(_, before)| *before < version));
            full += 1;
        }
        store.close().await;
    }
    assert!(full > 3, "hardly any write met the full disk");
}

#[tokio::test]
async fn without_file_descriptors_writes_are_refused_and_heal_by_themselves() {
    let mut refused = 0;
    for errno in [libc::EMFILE, libc::ENFILE] {
        // Opening the store opens four.
        for nth in 5..12 {
            let dir = Dir::new();
            let mut options = Options::new(&dir.0);
            // Writes of 1000 bytes to 331 kB: some of them open a new segment.
            options.faults = Faults::opening(nth, errno);
            let store = Store::open_alone(options, Box::new(())).expect("opens");
            let (good, bad) = writes(&store).await;
            for (key, error) in bad {
                assert!(matches!(error, ProposeError::Descriptors), "call {nth}: {error}");
                assert_eq!(store.get(&key).expect("read"), None);
                let again = store.propose(vec![put(key.clone(), Base::Absent, body("x"))]).await;
                let version = again.expect("files were closed").versions[0];
                assert!(good.iter().all(|(_, before)| *before < version));
                refused += 1;
            }
            assert!(!store.failed());
            store.abandon().await;
            let store = dir.open();
            for (key, version) in good {
                let found = store.get(&key).expect("read").map(|record| record.version);
                assert_eq!(found, Some(version), "{key} was acknowledged");
            }
        }
    }
    assert!(refused > 1, "hardly any write had to open a file");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_until_reopened() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    // Open syncs two directories, makes a segment (create, write, sync, directory) and syncs the term
    // (write, sync); the first proposal writes, and its sync is the tenth call.
    options.faults = Faults::at(10, libc::EIO, false);
    let store = Store::open_alone(options, Box::new(())).expect("opens");
    let (good, bad) = writes(&store).await;
    assert!(good.is_empty() && store.failed());
    assert!(bad.iter().all(|(_, error)| matches!(error, ProposeError::Failed)), "{bad:?}");
    store.close().await;
    let store = dir.open();
    assert!(!store.failed());
    let (good, bad) = writes(&store).await;
    // The write whose sync failed may be there: its outcome was unknown.
    assert!(good.len() >= 11 && bad.len() <= 1, "{bad:?}");
    store.close().await;
}
