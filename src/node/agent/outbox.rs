//! What the board tells the master: statuses and events, coalesced, sent again until acknowledged.
//!
//! Level-triggered: what is kept is which pods the master may not know the newest status of, never a
//! queue of statuses. Events may be lost, oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use model::ids::Uid;
use model::limits::{NODE_EVENTS_MAX, STATUS_PODS_MAX};
use model::wire::{PodStatusV1, StatusV1};

/// Statuses are gathered for this long; over time there is no more than one message in it.
const GATHER_MILLIS: u64 = 100;
/// What users wait for (a start, an end, readiness) leaves this soon, with what comes right after it.
const URGENT_MILLIS: u64 = 5;
/// Least time between two messages.
const BETWEEN_MILLIS: u64 = 20;
/// How far urgent messages may run ahead of one per [`GATHER_MILLIS`]: the five or so of a pod's start.
const AHEAD_MILLIS: u64 = 5 * GATHER_MILLIS;
/// A status that is not acknowledged after this is sent again.
const RESEND_MILLIS: u64 = 7_000;

/// What is known of a pod's status at the master.
#[derive(Clone, Copy, Debug)]
enum Knowledge {
    /// Something may have changed since.
    Dirty,
    /// Sent and not yet acknowledged.
    Sent { sequence: u64, hash: u64 },
    /// Durable at the master.
    Known { hash: u64 },
}

/// The state of everything that goes up.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pods: BTreeMap<Uid, (Knowledge, Option<u64>)>,
    events: VecDeque<Bytes>,
    /// What the master may not know of the node, and the sequence that it was last sent with.
    node_status: Option<(Bytes, Option<u64>)>,
    /// A message is due even if it says nothing: its sequence is what the master waits for.
    owes_message: bool,
    sequence: u64,
    sent_ticks: u64,
    /// When the messages so far would be over at one per [`GATHER_MILLIS`] (a token bucket, told as
    /// the time at which it is full again).
    paid_ticks: u64,
    due_ticks: Option<u64>,
}

impl Outbox {
    /// A pod's status may have changed; `urgent` when users wait for such a change.
    pub(super) fn touch(&mut self, uid: Uid, urgent: bool, now_ticks: u64) {
        let entry = self.pods.entry(uid).or_insert((Knowledge::Dirty, None));
        entry.1 = match entry.0 {
            Knowledge::Dirty => entry.1,
            Knowledge::Sent { hash, .. } => Some(hash),
            Knowledge::Known { hash } => Some(hash),
        };
        entry.0 = Knowledge::Dirty;
        self.schedule(now_ticks);
        if urgent {
            let soon = (now_ticks + URGENT_MILLIS).max(self.earliest_ticks());
            self.due_ticks = self.due_ticks.map(|due| due.min(soon));
        }
    }

    /// Nobody will ask for this pod any more.
    pub(super) fn forget(&mut self, uid: &Uid) {
        self.pods.remove(uid);
    }

    /// Everything is to be sent again.
    pub(super) fn touch_all(&mut self, now_ticks: u64) {
        for entry in self.pods.values_mut() {
            *entry = (Knowledge::Dirty, None);
        }
        if let Some((_, sent)) = &mut self.node_status {
            *sent = None;
        }
        self.owes_message = true;
        self.schedule(now_ticks);
    }

    /// An event to send.
    pub(super) fn event(&mut self, event: Bytes, now_ticks: u64) {
        if self.events.len() == NODE_EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.schedule(now_ticks);
    }

    /// The node's status as a merge patch, to go with the next message and until it has arrived.
    pub(super) fn node_status(&mut self, patch: Bytes, now_ticks: u64) {
        self.node_status = Some((patch, None));
        self.schedule(now_ticks);
    }

    /// When [`Self::take`] wants to be called.
    pub(super) fn due_ticks(&self) -> Option<u64> {
        self.due_ticks
    }

