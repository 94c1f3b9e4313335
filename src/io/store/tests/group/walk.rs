//! One log on several stores: whatever happens to each, the same entries make the same bytes.

use std::collections::BTreeMap;

use super::*;

/// A random entry that is a valid next one for `state`, which it changes.
fn next_entry(
    random: &mut Random,
    (term, index): (u64, u64),
    state: &mut BTreeMap<ObjectKey, Version>,
) -> LogEntry {
    match random.below(40) {
        0 => return blank(term, index),
        1 => return members(term, index),
        _ => {}
    }
    let mut ops = Vec::new();
    for ordinal in 0..1 + random.below(3) {
        let kind = ["/pods", "/nodes", "apps/deployments"][random.below(3) as usize];
        let namespace = ["", "a", "b"][random.below(3) as usize];
        let key = key(kind, namespace, &format!("n{}", random.below(15)));
        let found = state.get(&key).copied();
        let deletes = found.is_some() && random.below(4) == 0;
        let bytes = 1 + random.below(4000) as usize;
        let body = (!deletes).then(|| Bytes::from(vec![b'a' + (bytes % 26) as u8; bytes]));
        match body {
            Some(_) => state.insert(key.clone(), Version::of_entry(index, ordinal as u32)),
            None => state.remove(&key),
        };
        ops.push(OpV1 {
            kind: key.kind,
            namespace: key.namespace,
            name: key.name,
            base: found.map_or(BaseV1::Absent, BaseV1::At),
            uid: Uid([random.below(200) as u8; 16]),
            body,
            old: None,
        });
    }
    let payload = EntryV1::At(Timestamp((1_000_000 + index) as i64), ops).encode().into();
    LogEntry { term, index, payload, tag: 0 }
}

/// A log of `length` entries in a few terms.
fn long_log(random: &mut Random, length: u64) -> Vec<LogEntry> {
    let (mut log, mut term) = (vec![blank(1, 1), members(1, 2)], 1);
    let mut state = BTreeMap::new();
    while (log.len() as u64) < length {
        let index = log.len() as u64 + 1;
        if random.below(50) == 0 {
            // Even terms are those of leaders that come to nothing.
            term += 2;
            log.push(blank(term, index));
        } else {
            log.push(next_entry(random, (term, index), &mut state));
        }
    }
    log
}

fn options(dir: &Dir) -> Options {
    let mut options = Options::new(&dir.0);
    options.history_bytes = 20_000;
    options.log_bytes = 700_000;
    options
}

/// A replica that is treated badly while it follows `log`.
struct Walk<'a> {
    dir: Dir,
    replica: Option<Replica>,
    random: Random,
    log: &'a [LogEntry],
    /// Entries of the log that it holds as they are, and how many of them are applied.
    holds: usize,
    applied: usize,
    /// It holds entries of another leader after those.
    strayed: bool,
}

impl<'a> Walk<'a> {
    async fn new(seed: u64, log: &'a [LogEntry]) -> Self {
        let dir = Dir::new();
        let replica = Some(Replica::open_with(options(&dir)).await);
        let random = Random(seed);
        Self { dir, replica, random, log, holds: 0, applied: 0, strayed: false }
    }

    fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("open")
    }

    fn index(&self, count: usize) -> u64 {
        self.log[..count].len() as u64
    }

    /// Cuts what other leaders left behind.
    async fn agree(&mut self) {
        if self.strayed {
            self.replica().truncate(self.index(self.holds)).await.expect("cut");
            self.strayed = false;
        }
    }

    async fn append(&mut self) {
        self.agree().await;
        let mut waiting = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let count = (1 + self.random.below(9) as usize).min(self.log.len() - self.holds);
            let entries = self.log[self.holds..self.holds + count].to_vec();
            self.holds += count;
            waiting.push(self.replica().begin_append(entries));
        }
        for flushed in waiting {
            flushed.await.expect("answered").expect("appended");
        }
    }

    async fn stray(&mut self) {
        self.agree().await;
        // Entries that are not committed go too: another leader never had them.
        let kept = self.holds - self.random.below((self.holds - self.applied) as u64 + 1) as usize;
        self.replica().truncate(self.index(kept)).await.expect("cut");
        self.holds = kept;
        let term = kept.checked_sub(1).map_or(0, |last| self.log[last].term) + 1;
        let index = self.index(kept);
        let count = 1 + self.random.below(40);
        let other = (1..=count).map(|nth| pod(term, index + nth, 20_000)).collect();
        self.replica().append(other).await.expect("appended");
        self.strayed = true;
    }

    async fn commit(&mut self) {
        let count = self.random.below((self.holds - self.applied) as u64 + 1) as usize;
        let entries = self.log[self.applied..self.applied + count].to_vec();
        self.replica().commit(entries).await.expect("applied");
        self.applied += count;
    }

    async fn restart(&mut self, kill: bool) {
        let replica = self.replica.take().expect("open");
        if kill {
            replica.store.abandon().await;
        } else {
            replica.store.close().await;
        }
        let replica = Replica::open_with(options(&self.dir)).await;
        let applied = replica.state.applied.map_or(0, |id| id.index as usize);
        assert!(applied <= self.applied, "what was not committed is applied");
        let last = replica.state.last.map_or(0, |id| id.index as usize);
        assert!(last >= self.holds, "{last} after {}", self.holds);
        self.applied = applied;
        self.replica = Some(replica);
    }

    async fn purge(&mut self) {
        let file = self.replica().snapshot().await;
        let upto = file.head.last.index;
        self.replica().store.engine().send(GroupRequest::Purge { upto }).expect("runs");
    }

    async fn install(&mut self, leader: &Replica, upto: usize) {
        let file = leader.snapshot().await;
        assert_eq!(file.head.last.index as usize, upto);
        let path = self.dir.0.join("incoming");
        std::fs::copy(&file.path, &path).expect("copied");
        let same = self.holds >= upto;
        self.replica().install(SnapshotFile { path, ..file }).await.expect("installs");
        if !same {
            self.strayed = false;
            self.holds = upto;
        }
        self.applied = upto;
    }

    /// The bytes of a snapshot of the applied state.
    async fn bytes(&self) -> Vec<u8> {
        let file = self.replica().snapshot().await;
        assert_eq!(file.head.last.index as usize, self.applied);
        std::fs::read(file.path).expect("read")
    }
}

async fn walk(seed: u64, steps: u32) {
    let mut random = Random(seed);
    let log = long_log(&mut random, 900);
    // A store that nothing happens to but the log.
    let straight_dir = Dir::new();
    let straight = Replica::open(&straight_dir.0).await;
    let mut reached = 0;
    let mut walk = Walk::new(seed * 77, &log).await;
    let mut compared = 0;
    for step in 0..steps {
        match walk.random.below(100) {
            0 => walk.restart(false).await,
            1..4 => walk.restart(true).await,
            4..8 => walk.stray().await,
            8..10 if walk.applied > 0 => walk.purge().await,
            10..12 if reached > walk.applied => walk.install(&straight, reached).await,
            12..16 if walk.applied > 1 && walk.applied >= reached => {
                straight.append_and_commit(&log[reached..walk.applied]).await;
                reached = walk.applied;
                let wanted = std::fs::read(straight.snapshot().await.path).expect("read");
                assert!(walk.bytes().await == wanted, "seed {seed} step {step}: other bytes");
                compared += 1;
            }
            16..18 => {
                // The others are ahead by some.
                let ahead = (reached + walk.random.below(60) as usize).min(log.len());
                if ahead > reached {
                    straight.append_and_commit(&log[reached..ahead]).await;
                    reached = ahead;
                }
            }
            18..60 => walk.append().await,
            _ => walk.commit().await,
        }
    }
    walk.agree().await;
    let rest = log[walk.holds..].to_vec();
    walk.replica().append(rest).await.expect("appended");
    walk.replica().commit(log[walk.applied..].to_vec()).await.expect("applied");
    walk.applied = log.len();
    straight.append_and_commit(&log[reached..]).await;
    let wanted = std::fs::read(straight.snapshot().await.path).expect("read");
    assert!(walk.bytes().await == wanted, "seed {seed}: other bytes at the end");
    assert!(compared > 1, "seed {seed}: hardly compared");
    for kind in ["/pods", "/nodes", "apps/deployments"] {
        let count = |replica: &Replica| replica.store.count(&kind.into(), None);
        assert_eq!(count(walk.replica()), count(&straight), "seed {seed}: {kind}");
        let list = |replica: &Replica| replica.store.list(&all(kind)).expect("list").records;
        assert!(list(walk.replica()) == list(&straight), "seed {seed}: {kind}");
    }
    walk.replica.take().expect("open").store.close().await;
    straight.store.close().await;
}

#[tokio::test]
async fn one_log_on_two_stores_makes_the_same_bytes_whatever_happens_to_one_of_them() {
    for seed in 1..=4 {
        println!("seed {seed}");
        walk(seed, 400).await;
    }
}
