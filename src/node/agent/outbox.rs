//! What the board tells the master: statuses and events, coalesced, sent again until acknowledged.
//!
//! Each message becomes a log entry of the master, on its disk. What one pod does while the board is
//! quiet leaves at once; while many pods are on their way their changes are gathered, and a pod that
//! changes without end is gathered too.
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
/// How far urgent messages may run ahead of one per [`GATHER_MILLIS`], for a board on which many pods
/// are on their way and for one pod: the five or so of a pod's start.
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

/// How much a change matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Nobody waits for it.
    None,
    /// Users wait for such a change, but many pods are on their way.
    Gathered,
    /// Users wait for it, and little else happens.
    Urgent,
}

/// What is known of one pod.
#[derive(Debug)]
struct PodNews {
    knowledge: Knowledge,
    /// Hash of the status that was last sent, while it is not known whether that has changed.
    before: Option<u64>,
    /// When its messages so far would be over at one per [`GATHER_MILLIS`].
    paid_ticks: u64,
}

impl PodNews {
    fn unknown(&mut self) {
        (self.knowledge, self.before) = (Knowledge::Dirty, None);
    }
}

/// The state of everything that goes up.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pods: BTreeMap<Uid, PodNews>,
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
    /// Many pods are on their way.
    crowded: bool,
    due_ticks: Option<u64>,
}

impl Outbox {
    /// A pod's status may have changed.
    pub(super) fn touch(&mut self, uid: Uid, haste: Haste, now_ticks: u64) {
        let news = PodNews { knowledge: Knowledge::Dirty, before: None, paid_ticks: 0 };
        let entry = self.pods.entry(uid).or_insert(news);
        if let Knowledge::Sent { hash, .. } | Knowledge::Known { hash } = entry.knowledge {
            entry.before = Some(hash);
        }
        entry.knowledge = Knowledge::Dirty;
        self.schedule(now_ticks);
        let soon = match haste {
            Haste::None => return,
            Haste::Gathered => now_ticks + URGENT_MILLIS,
            Haste::Urgent => now_ticks,
        };
        self.crowded = haste == Haste::Gathered;
        let soon = soon.max(self.earliest_ticks());
        self.due_ticks = self.due_ticks.map(|due| due.min(soon));
    }

    /// Nobody will ask for this pod any more.
    pub(super) fn forget(&mut self, uid: &Uid) {
        self.pods.remove(uid);
    }

