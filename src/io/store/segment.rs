//! One file of the log: its header, and what a scan finds in its bytes.
//!
//! A segment is `header | frame | frame | ... | zeros`. The scan decides between the three ends that
//! a segment can have: clean (zeros or the end of the file), torn (the last group was not synced,
//! nothing durable follows) and damaged (something that was durable is lost).

use std::{io, path::Path};

use model::{ids::Version, timestamp::Timestamp};

use super::entry::{EntryV1, FRAME_BYTES, Frame};

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 48;
const MAGIC: &[u8; 4] = b"KQLG";
const FORMAT: u16 = 1;

/// What every entry of a segment shares, and where the chain before it ended.
///
/// Layout, little endian: magic, format u16, zero u16, epoch u64, base u64, first index u64, term
/// u64, previous crc u32, crc u32 of all before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Cluster epoch of the entries.
    pub(super) epoch: u64,
    /// Added to an index to make the position in a version.
    pub(super) base: u64,
    /// Index of the first entry.
    pub(super) first_index: u64,
    /// Term of the entry before.
    pub(super) term: u64,
    /// Checksum of the frame before, or zero.
    pub(super) previous: u32,
}

/// What the header bytes of a file are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderRead {
    /// A good header.
    Good(SegmentHeader),
    /// Whole, but of another format.
    Format(u16),
    /// Not a header.
    Bad,
}

impl SegmentHeader {
    /// As bytes.
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        let words = [self.epoch, self.base, self.first_index, self.term];
        for (word, at) in words.into_iter().zip((8..).step_by(8)) {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..44].copy_from_slice(&self.previous.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From the start of a file.
    pub(super) fn decode(bytes: &[u8]) -> HeaderRead {
        let Some(raw) = bytes.get(..HEADER_BYTES) else { return HeaderRead::Bad };
        let word = |at: usize| u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"));
        let half = |at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"));
        if &raw[..4] != MAGIC || half(44) != crc32c::crc32c(&raw[..44]) {
            return HeaderRead::Bad;
        }
        match u16::from_le_bytes([raw[4], raw[5]]) {
            FORMAT => HeaderRead::Good(Self {
                epoch: word(8),
                base: word(16),
                first_index: word(24),
                term: word(32),
                previous: half(40),
            }),
            other => HeaderRead::Format(other),
        }
    }
}

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Zeros or the end of the file follow.
    Clean,
    /// The rest of a group that was never synced follows: cut it.
    Torn,
    /// Something durable is unreadable.
    Damaged,
}

/// What a scan of one segment found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Where the good frames end.
    pub(super) good_bytes: usize,
    /// Index that the next frame would have.
    pub(super) next_index: u64,
    /// Checksum of the last good frame.
    pub(super) previous: u32,
    /// Term of the last good frame.
    pub(super) term: u64,
    /// Where the payload of the last good frame starts, when there is a frame.
    pub(super) last_frame: Option<usize>,
    /// What follows.
    pub(super) end: End,
}

/// Walks the frames in the bytes of a whole segment.
pub(super) fn scan(bytes: &[u8], header: &SegmentHeader) -> Scan {
    let mut found = Scan {
        good_bytes: HEADER_BYTES.min(bytes.len()),
        next_index: header.first_index,
        previous: header.previous,
        term: header.term,
        last_frame: None,
        end: End::Clean,
    };
    while let Some((frame, payload)) = Frame::verified(&bytes[found.good_bytes..]) {
        let follows = frame.index == found.next_index
            && frame.previous == found.previous
            && frame.epoch == header.epoch
            && frame.term >= found.term;
        if !follows {
            found.end = End::Damaged;
            return found;
        }
        found.last_frame = Some(found.good_bytes);
        found.good_bytes += FRAME_BYTES + payload.len();
        found.next_index += 1;
        found.previous = frame.crc;
        found.term = frame.term;
    }
    let rest = &bytes[found.good_bytes..];
    found.end = if rest.iter().all(|byte| *byte == 0) {
        End::Clean
    } else if lost_something_durable(rest, found.next_index) {
        End::Damaged
    } else {
        End::Torn
    };
    found
}

