//! Recent changes in memory, by kind, bounded by bytes; where watches look first.
//!
//! A kind's `floor` is the newest version that its ring may no longer hold: a watch at or above it
//! finds everything here, a watch below it reads the log. Quiet kinds keep their floor, so that a
//! watcher that sleeps for a day is not expired by the traffic of other kinds.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use model::ids::{KindKey, Version};
use tokio::sync::watch;

use super::types::Change;

/// The rings.
#[derive(Debug)]
pub(super) struct History {
    ids: HashMap<KindKey, usize>,
    kinds: Vec<KindHistory>,
    /// Kind of each change held, oldest change first.
    order: VecDeque<usize>,
    bytes: usize,
    bytes_max: usize,
    start: Version,
    evicted: Version,
    evicted_memory: Version,
    /// How often it was begun anew.
    begun: u64,
    /// How often the memory-only objects were forgotten.
    forgotten: u64,
    any: watch::Sender<()>,
}

#[derive(Debug)]
struct KindHistory {
    memory: bool,
    changes: VecDeque<Arc<Change>>,
    floor: Version,
    wake: watch::Sender<()>,
}

impl History {
    /// Empty rings of a store that has just opened at `start`.
    pub(super) fn new(start: Version, bytes_max: usize, memory_kinds: &[KindKey]) -> Self {
        let mut history = Self {
            ids: HashMap::new(),
            kinds: Vec::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
            start,
            evicted: start,
            evicted_memory: start,
            begun: 0,
            forgotten: 0,
            any: watch::Sender::new(()),
        };
        for kind in memory_kinds {
            let id = history.id(kind);
            history.kinds[id].memory = true;
        }
        history
    }

    /// The number of a kind that was mentioned before.
    pub(super) fn known(&self, kind: &KindKey) -> Option<usize> {
        self.ids.get(kind).copied()
    }

    /// The number of a kind, made at its first mention: kinds are a closed list of the callers.
    pub(super) fn id(&mut self, kind: &KindKey) -> usize {
        if let Some(id) = self.ids.get(kind) {
            return *id;
        }
        let id = self.kinds.len();
        self.ids.insert(kind.clone(), id);
        self.kinds.push(KindHistory {
            memory: false,
            changes: VecDeque::new(),
            floor: self.start,
            wake: watch::Sender::new(()),
        });
        id
    }

    /// Begins anew at `start`: whoever followed before has to begin again as well.
    pub(super) fn restart(&mut self, start: Version) {
        self.begun += 1;
        self.start = start;
        self.evicted = start;
        self.evicted_memory = start;
        self.order.clear();
        self.bytes = 0;
        for kind in &mut self.kinds {
            kind.changes.clear();
            kind.floor = start;
        }
        self.forget_memory(start);
        for kind in &self.kinds {
            kind.wake.send_replace(());
        }
    }

    /// The memory-only objects are gone without a change that says so: whoever follows them at `now`
    /// or before has to begin again.
    pub(super) fn forget_memory(&mut self, now: Version) {
        self.forgotten += 1;
        let mut bytes = 0;
        for kind in self.kinds.iter_mut().filter(|kind| kind.memory) {
            bytes += kind.changes.iter().map(|change| change.bytes()).sum::<usize>();
            kind.changes.clear();
            kind.floor = now;
            kind.wake.send_replace(());
        }
        self.bytes -= bytes;
        let kinds = &self.kinds;
        self.order.retain(|id| !kinds[*id].memory);
        self.evicted = self.evicted.max(now);
        self.evicted_memory = now;
        self.any.send_replace(());
    }

    /// Changes when a cursor of `kind` (or of all) cannot go on: changes were left out.
    pub(super) fn generation(&self, kind: Option<usize>) -> (u64, u64) {
        let memory = kind.is_none_or(|id| self.kinds[id].memory);
        (self.begun, if memory { self.forgotten } else { 0 })
    }

    /// Adds a change and drops the oldest ones beyond the bound.
    pub(super) fn push(&mut self, change: Arc<Change>) {
        let id = self.id(&change.key.kind);
        self.bytes += change.bytes();
        self.kinds[id].changes.push_back(change);
        self.order.push_back(id);
        while self.bytes > self.bytes_max {
            let Some(id) = self.order.pop_front() else { break };
            let kind = &mut self.kinds[id];
            let Some(oldest) = kind.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
            kind.floor = oldest.version;
            self.evicted = oldest.version;
            if kind.memory {
                self.evicted_memory = oldest.version;
            }
        }
    }

