//! Proposals of this leader that the group has not decided yet.
//!
//! ```text
//! queue -> staged, tagged, handed to the engine -> in the log at an index -> applied: answered
//!   \-> 2 s: Late (surely nothing)       \-> refused: NotLeading      \-> cut off the log, 2 s: Unknown
//! ```
//! A proposal that touches a key which is in flight waits in the queue: proposals in flight never build
//! on one another, so that one may be lost and the next one happen. What became of a tag says the log:
//! tags are bound to an index when entries are appended, and answered when that index is applied.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use model::{
    limits::{STORE_GROUPS_IN_FLIGHT_MAX, STORE_WAIT_SECONDS_MAX},
    masters::MemberId,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    requests::{Answer, Write, versions},
    types::ProposeError,
};

/// How long somebody waits for the group.
pub(super) const WITHIN: Duration = Duration::from_secs(STORE_WAIT_SECONDS_MAX);

/// A proposal that is not staged yet.
pub(super) struct Queued {
    /// The proposal.
    pub(super) write: Write,
    /// Keys that it touches.
    pub(super) keys: Vec<Vec<u8>>,
    until: Instant,
}

/// A proposal on its way.
pub(super) struct Out {
    keys: Vec<Vec<u8>>,
    ops: usize,
    bytes: u64,
    group: u64,
    index: Option<u64>,
    until: Instant,
    waiter: Option<(Answer, OwnedSemaphorePermit)>,
}

/// What is queued and what is out.
#[derive(Default)]
pub(super) struct Flight {
    /// Not staged yet, oldest first. Bounded by the permits of the store's queue.
    pub(super) queue: VecDeque<Queued>,
    out: BTreeMap<u64, Out>,
    /// Tag by index in the log.
    places: BTreeMap<u64, u64>,
    /// Tag by key.
    keys: HashMap<Vec<u8>, u64>,
    /// Proposals that are out, by group.
    groups: BTreeMap<u64, usize>,
    last_tag: u64,
    last_group: u64,
}

impl Flight {
    /// Takes a proposal in.
    pub(super) fn push(&mut self, write: Write, keys: Vec<Vec<u8>>) {
        self.queue.push_back(Queued { write, keys, until: Instant::now() + WITHIN });
    }

    /// Whether one more group may go out.
    pub(super) fn has_room(&self) -> bool {
        self.groups.len() < STORE_GROUPS_IN_FLIGHT_MAX
    }

    /// Whether nothing of a proposal is in flight.
    pub(super) fn is_free(&self, keys: &[Vec<u8>]) -> bool {
        keys.iter().all(|key| !self.keys.contains_key(key))
    }

    /// Bytes that are out and not in the log yet.
    pub(super) fn unappended_bytes(&self) -> u64 {
        self.out.values().filter(|out| out.index.is_none()).map(|out| out.bytes).sum()
    }

    /// Bytes that are out.
    pub(super) fn bytes(&self) -> u64 {
        self.out.values().map(|out| out.bytes).sum()
    }

    /// The number of the next group.
    pub(super) fn begin_group(&mut self) -> u64 {
        self.last_group += 1;
        self.last_group
    }

    /// Notes a staged proposal of `bytes`; gives its tag.
    pub(super) fn put_out(&mut self, group: u64, queued: Queued, ops: usize, bytes: u64) -> u64 {
        self.last_tag += 1;
        let Queued { write, keys, until } = queued;
        for key in &keys {
            self.keys.insert(key.clone(), self.last_tag);
        }
        *self.groups.entry(group).or_default() += 1;
        let waiter = Some((write.answer, write.permit));
        let out = Out { keys, ops, bytes, group, index: None, until, waiter };
        self.out.insert(self.last_tag, out);
        self.last_tag
    }

    /// The proposal stands in the log.
    pub(super) fn appended(&mut self, tag: u64, index: u64) {
        if let Some(out) = self.out.get_mut(&tag) {
            out.index = Some(index);
            self.places.insert(index, tag);
        }
    }

