//! What random clients do: reads, lists and writes of every kind on a few keys, from a seed.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::history::{Answer, Call, Value, Version};
use super::loss::Random;

/// The next thing that a client does.
#[derive(Clone, Debug)]
pub enum Step {
    /// One operation on a key.
    One(String, Call),
    /// All keys at once.
    List,
}

/// Values that no other client of the history uses.
pub type Values = Arc<AtomicU64>;

/// The version at which each key was seen last.
pub type Seen = Arc<Mutex<BTreeMap<String, Version>>>;

/// One client's way.
pub struct Walk {
    random: Random,
    values: Values,
    keys: u64,
    seen: Seen,
}

impl Walk {
    /// Over keys `key-0` and so on.
    pub fn new(random: Random, values: Values, keys: u64) -> Self {
        Self { random, values, keys, seen: Seen::default() }
    }

    /// Clients that tell each other what they saw: a store must not know less than they do.
    pub fn knowing(self, seen: &Seen) -> Self {
        Self { seen: Arc::clone(seen), ..self }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Version>> {
        self.seen.lock().expect("whole")
    }

    fn value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What to do next. Mostly what can succeed, and sometimes what must not.
    pub fn next(&mut self) -> Step {
        let key = format!("key-{}", self.random.below(self.keys));
        let base = self.seen().get(&key).copied();
        let call = match (self.random.below(100), base) {
            (0..6, _) => return Step::List,
            (6..36, _) => Call::Get,
            (36..44, _) => Call::Delete,
            (44..60, _) => Call::Put { value: self.value() },
            (60..96, Some(base)) => Call::Swap { value: self.value(), base },
            // On a key that it has seen this is mostly refused.
            _ => Call::Create { value: self.value() },
        };
        Step::One(key, call)
    }

    /// Takes in what the store said.
    pub fn heard(&mut self, key: &str, answer: Option<Answer>) {
        match answer {
            Some(Answer::Written(version) | Answer::Found { version, .. }) => {
                let mut seen = self.seen();
                let newest = seen.entry(key.to_owned()).or_default();
                *newest = version.max(*newest);
            }
            Some(Answer::Deleted | Answer::Missing) => {
                self.seen().remove(key);
            }
            // Somebody else has it, at a version to be read first.
            Some(Answer::Exists) => {
                self.seen().insert(key.to_owned(), 1);
            }
            Some(Answer::Conflict) | None => {}
        }
    }

    /// A pause between two steps, in milliseconds.
    pub fn pause(&mut self, most: u64) -> u64 {
        self.random.below(most + 1)
    }
}

/// All of them at the same time, on this thread.
pub async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut open: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (future, done) in open.iter_mut().filter(|(_, done)| done.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => *done = Some(value),
                std::task::Poll::Pending => pending = true,
            }
        }
        match pending {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
    open.into_iter().map(|(_, done)| done.expect("all are done")).collect()
}
