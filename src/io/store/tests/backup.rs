//! What is captured while writes go on is one moment; what is made of it goes on above it.

use std::io::{Read, Seek};

use super::*;

const KIND: &str = "configmaps";

fn bytes(mut capture: Capture) -> Vec<u8> {
    let mut bytes = Vec::new();
    capture.file.rewind().expect("at its beginning");
    capture.file.read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes.len() as u64, capture.bytes);
    bytes
}

fn restored(dir: &Dir, bytes: &[u8], epochs: u64) -> SnapshotFacts {
    Store::restore(&dir.0, &mut &bytes[..], epochs).expect("restored")
}

#[tokio::test]
async fn a_capture_is_one_moment_and_leaves_no_file() {
    let dir = Dir::new();
    let store = dir.open();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for number in 0..400 {
            let name = |side: &str| key(KIND, "default", &format!("{side}-{number:04}"));
            let ops = ["a", "b"].map(|side| put(name(side), Base::Absent, body("x"))).to_vec();
            writer.propose(ops).await.expect("written");
        }
    });
    let mut captures = Vec::new();
    while !writing.is_finished() {
        let before = store.version();
        let capture = store.capture().await.expect("captured");
        assert!(capture.facts.version >= before, "what was answered is in it");
        captures.push((capture.facts, bytes(capture)));
    }
    writing.await.expect("ended");
    let left = std::fs::read_dir(dir.0.join("snapshots")).expect("listed").count();
    assert_eq!(left, 0, "a capture has no name");
    assert!(captures.len() > 1);
    let (facts, bytes) = &captures[captures.len() / 2];
    assert_eq!(Store::check_snapshot(&bytes[..]).expect("whole"), *facts);
    let other = Dir::new();
    assert_eq!(restored(&other, bytes, 1), *facts);
    let copy = other.open();
    let records = copy.list(&all(KIND)).expect("listed").records;
    assert_eq!(records.len() as u64, facts.objects);
    let names = |side: &str| -> Vec<String> {
        let named = records.iter().filter_map(|record| record.key.name.strip_prefix(side));
        named.map(str::to_owned).collect()
    };
    assert_eq!(names("a"), names("b"), "each write is in it with all of it or with nothing");
    assert!(records.iter().all(|record| record.version <= facts.version));
    for record in &records {
        let here = store.get(&record.key).expect("read").expect("there");
        assert_eq!(
            (here.version, here.uid, here.body),
            (record.version, record.uid, record.body.clone())
        );
    }
    store.close().await;
    copy.close().await;
}

#[tokio::test]
async fn a_restored_store_goes_on_above_all_that_was_written_and_restarts() {
    let dir = Dir::new();
    let store = dir.open();
    store
        .propose(vec![put(key(KIND, "a", "kept"), Base::Absent, body("x"))])
        .await
        .expect("written");
    let capture = bytes(store.capture().await.expect("captured"));
    let lost = store.propose(vec![put(key(KIND, "a", "lost"), Base::Absent, body("x"))]).await;
    let lost = lost.expect("written").versions[0];
    let old = store.leadership();
    store.close().await;
    for epochs in [1, 5] {
        let other = Dir::new();
        let facts = restored(&other, &capture, epochs);
        assert_eq!((facts.epoch, facts.objects), (old.epoch, 1));
        let mut newest = lost;
        for _ in 0..3 {
            let copy = other.open();
            assert_eq!(copy.leadership().epoch, old.epoch + epochs);
            assert!(copy.get(&key(KIND, "a", "kept")).expect("read").is_some());
            assert!(copy.get(&key(KIND, "a", "lost")).expect("read").is_none());
            let name = key(KIND, "a", &format!("new-{}", newest.0));
            let written = copy.propose(vec![put(name, Base::Absent, body("x"))]).await;
            let version = written.expect("written").versions[0];
            assert!(version > newest, "{version} after {newest}");
            newest = version;
            copy.close().await;
        }
    }
}

#[tokio::test]
async fn what_is_no_whole_snapshot_makes_no_store() {
    let dir = Dir::new();
    let store = dir.open();
    store.propose(vec![put(key(KIND, "a", "b"), Base::Absent, body("x"))]).await.expect("written");
    let good = bytes(store.capture().await.expect("captured"));
    store.close().await;
    for at in 0..good.len() {
        let other = Dir::new();
        assert!(Store::restore(&other.0, &mut &good[..at], 1).is_err(), "cut at {at}");
        assert!(Store::check_snapshot(&good[..at]).is_err(), "cut at {at}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert!(Store::check_snapshot(&longer[..]).is_err());
}
