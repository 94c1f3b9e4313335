//! Places for connections of which it is not known (yet) whose they are.
//!
//! When all are taken, the newcomer gets the place of the oldest connection from the address that holds
//! most of them: thousands of half-open connections of one host displace each other, while a board
//! needs its place for milliseconds.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A bounded set of places; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    inner: Arc<Mutex<Inner>>,
    places: usize,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Oldest first.
    taken: Vec<Taken>,
}

#[derive(Debug)]
struct Taken {
    id: u64,
    address: IpAddr,
    /// Dropped to displace the holder.
    _hold: oneshot::Sender<()>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    id: u64,
    hold: oneshot::Receiver<()>,
}

impl Crowd {
    pub(super) fn new(places: usize) -> Self {
        Self { inner: Arc::default(), places }
    }

    /// Always succeeds, if need be at another's cost.
    pub(super) fn enter(&self, address: IpAddr) -> Place {
        let mut inner = self.lock();
        if inner.taken.len() >= self.places {
            let victim = inner.victim();
            inner.taken.remove(victim);
        }
        let id = inner.next;
        inner.next += 1;
        let (sender, hold) = oneshot::channel();
        inner.taken.push(Taken { id, address, _hold: sender });
        Place { crowd: self.clone(), id, hold }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn victim(&self) -> usize {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for taken in &self.taken {
            *counts.entry(taken.address).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        self.taken.iter().position(|taken| counts[&taken.address] == most).unwrap_or_default()
    }
}

impl Place {
    /// Resolves when another took this place.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn displaced(&mut self) {
        // The sender is never used, only dropped.
        let _ = (&mut self.hold).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().taken.retain(|taken| taken.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greediest_address_gives_way() {
        let crowd = Crowd::new(4);
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let is_displaced = |place: &mut Place| {
            place.hold.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed)
        };
        let mut board = crowd.enter(address(1));
        let mut greedy: Vec<Place> = (0..50).map(|_| crowd.enter(address(9))).collect();
        assert_eq!(crowd.lock().taken.len(), 4);
        assert!(!is_displaced(&mut board), "another address keeps its place");
        let displaced = greedy.iter_mut().filter_map(|place| is_displaced(place).then_some(()));
        assert_eq!(displaced.count(), 47, "all but the newest three");
        assert!(!is_displaced(greedy.last_mut().unwrap()));
        drop(greedy);
        drop(board);
        assert!(crowd.lock().taken.is_empty());
    }
}
