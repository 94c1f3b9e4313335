//! Work queue of keys: each key waits at most once; failures back off; the size is bounded.
//!
//! Pure: time comes in as an argument, so that a test can run an hour of retries in a millisecond.

use std::collections::{BTreeMap, BTreeSet};

use model::limits::{BACKOFF_MILLIS_MAX, BACKOFF_MILLIS_MIN, QUEUE_KEYS_MAX};
use model::timestamp::Timestamp;

/// Keys with the time at which each becomes due. When it is full, keys are dropped and
/// [`KeyQueue::take_overflow`] says so: the caller then adds the keys of all objects, bit by bit.
#[derive(Debug)]
pub struct KeyQueue<K> {
    /// Holds exactly the pairs of `due_of_key`, turned around.
    keys_by_due: BTreeSet<(Timestamp, K)>,
    due_of_key: BTreeMap<K, Timestamp>,
    /// Failures in a row, and the end of the wait after the last of them.
    failures: BTreeMap<K, (u32, Timestamp)>,
    overflow: bool,
}

impl<K> Default for KeyQueue<K> {
    fn default() -> Self {
        Self {
            keys_by_due: BTreeSet::new(),
            due_of_key: BTreeMap::new(),
            failures: BTreeMap::new(),
            overflow: false,
        }
    }
}

impl<K: Ord + Clone> KeyQueue<K> {
    /// Adds a key, or brings a waiting key forward, but never before the end of its back-off.
    pub fn add(&mut self, key: K, due: Timestamp) {
        let due = self.failures.get(&key).map_or(due, |(_, until)| due.max(*until));
        match self.due_of_key.get(&key) {
            Some(&earlier) if earlier <= due => return,
            Some(&later) => drop(self.keys_by_due.remove(&(later, key.clone()))),
            None if self.due_of_key.len() >= QUEUE_KEYS_MAX => {
                self.overflow = true;
                return;
            }
            None => (),
        }
        self.due_of_key.insert(key.clone(), due);
        self.keys_by_due.insert((due, key));
        debug_assert_eq!(self.keys_by_due.len(), self.due_of_key.len());
    }

    /// Takes the key that is due for longest.
    pub fn pop(&mut self, now: Timestamp) -> Option<K> {
        if self.deadline()? > now {
            return None;
        }
        let (_, key) = self.keys_by_due.pop_first()?;
        self.due_of_key.remove(&key);
        Some(key)
    }

    /// When `pop` will next give a key, if nothing is added.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.keys_by_due.first().map(|(due, _)| *due)
    }

    /// Puts a key back after a failure, later each time. Gives the failures in a row.
    pub fn retry(&mut self, key: K, now: Timestamp) -> u32 {
        let (count, until) = self.failures.entry(key.clone()).or_default();
        let wait = (BACKOFF_MILLIS_MIN << (*count).min(16)).min(BACKOFF_MILLIS_MAX);
        *count = count.saturating_add(1);
        *until = now.plus_millis(wait);
        let (count, until) = (*count, *until);
        self.add(key, until);
        count
    }

    /// Forgets past failures of a key.
    pub fn succeed(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Keys that wait.
    pub fn len(&self) -> usize {
        self.due_of_key.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.due_of_key.is_empty()
    }

    /// Whether keys were dropped since the last call.
    pub fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn a_key_waits_once_and_comes_forward() {
        let mut queue = KeyQueue::default();
        queue.add("a", at(9));
        queue.add("b", at(5));
        queue.add("a", at(3));
        queue.add("a", at(7));
        assert_eq!(queue.pop(at(2)), None);
        assert_eq!(queue.pop(at(4)), Some("a"));
        assert_eq!(queue.pop(at(9)), Some("b"));
        assert!(queue.is_empty());
    }

    #[test]
    fn failures_wait_longer_each_time_and_news_do_not_shorten_it() {
        let mut queue = KeyQueue::default();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..16 {
            queue.retry("a", now);
            queue.add("a", now);
            let due = queue.deadline().expect("it waits");
            waits.push(due.millis() - now.millis());
            now = due;
            assert_eq!(queue.pop(now), Some("a"));
        }
        assert_eq!(waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits.last(), Some(&BACKOFF_MILLIS_MAX));
        queue.succeed(&"a");
        queue.add("a", now);
        assert_eq!(queue.deadline(), Some(now));
    }

    #[test]
    fn a_full_queue_says_so() {
        let mut queue = KeyQueue::default();
        for key in 0..=QUEUE_KEYS_MAX {
            queue.add(key, at(0));
        }
        assert_eq!(queue.len(), QUEUE_KEYS_MAX);
        assert!(queue.take_overflow());
        assert!(!queue.take_overflow());
    }
}
