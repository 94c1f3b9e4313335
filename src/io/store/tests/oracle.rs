//! Random operations beside a map, with restarts and kills at random points.

use std::collections::BTreeMap;

use super::*;

const NAMES: u64 = 12;

struct Walk {
    dir: Dir,
    store: Option<Store>,
    random: Random,
    model: BTreeMap<ObjectKey, (Version, Bytes)>,
    newest: Version,
    options: Options,
    /// A watcher's picture of `/pods`, and how far it has seen.
    watched: BTreeMap<ObjectKey, (Version, Bytes)>,
    seen: Version,
}

impl Walk {
    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    fn any_key(&mut self) -> ObjectKey {
        let kind = ["/pods", "/nodes", "apps/deployments"][self.random.below(3) as usize];
        let namespace = ["", "a", "b"][self.random.below(3) as usize];
        key(kind, namespace, &format!("n{}", self.random.below(NAMES)))
    }

    async fn write(&mut self) {
        let count = 1 + self.random.below(3);
        let mut ops = Vec::new();
        let mut expected = self.model.clone();
        let mut touched: Vec<ObjectKey> = Vec::new();
        let mut good = true;
        for nth in 0..count {
            let key = self.any_key();
            if touched.contains(&key) {
                continue;
            }
            touched.push(key.clone());
            let current = expected.get(&key).map(|found| found.0);
            let base = match (self.random.below(8), current) {
                (0, _) => Base::Any,
                (1, _) => Base::Absent,
                (2, _) => Base::At(Version(7)),
                (_, Some(version)) => Base::At(version),
                (_, None) => Base::Absent,
            };
            let bytes = 1 + self.random.below(3000) as usize;
            let body = (self.random.below(4) > 0)
                .then(|| Bytes::from(vec![b'a' + (nth as usize + bytes) as u8 % 26; bytes]));
            good &= match base {
                Base::Any => body.is_some() || current.is_some(),
                Base::Absent => current.is_none() && body.is_some(),
                Base::At(version) => current == Some(version),
            };
            if base == Base::Absent && body.is_none() {
                return;
            }
            match &body {
                Some(body) => expected.insert(key.clone(), (Version(0), body.clone())),
                None => expected.remove(&key),
            };
            let keep_old = self.random.below(2) == 0;
            ops.push(Op { key, base, uid: Uid([2; 16]), body, keep_old });
        }
        let outcome = self.store().propose(ops.clone()).await;
        assert_eq!(outcome.is_ok(), good, "{ops:?} {outcome:?}");
        let Ok(committed) = outcome else { return };
        for (op, version) in ops.iter().zip(committed.versions) {
            assert!(version > self.newest, "{version} after {}", self.newest);
            self.newest = version;
            if let Some(found) = expected.get_mut(&op.key) {
                found.0 = version;
            }
        }
        self.model = expected;
    }

    async fn restart(&mut self, kill: bool) {
        let store = self.store.take().expect("open");
        if kill {
            store.abandon().await;
        } else {
            store.close().await;
        }
        let opened = Store::open_alone(self.options.clone(), Box::new(())).expect("opens again");
        assert!(opened.version() > self.newest);
        self.newest = opened.version();
        self.store = Some(opened);
    }

    /// Catches up a watcher that has seen everything up to `self.seen`, and compares its picture.
    async fn watch(&mut self) {
        let mut cursor = match self.store().watch_kind(&"/pods".into(), None, self.seen) {
            Ok(cursor) => cursor,
            Err(Expired { oldest }) => {
                assert!(oldest > self.seen);
                self.watched = self.pods();
                self.seen = self.store().version();
                return;
            }
        };
        while self.watched != self.pods() {
            let change = cursor.next().await.expect("a change is missing");
            assert!(change.version > self.seen);
            self.seen = change.version;
            let before = match &change.body {
                Some(body) => {
                    self.watched.insert(change.key.clone(), (change.version, body.clone()))
                }
                None => self.watched.remove(&change.key),
            };
            if let Some(old) = &change.old {
                assert_eq!(before.map(|found| found.1).as_ref(), Some(old), "{}", change.key);
            }
        }
    }

    fn pods(&self) -> BTreeMap<ObjectKey, (Version, Bytes)> {
        let pods = self.model.iter().filter(|(key, _)| key.kind == "/pods");
        pods.map(|(key, found)| (key.clone(), found.clone())).collect()
    }

    fn compare(&mut self) {
        let store = self.store();
        for kind in ["/pods", "/nodes", "apps/deployments"] {
            let page = store.list(&all(kind)).expect("list");
            let found: Vec<_> =
                page.records.into_iter().map(|r| (r.key, (r.version, r.body))).collect();
            let wanted: Vec<_> = self
                .model
                .iter()
                .filter(|(key, _)| key.kind == kind)
                .map(|(key, found)| (key.clone(), found.clone()))
                .collect();
            assert!(found == wanted, "{kind}: {} objects, want {}", found.len(), wanted.len());
            assert_eq!(store.count(&kind.into(), None), wanted.len());
        }
        let key = self.any_key();
        let found = self.store().get(&key).expect("get").map(|r| (r.version, r.body));
        assert_eq!(found.as_ref(), self.model.get(&key));
    }
}

async fn walk(seed: u64, steps: u32) {
    let dir = Dir::new();
    let mut options = Options::new(&dir.0);
    options.history_bytes = 20_000;
    options.log_bytes = 600_000;
    let store = Store::open_alone(options.clone(), Box::new(())).expect("opens");
    let newest = store.version();
    let mut walk = Walk {
        dir,
        store: Some(store),
        random: Random(seed),
        model: BTreeMap::new(),
        newest,
        options,
        watched: BTreeMap::new(),
        seen: Version(0),
    };
    for _ in 0..steps {
        match walk.random.below(100) {
            0 => walk.restart(false).await,
            1 => walk.restart(true).await,
            2..8 => walk.compare(),
            8..14 => walk.watch().await,
            _ => walk.write().await,
        }
    }
    walk.restart(true).await;
    walk.compare();
    walk.watch().await;
    let state = walk.dir.0.join("state");
    walk.store().close().await;
    std::fs::remove_dir_all(state).expect("state removed");
    walk.store = Some(Store::open_alone(walk.options.clone(), Box::new(())).expect("rebuilt"));
    walk.compare();
    walk.store().close().await;
}

#[tokio::test]
async fn random_walks_match_a_map() {
    for seed in 1..=4 {
        println!("seed {seed}");
        walk(seed, 1000).await;
    }
}
