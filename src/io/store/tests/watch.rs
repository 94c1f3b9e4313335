//! Watches: resume, expiry, wake-ups, memory-only kinds, the hook.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

async fn put_pod(store: &Store, name: &str, text: &str) -> Version {
    let op = Op { keep_old: true, ..put(key("/pods", "a", name), Base::Any, body(text)) };
    store.propose(vec![op]).await.expect("put").versions[0]
}

#[tokio::test]
async fn a_watch_resumes_over_restarts() {
    let dir = Dir::new();
    let mut seen = Version(0);
    let mut expected = Vec::new();
    let mut got = Vec::new();
    for round in 0..20 {
        let store = dir.open();
        for nth in 0..5 {
            expected.push(put_pod(&store, &format!("p{nth}"), &format!("{round}")).await);
            let op = put(key("/nodes", "", "n"), Base::Any, body("x"));
            store.propose(vec![op]).await.expect("put");
        }
        let mut cursor = store.watch_kind(&"/pods".into(), Some("a"), seen).expect("kept");
        for _ in 0..4 {
            let change = cursor.next().await.expect("change");
            seen = change.version;
            got.push(change.version);
        }
        store.close().await;
    }
    let store = dir.open();
    let mut cursor = store.watch_kind(&"/pods".into(), None, seen).expect("kept");
    while got.len() < expected.len() {
        got.push(cursor.next().await.expect("change").version);
    }
    assert_eq!(got, expected);
    store.close().await;
    assert_eq!(cursor.next().await.err(), Some(WatchError::Closed));
}

#[tokio::test]
async fn a_quiet_kind_is_not_woken_and_not_expired() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.history_bytes = 10_000;
    let store = Store::open_alone(options, Box::new(())).expect("opens");
    let mut quiet = store.watch_kind(&"/nodes".into(), None, store.version()).expect("now");
    let mut elsewhere = store.watch_kind(&"/pods".into(), Some("b"), store.version()).expect("now");
    let waiting = tokio::spawn(async move { quiet.next().await });
    for nth in 0..200 {
        put_pod(&store, &format!("p{nth}"), "x").await;
    }
    assert!(!waiting.is_finished());
    let idle = tokio::time::timeout(Duration::from_millis(50), elsewhere.next()).await;
    assert!(idle.is_err(), "a change of another namespace was given");
    let op = put(key("/nodes", "", "n"), Base::Absent, body("x"));
    let version = store.propose(vec![op]).await.expect("put").versions[0];
    let change = tokio::time::timeout(SOON, waiting).await.expect("woken").expect("joined");
    assert_eq!(change.expect("change").version, version);
    store.close().await;
}

#[tokio::test]
async fn a_watch_below_the_log_expires() {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.history_bytes = 50_000;
    options.log_bytes = 3_000_000;
    let store = Store::open_alone(options, Box::new(())).expect("opens");
    let start = store.version();
    let mut slow = store.watch_kind(&"/pods".into(), None, start).expect("kept");
    let large = "x".repeat(100_000);
    let oldest = loop {
        put_pod(&store, "p", &large).await;
        let oldest = store.oldest(&"/pods".into());
        if oldest > start {
            break oldest;
        }
    };
    assert_eq!(slow.next().await.err(), Some(WatchError::Expired));
    let refused = store.watch_kind(&"/pods".into(), None, start).err();
    assert_eq!(refused, Some(Expired { oldest: store.oldest(&"/pods".into()) }));
    let mut cursor = store.watch_kind(&"/pods".into(), None, oldest).expect("the oldest");
    let newest = store.version();
    let mut last = oldest;
    while last < newest {
        let change = cursor.next().await.expect("change");
        assert!(change.version > last);
        assert!(change.old.is_some());
        last = change.version;
    }
    store.close().await;
}

