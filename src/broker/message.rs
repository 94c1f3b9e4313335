//! A published message, held once however many clients it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;

use crate::limits::{MESSAGE_OVERHEAD_BYTES, PAYLOAD_KEEP_BYTES_MIN};

/// A message as a [`crate::Local`] receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published to.
    pub topic: Arc<str>,
    /// Its payload.
    pub payload: Bytes,
    /// Whether it was kept from before the subscription.
    pub retain: bool,
}

/// The bytes of all messages that the broker holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<AtomicUsize>);

impl Held {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was published; queues and the retained messages share it.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    held: Held,
}

impl Published {
    pub(crate) fn new(topic: &str, payload: Bytes, qos: QoS, held: &Held) -> Arc<Self> {
        // A short payload must not keep the whole buffer that it was read into.
        let short = payload.len() < PAYLOAD_KEEP_BYTES_MIN;
        let payload = if short { Bytes::copy_from_slice(&payload) } else { payload };
        let published = Self { topic: topic.into(), payload, qos, held: held.clone() };
        held.0.fetch_add(published.bytes(), Ordering::Relaxed);
        Arc::new(published)
    }

    /// What it costs in a queue.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + MESSAGE_OVERHEAD_BYTES
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.held.0.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

/// A message on its way to one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Published>,
    /// The lower of the publisher's and the subscriber's.
    pub(crate) qos: QoS,
    /// Set when it answers a subscription, not when it is fresh (section 3.3.1.3).
    pub(crate) retain: bool,
}

impl Delivery {
    pub(crate) fn new(message: &Arc<Published>, granted: QoS, retain: bool) -> Self {
        Self { message: message.clone(), qos: lower(message.qos, granted), retain }
    }

    pub(crate) fn to_message(&self) -> Message {
        let Published { topic, payload, .. } = &*self.message;
        Message { topic: topic.clone(), payload: payload.clone(), retain: self.retain }
    }
}

fn lower(one: QoS, other: QoS) -> QoS {
    if (one as u8) < (other as u8) { one } else { other }
}
