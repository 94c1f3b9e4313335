//! The state of one client: its filters, what waits for it, its will.
//!
//! ```text
//!            connect            disconnect (persistent)
//!   new ───────────────> served ───────────────────────> away
//!                          │  ^ ──── connect: the served connection ends, TakenOver
//!                          │  └───── connect ────────────────┘
//!                          └ disconnect (clean): forgotten by the hub
//! ```
//!
//! A session is served by at most one connection, known by its number; another one's calls are
//! answered with the reason why it must end. Locked after the hub, never before it.

use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use tokio::time::Instant;

use crate::message::{Delivery, Published};
use crate::outbox::{Outbox, Outgoing};
use crate::subscriber::Offered;
use crate::{Ended, Limits, lock};

/// A client's session.
pub(crate) struct Session {
    pub(crate) id: Arc<str>,
    pub(crate) number: u64,
    pub(crate) clean: bool,
    inner: Mutex<Inner>,
}

/// The will of a connection.
pub(crate) struct Will {
    pub(crate) message: Arc<Published>,
    pub(crate) retain: bool,
}

#[derive(Default)]
struct Inner {
    outbox: Outbox,
    /// The connection that serves it.
    connection: Option<u64>,
    /// Why that one must end.
    cut: Option<Ended>,
    /// Wakes that one.
    waker: Option<Waker>,
    /// Publishers that wait for room.
    waiters: Vec<Waker>,
    will: Option<Box<Will>>,
    filters: Vec<Box<str>>,
}

/// What a connection needs to know of its session before it sleeps.
pub(crate) struct Taken {
    /// Since when the queue is full.
    pub(crate) full_since: Option<Instant>,
}

impl Session {
    pub(crate) fn new(id: Arc<str>, number: u64, clean: bool) -> Arc<Self> {
        Arc::new(Self { id, number, clean, inner: Mutex::default() })
    }

    /// Gives the session to a connection; an earlier one ends. Gives that one's number and will.
    pub(crate) fn connect(
        &self,
        connection: u64,
        will: Option<Box<Will>>,
    ) -> (Option<u64>, Option<Box<Will>>) {
        let mut inner = lock(&self.inner);
        inner.outbox.rewind();
        inner.cut = None;
        inner.wake_all();
        let earlier = inner.connection.replace(connection);
        (earlier, std::mem::replace(&mut inner.will, will))
    }

    /// Takes the session from its connection; None when it has another one already.
    pub(crate) fn disconnect(&self, connection: u64) -> Option<Option<Box<Will>>> {
        let mut inner = lock(&self.inner);
        if inner.connection != Some(connection) {
            return None;
        }
        inner.connection = None;
        inner.cut = None;
        inner.outbox.rewind();
        inner.wake_all();
        Some(inner.will.take())
    }

    /// Makes its connection end; the hub has forgotten the session or waits for that end.
    pub(crate) fn cut(&self, why: Ended) {
        let mut inner = lock(&self.inner);
        inner.cut.get_or_insert(why);
        inner.wake_all();
    }

    /// The connection that serves it.
    pub(crate) fn connection(&self) -> Option<u64> {
        lock(&self.inner).connection
    }

    /// Offers a message; a session that is away takes only what it can keep.
    pub(crate) fn offer(&self, delivery: &Delivery, room: usize, now: Instant) -> Offered {
        let mut inner = lock(&self.inner);
        let away = inner.connection.is_none();
        if inner.cut.is_some() || (away && delivery.qos == QoS::AtMostOnce) {
            return Offered::Lost;
        }
        match inner.outbox.push(delivery, room, now) {
            true => {
                inner.wake();
                Offered::Taken
            }
            false if away => Offered::Lost,
            false => {
                // Its connection looks at the clock from here on.
                inner.wake();
                Offered::Full
            }
        }
    }

    /// Queues a message whatever waits already, up to a bound that no healthy client reaches.
    pub(crate) fn force(&self, delivery: Delivery, limits: &Limits) -> Offered {
        let mut inner = lock(&self.inner);
        let away = inner.connection.is_none();
        if inner.cut.is_some() || (away && delivery.qos == QoS::AtMostOnce) {
            return Offered::Lost;
        }
        if inner.outbox.len() >= limits.queue_messages_max {
            inner.cut = Some(Ended::Stalled);
            inner.wake_all();
            return Offered::Lost;
        }
        inner.outbox.push_anyway(delivery);
        inner.wake();
        Offered::Taken
    }

    /// Wakes a publisher once there may be room, or never will be.
    pub(crate) fn wait(&self, waker: &Waker) {
        let mut inner = lock(&self.inner);
        if !inner.waiters.iter().any(|waiter| waiter.will_wake(waker)) {
            inner.waiters.push(waker.clone());
        }
    }

    /// Hands messages to its connection until `send` wants no more; `waker` is woken for the next.
    ///
    /// # Errors
    ///
    /// Why the connection must end.
    pub(crate) fn take(
        &self,
        connection: u64,
        waker: &Waker,
        bounds: (usize, usize),
        mut send: impl FnMut(Option<Outgoing>) -> bool,
    ) -> Result<Taken, Ended> {
        let (inflight_max, room) = bounds;
        let mut inner = lock(&self.inner);
        if inner.connection != Some(connection) {
            return Err(Ended::TakenOver);
        }
        if let Some(why) = inner.cut.clone() {
            return Err(why);
        }
        while send(None) {
            let Some(outgoing) = inner.outbox.next(inflight_max) else { break };
            send(Some(outgoing));
        }
        inner.outbox.shrink();
        let full_since = inner.outbox.full_since(room);
        if full_since.is_none() {
            inner.waiters.drain(..).for_each(Waker::wake);
            inner.waiters = Vec::new();
        }
        match &inner.waker {
            Some(known) if known.will_wake(waker) => (),
            _ => inner.waker = Some(waker.clone()),
        }
        Ok(Taken { full_since })
    }

    /// A PUBACK came.
    pub(crate) fn acknowledge(&self, id: u16) {
        lock(&self.inner).outbox.acknowledge(id);
    }

    /// Notes a filter; false when the client has as many as it may.
    pub(crate) fn add_filter(&self, filter: &str, max: usize) -> bool {
        let mut inner = lock(&self.inner);
        if inner.filters.iter().any(|known| **known == *filter) {
            return true;
        }
        if inner.filters.len() >= max {
            return false;
        }
        if inner.filters.len() < 4 {
            inner.filters.reserve_exact(1);
        }
        inner.filters.push(filter.into());
        true
    }

    pub(crate) fn remove_filter(&self, filter: &str) {
        lock(&self.inner).filters.retain(|known| **known != *filter);
    }

    pub(crate) fn take_filters(&self) -> Vec<Box<str>> {
        std::mem::take(&mut lock(&self.inner).filters)
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn wake_all(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.waiters.drain(..).for_each(Waker::wake);
    }
}

impl Taken {
    /// When the client is cut off unless its queue falls to half before.
    pub(crate) fn stalled_at(&self, stall: Duration) -> Option<Instant> {
        self.full_since.map(|since| since + stall)
    }
}
