//! What a master needs of a bus, whichever broker is behind it: its own or somebody else's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use broker::{Broker, Local, Presence, PresenceEvents};
use bytes::Bytes;
use model::limits::BUS_ROUTED_MAX;

use super::{Server, Topics};

/// A future of a trait's method.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a master says to a bus.
pub trait MasterBus: Send + Sync + 'static {
    /// Publishes as QoS 0; may wait, but not for ever. Whether it arrives shows in the beats.
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes, retain: bool) -> Waiting<'a, ()>;

    /// Ends what a board has; it may come back.
    fn disconnect(&self, board: &str);

    /// The key that a board on the bus has shown.
    fn key_of(&self, board: &str) -> Option<[u8; 32]>;

    /// Some board does not belong here any more: what all boards know together is made anew.
    fn renew_shared(&self);
}

/// What a master hears of a bus.
pub trait BusEvents: Send + 'static {
    /// The next event; `None` when there will be none. A board comes before its first message.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    fn next(&mut self) -> Waiting<'_, Option<BusEvent>>;
}

/// Something that happened on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusEvent {
    /// A board is on the bus; another number means that it was away in between.
    Came {
        /// Its name.
        board: Arc<str>,
        /// Number of its connection.
        connection: u64,
    },
    /// A board is not on the bus any more.
    Went {
        /// Its name.
        board: Arc<str>,
    },
    /// A board said something.
    Said {
        /// Where it was published to.
        topic: Arc<str>,
        /// An encoded message.
        payload: Bytes,
    },
}

/// The master's own broker.
pub struct Embedded {
    broker: Broker,
    server: Arc<Server>,
}

/// Its events.
pub struct EmbeddedEvents {
    presence: PresenceEvents,
    messages: Local,
}

impl Embedded {
    /// The bus of this broker, and what happens on it from here on.
    pub fn new(broker: Broker, server: Arc<Server>, topics: &Topics) -> (Self, EmbeddedEvents) {
        let messages = broker.subscribe(&topics.up_of_all(), BUS_ROUTED_MAX);
        let presence = broker.presence();
        (Self { broker, server }, EmbeddedEvents { presence, messages })
    }
}

impl MasterBus for Embedded {
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes, retain: bool) -> Waiting<'a, ()> {
        Box::pin(async move {
            self.broker.publish(topic, payload, retain).await;
        })
    }

    fn disconnect(&self, board: &str) {
        self.broker.disconnect(board);
    }

    fn key_of(&self, board: &str) -> Option<[u8; 32]> {
        self.server.key_of(board)
    }

    fn renew_shared(&self) {
        // Boards share nothing but the broker's own access rules.
    }
}

impl BusEvents for EmbeddedEvents {
    fn next(&mut self) -> Waiting<'_, Option<BusEvent>> {
        Box::pin(async move {
            // Cancel safety: neither loses anything when dropped. Presence first, so that a board
            // comes before its first message.
            tokio::select! {
                biased;
                Some(Presence { client, connected, connection }) = self.presence.recv() => {
                    Some(match connected {
                        true => BusEvent::Came { board: client, connection },
                        false => BusEvent::Went { board: client },
                    })
                }
                Some(message) = self.messages.recv() => {
                    Some(BusEvent::Said { topic: message.topic, payload: message.payload })
                }
                else => None,
            }
        })
    }
}
