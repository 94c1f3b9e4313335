//! Bytes of a log entry: the frame around it, and the postcard payload inside.
//!
//! ```text
//! 0        4      8          12            16      24     32      40
//! | length | crc  | previous | group_offset| epoch | term | index | payload ... |   little endian
//! ```
//! `crc` (CRC-32C) covers everything but itself. `previous` is the crc of the frame before: frames
//! form a chain. `group_offset` counts the frames before this one in the same sync: everything
//! before `index - group_offset` was durable when the frame was written, which is how a reader tells
//! a torn last group (to be cut) from damage (to be reported). A length of zero is the end.

use bytes::Bytes;
use model::{
    ids::{KindKey, ObjectKey, Uid, Version},
    limits::STORE_ENTRY_BYTES_MAX,
    masters::MembersV1,
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::types::{Base, Change};

/// Bytes of a frame's header.
pub(super) const FRAME_BYTES: usize = 40;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Payload bytes.
    pub(super) length: u32,
    /// Checksum of header and payload.
    pub(super) crc: u32,
    /// Checksum of the frame before.
    pub(super) previous: u32,
    /// Frames before this one in its group.
    pub(super) group_offset: u32,
    /// Cluster epoch.
    pub(super) epoch: u64,
    /// Leader's term.
    pub(super) term: u64,
    /// Place in the log, from 1.
    pub(super) index: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Frame {
    /// Appends header and payload to `out` and gives the crc.
    pub(super) fn write(mut self, payload: &[u8], out: &mut Vec<u8>) -> u32 {
        self.length = u32::try_from(payload.len()).expect("an entry is bounded");
        let start = out.len();
        for word in [self.length, 0, self.previous, self.group_offset] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.epoch, self.term, self.index] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(payload);
        let crc = checksum(&out[start..start + FRAME_BYTES], payload);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a header; says nothing about its truth. `None` when bytes are missing.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let raw = bytes.get(..FRAME_BYTES)?;
        Some(Self {
            length: u32_at(raw, 0),
            crc: u32_at(raw, 4),
            previous: u32_at(raw, 8),
            group_offset: u32_at(raw, 12),
            epoch: u64_at(raw, 16),
            term: u64_at(raw, 24),
            index: u64_at(raw, 32),
        })
    }

    /// The frame at the start of `bytes` with its payload, when it is whole and its crc holds.
    pub(super) fn verified(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let frame = Self::read(bytes)?;
        if frame.length == 0 || frame.length as usize > STORE_ENTRY_BYTES_MAX {
            return None;
        }
        let payload = bytes.get(FRAME_BYTES..FRAME_BYTES + frame.length as usize)?;
        let whole = checksum(&bytes[..FRAME_BYTES], payload) == frame.crc;
        (whole && u64::from(frame.group_offset) < frame.index).then_some((frame, payload))
    }

    /// First index of the group that this frame was synced with.
    pub(super) fn group_first(&self) -> u64 {
        self.index - u64::from(self.group_offset)
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&header[..4]);
    let crc = crc32c::crc32c_append(crc, &header[8..FRAME_BYTES]);
    crc32c::crc32c_append(crc, payload)
}

/// What an entry says; variants are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum EntryV1 {
    /// A leader's term begins: versions of its memory-only objects start above this entry.
    TermStart,
    /// Compare-and-puts that happen together.
    Ops(Vec<OpV1>),
    /// Either of the two, with the cluster time at which it was written: no operations begin a term.
    /// A board without a clock battery goes on from here after a power cut.
    At(Timestamp, Vec<OpV1>),
    /// Who holds the log from here on; changes no object.
    Members(MembersV1),
}

/// What an entry is to whoever only passes it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The first entry of a leader in a group.
    Blank,
    /// The group changes.
    Members(MembersV1),
    /// Operations, or the start of a term of somebody who led alone.
    Other,
}

/// One operation in an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpV1 {
    /// `group/plural`.
    pub(super) kind: KindKey,
    /// Namespace or empty.
    pub(super) namespace: String,
    /// Name.
    pub(super) name: String,
    /// What had to be there.
    pub(super) base: BaseV1,
    /// Uid.
    pub(super) uid: Uid,
    /// New bytes, or deleted.
    pub(super) body: Option<Bytes>,
    /// Previous bytes, where watches need them.
    pub(super) old: Option<Bytes>,
}

/// [`Base`] as logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum BaseV1 {
    /// Nothing.
    Absent,
    /// Exactly this version.
    At(Version),
    /// Anything.
    Any,
}

impl From<Base> for BaseV1 {
    fn from(base: Base) -> Self {
        match base {
            Base::Absent => Self::Absent,
            Base::At(version) => Self::At(version),
            Base::Any => Self::Any,
        }
    }
}