    /// The entry at `index` is applied, at `position` in versions.
    pub(super) fn applied(&mut self, index: u64, position: u64) {
        if let Some(out) = self.places.get(&index).copied().and_then(|tag| self.land(tag)) {
            let ops = out.ops;
            out.tell(Ok(versions(position, ops)));
        }
    }

    /// The entries after `after` are cut off the log: another copy may bring them back.
    pub(super) fn truncated(&mut self, after: u64) {
        let tags: Vec<u64> = self.places.range(after + 1..).map(|(_, tag)| *tag).collect();
        for out in tags.into_iter().filter_map(|tag| self.land(tag)).collect::<Vec<_>>() {
            out.tell(Err(ProposeError::Unknown));
        }
    }

    /// The proposal will not come back.
    pub(super) fn refused(&mut self, tag: u64, error: ProposeError) {
        if let Some(out) = self.land(tag) {
            out.tell(Err(error));
        }
    }

    /// When somebody has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waits = self.out.values().filter(|out| out.waiter.is_some()).map(|out| out.until);
        waits.chain(self.queue.iter().map(|queued| queued.until)).min()
    }

    /// Answers those who have waited long enough. What is out stays out until it is decided.
    pub(super) fn expire(&mut self, now: Instant) {
        for queued in std::mem::take(&mut self.queue) {
            if queued.until > now {
                self.queue.push_back(queued);
            } else {
                queued.write.refuse(ProposeError::Late);
            }
        }
        for out in self.out.values_mut().filter(|out| out.until <= now) {
            if let Some((answer, _permit)) = out.waiter.take() {
                // Whoever asked may have gone.
                let _ = answer.send(Err(ProposeError::Unknown));
            }
        }
    }

    /// This board does not lead any more: what is queued was never handed over. What is out is
    /// answered when it is decided, or too late.
    pub(super) fn end_reign(&mut self, hint: Option<MemberId>) {
        for queued in std::mem::take(&mut self.queue) {
            queued.write.refuse(ProposeError::NotLeading { hint });
        }
    }

    /// Forgets everything: a new reign begins, or the engine is gone.
    pub(super) fn clear(&mut self, hint: Option<MemberId>) {
        self.end_reign(hint);
        for out in std::mem::take(&mut self.out).into_values() {
            out.tell(Err(ProposeError::Unknown));
        }
        self.places.clear();
        self.keys.clear();
        self.groups.clear();
    }

    fn land(&mut self, tag: u64) -> Option<Out> {
        let out = self.out.remove(&tag)?;
        for key in &out.keys {
            self.keys.remove(key);
        }
        if let Some(index) = out.index {
            self.places.remove(&index);
        }
        if let Some(count) = self.groups.get_mut(&out.group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&out.group);
            }
        }
        Some(out)
    }
}

impl Out {
    fn tell(self, outcome: Result<super::types::Committed, ProposeError>) {
        if let Some((answer, _permit)) = self.waiter {
            // Whoever asked may have gone; what happened stands.
            let _ = answer.send(outcome);
        }
    }
}

