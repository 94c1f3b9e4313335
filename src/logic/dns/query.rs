//! A client's message: a question that can be answered, one that must be refused, or noise.

use super::name::Name;
use super::types;

/// Bytes of a message's header (RFC 1035 section 4.1.1).
pub(super) const HEADER_BYTES: usize = 12;
/// Records that a query may carry behind its question.
const ADDITIONAL_MAX: u16 = 8;

/// Answer codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub mod rcode {
    /// An answer, maybe an empty one.
    pub const NO_ERROR: u16 = 0;
    /// The query makes no sense.
    pub const FORMAT_ERROR: u16 = 1;
    /// It cannot be answered at the moment.
    pub const SERVER_FAILURE: u16 = 2;
    /// There is no such name.
    pub const NO_SUCH_NAME: u16 = 3;
    /// This kind of query is not known.
    pub const NOT_IMPLEMENTED: u16 = 4;
    /// It is not answered.
    pub const REFUSED: u16 = 5;
    /// An EDNS version that is not known.
    pub const BAD_VERSION: u16 = 16;
}

/// What a client says by EDNS(0) (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer that it takes.
    pub payload_bytes: u16,
    /// It wants signatures.
    pub dnssec: bool,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The client's number for it.
    pub id: u16,
    /// It wants others to be asked.
    pub recursion: bool,
    /// It checks signatures itself.
    pub checking_disabled: bool,
    /// The name, in lower case.
    pub name: Name,
    /// Type of records.
    pub kind: u16,
    /// Name, type and class as the client wrote them: it may compare the case (0x20).
    pub question: &'a [u8],
    /// EDNS, when the client speaks it.
    pub edns: Option<Edns>,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one query, which a box would allocate for"
)]
pub enum Judged<'a> {
    /// A question.
    Query(Query<'a>),
    /// Something that gets an error for an answer.
    Refused(Refusal<'a>),
    /// Something that gets none: an answer to an answer never ends.
    Noise,
}

/// A message that is answered by an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    id: u16,
    /// Operation and recursion flag as asked.
    flags: u8,
    question: &'a [u8],
    rcode: u16,
}

impl Refusal<'_> {
    /// Writes the answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { id, flags, question, rcode } = self;
        let extended = *rcode > 15;
        out.clear();
        out.extend(id.to_be_bytes());
        out.extend([0x80 | flags, (rcode & 15) as u8]);
        out.extend([0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, u8::from(extended)]);
        out.extend_from_slice(question);
        if extended {
            out.extend(opt(*rcode));
        }
    }
}

/// Our own OPT record.
pub(super) fn opt(rcode: u16) -> [u8; 11] {
    let [high, low] = types::EDNS_PAYLOAD_BYTES_MAX.to_be_bytes();
    [0, 0, 41, high, low, (rcode >> 4) as u8, 0, 0, 0, 0, 0]
}

/// Big-endian number at `at`.
pub(super) fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

/// Reads a client's message.
pub fn judge(message: &[u8]) -> Judged<'_> {
    let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Judged::Noise };
    if header[2] & 0x80 != 0 {
        return Judged::Noise;
    }
    let id = u16::from_be_bytes([header[0], header[1]]);
    let flags = header[2] & 0x79;
    let refused = |question, rcode| Judged::Refused(Refusal { id, flags, question, rcode });
    if header[2] & 0x78 != 0 {
        return refused(&[], rcode::NOT_IMPLEMENTED);
    }
    let [questions, answers, authorities, additional] =
        [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let question = Name::read(message, HEADER_BYTES, false).and_then(|(name, end)| {
        let (kind, class) = (number(message, end)?, number(message, end + 2)?);
        Some((name, kind, class, end + 4))
    });
    let Some((name, kind, class, end)) = question.filter(|_| questions == 1) else {
        return refused(&[], rcode::FORMAT_ERROR);
    };
    let question = &message[HEADER_BYTES..end];
    if answers != 0 || authorities != 0 || additional > ADDITIONAL_MAX {
        return refused(question, rcode::FORMAT_ERROR);
    }
    let edns = match edns(message, end, additional) {
        Some(edns) => edns,
        None => return refused(question, rcode::FORMAT_ERROR),
    };
    if edns.is_some_and(|(_, version)| version != 0) {
        return refused(question, rcode::BAD_VERSION);
    }
    match kind {
        types::OPT | 0 => return refused(question, rcode::FORMAT_ERROR),
        // Transfers and other types that are no data (RFC 6895 section 3.1).
        128..=254 => return refused(question, rcode::REFUSED),
        _ if class != types::CLASS_IN => return refused(question, rcode::REFUSED),
        _ => {}
    }
    Judged::Query(Query {
        id,
        recursion: header[2] & 1 != 0,
        checking_disabled: header[3] & 0x10 != 0,
        name,
        kind,
        question,
        edns: edns.map(|(edns, _)| edns),
    })
}

