//! Answers of upstream servers, kept within a bound of bytes.
//!
//! An entry that was used since it came to the front gets another round before it goes. Entries stay
//! beyond their time until their room is needed: while no upstream answers, an old answer is better
//! than none (RFC 8767).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use model::limits::{DNS_CACHE_BYTES_MAX, DNS_CACHE_ENTRIES_MAX, DNS_STALE_SECONDS_MAX};

use super::packet::{Packet, Question};

/// Bytes of the cache's own for an entry, about.
const ENTRY_BYTES: usize = size_of::<Entry>() + 128;

#[derive(Debug)]
struct Entry {
    packet: Arc<Packet>,
    /// Seconds of the caller's clock.
    stored: u64,
    until: u64,
    used: bool,
}

/// An answer that was kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// It.
    pub packet: Arc<Packet>,
    /// Seconds since it came.
    pub age: u32,
    /// Its time is over.
    pub stale: bool,
}

/// Answers by question.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Arc<[u8]>, Entry>,
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
}

impl Cache {
    /// The answer to a question, `now` being any clock that counts seconds.
    pub fn get(&mut self, question: &Question, now: u64) -> Option<Kept> {
        let entry = self.entries.get_mut(question.key().as_bytes())?;
        if now > entry.until + DNS_STALE_SECONDS_MAX {
            return None;
        }
        entry.used = true;
        let age = u32::try_from(now.saturating_sub(entry.stored)).unwrap_or(u32::MAX);
        Some(Kept { packet: Arc::clone(&entry.packet), age, stale: now >= entry.until })
    }

    /// Keeps an answer, if it says that it may be.
    pub fn put(&mut self, question: &Question, packet: &Arc<Packet>, now: u64) {
        let keep = packet.keep_seconds();
        let bytes = packet.bytes() + ENTRY_BYTES;
        if keep == 0 || bytes > DNS_CACHE_BYTES_MAX / 8 {
            return;
        }
        let until = now + u64::from(keep);
        let entry = Entry { packet: Arc::clone(packet), stored: now, until, used: false };
        self.bytes += bytes;
        let key: Arc<[u8]> = question.key().as_bytes().into();
        match self.entries.insert(Arc::clone(&key), entry) {
            Some(before) => self.bytes -= before.packet.bytes() + ENTRY_BYTES,
            None => self.order.push_back(key),
        }
        while self.bytes > DNS_CACHE_BYTES_MAX || self.entries.len() > DNS_CACHE_ENTRIES_MAX {
            self.make_room();
        }
    }

    /// Forgets everything: other servers may know other names.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn make_room(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&oldest) else { return };
        // Every entry loses its mark on the way, so one goes at the latest in the second round.
        if std::mem::take(&mut entry.used) {
            self.order.push_back(oldest);
        } else if let Some(entry) = self.entries.remove(&oldest) {
            self.bytes -= entry.packet.bytes() + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::name::Name;
    use crate::dns::types;

    fn question(text: &str) -> Question {
        let name = Name::parse(text).expect("a name");
        Question { name, kind: types::A, dnssec: false, checking_disabled: false }
    }

    /// An answer with one record of `bytes` bytes and a TTL.
    fn packet(question: &Question, ttl: u32, bytes: usize) -> Arc<Packet> {
        let mut message = question.write(7);
        message[2] |= 0x80;
        message.truncate(message.len() - 11);
        message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        message.extend([0xc0, 12, 0, 16, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend((bytes as u16).to_be_bytes());
        message.extend(vec![0; bytes]);
        Arc::new(Packet::read(&message, 7, question).expect("well formed"))
    }

    #[test]
    fn answers_are_kept_for_their_time_and_a_while_beyond() {
        let (mut cache, asked) = (Cache::default(), question("a.example"));
        cache.put(&asked, &packet(&asked, 10, 4), 100);
        let kept = cache.get(&asked, 109).expect("kept");
        assert_eq!((kept.age, kept.stale), (9, false));
        assert!(cache.get(&asked, 110).expect("kept").stale);
        assert!(cache.get(&asked, 111 + DNS_STALE_SECONDS_MAX).is_none());
        assert!(cache.get(&question("b.example"), 100).is_none());
        let other = Question { kind: types::AAAA, ..asked.clone() };
        assert!(cache.get(&other, 100).is_none());
        cache.put(&other, &packet(&other, 0, 4), 100);
        assert!(cache.get(&other, 100).is_none(), "a TTL of 0 is not kept");
        cache.clear();
        assert!(cache.get(&asked, 100).is_none());
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn what_is_used_outlives_what_is_not() {
        let mut cache = Cache::default();
        let used = question("used.example");
        cache.put(&used, &packet(&used, 300, 1000), 0);
        for index in 0..2 * DNS_CACHE_ENTRIES_MAX {
            let asked = question(&format!("n{index}.example"));
            cache.put(&asked, &packet(&asked, 300, 1000), 0);
            assert!(cache.bytes <= DNS_CACHE_BYTES_MAX);
            assert!(cache.entries.len() <= DNS_CACHE_ENTRIES_MAX);
            assert_eq!(cache.entries.len(), cache.order.len());
            assert!(cache.get(&used, 1).is_some(), "{index}");
        }
        assert!(cache.get(&question("n0.example"), 1).is_none());
        let large = question("large.example");
        cache.put(&large, &packet(&large, 300, 60_000), 0);
        let fits = DNS_CACHE_BYTES_MAX / 8 > 61_000;
        assert_eq!(cache.get(&large, 1).is_some(), fits);
    }
}
