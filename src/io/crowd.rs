//! Places for connections that cost their owner nothing: of strangers, or many of one board.
//!
//! When all are taken, the newcomer gets the place of the oldest connection of the owner that holds
//! most of them: thousands of half-open connections of one host displace each other, while a board
//! needs its place for milliseconds. A bound for each owner works the same way: whoever comes anew
//! displaces what lingers of its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded set of places, each with its owner; clones share it.
#[derive(Debug)]
pub struct Crowd<K> {
    inner: Arc<Mutex<Inner<K>>>,
    places: usize,
    each: usize,
}

#[derive(Debug)]
struct Inner<K> {
    next: u64,
    /// Oldest first.
    taken: Vec<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    id: u64,
    owner: K,
    /// Dropped to displace the holder.
    _hold: oneshot::Sender<()>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place<K> {
    inner: Arc<Mutex<Inner<K>>>,
    id: u64,
    hold: oneshot::Receiver<()>,
}

impl<K> Clone for Crowd<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), places: self.places, each: self.each }
    }
}

impl<K: Clone + Eq + Hash> Crowd<K> {
    /// So many places, all of which one owner may hold while nobody else wants them.
    pub fn new(places: usize) -> Self {
        let inner = Inner { next: 0, taken: Vec::new() };
        Self { inner: Arc::new(Mutex::new(inner)), places, each: places }
    }

    /// The same with at most so many for each owner.
    pub fn with_each(self, each: usize) -> Self {
        Self { each, ..self }
    }

    /// Always succeeds, if need be at another's cost.
    pub fn enter(&self, owner: K) -> Place<K> {
        let mut inner = lock(&self.inner);
        if let Some(victim) = inner.victim(&owner, self.places, self.each) {
            inner.taken.remove(victim);
        }
        let id = inner.next;
        inner.next += 1;
        let (sender, hold) = oneshot::channel();
        inner.taken.push(Taken { id, owner, _hold: sender });
        Place { inner: self.inner.clone(), id, hold }
    }
}

fn lock<K>(inner: &Mutex<Inner<K>>) -> MutexGuard<'_, Inner<K>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Clone + Eq + Hash> Inner<K> {
    /// Whose place a newcomer of this owner gets; `None` while there is room.
    fn victim(&self, newcomer: &K, places: usize, each: usize) -> Option<usize> {
        let own = self.taken.iter().filter(|taken| taken.owner == *newcomer).count();
        if own >= each {
            return self.taken.iter().position(|taken| taken.owner == *newcomer);
        }
        if self.taken.len() < places {
            return None;
        }
        let mut counts: HashMap<&K, usize> = HashMap::new();
        for taken in &self.taken {
            *counts.entry(&taken.owner).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.taken.iter().position(|taken| counts[&taken.owner] == most)
    }
}

impl<K> Place<K> {
    /// Resolves when another took this place.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn displaced(&mut self) {
        // The sender is never used, only dropped.
        let _ = (&mut self.hold).await;
    }
}

impl<K> Drop for Place<K> {
    fn drop(&mut self) {
        lock(&self.inner).taken.retain(|taken| taken.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_displaced(place: &mut Place<u8>) -> bool {
        place.hold.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_greediest_owner_gives_way() {
        let crowd = Crowd::new(4);
        let mut board = crowd.enter(1);
        let mut greedy: Vec<Place<u8>> = (0..50).map(|_| crowd.enter(9)).collect();
        assert_eq!(lock(&crowd.inner).taken.len(), 4);
        assert!(!is_displaced(&mut board), "another owner keeps its place");
        let displaced = greedy.iter_mut().filter_map(|place| is_displaced(place).then_some(()));
        assert_eq!(displaced.count(), 47, "all but the newest three");
        assert!(!is_displaced(greedy.last_mut().unwrap()));
        drop(greedy);
        drop(board);
        assert!(lock(&crowd.inner).taken.is_empty());
    }

    #[test]
    fn an_owner_with_all_its_places_displaces_itself() {
        let crowd = Crowd::new(10).with_each(2);
        let mut oldest = crowd.enter(1);
        let mut other = crowd.enter(2);
        let mut kept = [crowd.enter(1), crowd.enter(1)];
        assert!(is_displaced(&mut oldest));
        assert!(!is_displaced(&mut other) && !kept.iter_mut().any(is_displaced));
        drop(oldest);
        assert_eq!(lock(&crowd.inner).taken.len(), 3, "whoever was displaced frees nobody else's");
    }
}