#[tokio::test]
async fn memory_objects_share_versions_and_do_not_survive() {
    let dir = Dir::new();
    let store = dir.open();
    let start = store.version();
    let event = key("/events", "a", "e");
    let mut events = store.watch_kind(&"/events".into(), None, start).expect("now");
    let mut everything = store.watch_from(start).expect("now");
    let pod = put_pod(&store, "p", "1").await;
    let written = store.propose_memory(vec![put(event.clone(), Base::Absent, body("e"))]).await;
    let version = written.expect("put").versions[0];
    assert!(version > pod && version.position() == pod.position());
    assert_eq!(store.version(), version);
    let later = put_pod(&store, "p", "2").await;
    assert!(later > version);
    let found = store.get(&event).expect("read").expect("there");
    assert_eq!(found.version, version);
    assert_eq!(store.list(&all("/events")).expect("list").records, [found]);
    assert_eq!(store.count(&"/events".into(), Some("a")), 1);
    assert_eq!(events.next().await.expect("event").version, version);
    for wanted in [pod, version, later] {
        assert_eq!(everything.next().await.expect("change").version, wanted);
    }
    let twice = store.propose_memory(vec![put(event.clone(), Base::Absent, body("e"))]).await;
    assert!(matches!(twice, Err(ProposeError::Conflict { .. })), "{twice:?}");
    let wrong = store.propose_memory(vec![put(key("/pods", "a", "x"), Base::Any, body("e"))]).await;
    assert!(matches!(wrong, Err(ProposeError::Failed)), "{wrong:?}");
    let wrong = store.propose(vec![put(event.clone(), Base::Any, body("e"))]).await;
    assert!(matches!(wrong, Err(ProposeError::Failed)), "{wrong:?}");
    store.close().await;
    let store = dir.open();
    assert_eq!(store.get(&event).expect("read"), None);
    assert!(store.version() > later);
    assert!(store.watch_kind(&"/events".into(), None, version).is_err());
    assert!(store.watch_kind(&"/pods".into(), None, version).is_ok());
    assert!(store.watch_from(version).is_err());
    store.close().await;
}

#[tokio::test]
async fn memory_objects_are_bounded_oldest_out() {
    let dir = Dir::new();
    let store = dir.open();
    let mut events = store.watch_kind(&"/events".into(), None, store.version()).expect("now");
    let lease = key("coordination.k8s.io/leases", "kube-node-lease", "board");
    store.propose_memory(vec![put(lease.clone(), Base::Absent, body("l"))]).await.expect("put");
    let text = "x".repeat(20_000);
    for nth in 0..200 {
        let op = put(key("/events", "a", &format!("e{nth:03}")), Base::Absent, body(&text));
        store.propose_memory(vec![op]).await.expect("put");
    }
    let page = store.list(&all("/events")).expect("list");
    let bytes: usize = page.records.iter().map(|record| record.body.len()).sum();
    assert!(bytes <= model::limits::STORE_MEMORY_KIND_BYTES_MAX);
    assert_eq!(page.records.last().expect("some").key.name, "e199");
    assert_eq!(store.count(&"/events".into(), None), page.records.len());
    assert!(store.get(&lease).expect("read").is_some());
    assert_eq!(events.next().await.err(), Some(WatchError::Expired));
    store.close().await;
}

#[tokio::test]
async fn the_hook_sees_objects_then_changes_in_order() {
    struct Seen(Arc<Mutex<Vec<(Version, bool)>>>);
    impl Applied for Seen {
        fn applied(&mut self, change: &Change) {
            self.0.lock().expect("whole").push((change.version, change.body.is_some()));
        }

        fn opened(&mut self, version: Version) {
            let mut seen = self.0.lock().expect("whole");
            assert!(seen.iter().all(|(earlier, _)| *earlier < version), "{version} is the newest");
            seen.push((version, true));
        }
    }
    let dir = Dir::new();
    let store = dir.open();
    put_pod(&store, "a", "1").await;
    let second = put_pod(&store, "a", "2").await;
    let third = put_pod(&store, "b", "1").await;
    store.close().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Box::new(Seen(seen.clone()));
    let store = Store::open_alone(Options::new(&dir.0), hook).expect("opens");
    let shown = [(second, true), (third, true), (store.version(), true)];
    assert_eq!(*seen.lock().expect("whole"), shown);
    let gone = store.propose(vec![delete(key("/pods", "a", "a"), Base::At(second))]).await;
    let gone = gone.expect("deleted").versions[0];
    assert_eq!(seen.lock().expect("whole").last(), Some(&(gone, false)));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_takes_long_to_sync_keeps_no_reader_and_no_watch_waiting() {
    const STALL: Duration = Duration::from_secs(2);
    let dir = Dir::new();
    let options = Options::new(&dir.0);
    let faults = options.faults.clone();
    let store = Store::open_alone(options, Box::new(())).expect("opens");
    let pod = key("/pods", "a", "p");
    let put = put(pod.clone(), Base::Absent, body("p"));
    let version = store.propose(vec![put]).await.expect("written").versions[0];
    faults.stall(STALL.as_millis() as u64);
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    let begun = Instant::now();
    while store.syncing_since().is_none() {
        assert!(begun.elapsed() < STALL, "it does not flush");
        std::thread::sleep(Duration::from_millis(1));
    }
    let watches = std::thread::spawn({
        let store = store.clone();
        move || store.watch_kind(&"/never/mentioned".into(), None, version).is_ok()
    });
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..50 {
        assert!(store.get(&pod).expect("read").is_some());
    }
    assert!(watches.join().expect("joined"));
    assert!(store.syncing_since().is_some(), "they waited for the disk");
    closing.await.expect("closed");
}
