//! What waits for one client: queued messages, and sent ones that it has not acknowledged.
//!
//! ```text
//! push -> queue -> next -> (QoS 0) gone
//!                       -> (QoS 1) inflight -> acknowledge -> gone
//!                                     ^  rewind: sent again with DUP on the next connection
//! ```
//!
//! Pure: the time comes in. A queue is *full* from the moment that a message did not fit until it
//! has fallen to half its room; how long that may last is judged by the connection.

use std::collections::VecDeque;

use rumqttc::mqttbytes::QoS;
use tokio::time::Instant;

use crate::message::Delivery;

/// Queue and inflight window of a session.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Delivery>,
    inflight: VecDeque<(u16, Delivery)>,
    /// How many of `inflight` were sent on this connection.
    sent: usize,
    last_id: u16,
    /// Of queue and inflight.
    bytes: usize,
    full_since: Option<Instant>,
}

/// The next message to send.
pub(crate) struct Outgoing {
    pub(crate) delivery: Delivery,
    /// 0 for QoS 0.
    pub(crate) id: u16,
    pub(crate) dup: bool,
}

impl Outbox {
    /// Queues a message if it fits into `room` bytes; where half of them are free, any does. (What is
    /// refused waits until so much is free.)
    pub(crate) fn push(&mut self, delivery: &Delivery, room: usize, now: Instant) -> bool {
        let bytes = self.bytes + delivery.message.bytes();
        if self.bytes > room / 2 && bytes > room {
            self.full_since.get_or_insert(now);
            return false;
        }
        self.push_anyway(delivery.clone());
        true
    }

    /// Queues a message beyond any room; the caller bounds how many.
    pub(crate) fn push_anyway(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.bytes();
        self.queue.push_back(delivery);
    }

    /// Takes the next message: first what an earlier connection left unacknowledged.
    pub(crate) fn next(&mut self, inflight_max: usize) -> Option<Outgoing> {
        if let Some((id, delivery)) = self.inflight.get(self.sent) {
            self.sent += 1;
            return Some(Outgoing { delivery: delivery.clone(), id: *id, dup: true });
        }
        let acknowledged = self.queue.front()?.qos != QoS::AtMostOnce;
        if acknowledged && self.inflight.len() >= inflight_max {
            return None;
        }
        let delivery = self.queue.pop_front()?;
        if !acknowledged {
            self.bytes -= delivery.message.bytes();
            return Some(Outgoing { delivery, id: 0, dup: false });
        }
        let id = self.unused_id();
        self.inflight.push_back((id, delivery.clone()));
        self.sent += 1;
        Some(Outgoing { delivery, id, dup: false })
    }

    /// The window is far smaller than the range of ids, so one is free.
    fn unused_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.inflight.iter().all(|(id, _)| *id != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Forgets an acknowledged message. An unknown id means nothing: it may be a second answer.
    pub(crate) fn acknowledge(&mut self, id: u16) {
        let sent = self.inflight.iter().take(self.sent).position(|(known, _)| *known == id);
        if let Some((_, delivery)) = sent.and_then(|index| self.inflight.remove(index)) {
            self.sent -= 1;
            self.bytes -= delivery.message.bytes();
        }
    }

    /// Prepares for the next connection: QoS 0 goes, unacknowledged messages come again.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
        self.full_since = None;
        let mut gone = 0;
        self.queue.retain(|delivery| {
            let keep = delivery.qos != QoS::AtMostOnce;
            gone += if keep { 0 } else { delivery.message.bytes() };
            keep
        });
        self.bytes -= gone;
        self.shrink();
    }

    /// Since when it is full; ends being so when it has fallen to half its room.
    pub(crate) fn full_since(&mut self, room: usize) -> Option<Instant> {
        if self.bytes <= room / 2 {
            self.full_since = None;
        }
        self.full_since
    }

    /// Messages, queued and inflight.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }

