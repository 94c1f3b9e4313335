//! The broker as its owner uses it.

use std::sync::Arc;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::connection::Connection;
use crate::conversation::Conversation;
use crate::hub::{Hub, Publication, Routed};
use crate::{Access, Ended, Limits, Local, Peer, PresenceEvents, topic};

/// A handle of a broker; all clones are the same broker.
#[derive(Clone)]
pub struct Broker {
    hub: Arc<Hub>,
}

/// What a broker holds and has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams being served.
    pub connections: usize,
    /// Sessions, those of clients that are away included.
    pub sessions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Bytes of all messages, retained and queued.
    pub held_bytes: usize,
    /// Deliveries that did not happen: the subscriber was away, stalled or full.
    pub lost: u64,
    /// Messages that were delivered but not retained, for want of room.
    pub not_retained: u64,
}

impl Broker {
    /// A broker without connections.
    pub fn new(limits: Limits, access: Arc<dyn Access>) -> Self {
        Self { hub: Arc::new(Hub::new(limits, access)) }
    }

    /// Serves one stream until it ends, and says why.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the connection as if its stream had ended: the will goes out.
    pub async fn serve<S>(&self, stream: S, peer: Peer) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        match self.hub.seat() {
            Ok(seat) => {
                let conversation = Conversation::new(self.hub.clone(), seat, peer);
                Connection::new(stream, conversation).run().await
            }
            Err(ended) => ended,
        }
    }

    /// Publishes a message of QoS 0 and gives the number of subscribers that it reached.
    ///
    /// Waits for subscribers without room, but no longer than [`Limits::stall`]; they then miss it.
    /// A topic that is not valid reaches nobody.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, subscribers without room miss the message.
    pub async fn publish(&self, topic: &str, payload: Bytes, retain: bool) -> usize {
        if !topic::is_name(topic, &self.hub.limits) {
            return 0;
        }
        let publication = Publication { topic, payload, qos: QoS::AtMostOnce, retain };
        let Routed { mut taken, waiting } = self.hub.publish(publication, None, Instant::now());
        let Some(mut waiting) = waiting else { return taken };
        let hub = &self.hub;
        let mut retry = |now: Instant, waker: &std::task::Waker| {
            let progress = waiting.retry(hub.room_of_one(), waker, now);
            hub.lose(progress.lost);
            taken += progress.taken;
            waiting.is_over()
        };
        let wait = std::future::poll_fn(|context| match retry(Instant::now(), context.waker()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        });
        if timeout(self.hub.limits.stall, wait).await.is_err() {
            // It is late enough that this gives up where there is no room.
            retry(Instant::now(), std::task::Waker::noop());
        }
        taken
    }

    /// Subscribes this process to a filter; retained messages come first. Publishers wait when
    /// `capacity` messages are not yet received, as for any subscriber.
    ///
    /// # Panics
    ///
    /// When the filter is not valid: it is the owner's, not a client's.
    pub fn subscribe(&self, filter: &str, capacity: usize) -> Local {
        assert!(topic::is_filter(filter, &self.hub.limits), "{filter:?} is no filter");
        Local::new(self.hub.clone(), self.hub.add_local(filter, capacity))
    }

    /// Which clients come and go from here on; those that are connected are told first.
    pub fn presence(&self) -> PresenceEvents {
        self.hub.presence()
    }

    /// Ends the connection of a client, as if its stream had ended; whether it had one.
    pub fn disconnect(&self, client: &str) -> bool {
        self.hub.disconnect(client)
    }

    /// What it holds.
    pub fn counts(&self) -> Counts {
        self.hub.counts()
    }

    /// Ends all connections without their wills, and all local subscriptions; returns when they
    /// have ended, or after [`Limits::stop_within`]. Streams that come later end at once.
    pub async fn stop(&self) {
        self.hub.stop();
        // A stream that does not close in time is its owner's to drop.
        let _ = timeout(self.hub.limits.stop_within, self.hub.ended()).await;
    }
}
