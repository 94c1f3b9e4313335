//! What an upstream server answers: checked, measured, and given on to clients.

use super::name::{NAME_WIRE_BYTES_MAX, Name};
use super::query::{HEADER_BYTES, Query, number, rcode};
use super::reply::{Data, Reply, Section};
use super::types;

/// Records of an answer; one with more is taken for malformed.
const RECORDS_MAX: usize = 2_048;
/// Shortest record: root, type, class, TTL and length.
const RECORD_BYTES_MIN: usize = 11;
/// Longest that an answer is kept: what changes upstream is to be seen soon.
const KEEP_SECONDS_MAX: u32 = 300;
/// Longest that the absence of a name is kept.
const KEEP_NOTHING_SECONDS_MAX: u32 = 30;

/// A question for an upstream server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What name.
    pub name: Name,
    /// Type of records.
    pub kind: u16,
    /// With signatures.
    pub dnssec: bool,
    /// Whether they are checked or not.
    pub checking_disabled: bool,
}

impl Question {
    /// What a client asks for.
    pub fn of(query: &Query<'_>) -> Self {
        Self {
            name: query.name.clone(),
            kind: query.kind,
            dnssec: query.edns.is_some_and(|edns| edns.dnssec),
            checking_disabled: query.checking_disabled,
        }
    }

    /// Its bytes as a key among others.
    pub fn key(&self) -> Key {
        let (wire, mut key) = (self.name.wire(), Key { bytes: [0; KEY_BYTES_MAX], length: 0 });
        let flags = u8::from(self.dnssec) | u8::from(self.checking_disabled) << 1;
        let [high, low] = self.kind.to_be_bytes();
        key.length = wire.len() + 3;
        key.bytes[..wire.len()].copy_from_slice(wire);
        key.bytes[wire.len()..key.length].copy_from_slice(&[high, low, flags]);
        key
    }

    /// The message that asks it.
    pub fn write(&self, id: u16) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.name.wire().len() + 15);
        out.extend(id.to_be_bytes());
        out.extend([1, if self.checking_disabled { 0x10 } else { 0 }, 0, 1, 0, 0, 0, 0, 0, 1]);
        out.extend_from_slice(self.name.wire());
        out.extend(self.kind.to_be_bytes());
        out.extend(types::CLASS_IN.to_be_bytes());
        out.extend([0, 0, 41]);
        out.extend(types::EDNS_PAYLOAD_BYTES_MAX.to_be_bytes());
        out.extend([0, 0, if self.dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        out
    }
}

/// Longest key: a name, a type and two flags.
const KEY_BYTES_MAX: usize = NAME_WIRE_BYTES_MAX + 3;

/// A question as bytes.
#[derive(Clone, Debug)]
pub struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    length: usize,
}

impl Key {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Where a record lies in a message.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u16,
    ttl_at: u16,
    end: u16,
    section: Section,
    kind: u16,
}

/// An answer of an upstream server, without what is between it and us (EDNS).
#[derive(Clone, Debug)]
pub struct Packet {
    bytes: Box<[u8]>,
    records: Box<[Place]>,
    rcode: u16,
    truncated: bool,
    question_end: u16,
}

