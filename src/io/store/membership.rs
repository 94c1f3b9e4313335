//! The group as of what is applied: lies beside the applied position, in the state and in snapshots.
//!
//! `format u8 | 3 zeros | crc32c of the rest u32 | postcard`. A store that never belonged to a group
//! has none, and writes nothing that an earlier release would not read.

use model::{
    masters::{LogIdV1, MembersV1},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};

use super::{entry::EntryV1, log::Position};

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 8;

/// Who holds the log, since when, and what time it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    /// The entry that made the group so.
    pub(super) at: LogIdV1,
    /// The group.
    pub(super) members: MembersV1,
    /// The latest cluster time in an applied entry: the same on every replica.
    pub(super) time: Timestamp,
}

impl Membership {
    /// What it is after an entry.
    pub(super) fn after(before: Option<Self>, entry: &EntryV1, at: Position) -> Option<Self> {
        match (before, entry) {
            (before, EntryV1::Members(members)) => Some(Self {
                at: LogIdV1 { term: at.term, index: at.index },
                members: members.clone(),
                time: before.map(|before| before.time).unwrap_or_default(),
            }),
            (Some(before), entry) => Some(Self { time: before.time.max(entry.time()), ..before }),
            (None, _) => None,
        }
    }

    /// As bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = vec![FORMAT, 0, 0, 0, 0, 0, 0, 0];
        let mut bytes = postcard::to_extend(self, bytes).expect("members are plain data");
        let crc = crc32c::crc32c(&bytes[HEADER_BYTES..]);
        bytes[4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// From bytes; `None` when they are damaged or of a later format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let crc = u32::from_le_bytes(bytes.get(4..HEADER_BYTES)?.try_into().ok()?);
        let rest = &bytes[HEADER_BYTES..];
        if bytes[0] != FORMAT || crc != crc32c::crc32c(rest) {
            return None;
        }
        match postcard::take_from_bytes::<Self>(rest) {
            Ok((membership, [])) if membership.members.check().is_ok() => Some(membership),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::masters::MemberId;

    use super::*;

    #[test]
    fn golden_bytes_of_a_membership() {
        let membership = Membership {
            at: LogIdV1 { term: 3, index: 260 },
            members: MembersV1::sole(MemberId(5), "a".into(), [9; 32]),
            time: Timestamp(150),
        };
        let bytes = membership.encode();
        let mut golden = vec![1, 0, 0, 0];
        golden.extend_from_slice(&bytes[4..8]);
        golden.extend_from_slice(&[3, 0x84, 2, 1, 1, 5, 1, 5, 1, b'a']);
        golden.extend_from_slice(&[9; 32]);
        golden.extend_from_slice(&[0, 0xac, 2]);
        assert_eq!(bytes, golden);
        assert_eq!(Membership::decode(&bytes), Some(membership));
        for at in (0..1).chain(4..bytes.len()) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Membership::decode(&bad), None, "byte {at}");
        }
    }
}
