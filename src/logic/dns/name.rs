//! Domain names in wire form, bounded and in lower case, so that equal names have equal bytes.

use std::fmt;

/// Longest name in wire form (RFC 1035 section 2.3.4).
pub const NAME_WIRE_BYTES_MAX: usize = 255;
/// Longest label.
const LABEL_BYTES_MAX: usize = 63;
/// Most labels of a name, the root not counted.
const LABELS_MAX: usize = 127;
/// Compression pointers followed in one name: more than any honest server writes.
const POINTERS_MAX: usize = 32;

/// A domain name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; NAME_WIRE_BYTES_MAX],
    /// Bytes used, the final zero included.
    length: u8,
}

impl Name {
    /// The root.
    pub const ROOT: Self = Self { bytes: [0; NAME_WIRE_BYTES_MAX], length: 1 };

    /// Reads the name at `at` of a message, and where it ends there. A question has no pointers.
    pub fn read(message: &[u8], at: usize, with_pointers: bool) -> Option<(Self, usize)> {
        let mut name = Self { bytes: [0; NAME_WIRE_BYTES_MAX], length: 0 };
        let (mut from, mut end, mut jumps) = (at, None, 0);
        loop {
            let length = usize::from(*message.get(from)?);
            match length {
                0 => {
                    name.length += 1;
                    return Some((name, end.unwrap_or(from + 1)));
                }
                1..=LABEL_BYTES_MAX => {
                    name.append(message.get(from + 1..from + 1 + length)?)?;
                    from += 1 + length;
                }
                0xc0.. if with_pointers && jumps < POINTERS_MAX => {
                    let target = (length & 0x3f) << 8 | usize::from(*message.get(from + 1)?);
                    end = end.or(Some(from + 2));
                    // Only what was written before can be meant, which ends every loop.
                    if target >= from {
                        return None;
                    }
                    (from, jumps) = (target, jumps + 1);
                }
                _ => return None,
            }
        }
    }

    /// From text with dots; one at the end changes nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        Self::of(text.split('.').filter(|_| !text.is_empty()).map(str::as_bytes))
    }

    /// From labels, left to right.
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut name = Self { bytes: [0; NAME_WIRE_BYTES_MAX], length: 0 };
        for label in labels {
            name.append(label)?;
        }
        name.length += 1;
        Some(name)
    }

    /// `label.self`.
    pub fn below(&self, label: &[u8]) -> Option<Self> {
        Self::of(std::iter::once(label).chain(self.labels()))
    }

    /// Adds a label, leaving room for the final zero.
    fn append(&mut self, label: &[u8]) -> Option<()> {
        let start = usize::from(self.length);
        let end = start + 1 + label.len();
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || end >= NAME_WIRE_BYTES_MAX {
            return None;
        }
        self.bytes[start] = u8::try_from(label.len()).ok()?;
        self.bytes[start + 1..end].copy_from_slice(label);
        self.bytes[start + 1..end].make_ascii_lowercase();
        self.length = u8::try_from(end).ok()?;
        Some(())
    }

    /// The wire form, in lower case, without compression.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Its labels, left to right.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.wire();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first().filter(|(length, _)| **length > 0)?;
            let (label, behind) = after.split_at(usize::from(*length));
            rest = behind;
            Some(label)
        })
    }

    /// Its last labels, right to left, and how many it has in all.
    pub fn tail<const N: usize>(&self) -> ([&[u8]; N], usize) {
        let mut starts = [0; LABELS_MAX + 1];
        let mut count = 0;
        let (wire, mut at) = (self.wire(), 0);
        while wire[at] > 0 {
            starts[count] = at;
            count += 1;
            at += 1 + usize::from(wire[at]);
        }
        let mut tail: [&[u8]; N] = [&[]; N];
        for (place, start) in tail.iter_mut().zip(starts[..count].iter().rev()) {
            *place = &wire[start + 1..start + 1 + usize::from(wire[*start])];
        }
        (tail, count)
    }

    /// The name of its last `count` labels.
    pub fn suffix(&self, count: usize) -> Self {
        let skip = self.labels().count().saturating_sub(count);
        Self::of(self.labels().skip(skip)).unwrap_or(Self::ROOT)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        if self.length == 1 { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    #[test]
    fn names_are_read_in_any_case() {
        let message = b"\x03wWw\x07Example\x03com\x00rest";
        let (found, end) = Name::read(message, 0, false).expect("a name");
        assert_eq!((found.to_string().as_str(), end), ("www.example.com.", 17));
        assert_eq!(found, name("WWW.example.COM"));
        assert_eq!(found.wire(), b"\x03www\x07example\x03com\x00");
        assert_eq!(found.suffix(2), name("example.com"));
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(name("example.com").below(b"www"), Some(found));
    }

    #[test]
    fn pointers_lead_back_only() {
        let message = b"\x03com\x00\x07example\xc0\x00\x03www\xc0\x05";
        let (found, end) = Name::read(message, 15, true).expect("a name");
        assert_eq!((found, end), (name("www.example.com"), 21));
        assert!(Name::read(message, 15, false).is_none());
        for bad in
            [&b"\xc0\x00"[..], b"\x01a\xc0\x02", b"\x01a\xc0\x00", b"\xc0", b"\x40a", b"\x05ab"]
        {
            assert!(Name::read(bad, 0, true).is_none(), "{bad:?}");
        }
        let mut chain = vec![0];
        for index in 0..40 {
            let before = if index == 0 { 0 } else { 1 + 2 * (index - 1) };
            chain.extend([0xc0, before]);
        }
        assert!(Name::read(&chain, 1 + 2 * 20, true).is_some());
        assert!(Name::read(&chain, 1 + 2 * 39, true).is_none(), "too many");
    }

    #[test]
    fn names_are_bounded() {
        let label = "a".repeat(63);
        let long = [label.as_str(); 3].join(".");
        assert!(Name::parse(&format!("{long}.{}", "a".repeat(61))).is_some());
        assert!(Name::parse(&format!("{long}.{}", "a".repeat(62))).is_none());
        assert!(Name::parse(&"a".repeat(64)).is_none());
        assert!(Name::parse("a..b").is_none());
        let most = vec!["a"; 127].join(".");
        assert_eq!(name(&most).tail::<2>(), ([&b"a"[..], b"a"], 127));
        assert!(Name::parse(&format!("{most}.a")).is_none());
    }

    #[test]
    fn the_tail_counts_from_the_right() {
        let found = name("a.b.c");
        assert_eq!(found.tail::<2>(), ([&b"c"[..], b"b"], 3));
        assert_eq!(found.tail::<4>(), ([&b"c"[..], b"b", b"a", b""], 3));
        assert_eq!(Name::ROOT.tail::<1>(), ([&b""[..]], 0));
    }
}