impl Packet {
    /// Reads an answer; `None` when it is not one to this question, or malformed.
    pub fn read(message: &[u8], id: u16, question: &Question) -> Option<Self> {
        let header = message.first_chunk::<HEADER_BYTES>()?;
        let (flags, code) = (header[2], header[3]);
        if message.len() > usize::from(u16::MAX) || number(message, 0)? != id {
            return None;
        }
        let [questions, answers, authorities, additional] =
            [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
        if flags & 0xf8 != 0x80 || questions != 1 {
            return None;
        }
        let (name, at) = Name::read(message, HEADER_BYTES, false)?;
        let same = name == question.name && number(message, at)? == question.kind;
        if !same || number(message, at + 2)? != types::CLASS_IN {
            return None;
        }
        let question_end = at + 4;
        let counts = [
            (Section::Answer, answers),
            (Section::Authority, authorities),
            (Section::Additional, additional),
        ];
        let records = places(message, question_end, counts)?;
        let end = records.last().map_or(question_end, |place| usize::from(place.end));
        Some(Self {
            bytes: message[..end].into(),
            records: records.into(),
            rcode: u16::from(code & 15),
            truncated: flags & 2 != 0,
            question_end: u16::try_from(question_end).ok()?,
        })
    }

    /// Whether there is more over TCP.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether another server may know better.
    pub fn is_failure(&self) -> bool {
        !matches!(self.rcode, rcode::NO_ERROR | rcode::NO_SUCH_NAME)
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of_val(&*self.records)
    }

    /// For how long it may be kept; 0 for not at all.
    pub fn keep_seconds(&self) -> u32 {
        if self.truncated || self.is_failure() {
            return 0;
        }
        let of = |section| self.records.iter().filter(move |place| place.section == section);
        let answered = of(Section::Answer).count() > 0;
        let ttl = |place: &Place| self.ttl(place);
        match (self.rcode, answered) {
            (rcode::NO_ERROR, true) => {
                of(Section::Answer).map(ttl).min().unwrap_or(0).min(KEEP_SECONDS_MAX)
            }
            // RFC 2308 section 5: the lesser of the SOA record's TTL and its last number.
            _ => {
                let authority = of(Section::Authority).find(|place| place.kind == types::SOA);
                let Some(place) = authority else { return 0 };
                let last = self.word(usize::from(place.end).saturating_sub(4));
                ttl(place).min(last).min(KEEP_NOTHING_SECONDS_MAX)
            }
        }
    }

    fn word(&self, at: usize) -> u32 {
        self.bytes
            .get(at..at + 4)
            .map_or(0, |bytes| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
    }

    /// RFC 2181 section 8: a TTL with the highest bit set is none.
    fn ttl(&self, place: &Place) -> u32 {
        let ttl = self.word(place.ttl_at.into());
        if ttl > i32::MAX as u32 { 0 } else { ttl }
    }

    /// Answers a client that asked the same question, `age` seconds later. `stale` answers, kept
    /// beyond their time, get this TTL instead.
    pub fn answer(
        &self,
        query: &Query<'_>,
        limit: u16,
        age: u32,
        stale: Option<u32>,
        out: &mut Vec<u8>,
    ) {
        let mut whole =
            usize::from(limit).saturating_sub(if query.edns.is_some() { 11 } else { 0 });
        whole = whole.min(self.bytes.len());
        let fits = |place: &&Place| usize::from(place.end) <= whole;
        let records = self.records.iter().take_while(fits).count();
        let lost = self.records[records..].iter().any(|place| place.section < Section::Additional);
        let end = match records {
            0 => self.question_end.into(),
            count => usize::from(self.records[count - 1].end),
        };
        out.clear();
        out.extend(query.id.to_be_bytes());
        let truncated = if self.truncated || lost { 2 } else { 0 };
        out.extend([0x80 | truncated | u8::from(query.recursion), 0x80 | (self.rcode & 15) as u8]);
        // Of the checked bits, ours are those of the server that checked.
        out[3] |= self.bytes[3] & 0x30;
        out.extend([0, 1]);
        for section in [Section::Answer, Section::Authority, Section::Additional] {
            let ours = self.records[..records].iter().filter(|place| place.section == section);
            let more = usize::from(section == Section::Additional && query.edns.is_some());
            let count = u16::try_from(ours.count() + more).unwrap_or(u16::MAX);
            out.extend(count.to_be_bytes());
        }
        out.extend_from_slice(query.question);
        out.extend_from_slice(&self.bytes[usize::from(self.question_end)..end]);
        for place in &self.records[..records] {
            let left = stale.unwrap_or_else(|| self.ttl(place).saturating_sub(age));
            let at = usize::from(place.ttl_at);
            out[at..at + 4].copy_from_slice(&left.to_be_bytes());
        }
        if query.edns.is_some() {
            out.extend(super::query::opt(0));
        }
    }

    /// Appends the records of an alias's target to an answer; gives the code.
    pub fn append(&self, reply: &mut Reply<'_>, age: u32) -> u16 {
        let answers = self.records.iter().filter(|place| place.section == Section::Answer);
        for place in answers {
            let Some((owner, _)) = Name::read(&self.bytes, place.start.into(), true) else { break };
            let start = usize::from(place.ttl_at) + 6;
            let ttl = self.ttl(place).saturating_sub(age);
            let written = match place.kind {
                types::CNAME => match Name::read(&self.bytes, start, true) {
                    Some((target, _)) => {
                        reply.record(Section::Answer, &owner, place.kind, ttl, Data::Name(&target))
                    }
                    None => false,
                },
                types::A | types::AAAA | types::TXT => {
                    let data = Data::Raw(&self.bytes[start..place.end.into()]);
                    reply.record(Section::Answer, &owner, place.kind, ttl, data)
                }
                // Their names would have to be written anew, which nobody has asked for so far.
                _ => true,
            };
            if !written {
                break;
            }
        }
        self.rcode
    }
}

/// Where the records lie; those from the OPT record on are left out.
fn places(message: &[u8], from: usize, counts: [(Section, u16); 3]) -> Option<Vec<Place>> {
    let total: usize = counts.iter().map(|(_, count)| usize::from(*count)).sum();
    if total > RECORDS_MAX || total * RECORD_BYTES_MIN > message.len().saturating_sub(from) {
        return None;
    }
    let (mut places, mut at) = (Vec::with_capacity(total), from);
    for (section, count) in counts {
        for _ in 0..count {
            let (_, fixed) = Name::read(message, at, true)?;
            let (kind, data) = (number(message, fixed)?, number(message, fixed + 8)?);
            let end = fixed + 10 + usize::from(data);
            if end > message.len() {
                return None;
            }
            if kind == types::OPT {
                return (section == Section::Additional).then_some(places);
            }
            let [start, ttl_at, stop] = [at, fixed + 4, end].map(u16::try_from);
            let (start, ttl_at, stop) = (start.ok()?, ttl_at.ok()?, stop.ok()?);
            places.push(Place { start, ttl_at, end: stop, section, kind });
            at = end;
        }
    }
    Some(places)
}
