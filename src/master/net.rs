//! What boards are told of the network: kept up to date with the world, and remembered for a while
//! for those who missed something.
//!
//! ```text
//! store's thread ──note──▶ feed ──run: gathered──▶ published ──▶ own board: its dispatcher's link
//!                                                           └──▶ all others: one publish on the bus
//! a board's beat shows an earlier revision ──owed──▶ the changes since, or everything
//! ```
//! Bounded: changes are remembered in number and bytes; who missed more than these gets everything.
//! Every sender writes its own header: a body is the same whoever leads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use logic::network::feed::Feed;
use logic::world::{Changed, World};
use model::limits::{BUS_FETCH_BYTES_PER_SECOND_MIN, NET_CHANGES_BYTES_MAX, NET_CHANGES_MAX};
use model::network::NetState;
use model::wire;
use tokio::sync::{Notify, watch};

use crate::master::controllers::Views;

/// Changes that come this close together travel as one message.
const GATHER: Duration = Duration::from_millis(3);
/// Time between two messages in the long run.
const BETWEEN: Duration = Duration::from_millis(50);
/// The same for every board that hears them, about four times what it costs to tell it.
const BETWEEN_FOR_BOARD: Duration = Duration::from_micros(500);
/// Messages that may run ahead of that: the few changes of one pod that comes or goes.
const AHEAD: u32 = 4;

/// The network as boards are told of it; clones share it.
#[derive(Clone, Debug)]
pub struct Net(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Something was noted.
    noted: Notify,
    /// The newest revision; 0 before there is one.
    published: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    feed: Feed,
    /// The newest changes, oldest first, each the base of the next.
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Everything, encoded, until it changes.
    whole: Option<Bytes>,
}

/// A change that was published.
#[derive(Debug)]
struct Recent {
    base: u64,
    body: Bytes,
    at: Instant,
}

/// What brings a board up to date.
#[derive(Debug)]
pub struct Owed {
    /// Encoded `NetV1`s, in this order.
    pub bodies: Vec<Bytes>,
    /// The revision that it then holds.
    pub revision: u64,
}

impl Recent {
    /// Whether it may still be on its way to boards that are given `patience`: what is large takes
    /// its time.
    fn is_younger_than(&self, patience: Duration) -> bool {
        let transfer = Duration::from_secs(self.body.len() as u64 / BUS_FETCH_BYTES_PER_SECOND_MIN);
        !patience.is_zero() && self.at.elapsed() < patience + transfer
    }
}

impl Default for Net {
    fn default() -> Self {
        let (inner, noted) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { inner, noted, published: watch::Sender::default() }))
    }
}

impl Net {
    /// The newest revision that boards are told of; 0 before there is one.
    pub fn revision(&self) -> u64 {
        *self.0.published.borrow()
    }

    /// What boards are told.
    pub fn state(&self) -> NetState {
        self.inner().feed.state().clone()
    }

    /// The revision, whenever there is a new one.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.0.published.subscribe()
    }

    /// What brings a board up to date that holds a revision; nothing when it is, or when what it
    /// lacks was published less than `patience` ago and may still be on its way.
    pub fn owed(&self, held: u64, patience: Duration) -> Owed {
        let mut inner = self.inner();
        let revision = inner.feed.state().revision;
        let mut bodies = Vec::new();
        if held == revision || revision == 0 {
            return Owed { bodies, revision: held };
        }
        // Who has nothing needs no history.
        let known = |recent: &Recent| recent.base == held && held != 0;
        match inner.recent.iter().position(known) {
            Some(from) if inner.recent[from].is_younger_than(patience) => {
                return Owed { bodies, revision: held };
            }
            Some(from) => {
                bodies.extend(inner.recent.range(from..).map(|recent| recent.body.clone()));
            }
            None => bodies.push(inner.whole()),
        }
        Owed { bodies, revision }
    }

    /// Takes note of a change that the world already shows; called in the order of changes.
    pub(in crate::master) fn note(&self, world: &World, changed: &Changed) {
        if self.inner().feed.note(world, changed) {
            self.0.noted.notify_one();
        }
    }

    /// Publishes what was noted.
    fn advance(&self, world: &World) {
        let mut inner = self.inner();
        let Some(change) = inner.feed.advance(world) else { return };
        inner.whole = None;
        let (base, body) = (change.base, Bytes::from(wire::encode_body(&change)));
        tracing::debug!(revision = change.revision, bytes = body.len(), "network changed");
        inner.remember(Recent { base, body, at: Instant::now() });
        drop(inner);
        self.0.published.send_replace(change.revision);
    }

    /// Time between two messages: telling a thousand boards takes its time.
    pub(in crate::master) fn between(&self) -> Duration {
        let boards = u32::try_from(self.inner().feed.state().boards.len()).unwrap_or(u32::MAX);
        BETWEEN.max(BETWEEN_FOR_BOARD.saturating_mul(boards))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A feed that panicked half-way tells less than there is; the next change brings it back.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn whole(&mut self) -> Bytes {
        let state = self.feed.state();
        self.whole.get_or_insert_with(|| wire::encode_body(&state.whole()).into()).clone()
    }

    fn remember(&mut self, recent: Recent) {
        self.recent_bytes += recent.body.len();
        self.recent.push_back(recent);
        while self.recent.len() > NET_CHANGES_MAX || self.recent_bytes > NET_CHANGES_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.recent_bytes -= oldest.body.len();
        }
    }
}