impl Write {
    /// Nothing of it happens.
    pub(super) fn refuse(self, error: ProposeError) {
        // Whoever asked may have gone.
        let _ = self.answer.send(Err(error));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::ids::Version;
    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::io::store::types::Committed;

    type Answered = oneshot::Receiver<Result<Committed, ProposeError>>;

    fn proposal(permits: &Arc<Semaphore>) -> (Write, Answered) {
        let permit = permits.clone().try_acquire_owned().expect("free");
        let (answer, answered) = oneshot::channel();
        (Write { ops: Vec::new(), logged: true, mandate: None, answer, permit }, answered)
    }

    fn push(flight: &mut Flight, permits: &Arc<Semaphore>, keys: &[&str]) -> Answered {
        let (write, answered) = proposal(permits);
        flight.push(write, keys.iter().map(|key| key.as_bytes().to_vec()).collect());
        answered
    }

    fn send(flight: &mut Flight, group: u64) -> u64 {
        let queued = flight.queue.pop_front().expect("queued");
        assert!(flight.is_free(&queued.keys));
        flight.put_out(group, queued, 2, 100)
    }

    #[test]
    fn a_key_in_flight_is_free_again_when_its_entry_is_applied_and_answered() {
        let (mut flight, permits) = (Flight::default(), Arc::new(Semaphore::new(9)));
        let mut first = push(&mut flight, &permits, &["a", "b"]);
        let mut second = push(&mut flight, &permits, &["c"]);
        let group = flight.begin_group();
        let tags = [send(&mut flight, group), send(&mut flight, group)];
        assert!(!flight.is_free(&[b"b".to_vec()]) && flight.is_free(&[b"d".to_vec()]));
        assert_eq!((flight.unappended_bytes(), flight.bytes()), (200, 200));
        flight.appended(tags[0], 7);
        assert_eq!((flight.unappended_bytes(), flight.bytes()), (100, 200));
        flight.applied(6, 6);
        assert!(first.try_recv().is_err());
        flight.applied(7, 1007);
        let versions = first.try_recv().expect("answered").expect("happened").versions;
        assert_eq!(versions, [Version::of_entry(1007, 0), Version::of_entry(1007, 1)]);
        assert!(flight.is_free(&[b"a".to_vec(), b"b".to_vec()]));
        assert_eq!(permits.available_permits(), 8);
        flight.refused(tags[1], ProposeError::NotLeading { hint: None });
        let refused = second.try_recv().expect("answered");
        assert!(matches!(refused, Err(ProposeError::NotLeading { .. })), "{refused:?}");
        assert!(flight.has_room() && flight.groups.is_empty() && flight.places.is_empty());
    }

    #[test]
    fn only_so_many_groups_are_out() {
        let (mut flight, permits) = (Flight::default(), Arc::new(Semaphore::new(9)));
        let mut tags = Vec::new();
        for nth in 0..STORE_GROUPS_IN_FLIGHT_MAX {
            assert!(flight.has_room());
            push(&mut flight, &permits, &[&nth.to_string()]);
            let group = flight.begin_group();
            tags.push(send(&mut flight, group));
        }
        assert!(!flight.has_room());
        flight.refused(tags[1], ProposeError::Unknown);
        assert!(flight.has_room());
    }

    #[test]
    fn who_waits_too_long_is_told_and_what_is_out_stays_out() {
        let (mut flight, permits) = (Flight::default(), Arc::new(Semaphore::new(9)));
        let mut out = push(&mut flight, &permits, &["a"]);
        let group = flight.begin_group();
        let tag = send(&mut flight, group);
        flight.appended(tag, 3);
        let mut queued = push(&mut flight, &permits, &["a"]);
        let deadline = flight.deadline().expect("two wait");
        flight.expire(deadline - Duration::from_millis(1));
        assert!(out.try_recv().is_err() && queued.try_recv().is_err());
        flight.expire(deadline + WITHIN);
        assert!(matches!(out.try_recv().expect("told"), Err(ProposeError::Unknown)));
        assert!(matches!(queued.try_recv().expect("told"), Err(ProposeError::Late)));
        assert_eq!((permits.available_permits(), flight.deadline()), (9, None));
        assert!(!flight.is_free(&[b"a".to_vec()]));
        flight.truncated(2);
        assert!(flight.is_free(&[b"a".to_vec()]));
    }

    #[test]
    fn the_end_of_a_reign_refuses_what_was_not_handed_over_and_keeps_the_rest() {
        let (mut flight, permits) = (Flight::default(), Arc::new(Semaphore::new(9)));
        let [mut out, mut lost] = ["a", "b"].map(|key| push(&mut flight, &permits, &[key]));
        let group = flight.begin_group();
        for index in [3, 4] {
            let tag = send(&mut flight, group);
            flight.appended(tag, index);
        }
        let mut queued = push(&mut flight, &permits, &["a"]);
        flight.end_reign(None);
        assert!(matches!(queued.try_recv().expect("told"), Err(ProposeError::NotLeading { .. })));
        flight.applied(3, 3);
        assert!(out.try_recv().expect("told").is_ok(), "the next leader committed it");
        flight.truncated(3);
        assert!(matches!(lost.try_recv().expect("told"), Err(ProposeError::Unknown)));
        flight.clear(None);
    }
}
