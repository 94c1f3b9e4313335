//! What all connections share: sessions, subscriptions, retained messages.
//!
//! One lock, held for short computations only. A message reaches queues under it, so that what a
//! client gets as retained is never older than what it got as fresh. Full queues are waited for
//! outside of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::local::LocalQueue;
use crate::message::{Delivery, Held, Published};
use crate::presence::PresenceSender;
use crate::retained::Retained;
use crate::session::{Session, Will};
use crate::subscriber::{Offered, Subscriber, Waiting};
use crate::tree::Tree;
use crate::{Access, Counts, Ended, Limits, PresenceEvents, lock};

/// The shared state of a broker.
pub(crate) struct Hub {
    pub(crate) limits: Limits,
    pub(crate) access: Arc<dyn Access>,
    state: Mutex<State>,
    held: Held,
    /// Numbers of connections, sessions and local subscriptions.
    next_number: AtomicU64,
    connections: AtomicUsize,
    /// Told when the last connection has ended.
    idle: Notify,
    lost: AtomicU64,
    not_retained: AtomicU64,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Arc<str>, Arc<Session>>,
    /// Sessions of clients that are away, by the number of their last connection.
    away: BTreeMap<u64, Arc<str>>,
    /// Connections before their CONNECT.
    connecting: BTreeMap<u64, Option<Waker>>,
    locals: Vec<Arc<LocalQueue>>,
    tree: Tree<Subscriber>,
    retained: Retained,
    presence: PresenceSender,
    stopping: bool,
}

/// A connection's place among those that the limits allow; given back when dropped.
pub(crate) struct Seat {
    hub: Arc<Hub>,
    pub(crate) number: u64,
}

/// What became of a published message.
pub(crate) struct Routed {
    pub(crate) taken: usize,
    pub(crate) waiting: Option<Box<Waiting>>,
}

/// A message to publish.
pub(crate) struct Publication<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

