//! The fixed header of every message, and encoding and decoding of whole messages.

use serde::{Serialize, de::DeserializeOwned};

/// Schema number that this build writes.
pub const SCHEMA: u16 = 1;
/// Oldest schema number that this build reads: the one before, once there is one.
const SCHEMA_OLDEST: u16 = if SCHEMA > 1 { SCHEMA - 1 } else { SCHEMA };

/// Bytes of the encoded header.
pub(super) const HEADER_BYTES: usize = 32;

/// What a message is; the number is part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum MessageKind {
    /// [`super::HelloV1`], board to master.
    Hello = 1,
    /// [`super::BeatUpV1`], board to master.
    BeatUp = 2,
    /// [`super::StatusV1`], board to master.
    Status = 3,
    /// [`super::TokenAskV1`], board to master.
    TokenAsk = 4,
    /// [`super::DesiredV1`], master to board.
    Desired = 16,
    /// [`super::CommandV1`], master to board.
    Command = 17,
    /// [`super::BeatDownV1`], master to board.
    BeatDown = 18,
    /// [`super::FetchV1`], master to board, in place of a message that is too large for the bus.
    Fetch = 19,
    /// [`super::NetV1`], master to boards.
    Net = 20,
    /// [`super::TokensV1`], master to board.
    Tokens = 21,
    /// [`super::StreamRequestV1`], master to board, opens a stream.
    Stream = 32,
}

impl MessageKind {
    const ALL: [Self; 11] = [
        Self::Hello,
        Self::BeatUp,
        Self::Status,
        Self::TokenAsk,
        Self::Desired,
        Self::Command,
        Self::BeatDown,
        Self::Fetch,
        Self::Net,
        Self::Tokens,
        Self::Stream,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Who speaks, since when, and the how-manieth message this is.
///
/// Layout, little endian: schema u16, kind u16, part u16, parts u16, epoch u64, term u64, sequence
/// u64. A message that is larger than one bus payload travels in parts of the same sequence; the body
/// is theirs put together, see [`super::Assembly`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: MessageKind,
    /// Cluster epoch of the sender; raised by promote and restore.
    pub epoch: u64,
    /// Term of the leader that speaks, or the highest term the board knows.
    pub term: u64,
    /// Counts the sender's messages since its start.
    pub sequence: u64,
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a header.
    #[error("message of {0} bytes is shorter than its header")]
    Short(usize),
    /// Written by a build that is too new or too old.
    #[error("message has schema {0}, this build reads {SCHEMA}")]
    Schema(u16),
    /// A kind that this build does not know.
    #[error("message has unknown kind {0}")]
    Kind(u16),
    /// A part of a message where a whole one was wanted, or a part that there cannot be.
    #[error("part {0} of {1} is no message")]
    Part(u16, u16),
    /// Parts that make more than any message.
    #[error("message of kind {0:?} is too large")]
    TooLarge(MessageKind),
    /// A body that does not fit its kind.
    #[error("message body of kind {0:?} cannot be decoded")]
    Body(MessageKind),
}

/// Header and body as bytes.
pub fn encode<T: Serialize>(header: Header, body: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 64);
    header.write(Part { number: 0, of: 1 }, &mut bytes);
    postcard::to_extend(body, bytes)
        .expect("a wire body is plain data, which postcard always encodes")
}

/// A body without a header, for those who send the same to many.
pub fn encode_body<T: Serialize>(body: &T) -> Vec<u8> {
    postcard::to_extend(body, Vec::with_capacity(64))
        .expect("a wire body is plain data, which postcard always encodes")
}

/// Which part of a message this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub number: u16,
    /// How many there are.
    pub of: u16,
}

impl Header {
    /// Reads the header of a message in one part and gives the bytes of the body.
    ///
    /// # Errors
    /// Any [`WireError`] but `Body` and `TooLarge`.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let (header, part, body) = Self::split_part(bytes)?;
        if part.of != 1 {
            return Err(WireError::Part(part.number, part.of));
        }
        Ok((header, body))
    }

    /// Appends the header to `out`.
    pub(super) fn write(self, part: Part, out: &mut Vec<u8>) {
        for field in [SCHEMA, self.kind as u16, part.number, part.of] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.epoch, self.term, self.sequence] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }

    /// Reads the header of a message or of a part of one.
    ///
    /// # Errors
    /// Any [`WireError`] but `Body` and `TooLarge`.
    pub fn split_part(bytes: &[u8]) -> Result<(Self, Part, &[u8]), WireError> {
        let Some((raw, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(WireError::Short(bytes.len()));
        };
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u64_at = |at: usize| {
            u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes of a fixed header"))
        };
        if !(SCHEMA_OLDEST..=SCHEMA).contains(&u16_at(0)) {
            return Err(WireError::Schema(u16_at(0)));
        }
        let kind = MessageKind::from_number(u16_at(2)).ok_or(WireError::Kind(u16_at(2)))?;
        let part = Part { number: u16_at(4), of: u16_at(6) };
        if part.number >= part.of {
            return Err(WireError::Part(part.number, part.of));
        }
        Ok((Self { kind, epoch: u64_at(8), term: u64_at(16), sequence: u64_at(24) }, part, body))
    }
}

/// Decodes the body that [`Header::split`] gave.
///
/// # Errors
/// `WireError::Body`, also when bytes are left over.
pub fn decode<T: DeserializeOwned>(kind: MessageKind, body: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Body(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BeatDownV1, BeatUpV1};

    const HEADER: Header = Header { kind: MessageKind::BeatUp, epoch: 1, term: 2, sequence: 3 };

    #[test]
    fn golden_bytes_of_a_beat() {
        let beat = BeatUpV1 { boot: 7, desired_revision: 300, net_revision: 0, status_sequence: 5 };
        let bytes = encode(HEADER, &beat);
        let golden = [
            1, 0, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0,
            0, 0, 0, 7, 0xac, 2, 0, 5,
        ];
        assert_eq!(bytes, golden);
        let (header, body) = Header::split(&bytes).expect("our own bytes");
        assert_eq!(header, HEADER);
        assert_eq!(decode::<BeatUpV1>(header.kind, body), Ok(beat));
    }

    #[test]
    fn bad_bytes_are_named() {
        let beat = BeatDownV1 {
            desired_revision: 1,
            net_revision: 2,
            status_sequence: 3,
            cluster_time: Default::default(),
        };
        let bytes = encode(HEADER, &beat);
        assert_eq!(Header::split(&bytes[..9]), Err(WireError::Short(9)));
        let mut wrong = bytes.clone();
        wrong[0] = 9;
        assert_eq!(Header::split(&wrong), Err(WireError::Schema(9)));
        wrong = bytes.clone();
        wrong[2] = 200;
        assert_eq!(Header::split(&wrong), Err(WireError::Kind(200)));
        wrong = bytes.clone();
        wrong[4] = 1;
        assert_eq!(Header::split(&wrong), Err(WireError::Part(1, 1)));
        wrong[6] = 2;
        assert_eq!(Header::split(&wrong), Err(WireError::Part(1, 2)));
        wrong = bytes.clone();
        wrong[..2].copy_from_slice(&(SCHEMA + 1).to_le_bytes());
        assert_eq!(Header::split(&wrong), Err(WireError::Schema(SCHEMA + 1)));
        let (header, body) = Header::split(&bytes).expect("whole");
        let cut = &body[..body.len() - 1];
        assert_eq!(decode::<BeatDownV1>(header.kind, cut), Err(WireError::Body(header.kind)));
    }
}