impl EntryV1 {
    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::new()).expect("an entry is plain data")
    }

    /// From bytes; `None` when they are not an entry that this build knows.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((entry, [])) => Some(entry),
            _ => None,
        }
    }

    /// When it was written, as far as it says.
    pub(super) fn time(&self) -> Timestamp {
        match self {
            Self::TermStart | Self::Ops(_) | Self::Members(_) => Timestamp::default(),
            Self::At(time, _) => *time,
        }
    }

    /// The last version that the entry takes when it stands at `position`.
    pub(super) fn last_version(&self, position: u64) -> Version {
        let last = match self {
            Self::TermStart | Self::Members(_) => 0,
            Self::Ops(ops) | Self::At(_, ops) => ops.len().saturating_sub(1),
        };
        Version::of_entry(position, u32::try_from(last).expect("operations are bounded"))
    }

    /// The changes that the entry makes when it stands at `position`: apply is nothing more.
    pub(super) fn changes(self, position: u64) -> impl Iterator<Item = Change> {
        let ops = match self {
            Self::TermStart | Self::Members(_) => Vec::new(),
            Self::Ops(ops) | Self::At(_, ops) => ops,
        };
        (0u32..).zip(ops).map(move |(ordinal, op)| Change {
            version: Version::of_entry(position, ordinal),
            key: ObjectKey { kind: op.kind, namespace: op.namespace, name: op.name },
            uid: op.uid,
            body: op.body,
            old: op.old,
            created: op.base == BaseV1::Absent,
        })
    }
}

/// The first entry of a leader in a group.
pub(super) fn blank() -> Bytes {
    Bytes::from(EntryV1::TermStart.encode())
}

/// The entry that changes the group.
pub(super) fn members(members: &MembersV1) -> Bytes {
    Bytes::from(EntryV1::Members(members.clone()).encode())
}

/// What encoded bytes are, without looking at operations; `None` when they are no entry.
pub(super) fn what(bytes: &[u8]) -> Option<What> {
    match bytes.first()? {
        0 if bytes.len() == 1 => Some(What::Blank),
        1 | 2 => Some(What::Other),
        _ => match EntryV1::decode(bytes)? {
            EntryV1::Members(members) => Some(What::Members(members)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use model::masters::MemberId;

    use super::*;

    fn entry() -> EntryV1 {
        EntryV1::Ops(vec![OpV1 {
            kind: "/pods".into(),
            namespace: "a".into(),
            name: "b".into(),
            base: BaseV1::At(Version(300)),
            uid: Uid(*b"0123456789abcdef"),
            body: Some(Bytes::from_static(b"{}")),
            old: None,
        }])
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let frame = Frame {
            length: 0,
            crc: 0,
            previous: 0x0102_0304,
            group_offset: 1,
            epoch: 2,
            term: 3,
            index: 4,
        };
        let mut bytes = Vec::new();
        let crc = frame.write(&entry().encode(), &mut bytes);
        let mut golden = vec![36, 0, 0, 0];
        golden.extend_from_slice(&crc.to_le_bytes());
        golden.extend_from_slice(&[4, 3, 2, 1, 1, 0, 0, 0]);
        for word in [2u64, 3, 4] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[1, 1, 5]);
        golden.extend_from_slice(b"/pods\x01a\x01b\x01\xac\x020123456789abcdef\x01\x02{}\x00");
        assert_eq!(bytes, golden);
        let (read, payload) = Frame::verified(&bytes).expect("whole");
        assert_eq!((read.index, read.group_first()), (4, 3));
        assert_eq!(EntryV1::decode(payload), Some(entry()));
    }

    #[test]
    fn golden_bytes_of_every_entry() {
        let EntryV1::Ops(ops) = entry() else { unreachable!("made above") };
        let op = b"\x05/pods\x01a\x01b\x01\xac\x020123456789abcdef\x01\x02{}\x00";
        let check = |entry: EntryV1, golden: &[&[u8]]| {
            assert_eq!(entry.encode(), golden.concat());
            assert_eq!(EntryV1::decode(&golden.concat()), Some(entry));
        };
        check(EntryV1::TermStart, &[&[0]]);
        check(EntryV1::Ops(ops.clone()), &[&[1, 1], op]);
        check(EntryV1::At(Timestamp(150), ops), &[&[2, 0xac, 2, 1], op]);
        check(EntryV1::At(Timestamp(-1), Vec::new()), &[&[2, 1, 0]]);
        let members = MembersV1::sole(MemberId(5), "a".into(), [9; 32]);
        let golden: &[&[u8]] = &[&[3, 1, 1, 5, 1, 5, 1], b"a", &[9; 32], &[0]];
        check(EntryV1::Members(members), golden);
    }

    #[test]
    fn an_entry_is_told_without_its_operations() {
        let group = MembersV1::sole(MemberId(5), "a".into(), [9; 32]);
        let check = |bytes: &[u8], what| assert_eq!(super::what(bytes), what, "{bytes:?}");
        check(&blank(), Some(What::Blank));
        check(&members(&group), Some(What::Members(group)));
        check(&entry().encode(), Some(What::Other));
        check(&EntryV1::At(Timestamp(7), Vec::new()).encode(), Some(What::Other));
        for bad in [&[][..], &[0, 0], &[3], &[4]] {
            check(bad, None);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let frame =
            Frame { length: 0, crc: 0, previous: 9, group_offset: 0, epoch: 1, term: 1, index: 1 };
        let mut bytes = Vec::new();
        frame.write(&entry().encode(), &mut bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(Frame::verified(&bad).is_none(), "byte {at} bit {bit}");
            }
            assert!(Frame::verified(&bytes[..at]).is_none(), "cut at {at}");
        }
    }
}