impl Hub {
    pub(crate) fn new(limits: Limits, access: Arc<dyn Access>) -> Self {
        Self {
            limits,
            access,
            state: Mutex::default(),
            held: Held::default(),
            next_number: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            idle: Notify::new(),
            lost: AtomicU64::new(0),
            not_retained: AtomicU64::new(0),
        }
    }

    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn lose(&self, messages: usize) {
        self.lost.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Bytes that one queue may hold.
    pub(crate) fn room(&self, sessions: usize) -> usize {
        if self.held.bytes() <= self.limits.held_bytes_max {
            return self.limits.queue_bytes_max;
        }
        (self.limits.held_bytes_max / sessions.max(1)).min(self.limits.queue_bytes_max)
    }

    pub(crate) fn room_of_one(&self) -> usize {
        if self.held.bytes() <= self.limits.held_bytes_max {
            return self.limits.queue_bytes_max;
        }
        let sessions = self.state().sessions.len();
        self.room(sessions)
    }

    /// A place for a new connection.
    ///
    /// # Errors
    ///
    /// The broker is full or stops.
    pub(crate) fn seat(self: &Arc<Self>) -> Result<Seat, Ended> {
        let mut state = self.state();
        if state.stopping {
            return Err(Ended::Stopped);
        }
        if self.connections.load(Ordering::Relaxed) >= self.limits.connections_max {
            return Err(Ended::TooMany);
        }
        if state.connecting.len() >= self.limits.connecting_max
            && let Some((_, Some(waker))) = state.connecting.pop_first()
        {
            waker.wake();
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let number = self.number();
        state.connecting.insert(number, None);
        Ok(Seat { hub: self.clone(), number })
    }

    /// Whether a connection may go on waiting for its CONNECT; `waker` is woken when not.
    pub(crate) fn may_connect(&self, connection: u64, waker: &Waker) -> Result<(), Ended> {
        let mut state = self.state();
        let stopping = state.stopping;
        match state.connecting.get_mut(&connection) {
            Some(place) if !stopping => {
                *place = Some(waker.clone());
                Ok(())
            }
            _ if stopping => Err(Ended::Stopped),
            _ => Err(Ended::CrowdedOut),
        }
    }

    /// Gives a client its session, and whether it is one from before.
    ///
    /// An earlier connection of the client ends, its will goes out first. A clean session, asked
    /// for or left, is never taken up again.
    ///
    /// # Errors
    ///
    /// The broker stops.
    pub(crate) fn attach(
        &self,
        connection: u64,
        client: &str,
        clean: bool,
        will: Option<Box<Will>>,
    ) -> Result<(Arc<Session>, bool), Ended> {
        let mut state = self.state();
        if state.stopping {
            return Err(Ended::Stopped);
        }
        state.connecting.remove(&connection);
        let old = state.sessions.get(client).cloned();
        let was_connected = old.as_ref().is_some_and(|old| old.connection().is_some());
        let kept = old.as_ref().filter(|old| !clean && !old.clean).cloned();
        if let (Some(old), None) = (&old, &kept) {
            let will = old.connection().and_then(|served| old.disconnect(served)).flatten();
            old.cut(Ended::TakenOver);
            self.forget(&mut state, old);
            self.publish_will(&mut state, will);
        }
        let present = kept.is_some();
        let session = kept.unwrap_or_else(|| {
            let session = Session::new(client.into(), self.number(), clean);
            state.sessions.insert(session.id.clone(), session.clone());
            session
        });
        state.away.retain(|_, away| *away != session.id);
        let (_, earlier) = session.connect(connection, will);
        self.publish_will(&mut state, earlier);
        state.presence.tell(&session.id, [was_connected, true], connection);
        Ok((session, present))
    }

    /// Ends what [`Self::attach`] began, unless another connection has taken over.
    pub(crate) fn detach(&self, connection: u64, session: &Arc<Session>, ended: &Ended) {
        let mut state = self.state();
        let Some(will) = session.disconnect(connection) else { return };
        if session.clean {
            self.forget(&mut state, session);
        } else {
            state.away.insert(connection, session.id.clone());
        }
        while state.away.len() > self.limits.sessions_kept_max {
            let oldest = state.away.pop_first().map(|(_, client)| client);
            if let Some(oldest) = oldest.and_then(|id| state.sessions.get(&id).cloned()) {
                self.forget(&mut state, &oldest);
            }
        }
        state.presence.tell(&session.id, [true, false], connection);
        if ended.publishes_will() && !state.stopping {
            self.publish_will(&mut state, will);
        }
    }

    fn forget(&self, state: &mut State, session: &Arc<Session>) {
        let subscriber = Subscriber::Session(session.clone());
        for filter in session.take_filters() {
            state.tree.remove(&filter, &subscriber);
        }
        if state.sessions.get(&session.id).is_some_and(|known| known.number == session.number) {
            state.sessions.remove(&session.id);
        }
        state.away.retain(|_, away| *away != session.id);
    }

    /// Adds a client's subscription and queues the retained messages it selects. False when it has
    /// as many as it may.
    pub(crate) fn subscribe(&self, session: &Arc<Session>, filter: &str, qos: QoS) -> bool {
        let mut state = self.state();
        if !session.add_filter(filter, self.limits.subscriptions_max) {
            return false;
        }
        let subscriber = Subscriber::Session(session.clone());
        for message in state.retained.select(filter) {
            subscriber.force(Delivery::new(message, qos, true), &self.limits);
        }
        state.tree.add(filter, subscriber, qos);
        true
    }

    pub(crate) fn unsubscribe(&self, session: &Arc<Session>, filter: &str) {
        let mut state = self.state();
        session.remove_filter(filter);
        state.tree.remove(filter, &Subscriber::Session(session.clone()));
    }

    pub(crate) fn add_local(&self, filter: &str, capacity: usize) -> Arc<LocalQueue> {
        let mut state = self.state();
        let queue = LocalQueue::new(self.number(), filter, capacity);
        let subscriber = Subscriber::Local(queue.clone());
        for message in state.retained.select(filter) {
            let delivery = Delivery::new(message, QoS::AtLeastOnce, true);
            queue.force(delivery, self.limits.queue_messages_max);
        }
        state.tree.add(filter, subscriber, QoS::AtLeastOnce);
        state.locals.push(queue.clone());
        if state.stopping {
            queue.close();
        }
        queue
    }

    pub(crate) fn remove_local(&self, queue: &Arc<LocalQueue>) {
        let mut state = self.state();
        state.tree.remove(&queue.filter, &Subscriber::Local(queue.clone()));
        state.locals.retain(|known| known.number != queue.number);
    }

    /// Publishes a message. `from` is the session that sends it: it never waits for itself.
    pub(crate) fn publish(
        &self,
        publication: Publication<'_>,
        from: Option<&Session>,
        now: Instant,
    ) -> Routed {
        let Publication { topic, payload, qos, retain } = publication;
        let message = Published::new(topic, payload, qos, &self.held);
        let mut state = self.state();
        if retain && !state.retained.keep(&message, &self.limits) {
            self.not_retained.fetch_add(1, Ordering::Relaxed);
        }
        let room = self.room(state.sessions.len());
        let (mut taken, mut full) = (0, Vec::new());
        for (subscriber, granted) in select(&state.tree, topic) {
            let delivery = Delivery::new(&message, granted, false);
            match subscriber.offer(&delivery, room, now) {
                Offered::Taken => taken += 1,
                Offered::Full if from.is_some_and(|from| from.number == subscriber.number()) => {
                    subscriber.give_up(&delivery);
                    self.lose(1);
                }
                Offered::Full => full.push((subscriber, delivery)),
                Offered::Lost => self.lose(1),
            }
        }
        Routed { taken, waiting: Waiting::new(full, now + self.limits.stall) }
    }

    /// Wills go out at once: there are at most as many as connections that end.
    fn publish_will(&self, state: &mut State, will: Option<Box<Will>>) {
        let Some(Will { message, retain }) = will.map(|will| *will) else { return };
        if retain && !state.retained.keep(&message, &self.limits) {
            self.not_retained.fetch_add(1, Ordering::Relaxed);
        }
        for (subscriber, granted) in select(&state.tree, &message.topic) {
            let delivery = Delivery::new(&message, granted, false);
            if subscriber.force(delivery, &self.limits) == Offered::Lost {
                self.lose(1);
            }
        }
    }

    /// A will, kept until its connection ends.
    pub(crate) fn will(&self, publication: Publication<'_>) -> Box<Will> {
        let Publication { topic, payload, qos, retain } = publication;
        Box::new(Will { message: Published::new(topic, payload, qos, &self.held), retain })
    }

    pub(crate) fn presence(&self) -> PresenceEvents {
        let mut state = self.state();
        let State { sessions, presence, stopping, .. } = &mut *state;
        let connected = sessions
            .values()
            .filter_map(|session| Some((session.id.clone(), session.connection()?)));
        let events = presence.reader(connected);
        if *stopping {
            presence.close();
        }
        events
    }

    /// Ends a client's connection; whether it had one.
    pub(crate) fn disconnect(&self, client: &str) -> bool {
        let state = self.state();
        let session = state.sessions.get(client);
        let Some(session) = session.filter(|session| session.connection().is_some()) else {
            return false;
        };
        session.cut(Ended::Removed);
        true
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            connections: self.connections.load(Ordering::Relaxed),
            sessions: state.sessions.len(),
            retained: state.retained.len(),
            retained_bytes: state.retained.bytes(),
            held_bytes: self.held.bytes(),
            lost: self.lost.load(Ordering::Relaxed),
            not_retained: self.not_retained.load(Ordering::Relaxed),
        }
    }

    /// Ends everything; what comes later is refused.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        for session in state.sessions.values().filter(|session| session.connection().is_some()) {
            session.cut(Ended::Stopped);
        }
        for waker in std::mem::take(&mut state.connecting).into_values().flatten() {
            waker.wake();
        }
        for queue in &state.locals {
            queue.close();
        }
        state.presence.close();
    }

    /// Returns when no connection is left.
    pub(crate) async fn ended(&self) {
        loop {
            let idle = self.idle.notified();
            if self.connections.load(Ordering::Relaxed) == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.state().connecting.remove(&self.number);
        if self.hub.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.hub.idle.notify_waiters();
        }
    }
}

/// Each subscriber once, with the highest quality of service of its filters (section 3.3.5).
fn select(tree: &Tree<Subscriber>, topic: &str) -> Vec<(Subscriber, QoS)> {
    let mut found: Vec<(Subscriber, QoS)> = Vec::new();
    tree.each(topic, &mut |subscriber, qos| found.push((subscriber.clone(), qos)));
    found.sort_unstable_by(|one, other| {
        one.0.cmp(&other.0).then((other.1 as u8).cmp(&(one.1 as u8)))
    });
    found.dedup_by(|one, other| one.0 == other.0);
    found
}
