//! Messages that are too large for the bus, kept until their boards have fetched them.
//!
//! One per board: a newer one replaces it, because only the newest desired set is of use. Bounded in
//! bytes over all boards and in time; a board that comes too late asks again with its next beat. And a
//! few that are for all boards: what there is of the network is the same for everybody.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use model::limits::{BUS_KEPT_BYTES_MAX, NET_KEPT_MAX};
use model::wire::FetchV1;
use sha2::{Digest, Sha256};

/// The kept messages; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    boards: HashMap<String, Message>,
    /// Oldest first.
    for_all: VecDeque<([u8; 32], Bytes)>,
    bytes: usize,
    count: u64,
}

#[derive(Debug)]
struct Message {
    digest: [u8; 32],
    packed: Bytes,
    /// Orders messages by age.
    number: u64,
}

impl Messages {
    /// The packed parts with this digest, if they are kept for this board.
    pub fn get(&self, board: &str, digest: &[u8; 32]) -> Option<Bytes> {
        let kept = self.kept();
        let own = kept.boards.get(board).map(|message| (&message.digest, &message.packed));
        let for_all = kept.for_all.iter().map(|(digest, packed)| (digest, packed));
        let mut found = own.into_iter().chain(for_all).filter(|(it, _)| *it == digest);
        found.next().map(|(_, packed)| packed.clone())
    }

    /// Keeps packed parts that every board may have, and gives the pointer to them.
    pub(super) fn keep_for_all(&self, packed: Bytes) -> FetchV1 {
        let bytes = packed.len() as u64;
        let mut kept = self.kept();
        if let Some((digest, _)) = kept.for_all.iter().find(|(_, same)| *same == packed) {
            return FetchV1 { digest: *digest, bytes };
        }
        let digest: [u8; 32] = Sha256::digest(&packed).into();
        if kept.for_all.len() >= NET_KEPT_MAX {
            kept.for_all.pop_front();
        }
        kept.for_all.push_back((digest, packed));
        FetchV1 { digest, bytes }
    }

    /// Keeps packed parts for a board in place of earlier ones, and gives the pointer to them.
    pub(super) fn keep(&self, board: &str, packed: Bytes) -> FetchV1 {
        let digest: [u8; 32] = Sha256::digest(&packed).into();
        let bytes = packed.len();
        let mut kept = self.kept();
        kept.forget(board);
        while kept.bytes + bytes > BUS_KEPT_BYTES_MAX {
            let oldest = kept.boards.iter().min_by_key(|(_, message)| message.number);
            let Some(oldest) = oldest.map(|(board, _)| board.clone()) else { break };
            kept.forget(&oldest);
        }
        kept.count += 1;
        kept.bytes += bytes;
        let message = Message { digest, packed, number: kept.count };
        kept.boards.insert(board.to_owned(), message);
        FetchV1 { digest, bytes: bytes as u64 }
    }

    /// Nobody will ask for the board's message any more.
    pub(super) fn forget(&self, board: &str) {
        self.kept().forget(board);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing that can panic stands between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, board: &str) {
        if let Some(message) = self.boards.remove(board) {
            self.bytes -= message.packed.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_boards_alone_and_the_newest_only() {
        let messages = Messages::default();
        let first = messages.keep("pi-1", Bytes::from_static(b"one"));
        assert_eq!(first.bytes, 3);
        assert_eq!(messages.get("pi-1", &first.digest).as_deref(), Some(&b"one"[..]));
        assert_eq!(messages.get("pi-2", &first.digest), None);
        let second = messages.keep("pi-1", Bytes::from_static(b"two"));
        assert_eq!(messages.get("pi-1", &first.digest), None);
        assert!(messages.get("pi-1", &second.digest).is_some());
        messages.forget("pi-1");
        assert_eq!(messages.get("pi-1", &second.digest), None);
    }

    #[test]
    fn what_is_for_all_is_kept_once_and_takes_nothing_from_a_board() {
        let messages = Messages::default();
        let own = messages.keep("pi-1", Bytes::from_static(b"own"));
        let first = messages.keep_for_all(Bytes::from_static(b"all"));
        assert_eq!(messages.keep_for_all(Bytes::from_static(b"all")), first);
        for board in ["pi-1", "pi-2"] {
            assert_eq!(messages.get(board, &first.digest).as_deref(), Some(&b"all"[..]));
        }
        assert!(messages.get("pi-1", &own.digest).is_some());
        assert!(messages.get("pi-2", &own.digest).is_none());
        for number in 0..NET_KEPT_MAX {
            messages.keep_for_all(Bytes::from(vec![number as u8]));
        }
        assert!(messages.get("pi-1", &first.digest).is_none(), "the oldest goes");
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let messages = Messages::default();
        let third = Bytes::from(vec![0; BUS_KEPT_BYTES_MAX / 3]);
        let kept: Vec<_> =
            (0..4).map(|board| messages.keep(&board.to_string(), third.clone())).collect();
        let there = |board: usize| messages.get(&board.to_string(), &kept[board].digest).is_some();
        assert_eq!([0, 1, 2, 3].map(there), [false, true, true, true]);
        let whole = messages.keep("large", Bytes::from(vec![0; BUS_KEPT_BYTES_MAX + 1]));
        assert!(messages.get("large", &whole.digest).is_some(), "the newest is always kept");
        assert!(!there(3));
    }
}
