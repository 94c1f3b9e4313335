//! Writes an answer: header, the question as asked, records with compressed names, within a size.
//!
//! A record of the answer or authority section that does not fit sets TC and ends the writing; one of
//! the additional section is left out. Records that were written stay: some clients take a truncated
//! answer for what it is and do not ask again over TCP.

use std::net::Ipv4Addr;

use super::name::Name;
use super::query::{HEADER_BYTES, Query, number, opt, rcode};
use super::types;

/// Places in a message that names may point to, remembered.
const KNOWN_MAX: usize = 24;
/// Farthest place that a pointer reaches.
const POINTER_MAX: usize = 0x3fff;
/// Pointers followed when a place is compared with a name; we write at most one per name.
const POINTERS_MAX: usize = 4;

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked.
    Answer,
    /// Who says that there is nothing.
    Authority,
    /// What will be asked next.
    Additional,
}

/// The data of a record.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// A.
    Address(Ipv4Addr),
    /// CNAME, PTR and NS.
    Name(&'a Name),
    /// SRV, whose name must not be compressed (RFC 2782).
    Service {
        /// Share among the records of one priority.
        weight: u16,
        /// Its port.
        port: u16,
        /// Where it is.
        target: &'a Name,
    },
    /// SOA: server, person, then serial, refresh, retry, expire and negative TTL.
    Authority(&'a Name, &'a Name, [u32; 5]),
    /// Bytes as they are.
    Raw(&'a [u8]),
}

/// An answer that is being written.
#[derive(Debug)]
pub struct Reply<'b> {
    out: &'b mut Vec<u8>,
    limit: usize,
    counts: [u16; 3],
    last: Section,
    truncated: bool,
    edns: bool,
    known: [u16; KNOWN_MAX],
    known_count: usize,
}

