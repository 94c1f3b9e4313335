//! Which clients came and went, for one reader that may be slow.
//!
//! Events of one client merge: the reader always learns its last state, and never more entries wait
//! than clients are connected or known to it as connected.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::lock;

/// A client came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Its client id.
    pub client: Arc<str>,
    /// Whether it is connected.
    pub connected: bool,
    /// Number of the connection that came or went; another one for the same client means that it
    /// was away in between, if only for a moment.
    pub connection: u64,
}

#[derive(Default)]
struct Pending {
    order: VecDeque<Arc<str>>,
    latest: HashMap<Arc<str>, Change>,
    waker: Option<Waker>,
    closed: bool,
}

struct Change {
    connected: bool,
    connection: u64,
    /// The state that the reader knows.
    known: bool,
}

/// The reader's end, from [`crate::Broker::presence`].
pub struct PresenceEvents {
    pending: Arc<Mutex<Pending>>,
}

impl PresenceEvents {
    /// The next change; None once the broker has stopped.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Presence> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Presence>> {
        let mut pending = lock(&self.pending);
        while let Some(client) = pending.order.pop_front() {
            if let Some(Change { connected, connection, .. }) = pending.latest.remove(&client) {
                return Poll::Ready(Some(Presence { client, connected, connection }));
            }
        }
        if pending.closed {
            return Poll::Ready(None);
        }
        pending.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The broker's end.
#[derive(Default)]
pub(crate) struct PresenceSender {
    readers: Vec<Weak<Mutex<Pending>>>,
}

impl PresenceSender {
    /// A new reader, to whom the given clients are news.
    pub(crate) fn reader(
        &mut self,
        connected: impl Iterator<Item = (Arc<str>, u64)>,
    ) -> PresenceEvents {
        let mut pending = Pending::default();
        for (client, connection) in connected {
            pending.tell(&client, [false, true], connection);
        }
        let pending = Arc::new(Mutex::new(pending));
        self.readers.retain(|reader| reader.strong_count() > 0);
        self.readers.push(Arc::downgrade(&pending));
        PresenceEvents { pending }
    }

    /// `states`: whether the client was connected before, and whether it is.
    pub(crate) fn tell(&self, client: &Arc<str>, states: [bool; 2], connection: u64) {
        for reader in self.readers.iter().filter_map(Weak::upgrade) {
            lock(&reader).tell(client, states, connection);
        }
    }

    pub(crate) fn close(&self) {
        for reader in self.readers.iter().filter_map(Weak::upgrade) {
            let mut pending = lock(&reader);
            pending.closed = true;
            pending.wake();
        }
    }
}

impl Pending {
    fn tell(&mut self, client: &Arc<str>, [before, connected]: [bool; 2], connection: u64) {
        match self.latest.get_mut(client) {
            // It came and went unseen.
            Some(change) if !connected && !change.known => {
                self.latest.remove(client);
                self.order.retain(|waiting| waiting != client);
            }
            Some(change) => {
                change.connected = connected;
                change.connection = connection;
            }
            None => {
                // Nothing is unseen, so the reader knows the state before.
                let change = Change { connected, connection, known: before };
                self.latest.insert(client.clone(), change);
                self.order.push_back(client.clone());
            }
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(events: &mut PresenceEvents) -> Vec<(String, bool, u64)> {
        let mut context = Context::from_waker(Waker::noop());
        let mut found = Vec::new();
        while let Poll::Ready(Some(event)) = events.poll_recv(&mut context) {
            found.push((event.client.to_string(), event.connected, event.connection));
        }
        found
    }

    #[test]
    fn a_slow_reader_learns_the_last_state_of_each_client() {
        let [a, b, c] = ["a", "b", "c"].map(Arc::<str>::from);
        let mut sender = PresenceSender::default();
        let mut events = sender.reader([(a.clone(), 1)].into_iter());
        sender.tell(&b, [false, true], 2);
        sender.tell(&b, [true, false], 2);
        assert_eq!(all(&mut events), [("a".into(), true, 1)], "b came and went unseen");
        sender.tell(&a, [true, true], 3);
        sender.tell(&a, [true, false], 3);
        assert_eq!(all(&mut events), [("a".into(), false, 3)], "taken over, then gone");
        sender.tell(&c, [false, true], 4);
        sender.tell(&c, [true, false], 4);
        sender.tell(&c, [false, true], 5);
        assert_eq!(all(&mut events), [("c".into(), true, 5)]);
        sender.tell(&c, [true, false], 5);
        sender.tell(&c, [false, true], 6);
        assert_eq!(all(&mut events), [("c".into(), true, 6)], "away for a moment");
        sender.close();
        assert!(all(&mut events).is_empty() && lock(&events.pending).closed);
    }
}