    /// Everything is to be sent again.
    pub(super) fn touch_all(&mut self, now_ticks: u64) {
        self.pods.values_mut().for_each(PodNews::unknown);
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
        let dirty = |(uid, news): (&Uid, &PodNews)| {
            matches!(news.knowledge, Knowledge::Dirty).then_some(*uid)
        };
        let mut restless = false;
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
            if entry.before == Some(hash) {
                // Whether the earlier message arrived is not known; its sequence is still open.
                entry.knowledge = Knowledge::Sent { sequence: self.sequence, hash };
                continue;
            }
            entry.knowledge = Knowledge::Sent { sequence: self.sequence + 1, hash };
            entry.paid_ticks = entry.paid_ticks.max(now_ticks) + GATHER_MILLIS;
            restless |= entry.paid_ticks > now_ticks + AHEAD_MILLIS;
            pods.push(status);
        }
        let news = matches!(self.node_status, Some((_, None)));
        if pods.is_empty() && self.events.is_empty() && !news && !self.owes_message {
            return None;
        }
        self.owes_message = false;
        self.sequence += 1;
        self.sent_ticks = now_ticks;
        let price = if self.crowded || restless { GATHER_MILLIS } else { BETWEEN_MILLIS };
        self.paid_ticks = self.paid_ticks.max(now_ticks) + price;
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
                entry.unknown();
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
            if let Knowledge::Sent { sequence: sent, hash } = entry.knowledge {
                if sent <= sequence {
                    entry.knowledge = Knowledge::Known { hash };
                } else if late {
                    entry.unknown();
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
        outbox.touch(uid, Haste::None, 1_000);
        outbox.touch(uid, Haste::None, 1_050);
        assert_eq!(outbox.due_ticks(), Some(1_100));
        let message = outbox.take(1_100, |uid| status(uid, "a")).expect("news");
        assert_eq!((message.sequence, message.pods.len()), (1, 1));
        outbox.touch(uid, Haste::None, 2_000);
        assert_eq!(outbox.take(2_100, |uid| status(uid, "a")), None);
        outbox.touch(uid, Haste::None, 3_000);
        assert!(outbox.take(3_100, |uid| status(uid, "b")).is_some());
    }

    #[test]
    fn what_users_wait_for_leaves_at_once_but_not_often() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, Haste::None, 1_000);
        outbox.touch(uid, Haste::Urgent, 1_040);
        assert_eq!(outbox.due_ticks(), Some(1_040));
        assert!(outbox.take(1_040, |uid| status(uid, "a")).is_some());
        outbox.touch(uid, Haste::Urgent, 1_050);
        assert_eq!(outbox.due_ticks(), Some(1_060), "a start and its readiness are no crowd");
        assert!(outbox.take(1_060, |uid| status(uid, "b")).is_some());
        outbox.touch(uid, Haste::Gathered, 1_100);
        assert_eq!(outbox.due_ticks(), Some(1_105), "with what comes right after it");
    }

    /// Messages that a stream of changes makes in ten seconds; the next change is of this pod.
    fn messages_of(haste: Haste, every_millis: u64, next: impl Fn(u64) -> Uid) -> usize {
        let mut outbox = Outbox::default();
        let news = |messages: usize| if messages.is_multiple_of(2) { "a" } else { "b" };
        let mut messages = 0;
        let mut take = |outbox: &mut Outbox, now: u64| {
            messages += 1;
            assert!(outbox.take(now, |uid| status(uid, news(messages))).is_some());
        };
        for now in 1_000..11_000_u64 {
            if now.is_multiple_of(every_millis) {
                outbox.touch(next(now / every_millis), haste, now);
            }
            if outbox.due_ticks().is_some_and(|due| due <= now) {
                take(&mut outbox, now);
            }
        }
        if let Some(due) = outbox.due_ticks() {
            assert!(due <= 11_100, "{due}");
            take(&mut outbox, due);
        }
        // After a quiet time the next start is as quick as the first.
        outbox.touch(Uid([255; 16]), Haste::Urgent, 15_000);
        assert_eq!(outbox.due_ticks(), Some(15_000));
        messages
    }

    fn numbered(number: u64) -> Uid {
        Uid(u128::from(number).to_be_bytes())
    }

    #[test]
    fn urgent_changes_without_end_are_bounded_and_lose_nothing() {
        let of_one_pod = messages_of(Haste::Urgent, 1, |_| Uid([1; 16]));
        assert!((100..=112).contains(&of_one_pod), "{of_one_pod} messages of one pod");
        let of_a_crowd = messages_of(Haste::Gathered, 10, numbered);
        assert!((100..=107).contains(&of_a_crowd), "{of_a_crowd} messages of a crowd");
    }

    #[test]
    fn pods_one_after_another_wait_for_nobody() {
        assert_eq!(messages_of(Haste::Urgent, 50, numbered), 200);
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again() {
        let (mut outbox, uid) = (Outbox::default(), Uid([1; 16]));
        outbox.touch(uid, Haste::None, 0);
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
        outbox.touch(uid, Haste::None, 0);
        outbox.event(Bytes::from_static(b"{}"), 0);
        let message = outbox.take(100, |uid| status(uid, "a")).expect("news");
        outbox.not_sent(message, 100);
        let message = outbox.take(200, |uid| status(uid, "a")).expect("again");
        assert_eq!((message.pods.len(), message.events.len()), (1, 1));
    }
}