    /// Wakes those who wait for a kind, and those who wait for all.
    pub(super) fn wake(&mut self, kind: &KindKey) {
        let id = self.id(kind);
        self.kinds[id].wake.send_replace(());
        self.any.send_replace(());
    }

    /// Follows one kind, or all.
    pub(super) fn subscribe(&self, kind: Option<usize>) -> watch::Receiver<()> {
        kind.map_or(&self.any, |id| &self.kinds[id].wake).subscribe()
    }

    /// Drops the senders: waiting watches see the end.
    pub(super) fn close(&mut self) {
        self.any = watch::Sender::new(());
        for kind in &mut self.kinds {
            kind.wake = watch::Sender::new(());
        }
    }

    /// A watch at or above this version finds everything here.
    pub(super) fn floor(&self, kind: Option<usize>) -> Version {
        kind.map_or(self.evicted, |id| self.kinds[id].floor)
    }

    /// A watch below this version misses changes of memory-only kinds, which no log holds.
    pub(super) fn memory_floor(&self, kind: Option<usize>) -> Version {
        match kind {
            None => self.evicted_memory,
            Some(id) if self.kinds[id].memory => self.kinds[id].floor,
            Some(_) => Version(0),
        }
    }

    /// The first change of `kind` above `position` that `wanted` accepts.
    pub(super) fn next(
        &self,
        kind: Option<usize>,
        position: Version,
        wanted: impl Fn(&Change) -> bool,
    ) -> Option<Arc<Change>> {
        let in_kind = |kind: &KindHistory| {
            let from = kind.changes.partition_point(|change| change.version <= position);
            kind.changes.range(from..).find(|change| wanted(change)).cloned()
        };
        match kind {
            Some(id) => in_kind(&self.kinds[id]),
            None => self.kinds.iter().filter_map(in_kind).min_by_key(|change| change.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::ids::{ObjectKey, Uid};

    use super::*;

    fn change(kind: &'static str, version: u64) -> Arc<Change> {
        let key = ObjectKey { kind: kind.into(), namespace: String::new(), name: "n".into() };
        let body = Some(Bytes::from(vec![0; 1000]));
        Arc::new(Change {
            version: Version(version),
            key,
            uid: Uid::default(),
            body,
            old: None,
            created: true,
        })
    }

    #[test]
    fn a_busy_kind_does_not_expire_a_quiet_one() {
        let mut history = History::new(Version(10), 10_000, &["/events".into()]);
        let (quiet, busy) = (history.id(&"/nodes".into()), history.id(&"/pods".into()));
        history.push(change("/nodes", 11));
        for version in 12..100 {
            history.push(change("/pods", version));
        }
        assert!(history.bytes <= 10_000);
        assert_eq!(history.floor(Some(quiet)), Version(11));
        assert!(history.floor(Some(busy)) > Version(80));
        assert_eq!(history.floor(None), history.floor(Some(busy)));
        let next = history.next(Some(busy), Version(97), |_| true).expect("held");
        assert_eq!(next.version, Version(98));
        assert!(history.next(Some(quiet), Version(11), |_| true).is_none());
        assert_eq!(history.memory_floor(None), Version(10));
    }

    #[test]
    fn forgotten_objects_expire_their_watches_and_no_others() {
        let mut history = History::new(Version(10), 10_000, &["/events".into()]);
        let (events, pods) = (history.id(&"/events".into()), history.id(&"/pods".into()));
        for version in (11..17).step_by(2) {
            history.push(change("/events", version));
            history.push(change("/pods", version + 1));
        }
        let before = [Some(events), Some(pods), None].map(|kind| history.generation(kind));
        history.forget_memory(Version(16));
        let after = [Some(events), Some(pods), None].map(|kind| history.generation(kind));
        assert!(before[0] != after[0] && before[1] == after[1] && before[2] != after[2]);
        assert_eq!(history.memory_floor(Some(events)), Version(16));
        let found = history.next(Some(pods), Version(12), |_| true).expect("kept");
        assert_eq!(found.version, Version(14));
        let held: usize = history.kinds.iter().map(|kind| kind.changes.len()).sum();
        assert_eq!((held, history.order.len()), (3, 3));
        let bytes: usize = history.kinds[pods].changes.iter().map(|change| change.bytes()).sum();
        assert_eq!(history.bytes, bytes);
        history.restart(Version(30));
        assert_eq!((history.bytes, history.floor(Some(pods))), (0, Version(30)));
        assert!(history.next(Some(pods), Version(12), |_| true).is_none());
    }
}