/// Publishes changes until `stop` turns true: a few at once, many that follow closely together.
pub async fn run(views: Views, mut stop: watch::Receiver<bool>) {
    let net = views.net().clone();
    // When the messages so far would be over at their long-run pace.
    let mut paid = Instant::now();
    loop {
        let gathered = async {
            net.0.noted.notified().await;
            let soon = Instant::now() + GATHER;
            let earliest = paid.checked_sub(AHEAD * net.between()).unwrap_or(soon);
            tokio::time::sleep_until(soon.max(earliest).into()).await;
        };
        // Cancel safety: what was noted stays noted, and the loop is over.
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = gathered => {}
        }
        net.advance(&views.world());
        paid = paid.max(Instant::now()) + net.between();
    }
}

#[cfg(test)]
mod tests {
    use model::ids::{ObjectKey, Uid, Version};
    use model::timestamp::Timestamp;
    use model::view::kind;
    use model::wire::{MessageKind, NetV1};

    use super::*;
    use crate::io::clock::Clock;
    use crate::io::store::{Base, Op, Options, Store};

    /// Notes and publishes another state of a node.
    fn change(net: &Net, world: &mut World, number: u64) {
        let key =
            ObjectKey { kind: kind::NODES, namespace: String::new(), name: "pi-1".to_owned() };
        let body = format!(
            r#"{{"metadata":{{}},"status":{{"addresses":[
                {{"type":"InternalIP","address":"10.0.{}.{}"}}]}}}}"#,
            number / 256,
            number % 256
        );
        let changed = world.apply(&key, Version(number), Uid([1; 16]), Some(body.as_bytes()));
        net.note(world, &changed.expect("a node"));
        net.advance(world);
    }

    fn owed(net: &Net, held: u64, patience_seconds: u64) -> Vec<NetV1> {
        let owed = net.owed(held, Duration::from_secs(patience_seconds));
        let decode = |body: &Bytes| wire::decode(MessageKind::Net, body).expect("ours");
        let decoded: Vec<NetV1> = owed.bodies.iter().map(decode).collect();
        assert_eq!(owed.revision, decoded.last().map_or(held, |last| last.revision));
        decoded
    }

    #[tokio::test]
    async fn a_revision_means_the_same_after_a_restart_behind_deletions() {
        let dir = std::env::temp_dir().join(format!("kumquat-feed-{}", std::process::id()));
        let _gone = std::fs::remove_dir_all(&dir);
        let open = || {
            let (views, hook) = Views::new(Vec::new(), Clock::starting_at(Timestamp(0)));
            let store =
                Store::open_alone(Options::new(&dir), Box::new(hook)).expect("a store opens");
            (views, store)
        };
        let write = |name: &str, body: Option<&'static str>| {
            let kind = kind::NETWORK_POLICIES;
            let key = ObjectKey { kind, namespace: "a".to_owned(), name: name.to_owned() };
            let body = body.map(|text| Bytes::from_static(text.as_bytes()));
            vec![Op { key, base: Base::Any, uid: Uid([1; 16]), body, keep_old: true }]
        };
        let policy = Some(r#"{"metadata":{},"spec":{"podSelector":{}}}"#);
        let (views, store) = open();
        for name in ["b", "a"] {
            store.propose(write(name, policy)).await.expect("written");
        }
        views.net().advance(&views.world());
        let kept = views.net().state();
        assert_eq!(kept.policies.len(), 2);
        store.propose(write("b", None)).await.expect("deleted");
        store.close().await;
        drop(store);
        let (views, store) = open();
        views.net().advance(&views.world());
        let state = views.net().state();
        assert_eq!(state.policies.len(), 1);
        assert!(state.revision > kept.revision, "{} was said of other policies", state.revision);
        let owed = owed(views.net(), kept.revision, 0).remove(0);
        assert_eq!(kept.apply(owed), Ok(state));
        store.close().await;
        std::fs::remove_dir_all(dir).expect("removable");
    }

    #[test]
    fn a_board_is_owed_what_it_missed_and_everything_after_too_much() {
        let (net, mut world) = (Net::default(), World::default());
        assert!(owed(&net, 0, 0).is_empty(), "there is nothing yet");
        for number in 1..=10 {
            change(&net, &mut world, number);
        }
        assert_eq!(net.revision(), 10);
        assert!(owed(&net, 10, 0).is_empty());
        let missed = owed(&net, 7, 0);
        let steps: Vec<_> = missed.iter().map(|it| (it.base, it.revision)).collect();
        assert_eq!(steps, [(7, 8), (8, 9), (9, 10)]);
        assert!(owed(&net, 9, 60).is_empty(), "it is on its way");
        let whole = owed(&net, 5_000, 60);
        assert_eq!((whole.len(), whole[0].base, whole[0].revision), (1, 0, 10));
        for number in 11..=10 + 2 * NET_CHANGES_MAX as u64 {
            change(&net, &mut world, number);
        }
        let state = net.state();
        let whole = owed(&net, 7, 0).remove(0);
        assert_eq!(NetState::default().apply(whole), Ok(state));
        let inner = net.inner();
        assert_eq!(inner.recent.len(), NET_CHANGES_MAX);
        let bytes: usize = inner.recent.iter().map(|recent| recent.body.len()).sum();
        assert_eq!(bytes, inner.recent_bytes);
    }
}
