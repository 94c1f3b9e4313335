//! Either kind of subscriber, and a publisher that waits for some of them.

use std::cmp::Ordering;
use std::sync::Arc;
use std::task::Waker;

use rumqttc::mqttbytes::QoS;
use tokio::time::Instant;

use crate::local::LocalQueue;
use crate::message::Delivery;
use crate::session::Session;
use crate::{Ended, Limits};

/// What became of a message at one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is queued.
    Taken,
    /// There is no room; there may be later.
    Full,
    /// The subscriber does not get it.
    Lost,
}

/// A client or a [`crate::Local`].
#[derive(Clone)]
pub(crate) enum Subscriber {
    Session(Arc<Session>),
    Local(Arc<LocalQueue>),
}

impl Subscriber {
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Session(session) => session.number,
            Self::Local(queue) => queue.number,
        }
    }

    pub(crate) fn offer(&self, delivery: &Delivery, room: usize, now: Instant) -> Offered {
        match self {
            Self::Session(session) => session.offer(delivery, room, now),
            Self::Local(queue) => queue.offer(delivery),
        }
    }

    pub(crate) fn force(&self, delivery: Delivery, limits: &Limits) -> Offered {
        match self {
            Self::Session(session) => session.force(delivery, limits),
            Self::Local(queue) => queue.force(delivery, limits.queue_messages_max),
        }
    }

    fn wait(&self, waker: &Waker) {
        match self {
            Self::Session(session) => session.wait(waker),
            Self::Local(queue) => queue.wait(waker),
        }
    }

    /// There was no room in time. A client that was promised the message is cut off: it comes back
    /// and asks anew, while one that misses a message in silence would never know.
    pub(crate) fn give_up(&self, delivery: &Delivery) {
        match self {
            Self::Session(session) if delivery.qos != QoS::AtMostOnce => {
                session.cut(Ended::Stalled);
            }
            Self::Session(_) => (),
            Self::Local(queue) => drop(queue.miss()),
        }
    }
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for Subscriber {}

impl PartialOrd for Subscriber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Subscriber {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number())
    }
}

/// A message that waits for room at some subscribers.
pub(crate) struct Waiting {
    full: Vec<(Subscriber, Delivery)>,
    /// When it waits no longer.
    pub(crate) until: Instant,
}

/// How many more subscribers a waiting message has reached and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) taken: usize,
    pub(crate) lost: usize,
}

impl Waiting {
    pub(crate) fn new(full: Vec<(Subscriber, Delivery)>, until: Instant) -> Option<Box<Self>> {
        (!full.is_empty()).then(|| Box::new(Self { full, until }))
    }

    /// Offers the message again where there was no room, and gives up when it is late. `waker` is
    /// woken when some subscriber may have room.
    pub(crate) fn retry(&mut self, room: usize, waker: &Waker, now: Instant) -> Progress {
        let mut progress = Progress::default();
        let late = now >= self.until;
        self.full.retain(|(subscriber, delivery)| {
            // Waiting comes first: room that appears in between must wake.
            subscriber.wait(waker);
            match subscriber.offer(delivery, room, now) {
                Offered::Taken => progress.taken += 1,
                Offered::Full if !late => return true,
                Offered::Full => {
                    subscriber.give_up(delivery);
                    progress.lost += 1;
                }
                Offered::Lost => progress.lost += 1,
            }
            false
        });
        progress
    }

    pub(crate) fn is_over(&self) -> bool {
        self.full.is_empty()
    }
}