/// The OPT record among those behind the question, with its version; `None` when they are malformed.
fn edns(message: &[u8], mut at: usize, count: u16) -> Option<Option<(Edns, u8)>> {
    let mut found = None;
    for _ in 0..count {
        let (name, end) = Name::read(message, at, true)?;
        let (kind, class) = (number(message, end)?, number(message, end + 2)?);
        let ttl = message.get(end + 4..end + 8)?;
        let data = usize::from(number(message, end + 8)?);
        at = end + 10 + data;
        if at > message.len() {
            return None;
        }
        if kind == types::OPT {
            if found.is_some() || name != Name::ROOT {
                return None;
            }
            let edns = Edns { payload_bytes: class, dnssec: ttl[2] & 0x80 != 0 };
            found = Some((edns, ttl[1]));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x01A\x02bc\x00\x00\x01\x00\x01";

    fn message(flags: [u8; 2], counts: [u8; 4], rest: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, flags[0], flags[1]];
        bytes.extend(counts.iter().flat_map(|count| [0, *count]));
        bytes.extend(rest.concat());
        bytes
    }

    fn refusal(message: &[u8]) -> Option<u16> {
        match judge(message) {
            Judged::Refused(refusal) => {
                let mut out = Vec::new();
                refusal.write(&mut out);
                assert_eq!(out[..2], message[..2]);
                assert_eq!(out[2] & 0x80, 0x80);
                Some(refusal.rcode)
            }
            _ => None,
        }
    }

    #[test]
    fn a_question_is_read() {
        let opt = b"\x00\x00\x29\x10\x00\x00\x00\x80\x00\x00\x00";
        let bytes = message([1, 0x10], [1, 0, 0, 1], &[QUESTION, opt]);
        let Judged::Query(query) = judge(&bytes) else { panic!("refused") };
        assert_eq!((query.id, query.recursion, query.checking_disabled), (0x1234, true, true));
        assert_eq!((query.name.to_string().as_str(), query.kind), ("a.bc.", 1));
        assert_eq!(query.question, QUESTION, "the case stays");
        assert_eq!(query.edns, Some(Edns { payload_bytes: 4096, dnssec: true }));
        let bytes = message([0, 0], [1, 0, 0, 0], &[QUESTION]);
        let Judged::Query(query) = judge(&bytes) else { panic!("refused") };
        assert_eq!((query.recursion, query.edns), (false, None));
    }

    #[test]
    fn what_is_no_question_is_refused_or_ignored() {
        let opt: &[u8] = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00";
        let version: &[u8] = b"\x00\x00\x29\x10\x00\x00\x01\x00\x00\x00\x00";
        let check = |rcode: u16, flags, counts, rest: &[&[u8]]| {
            let bytes = message(flags, counts, rest);
            assert_eq!(refusal(&bytes), Some(rcode), "{bytes:?}");
        };
        let one = [1, 0, 0, 0];
        check(rcode::NOT_IMPLEMENTED, [0x20, 0], one, &[QUESTION]);
        check(rcode::FORMAT_ERROR, [0, 0], [0, 0, 0, 0], &[]);
        check(rcode::FORMAT_ERROR, [0, 0], [2, 0, 0, 0], &[QUESTION, QUESTION]);
        check(rcode::FORMAT_ERROR, [0, 0], one, &[&QUESTION[..8]]);
        check(rcode::FORMAT_ERROR, [0, 0], one, &[b"\xc0\x0c\x00\x01\x00\x01"]);
        check(rcode::FORMAT_ERROR, [0, 0], [1, 1, 0, 0], &[QUESTION]);
        check(rcode::FORMAT_ERROR, [0, 0], [1, 0, 0, 1], &[QUESTION, &opt[..9]]);
        check(rcode::FORMAT_ERROR, [0, 0], [1, 0, 0, 2], &[QUESTION, opt, opt]);
        check(rcode::BAD_VERSION, [0, 0], [1, 0, 0, 1], &[QUESTION, version]);
        check(rcode::REFUSED, [0, 0], one, &[b"\x01a\x00\x00\xfc\x00\x01"]);
        check(rcode::REFUSED, [0, 0], one, &[b"\x01a\x00\x00\x01\x00\x03"]);
        check(rcode::FORMAT_ERROR, [0, 0], one, &[b"\x01a\x00\x00\x29\x00\x01"]);
        assert_eq!(judge(&message([0x80, 0], one, &[QUESTION])), Judged::Noise);
        assert_eq!(judge(&[0; 11]), Judged::Noise);
    }
}