/// Whether a whole frame in `rest` proves that entry `expected` was durable: it was written after
/// the sync of a group that held `expected`.
fn lost_something_durable(rest: &[u8], expected: u64) -> bool {
    let starts = 1..rest.len().saturating_sub(FRAME_BYTES);
    starts.into_iter().any(|at| {
        // Reading the length alone first keeps the search linear in practice.
        let bytes = &rest[at..];
        if bytes[..4] == [0; 4] {
            return false;
        }
        Frame::verified(bytes).is_some_and(|(frame, _)| frame.group_first() > expected)
    })
}

/// Whether the bytes hold any whole frame: tells a segment whose creation was cut from a damaged one.
pub(super) fn has_frames(bytes: &[u8]) -> bool {
    lost_something_durable(bytes, 0)
}

/// The last version of the frame that starts `bytes`, which was verified before.
pub(super) fn last_of(bytes: &[u8], base: u64) -> (Version, Timestamp) {
    let Some((frame, payload)) = Frame::verified(bytes) else {
        return (Version(0), Timestamp::default());
    };
    let position = base + frame.index;
    EntryV1::decode(payload)
        .map_or((Version::of_entry(position, 0), Timestamp::default()), |entry| {
            (entry.last_version(position), entry.time())
        })
}

/// Reads a whole segment; one file is bounded by the segment size and one large group.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader =
        SegmentHeader { epoch: 1, base: 0, first_index: 5, term: 2, previous: 7 };

    /// Groups of frames; gives the bytes and where each frame starts.
    fn segment(groups: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = HEADER.encode().to_vec();
        let (mut index, mut previous, mut starts) = (5, 7, Vec::new());
        for group in groups {
            for group_offset in 0..*group {
                let group_offset = group_offset as u32;
                let frame =
                    Frame { length: 0, crc: 0, previous, group_offset, epoch: 1, term: 2, index };
                starts.push(bytes.len());
                previous = frame.write(&[index as u8; 50], &mut bytes);
                index += 1;
            }
        }
        bytes.resize(bytes.len() + 100, 0);
        (bytes, starts)
    }

    #[test]
    fn golden_bytes_of_a_header() {
        let mut golden = b"KQLG\x01\0\0\0".to_vec();
        for word in [1u64, 0, 5, 2] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[7, 0, 0, 0]);
        let crc = crc32c::crc32c(&golden);
        golden.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(HEADER.encode().as_slice(), golden);
        assert_eq!(SegmentHeader::decode(&golden), HeaderRead::Good(HEADER));
        golden[9] ^= 1;
        assert_eq!(SegmentHeader::decode(&golden), HeaderRead::Bad);
    }

    #[test]
    fn a_torn_group_is_cut_and_damage_is_not() {
        let (bytes, starts) = segment(&[1, 3, 1]);
        let check = |zeroed: usize, keep: usize, end: End, next: u64| {
            let mut bytes = bytes[..keep].to_vec();
            bytes[starts[zeroed]..starts[zeroed] + 60].fill(0);
            let scan = scan(&bytes, &HEADER);
            assert_eq!((scan.end, scan.next_index), (end, next), "zeroed {zeroed} keep {keep}");
        };
        let clean = scan(&bytes, &HEADER);
        assert_eq!((clean.end, clean.next_index), (End::Clean, 10));
        check(1, starts[4], End::Torn, 6);
        check(2, starts[4], End::Torn, 7);
        check(3, starts[4], End::Torn, 8);
        check(1, bytes.len(), End::Damaged, 6);
        check(3, bytes.len(), End::Damaged, 8);
        check(0, starts[4], End::Damaged, 5);
    }
}
