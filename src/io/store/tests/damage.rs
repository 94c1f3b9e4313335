//! Every byte of a small store is damaged in turn; what cannot be healed is said, with the remedy.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
};

use super::*;

/// Writes pods `p0..p{count}` and gives their versions.
async fn fill(store: &Store, count: usize) -> Vec<Version> {
    let mut versions = Vec::new();
    for nth in 0..count {
        let op = put(key("/pods", "a", &format!("p{nth}")), Base::Any, body(&format!("{nth}")));
        versions.push(store.propose(vec![op]).await.expect("put").versions[0]);
    }
    versions
}

fn names(store: &Store) -> Vec<(String, Version)> {
    let records = store.list(&all("/pods")).expect("list").records;
    let mut names: Vec<_> = records.into_iter().map(|r| (r.key.name, r.version)).collect();
    names.sort_by_key(|(_, version)| *version);
    names
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("inside");
    file.write_all_at(&[byte[0] ^ 0x41], at).expect("written");
}

fn only_file(dir: &Path) -> PathBuf {
    fs::read_dir(dir).expect("listed").next().expect("a file").expect("an entry").path()
}

#[tokio::test]
async fn every_damaged_byte_of_the_log_is_seen_and_repaired() {
    let origin = Dir::new();
    let store = origin.open();
    let versions = fill(&store, 6).await;
    store.abandon().await;
    let segment = only_file(&origin.0.join("log"));
    let used = fs::read(&segment).expect("read");
    let used = used.len() - used.iter().rev().take_while(|byte| **byte == 0).count();
    let expected: Vec<_> =
        versions.iter().enumerate().map(|(nth, version)| (format!("p{nth}"), *version)).collect();
    let (mut whole, mut cut, mut stopped) = (0, 0, 0);
    for at in (0..used as u64 + 64).chain([200_000]) {
        let dir = Dir::new();
        copy_dir(&origin.0, &dir.0);
        let segment = only_file(&dir.0.join("log"));
        flip(&segment, at);
        match Store::open_alone(Options::new(&dir.0), Box::new(())) {
            Ok(store) => {
                let found = names(&store);
                // Only the last write cannot be told from one that was never acknowledged.
                assert!(found.len() >= 5 && found == expected[..found.len()], "byte {at}");
                if found.len() == 6 {
                    whole += 1
                } else {
                    cut += 1
                }
                store.close().await;
            }
            Err(OpenError::Damaged { last_good, .. }) => {
                stopped += 1;
                let good = expected.iter().take_while(|(_, version)| *version <= last_good).count();
                let beyond = Store::repair(&dir.0, Version(last_good.0 + 1), None);
                assert!(matches!(beyond, Err(OpenError::BeyondGood { .. })), "byte {at}");
                Store::repair(&dir.0, last_good, None).expect("repaired");
                let store = dir.open();
                assert_eq!(names(&store), expected[..good], "byte {at}");
                assert!(store.version() > versions[5], "byte {at}: a version could come twice");
                let given_up = store.watch_kind(&"/pods".into(), None, versions[5]);
                assert!(given_up.is_err(), "byte {at}: a watch went on over the loss");
                let more = fill(&store, 7).await;
                store.close().await;
                let store = dir.open();
                assert_eq!(names(&store).len(), 7);
                assert!(store.version() > more[6]);
                store.close().await;
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(whole > 60 && cut > 50 && stopped > 300, "{whole} {cut} {stopped}");
    let dir = Dir::new();
    copy_dir(&origin.0, &dir.0);
    assert!(matches!(Store::repair(&dir.0, versions[1], None), Err(OpenError::Whole(_))));
}

#[tokio::test]
async fn repair_keeps_what_the_state_holds_beyond_the_damage() {
    let dir = Dir::new();
    let store = dir.open();
    let versions = fill(&store, 6).await;
    store.close().await;
    flip(&only_file(&dir.0.join("log")), 300);
    let opened = Store::open_alone(Options::new(&dir.0), Box::new(()));
    let Err(OpenError::Damaged { last_good, .. }) = opened else { panic!("{opened:?}") };
    assert!(last_good < versions[5]);
    Store::repair(&dir.0, last_good, None).expect("repaired");
    let store = dir.open();
    assert_eq!(names(&store).len(), 6);
    assert!(store.version().0 > versions[5].0 + (1 << 40));
    store.close().await;
}

#[tokio::test]
async fn a_log_cut_anywhere_opens_with_a_prefix() {
    let origin = Dir::new();
    let store = origin.open();
    let versions = fill(&store, 5).await;
    store.abandon().await;
    let bytes = fs::read(only_file(&origin.0.join("log"))).expect("read");
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    for length in (0..used).step_by(3) {
        let dir = Dir::new();
        copy_dir(&origin.0, &dir.0);
        let path = only_file(&dir.0.join("log"));
        OpenOptions::new()
            .write(true)
            .open(path)
            .expect("opens")
            .set_len(length as u64)
            .expect("cut");
        let store = dir.open();
        let found = names(&store);
        assert!(found.iter().zip(&versions).all(|(found, version)| found.1 == *version));
        store.close().await;
    }
}

#[tokio::test]
async fn a_lost_log_goes_on_after_the_state_in_a_new_epoch() {
    let dir = Dir::new();
    let store = dir.open();
    let versions = fill(&store, 6).await;
    store.close().await;
    fs::remove_dir_all(dir.0.join("log")).expect("removed");
    let store = dir.open();
    assert_eq!(names(&store).len(), 6);
    assert!(store.version().0 > versions[5].0 + (1 << 40));
    assert!(store.watch_kind(&"/pods".into(), None, versions[5]).is_err());
    store.abandon().await;
    fs::remove_dir_all(dir.0.join("state")).expect("removed");
    let store = dir.open();
    assert_eq!(names(&store).len(), 6, "rebuilt from the snapshot");
    store.close().await;
}

#[tokio::test]
async fn every_damaged_byte_of_the_state_is_healed() {
    let origin = Dir::new();
    let store = origin.open();
    let mut expected = fill(&store, 150).await;
    let large = Bytes::from(vec![b'z'; 9000]);
    let op = put(key("/pods", "a", "zz"), Base::Any, large);
    expected.push(store.propose(vec![op]).await.expect("put").versions[0]);
    store.close().await;
    let store = origin.open();
    let op = put(key("/pods", "a", "zzz"), Base::Any, body("z"));
    expected.push(store.propose(vec![op]).await.expect("put").versions[0]);
    store.close().await;
    let bytes = fs::read(origin.0.join("state/data.mdb")).expect("read").len() as u64;
    let mut random = Random(9);
    for round in 0..240u64 {
        let dir = Dir::new();
        copy_dir(&origin.0, &dir.0);
        let data = dir.0.join("state/data.mdb");
        match round {
            0 => fs::write(&data, b"garbage").expect("written"),
            1 => fs::write(&data, vec![0x5a; 100_000]).expect("written"),
            2 => fs::write(&data, b"").expect("written"),
            3 => fs::remove_file(&data).expect("removed"),
            4..40 => {
                let file = OpenOptions::new().write(true).open(&data).expect("opens");
                file.set_len(random.below(bytes)).expect("cut");
            }
            40..60 => {
                let file = OpenOptions::new().write(true).open(&data).expect("opens");
                let at = random.below(bytes / 4096) * 4096;
                file.write_all_at(&vec![round as u8; 4096], at).expect("written");
            }
            // Headers and the first entries of pages are where damage hurts.
            60..150 => {
                let page = random.below(bytes / 4096) * 4096;
                flip(&data, page + random.below(64));
            }
            _ => flip(&data, random.below(bytes)),
        }
        let store = match Store::open_alone(Options::new(&dir.0), Box::new(())) {
            Ok(store) => store,
            Err(error) => panic!("round {round}: {error}"),
        };
        let found: Vec<_> = names(&store).into_iter().map(|(_, version)| version).collect();
        assert!(found == expected, "round {round}: {} of {}", found.len(), expected.len());
        for nth in [0, 77, 149] {
            let found = store.get(&key("/pods", "a", &format!("p{nth}"))).expect("read");
            assert!(found.is_some(), "round {round}: p{nth}");
        }
        let op = put(key("/pods", "a", "p77"), Base::Any, body("again"));
        store.propose(vec![op]).await.expect("put");
        store.close().await;
        let store = dir.open();
        assert_eq!(names(&store).len(), expected.len(), "round {round}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_used() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.log_bytes = 2_000_000;
    let store = Store::open_alone(options.clone(), Box::new(())).expect("opens");
    let large = Bytes::from(vec![b'z'; 200_000]);
    for nth in 0..40 {
        let op = put(key("/pods", "a", &format!("p{}", nth % 4)), Base::Any, large.clone());
        store.propose(vec![op]).await.expect("put");
    }
    store.close().await;
    let snapshot = only_file(&dir.0.join("snapshots"));
    fs::remove_dir_all(dir.0.join("state")).expect("removed");
    let rebuilt = Dir::new();
    copy_dir(&dir.0, &rebuilt.0);
    let store = rebuilt.open();
    assert_eq!(names(&store).len(), 4);
    store.close().await;
    flip(&snapshot, 1000);
    let refused = Store::open_alone(options, Box::new(()));
    assert!(matches!(refused, Err(OpenError::Unrecoverable { .. })), "{refused:?}");
}
