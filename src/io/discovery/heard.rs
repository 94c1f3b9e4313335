//! What was heard: a small table, newest record per cluster, authority and board.

use std::cmp::Reverse;

use model::leader::SignedRecord;
use model::limits::HEARD_RECORDS_MAX;

/// Records by the mDNS instance that carries them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The longest unchanged first.
    entries: Vec<Entry>,
    /// Counts the daemons: what only an earlier one has heard may be gone.
    life: u64,
}

#[derive(Debug)]
struct Entry {
    instance: String,
    record: SignedRecord,
    life: u64,
}

impl Heard {
    /// Takes a record; whether anything has changed. A replayed older one changes nothing, and when the
    /// table is full, the entry that has been there longest goes.
    pub(super) fn insert(&mut self, instance: &str, record: SignedRecord) -> bool {
        let new = record.record();
        let same_board = |entry: &Entry| {
            let old = entry.record.record();
            (&old.cluster, &old.name, old.ca) == (&new.cluster, &new.name, new.ca)
        };
        if let Some(at) = self.entries.iter().position(same_board) {
            let entry = &mut self.entries[at];
            if entry.record == record {
                entry.life = self.life;
                instance.clone_into(&mut entry.instance);
                return false;
            }
            if new.rank() < entry.record.record().rank() {
                return false;
            }
            self.entries.remove(at);
        } else if self.entries.len() == HEARD_RECORDS_MAX {
            self.entries.remove(0);
        }
        self.entries.push(Entry { instance: instance.to_owned(), record, life: self.life });
        true
    }

    /// Whether this is known already, word for word.
    pub(super) fn knows(&mut self, instance: &str, record: &SignedRecord) -> bool {
        let life = self.life;
        let known = self.entries.iter_mut();
        let found = known.into_iter().find(|e| e.instance == instance && e.record == *record);
        found.map(|entry| entry.life = life).is_some()
    }

    /// An instance has said goodbye or has expired.
    pub(super) fn remove(&mut self, instance: &str) -> bool {
        self.keep(|entry| entry.instance != instance)
    }

    /// Keeps the records that still count.
    pub(super) fn judge(&mut self, counts: impl Fn(&SignedRecord) -> bool) -> bool {
        self.keep(|entry| counts(&entry.record))
    }

    /// Another daemon listens from here on.
    pub(super) fn begin_life(&mut self) {
        self.life += 1;
    }

    /// Forgets what the present daemon has not heard.
    pub(super) fn forget_earlier_lives(&mut self) -> bool {
        let life = self.life;
        self.keep(|entry| entry.life == life)
    }

    /// The records, the greatest rank first.
    pub(super) fn records(&self) -> Vec<SignedRecord> {
        let mut records: Vec<_> = self.entries.iter().map(|entry| entry.record.clone()).collect();
        records.sort_by_key(|record| Reverse(record.record().rank()));
        records
    }

    fn keep(&mut self, keep: impl Fn(&Entry) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(keep);
        self.entries.len() != before
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::leader::LeaderRecord;

    use super::*;

    fn record(name: &str, term: u64) -> SignedRecord {
        let record = LeaderRecord {
            cluster: "c".into(),
            epoch: 1,
            term,
            name: name.into(),
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port: 1,
            mqtt_port: 2,
            peer_port: 3,
            ca: [1; 16],
        };
        SignedRecord::sign(record, |_| vec![1]).expect("valid")
    }

    #[test]
    fn the_newest_of_each_board_is_kept() {
        let mut heard = Heard::default();
        assert!(heard.insert("a", record("a", 2)));
        assert!(!heard.insert("a", record("a", 2)), "nothing new");
        assert!(!heard.insert("x", record("a", 1)), "a replay");
        assert!(heard.insert("a", record("a", 3)));
        assert!(heard.insert("b", record("b", 9)));
        assert_eq!(heard.records(), [record("b", 9), record("a", 3)]);
        assert!(heard.knows("a", &record("a", 3)) && !heard.knows("a", &record("a", 2)));
        assert!(heard.remove("b") && !heard.remove("b"));
        assert!(heard.judge(|_| false) && heard.records().is_empty());
    }

    #[test]
    fn a_flood_displaces_but_does_not_grow() {
        let mut heard = Heard::default();
        for number in 0..10_000 {
            heard.insert(&format!("i{number}"), record(&format!("b{number}"), 1));
        }
        assert_eq!(heard.records().len(), HEARD_RECORDS_MAX);
    }

    #[test]
    fn another_daemon_has_to_hear_it_again() {
        let mut heard = Heard::default();
        heard.insert("a", record("a", 1));
        heard.insert("b", record("b", 1));
        heard.begin_life();
        assert!(!heard.insert("a", record("a", 1)));
        assert!(heard.forget_earlier_lives());
        assert_eq!(heard.records(), [record("a", 1)]);
    }
}