    /// Sequence of the last message.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The next message, if something is to be said. `render` gives a pod's present status; a pod
    /// whose status is what was last sent says nothing.
    pub(super) fn take(
        &mut self,
        now_ticks: u64,
        mut render: impl FnMut(&Uid) -> Option<PodStatusV1>,
    ) -> Option<StatusV1> {
        self.due_ticks = None;
        let mut pods = Vec::new();
        let dirty = |(uid, (knowledge, _)): (&Uid, &(Knowledge, Option<u64>))| {
            matches!(knowledge, Knowledge::Dirty).then_some(*uid)
        };
        let dirty: Vec<Uid> = self.pods.iter().filter_map(dirty).collect();
        for uid in dirty {
            if pods.len() == STATUS_PODS_MAX {
                self.schedule(now_ticks);
                break;
            }
            let Some(status) = render(&uid) else {
                self.pods.remove(&uid);
                continue;
            };
            let hash = hash_of(&status);
            let entry = self.pods.get_mut(&uid).expect("taken from the same map");
            if entry.1 == Some(hash) {
                // Whether the earlier message arrived is not known; its sequence is still open.
                entry.0 = Knowledge::Sent { sequence: self.sequence, hash };
                continue;
            }
            entry.0 = Knowledge::Sent { sequence: self.sequence + 1, hash };
            pods.push(status);
        }
        let news = matches!(self.node_status, Some((_, None)));
        if pods.is_empty() && self.events.is_empty() && !news && !self.owes_message {
            return None;
        }
        self.owes_message = false;
        self.sequence += 1;
        self.sent_ticks = now_ticks;
        self.paid_ticks = self.paid_ticks.max(now_ticks) + GATHER_MILLIS;
        let mut node_status = Bytes::new();
        if let Some((patch, sent @ None)) = &mut self.node_status {
            *sent = Some(self.sequence);
            node_status = patch.clone();
        }
        Some(StatusV1 {
            sequence: self.sequence,
            pods,
            node_status,
            events: self.events.drain(..).collect(),
        })
    }

    /// The message did not leave: what was in it is to be said again.
    pub(super) fn not_sent(&mut self, message: StatusV1, now_ticks: u64) {
        for pod in &message.pods {
            if let Some(entry) = self.pods.get_mut(&pod.uid) {
                *entry = (Knowledge::Dirty, None);
            }
        }
        for event in message.events.into_iter().rev().take(NODE_EVENTS_MAX) {
            self.events.push_front(event);
        }
        if let Some((_, sent)) = &mut self.node_status {
            *sent = None;
        }
        self.owes_message = true;
        self.schedule(now_ticks);
    }

    /// The master has everything up to `sequence`; what it lacks for too long is sent again.
    pub(super) fn acknowledge(&mut self, sequence: u64, now_ticks: u64) {
        let late = now_ticks.saturating_sub(self.sent_ticks) > RESEND_MILLIS;
        let mut again = false;
        match &mut self.node_status {
            Some((_, Some(sent))) if *sent <= sequence => self.node_status = None,
            Some((_, sent @ Some(_))) if late => {
                *sent = None;
                again = true;
            }
            _ => {}
        }
        for entry in self.pods.values_mut() {
            if let Knowledge::Sent { sequence: sent, hash } = entry.0 {
                if sent <= sequence {
                    entry.0 = Knowledge::Known { hash };
                } else if late {
                    *entry = (Knowledge::Dirty, None);
                    again = true;
                }
            }
        }
        if again {
            self.schedule(now_ticks);
        }
    }

    fn schedule(&mut self, now_ticks: u64) {
        let at = (now_ticks + GATHER_MILLIS).max(self.earliest_ticks());
        self.due_ticks.get_or_insert(at);
    }

    /// Before this the next message would be one too many.
    fn earliest_ticks(&self) -> u64 {
        let paid = self.paid_ticks.saturating_sub(AHEAD_MILLIS);
        paid.max(self.sent_ticks + BETWEEN_MILLIS)
    }
}

