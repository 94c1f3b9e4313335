//! Tests of the whole store on a real directory.

mod backup;
mod damage;
mod faults;
mod group;
mod oracle;
mod secrets;
pub(super) mod unsynced;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use model::ids::{ObjectKey, Uid, Version};

use super::*;
use crate::io::clock::Clock;

/// A directory that goes with the test.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kq-store-{}-{count}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("temporary directory");
        Self(path)
    }

    pub(super) fn open(&self) -> Store {
        Store::open_alone(Options::new(&self.0), Box::new(())).expect("store opens")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Store {
    /// Ends its reign, as a change of leaders does.
    pub(crate) async fn depose(&self) {
        self.engine().send(GroupRequest::Reign(None)).expect("runs");
        self.reign().wait_for(Option::is_none).await.expect("runs");
    }

    /// Ends as after SIGKILL: nothing is flushed.
    pub(super) async fn abandon(self) {
        let shared = self.shared.clone();
        while shared.read().state.is_some() {
            // Not served when it comes together with others. An error: the thread has ended just now.
            let _ = self.requests.send(Request::Abandon);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        // The lock is released right after the state.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

pub(super) fn key(kind: &'static str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

pub(super) fn body(text: &str) -> Bytes {
    Bytes::from(format!(r#"{{"metadata":{{"name":"{text}"}}}}"#))
}

pub(super) fn put(key: ObjectKey, base: Base, body: Bytes) -> Op {
    Op { key, base, uid: Uid([1; 16]), body: Some(body), keep_old: false }
}

pub(super) fn delete(key: ObjectKey, base: Base) -> Op {
    Op { key, base, uid: Uid([1; 16]), body: None, keep_old: false }
}

pub(super) fn all(kind: &'static str) -> ListRange {
    ListRange { kind: kind.into(), namespace: None, after: None, limit: usize::MAX }
}

/// Copies a store's directory, so that one damage after the other can be tried.
pub(super) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("named"));
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

/// xorshift64*: the same walk from the same seed everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

#[tokio::test]
async fn time_goes_on_from_the_last_write_on_a_board_without_a_clock_battery() {
    let dir = Dir::new();
    let before = Clock::starting_at(Default::default());
    let later = before.now().plus_millis(86_400_000);
    let mut options = Options::new(&dir.0);
    options.clock = before.clone();
    let store = Store::open_alone(options.clone(), Box::new(())).expect("opens");
    before.advance(later);
    store
        .propose(vec![put(key("/pods", "a", "b"), Base::Absent, body("1"))])
        .await
        .expect("written");
    store.abandon().await;
    // The next start knows no more than the build time and a system clock that is a day behind.
    for _ in 0..2 {
        options.clock = Clock::starting_at(Default::default());
        assert!(options.clock.now() < later);
        let store = Store::open_alone(options.clone(), Box::new(())).expect("opens");
        assert!(options.clock.now() >= later);
        store.close().await;
    }
}

#[tokio::test]
async fn what_was_written_is_read() {
    let dir = Dir::new();
    let store = dir.open();
    let pod = key("/pods", "default", "a");
    let first = store.propose(vec![put(pod.clone(), Base::Absent, body("1"))]).await.expect("put");
    let version = first.versions[0];
    let found = store.get(&pod).expect("read").expect("there");
    assert_eq!((found.version, found.body), (version, body("1")));
    let again = store.propose(vec![put(pod.clone(), Base::Absent, body("2"))]).await;
    let Err(ProposeError::Conflict { op: 0, current }) = again else { panic!("{again:?}") };
    assert_eq!(current, Some(version));
    let other = key("/pods", "default", "b");
    let both = vec![
        put(other.clone(), Base::Absent, body("x")),
        put(pod.clone(), Base::At(Version(1)), body("y")),
    ];
    let both = store.propose(both).await;
    assert!(matches!(both, Err(ProposeError::Conflict { op: 1, .. })), "{both:?}");
    assert_eq!(store.get(&other).expect("read"), None);
    store.propose(vec![delete(pod.clone(), Base::At(version))]).await.expect("delete");
    assert_eq!(store.get(&pod).expect("read"), None);
    let gone = store.propose(vec![delete(pod.clone(), Base::Any)]).await;
    assert!(matches!(gone, Err(ProposeError::Conflict { op: 0, current: None })), "{gone:?}");
    store.close().await;
    assert!(matches!(store.get(&pod), Err(StoreError::Closed)));
    let closed = store.propose(vec![put(pod, Base::Any, body("1"))]).await;
    assert!(matches!(closed, Err(ProposeError::Closed)), "{closed:?}");
}

#[tokio::test]
async fn a_store_is_open_once() {
    let dir = Dir::new();
    let store = dir.open();
    let second = Store::open_alone(Options::new(&dir.0), Box::new(()));
    assert!(matches!(second, Err(OpenError::Locked(_))));
    store.close().await;
    dir.open().close().await;
}

#[tokio::test]
async fn pages_of_a_list_join_up_over_overlay_and_state() {
    let dir = Dir::new();
    let mut store = dir.open();
    for round in 0..2 {
        for nth in (round..40).step_by(2) {
            let namespace = if nth % 3 == 0 { "a" } else { "b" };
            let op = put(key("/pods", namespace, &format!("p{nth:02}")), Base::Absent, body("x"));
            store.propose(vec![op]).await.expect("put");
        }
        if round == 0 {
            store.close().await;
            store = dir.open();
        }
    }
    store.propose(vec![delete(key("/pods", "a", "p00"), Base::Any)]).await.expect("delete");
    let whole = store.list(&all("/pods")).expect("list");
    assert_eq!((whole.records.len(), whole.more), (39, false));
    assert!(whole.records.is_sorted_by_key(|record| record.key.clone()));
    for (namespace, count) in [(None, 39), (Some("a"), 13), (Some("b"), 26), (Some("c"), 0)] {
        assert_eq!(store.count(&"/pods".into(), namespace), count);
        let mut range = ListRange {
            kind: "/pods".into(),
            namespace: namespace.map(str::to_owned),
            after: None,
            limit: 7,
        };
        let mut seen = Vec::new();
        loop {
            let page = store.list(&range).expect("page");
            assert!(page.records.len() <= 7);
            seen.extend(page.records.into_iter().map(|record| record.key));
            if !page.more {
                break;
            }
            let last = seen.last().expect("a page before more");
            range.after = Some((last.namespace.clone(), last.name.clone()));
        }
        let wanted = whole.records.iter().map(|record| record.key.clone());
        let wanted: Vec<_> =
            wanted.filter(|key| namespace.is_none_or(|name| key.namespace == name)).collect();
        assert_eq!(seen, wanted);
    }
    store.close().await;
}

#[tokio::test]
async fn proposals_have_bounds() {
    let dir = Dir::new();
    let store = dir.open();
    let large = Bytes::from(vec![b'x'; model::limits::OBJECT_BYTES_MAX + 1]);
    let refused = store.propose(vec![put(key("/pods", "a", "b"), Base::Any, large)]).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge)), "{refused:?}");
    let largest = Bytes::from(vec![b'x'; model::limits::OBJECT_BYTES_MAX]);
    for _ in 0..8 {
        let op = Op { keep_old: true, ..put(key("/pods", "a", "b"), Base::Any, largest.clone()) };
        store.propose(vec![op]).await.expect("an object of the largest size fits");
    }
    let many: Vec<Op> =
        (0..5000).map(|n| put(key("/pods", "a", &n.to_string()), Base::Any, body("x"))).collect();
    let refused = store.propose(many).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge)), "{refused:?}");
    store.close().await;
    let store = dir.open();
    let found = store.get(&key("/pods", "a", "b")).expect("read").expect("there");
    assert_eq!(found.body, largest);
    store.close().await;
}