impl<'b> Reply<'b> {
    /// Begins the answer to a query; `limit` is what its transport takes.
    pub fn begin(out: &'b mut Vec<u8>, query: &Query<'_>, limit: u16) -> Self {
        out.clear();
        out.extend(query.id.to_be_bytes());
        out.extend([0x80 | u8::from(query.recursion), 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
        if query.checking_disabled {
            out[3] |= 0x10;
        }
        out.extend_from_slice(query.question);
        let edns = query.edns.is_some();
        // Room for the OPT record, which is written last and always fits.
        let limit = usize::from(limit) - if edns { opt(0).len() } else { 0 };
        let mut reply = Self {
            out,
            limit,
            counts: [0; 3],
            last: Section::Answer,
            truncated: false,
            edns,
            known: [0; KNOWN_MAX],
            known_count: 0,
        };
        reply.remember(HEADER_BYTES);
        reply
    }

    /// What a client takes over UDP.
    pub fn udp_limit(query: &Query<'_>) -> u16 {
        let asked = query.edns.map_or(types::UDP_BYTES_MAX, |edns| edns.payload_bytes);
        asked.clamp(types::UDP_BYTES_MAX, types::EDNS_PAYLOAD_BYTES_MAX)
    }

    /// Writes a record; whether it is in the answer.
    pub fn record(
        &mut self,
        section: Section,
        owner: &Name,
        kind: u16,
        ttl: u32,
        data: Data<'_>,
    ) -> bool {
        if self.truncated {
            return false;
        }
        assert!(self.last <= section, "sections are written in their order");
        self.last = section;
        let (start, known) = (self.out.len(), self.known_count);
        self.name(owner);
        self.out.extend(kind.to_be_bytes());
        self.out.extend(types::CLASS_IN.to_be_bytes());
        self.out.extend(ttl.to_be_bytes());
        self.out.extend([0, 0]);
        let data_start = self.out.len();
        self.data(data);
        let data_bytes = self.out.len() - data_start;
        if self.out.len() > self.limit {
            self.out.truncate(start);
            self.known_count = known;
            self.truncated = section < Section::Additional;
            return false;
        }
        let length = u16::try_from(data_bytes).expect("a message has less than 64 KiB");
        self.out[data_start - 2..data_start].copy_from_slice(&length.to_be_bytes());
        self.counts[section as usize] += 1;
        true
    }

    fn data(&mut self, data: Data<'_>) {
        match data {
            Data::Address(address) => self.out.extend(address.octets()),
            Data::Name(name) => self.name(name),
            Data::Service { weight, port, target } => {
                self.out.extend([0, 0]);
                self.out.extend(weight.to_be_bytes());
                self.out.extend(port.to_be_bytes());
                let start = self.out.len();
                self.out.extend_from_slice(target.wire());
                self.remember(start);
            }
            Data::Authority(server, person, numbers) => {
                self.name(server);
                self.name(person);
                self.out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
            }
            Data::Raw(bytes) => self.out.extend_from_slice(bytes),
        }
    }

    /// Writes a name, as a pointer from where it, or its end, was written before.
    fn name(&mut self, name: &Name) {
        let wire = name.wire();
        let (start, mut at) = (self.out.len(), 0);
        while wire[at] > 0 {
            let known = self.known[..self.known_count].iter().copied();
            let same = known.map(usize::from).find(|place| is_at(self.out, *place, &wire[at..]));
            let end = at + 1 + usize::from(wire[at]);
            match same {
                Some(place) => {
                    let pointer = 0xc000 | u16::try_from(place).expect("at most POINTER_MAX");
                    self.out.extend(pointer.to_be_bytes());
                    self.remember(start);
                    return;
                }
                None => self.out.extend_from_slice(&wire[at..end]),
            }
            at = end;
        }
        self.out.push(0);
        self.remember(start);
    }

    /// The name at `start` and its ends may be pointed to, up to where it is a pointer itself.
    fn remember(&mut self, start: usize) {
        let mut at = start;
        while self.known_count < KNOWN_MAX && at <= POINTER_MAX {
            match self.out.get(at) {
                Some(length @ 1..=63) => {
                    self.known[self.known_count] = u16::try_from(at).unwrap_or_default();
                    self.known_count += 1;
                    at += 1 + usize::from(*length);
                }
                _ => return,
            }
        }
    }

    /// Ends the answer. `authoritative` says that we know best.
    pub fn finish(mut self, rcode: u16, authoritative: bool) {
        if self.edns {
            self.out.extend(opt(rcode));
            self.counts[2] += 1;
        }
        self.out[2] |= if authoritative { 4 } else { 0 } | if self.truncated { 2 } else { 0 };
        self.out[3] |= (rcode & 15) as u8;
        for (place, count) in self.out[6..HEADER_BYTES].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
    }

    /// Gives up on records so far and says that something went wrong.
    pub fn fail(mut self, question_bytes: usize) {
        self.out.truncate(HEADER_BYTES + question_bytes);
        self.counts = [0; 3];
        self.truncated = false;
        self.finish(rcode::SERVER_FAILURE, false);
    }
}

/// Whether the name at `place` is `wire`, in any case.
fn is_at(message: &[u8], mut place: usize, wire: &[u8]) -> bool {
    let (mut at, mut jumps) = (0, 0);
    loop {
        match message.get(place).copied().map(usize::from) {
            Some(0) => return wire[at] == 0,
            Some(length @ 1..=63) => {
                let label = message.get(place..=place + length);
                let wanted = wire.get(at..=at + length);
                match (label, wanted) {
                    (Some(label), Some(wanted)) if label.eq_ignore_ascii_case(wanted) => {}
                    _ => return false,
                }
                (place, at) = (place + 1 + length, at + 1 + length);
            }
            Some(_) if jumps < POINTERS_MAX => {
                let Some(pointer) = number(message, place) else { return false };
                (place, jumps) = (usize::from(pointer & 0x3fff), jumps + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::query::{Judged, judge};

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn query(text: &str, edns: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        for label in text.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        if let Some(payload) = edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(payload.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    fn written(query: &[u8], write: impl FnOnce(&mut Reply<'_>)) -> Vec<u8> {
        let Judged::Query(query) = judge(query) else { panic!("no query") };
        let mut out = Vec::new();
        let limit = Reply::udp_limit(&query);
        let mut reply = Reply::begin(&mut out, &query, limit);
        write(&mut reply);
        reply.finish(rcode::NO_ERROR, true);
        assert!(out.len() <= usize::from(limit));
        out
    }

    #[test]
    fn names_point_to_what_was_written_in_any_case() {
        let query = query("Web.Example.com", None);
        let address = Data::Address(Ipv4Addr::new(10, 0, 0, 1));
        let out = written(&query, |reply| {
            let other = name("db.example.com");
            assert!(reply.record(
                Section::Answer,
                &name("web.example.com"),
                5,
                5,
                Data::Name(&other)
            ));
            assert!(reply.record(Section::Answer, &other, 1, 5, address));
        });
        let mut expected = vec![0, 7, 0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        expected.extend(&query[12..]);
        expected.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 5, 2, b'd', b'b', 0xc0, 16]);
        expected.extend([0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_service_is_written_whole_and_pointed_to() {
        let out = written(&query("_a._tcp.b.c", None), |reply| {
            let target = name("x.b.c");
            let data = Data::Service { weight: 100, port: 80, target: &target };
            assert!(reply.record(Section::Answer, &name("_a._tcp.b.c"), types::SRV, 5, data));
            let address = Data::Address(Ipv4Addr::LOCALHOST);
            assert!(reply.record(Section::Additional, &target, types::A, 5, address));
        });
        let tail = [
            0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 5, 0, 13, 0, 0, 0, 100, 0, 80, 1, b'x', 1, b'b', 1,
            b'c', 0, 0xc0, 47, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 127, 0, 0, 1,
        ];
        assert_eq!(out[29..], tail);
        assert_eq!(out[6..12], [0, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let many = |reply: &mut Reply<'_>| {
            for last in 0..=255 {
                let data = Data::Address(Ipv4Addr::new(10, 0, 0, last));
                reply.record(Section::Answer, &name("a.b"), types::A, 5, data);
            }
        };
        let out = written(&query("a.b", None), many);
        let fit = (512 - 12 - 9) / 16;
        assert_eq!((out[2] & 2, out[7]), (2, fit as u8));
        let out = written(&query("a.b", Some(4096)), many);
        let fit = (1232 - 12 - 9 - 11) / 16;
        assert_eq!((out[2] & 2, out[7], out[11]), (2, fit as u8, 1));
        assert_eq!(out[out.len() - 11..], [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let out = written(&query("a.b", Some(10)), |reply| {
            let full = [0; 460];
            reply.record(Section::Answer, &name("a.b"), types::TXT, 5, Data::Raw(&full));
            let data = Data::Address(Ipv4Addr::LOCALHOST);
            assert!(!reply.record(Section::Additional, &name("a.b"), types::A, 5, data));
        });
        assert_eq!((out[2] & 2, out[11]), (0, 1), "additional records are no loss");
    }
}