fn hash_of(status: &PodStatusV1) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&status.status, status.removable).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &Uid, text: &'static str) -> Option<PodStatusV1> {
        Some(PodStatusV1 {
            uid: *uid,
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            status: Bytes::from_static(text.as_bytes()),
            removable: false,
        })
    }

    #[test]
    fn changes_are_gathered_and_repeats_are_silent() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, false, 1_000);
        outbox.touch(uid, false, 1_050);
        assert_eq!(outbox.due_ticks(), Some(1_100));
        let message = outbox.take(1_100, |uid| status(uid, "a")).expect("news");
        assert_eq!((message.sequence, message.pods.len()), (1, 1));
        outbox.touch(uid, false, 2_000);
        assert_eq!(outbox.take(2_100, |uid| status(uid, "a")), None);
        outbox.touch(uid, false, 3_000);
        assert!(outbox.take(3_100, |uid| status(uid, "b")).is_some());
    }

    #[test]
    fn what_users_wait_for_leaves_soon_but_not_often() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, false, 1_000);
        outbox.touch(uid, true, 1_040);
        assert_eq!(outbox.due_ticks(), Some(1_045));
        assert!(outbox.take(1_045, |uid| status(uid, "a")).is_some());
        outbox.touch(uid, true, 1_050);
        assert_eq!(outbox.due_ticks(), Some(1_065), "a start and its readiness are no crowd");
        assert!(outbox.take(1_065, |uid| status(uid, "b")).is_some());
        outbox.touch(uid, true, 1_100);
        assert_eq!(outbox.due_ticks(), Some(1_105), "the last message is old enough");
    }

    #[test]
    fn urgent_changes_without_end_are_bounded_and_lose_nothing() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        let news = |messages: usize| if messages.is_multiple_of(2) { "a" } else { "b" };
        let mut messages = 0;
        for now in 1_000..11_000 {
            outbox.touch(uid, true, now);
            if outbox.due_ticks().is_some_and(|due| due <= now) {
                messages += 1;
                assert!(outbox.take(now, |uid| status(uid, news(messages))).is_some());
            }
        }
        assert!((100..=106).contains(&messages), "{messages} messages in ten seconds");
        let due = outbox.due_ticks().expect("the last change is not said yet");
        assert!(due <= 11_100, "{due}");
        assert!(outbox.take(due, |uid| status(uid, news(messages + 1))).is_some());
        // After a quiet time the next start is as quick as the first.
        outbox.touch(uid, true, 15_000);
        assert_eq!(outbox.due_ticks(), Some(15_005));
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, false, 0);
        assert!(outbox.take(100, |uid| status(uid, "a")).is_some());
        outbox.acknowledge(0, 5_000);
        assert_eq!(outbox.due_ticks(), None, "too early to worry");
        outbox.acknowledge(0, 10_000);
        let again = outbox.take(10_100, |uid| status(uid, "a")).expect("again");
        outbox.acknowledge(again.sequence, 20_000);
        assert_eq!(outbox.due_ticks(), None);
        outbox.acknowledge(again.sequence, 40_000);
        assert_eq!(outbox.due_ticks(), None);
    }

    #[test]
    fn the_status_of_the_node_is_sent_until_it_has_arrived() {
        let mut outbox = Outbox::default();
        let nothing = |_: &Uid| None;
        outbox.node_status(Bytes::from_static(b"{}"), 0);
        let message = outbox.take(100, nothing).expect("news");
        assert_eq!((message.sequence, &message.node_status[..]), (1, &b"{}"[..]));
        assert_eq!(outbox.take(200, nothing), None);
        outbox.acknowledge(0, 10_000);
        assert!(outbox.due_ticks().is_some());
        let message = outbox.take(10_100, nothing).expect("again");
        assert_eq!(&message.node_status[..], b"{}");
        outbox.acknowledge(message.sequence, 20_000);
        outbox.touch_all(30_000);
        assert!(outbox.take(30_100, nothing).expect("owed").node_status.is_empty());
    }

    #[test]
    fn a_board_without_pods_answers_when_it_is_asked_again() {
        let mut outbox = Outbox::default();
        outbox.event(Bytes::from_static(b"{}"), 0);
        let lost = outbox.take(100, |_| None).expect("news");
        outbox.touch_all(5_000);
        let answer = outbox.take(5_100, |_| None).expect("a message to acknowledge");
        assert!(answer.sequence > lost.sequence);
        outbox.acknowledge(answer.sequence, 6_000);
        assert_eq!((outbox.due_ticks(), outbox.take(7_000, |_| None)), (None, None));
    }

    #[test]
    fn a_message_that_did_not_leave_is_not_lost() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, false, 0);
        outbox.event(Bytes::from_static(b"{}"), 0);
        let message = outbox.take(100, |uid| status(uid, "a")).expect("news");
        outbox.not_sent(message, 100);
        let message = outbox.take(200, |uid| status(uid, "a")).expect("again");
        assert_eq!((message.pods.len(), message.events.len()), (1, 1));
    }
}