    /// Gives back the memory of a queue that has emptied.
    pub(crate) fn shrink(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > 0 {
            self.queue = VecDeque::new();
        }
        if self.inflight.is_empty() && self.inflight.capacity() > 0 {
            self.inflight = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{Held, Published};

    fn delivery(number: usize, qos: QoS) -> Delivery {
        let payload = Bytes::from(vec![number as u8; 36 - 1]);
        let message = Published::new("t", payload, qos, &Held::default());
        Delivery::new(&message, qos, false)
    }

    fn sent(outbox: &mut Outbox, inflight_max: usize) -> Vec<(u8, u16, bool)> {
        std::iter::from_fn(|| outbox.next(inflight_max))
            .map(|out| (out.delivery.message.payload[0], out.id, out.dup))
            .collect()
    }

    #[test]
    fn the_window_bounds_what_is_unacknowledged_and_comes_again_in_order() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for number in 1..=4 {
            assert!(outbox.push(&delivery(number, QoS::AtLeastOnce), 1000, now));
        }
        assert!(outbox.push(&delivery(5, QoS::AtMostOnce), 1000, now));
        assert_eq!(sent(&mut outbox, 2), [(1, 1, false), (2, 2, false)]);
        outbox.acknowledge(9);
        outbox.acknowledge(1);
        assert_eq!(sent(&mut outbox, 2), [(3, 3, false)]);
        outbox.rewind();
        outbox.acknowledge(3);
        assert_eq!(outbox.len(), 3, "not sent on this connection, so not acknowledged by it");
        assert_eq!(sent(&mut outbox, 2), [(2, 2, true), (3, 3, true)]);
        outbox.acknowledge(3);
        outbox.acknowledge(2);
        assert_eq!(sent(&mut outbox, 2), [(4, 4, false)], "QoS 0 went with its connection");
        outbox.acknowledge(4);
        assert_eq!((outbox.len(), outbox.bytes), (0, 0));
    }

    #[test]
    fn packet_ids_wrap_around_those_in_use() {
        let mut outbox = Outbox { last_id: u16::MAX - 1, ..Outbox::default() };
        outbox.push_anyway(delivery(1, QoS::AtLeastOnce));
        assert_eq!(sent(&mut outbox, 9), [(1, u16::MAX, false)]);
        outbox.last_id = u16::MAX - 1;
        outbox.push_anyway(delivery(2, QoS::AtLeastOnce));
        assert_eq!(sent(&mut outbox, 9), [(2, 1, false)]);
    }

    #[test]
    fn a_queue_is_full_until_it_has_fallen_to_half() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        let room = 400;
        for number in 0..4 {
            assert!(outbox.push(&delivery(number, QoS::AtMostOnce), room, start));
        }
        assert_eq!(outbox.full_since(room), None);
        assert!(!outbox.push(&delivery(4, QoS::AtMostOnce), room, start));
        let later = start + std::time::Duration::from_secs(1);
        assert!(outbox.next(1).is_some());
        assert_eq!(outbox.full_since(room), Some(start));
        assert!(outbox.push(&delivery(4, QoS::AtMostOnce), room, later));
        assert!(!outbox.push(&delivery(5, QoS::AtMostOnce), room, later));
        assert_eq!(outbox.full_since(room), Some(start), "a trickle does not start the time anew");
        assert!(outbox.next(1).is_some() && outbox.next(1).is_some());
        assert_eq!(outbox.full_since(room), None);
    }

    #[test]
    fn who_is_refused_waits_until_half_is_free() {
        let (mut outbox, start) = (Outbox::default(), Instant::now());
        let room = 3 * delivery(1, QoS::AtMostOnce).message.bytes();
        let large =
            Published::new("t", vec![0; 4 * room].into(), QoS::AtMostOnce, &Held::default());
        let large = Delivery::new(&large, QoS::AtMostOnce, false);
        assert!(outbox.push(&delivery(1, QoS::AtMostOnce), room, start));
        assert_eq!(outbox.full_since(room), None);
        assert!(outbox.push(&large, room, start), "nobody would wake who waits for more room");
        assert!(!outbox.push(&delivery(2, QoS::AtMostOnce), room, start));
        assert_eq!(outbox.full_since(room), Some(start));
    }

    #[test]
    fn one_message_larger_than_the_room_is_taken_alone() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(&delivery(1, QoS::AtMostOnce), 10, Instant::now()));
        assert!(!outbox.push(&delivery(2, QoS::AtMostOnce), 10, Instant::now()));
    }
}
