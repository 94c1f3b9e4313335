//! Messages larger than one bus payload: cut into parts, and put together again.
//!
//! The parts of a message share its header, are sent one after the other and come in order. A part
//! that does not follow the one before drops what there is: what is lost is sent again by those who
//! compare versions in the beats.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::header::{HEADER_BYTES, Header, Part, WireError, encode};
use crate::limits::{BUS_PAYLOAD_BYTES_MAX, WIRE_MESSAGE_BYTES_MAX};

const _: () =
    assert!(WIRE_MESSAGE_BYTES_MAX / (BUS_PAYLOAD_BYTES_MAX - HEADER_BYTES) < u16::MAX as usize);

/// Header and body as bytes, in as many parts as the bus needs.
///
/// # Errors
/// `TooLarge` for a body beyond [`WIRE_MESSAGE_BYTES_MAX`].
pub fn encode_parts<T: Serialize>(header: Header, body: &T) -> Result<Vec<Vec<u8>>, WireError> {
    let whole = encode(header, body);
    if whole.len() <= BUS_PAYLOAD_BYTES_MAX {
        return Ok(vec![whole]);
    }
    parts_of(header, &whole[HEADER_BYTES..])
}

/// The same of a body that [`super::encode_body`] encoded.
///
/// # Errors
/// `TooLarge` for a body beyond [`WIRE_MESSAGE_BYTES_MAX`].
pub fn parts_of(header: Header, body: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
    if HEADER_BYTES + body.len() > WIRE_MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge(header.kind));
    }
    if body.is_empty() {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        header.write(Part { number: 0, of: 1 }, &mut bytes);
        return Ok(vec![bytes]);
    }
    let pieces = body.chunks(BUS_PAYLOAD_BYTES_MAX - HEADER_BYTES);
    let of = u16::try_from(pieces.len()).expect("fewer parts than u16::MAX, asserted above");
    let part = |(number, piece): (u16, &[u8])| {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + piece.len());
        header.write(Part { number, of }, &mut bytes);
        bytes.extend_from_slice(piece);
        bytes
    };
    Ok((0..of).zip(pieces).map(part).collect())
}

/// The parts of a message in one piece, to be fetched: each behind its length (u32, little endian).
pub fn pack(parts: &[Bytes]) -> Bytes {
    let bytes = parts.iter().map(|part| size_of::<u32>() + part.len()).sum();
    let mut packed = BytesMut::with_capacity(bytes);
    for part in parts {
        let length = u32::try_from(part.len()).expect("a part fits one bus payload");
        packed.put_u32_le(length);
        packed.extend_from_slice(part);
    }
    packed.freeze()
}

/// The parts that [`pack`] packed, without a copy.
///
/// # Errors
/// `Short` for bytes that end within a part, and what [`Header::split_part`] finds: every part
/// is one, though not yet one that follows the one before.
pub fn unpack(mut packed: Bytes) -> Result<Vec<Bytes>, WireError> {
    let mut parts = Vec::new();
    while packed.has_remaining() {
        if packed.remaining() < size_of::<u32>() {
            return Err(WireError::Short(packed.remaining()));
        }
        let length = packed.get_u32_le() as usize;
        if packed.remaining() < length {
            return Err(WireError::Short(packed.remaining()));
        }
        let part = packed.split_to(length);
        Header::split_part(&part)?;
        parts.push(part);
    }
    Ok(parts)
}

/// Puts the parts of one sender's messages together.
#[derive(Debug)]
pub struct Assembly {
    header: Option<Header>,
    /// Parts that there are.
    parts: u16,
    body: Vec<u8>,
    bytes_max: usize,
}

impl Default for Assembly {
    fn default() -> Self {
        Self::bounded(WIRE_MESSAGE_BYTES_MAX)
    }
}

impl Assembly {
    /// Takes no message with a body beyond `bytes_max`.
    pub fn bounded(bytes_max: usize) -> Self {
        Self { header: None, parts: 0, body: Vec::new(), bytes_max }
    }

    /// Drops what there is of a message.
    fn drop_parts(&mut self) {
        *self = Self::bounded(self.bytes_max);
    }

    /// Takes what came over the bus; gives header and body once they are whole.
    ///
    /// # Errors
    /// [`WireError`] for bytes that are no message or no part that can follow; what there was of
    /// its message is dropped.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<(Header, Vec<u8>)>, WireError> {
        let (header, part, body) = Header::split_part(bytes)?;
        if part.number == 0 {
            self.drop_parts();
            self.header = Some(header);
        }
        if self.header != Some(header) || part.number != self.parts {
            self.drop_parts();
            return Err(WireError::Part(part.number, part.of));
        }
        if self.body.len() + body.len() > self.bytes_max {
            self.drop_parts();
            return Err(WireError::TooLarge(header.kind));
        }
        self.body.extend_from_slice(body);
        self.parts += 1;
        if self.parts < part.of {
            return Ok(None);
        }
        let body = std::mem::take(&mut self.body);
        self.drop_parts();
        Ok(Some((header, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MessageKind, ObjectV1, decode};

    const HEADER: Header = Header { kind: MessageKind::Desired, epoch: 1, term: 2, sequence: 3 };

    fn object(bytes: usize) -> ObjectV1 {
        let object: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
        ObjectV1 { key: "configmaps a/b".into(), version: 1, object: Bytes::from(object) }
    }

    #[test]
    fn a_message_of_any_size_fits_the_bus_and_comes_together_again() {
        for bytes in [0, 1000, BUS_PAYLOAD_BYTES_MAX - 100, BUS_PAYLOAD_BYTES_MAX, 1_572_864] {
            let sent = object(bytes);
            let parts = encode_parts(HEADER, &sent).expect("not too large");
            assert_eq!(parts.len() == 1, bytes < BUS_PAYLOAD_BYTES_MAX, "{bytes}");
            let mut assembly = Assembly::default();
            let (last, before) = parts.split_last().expect("at least one");
            for part in before {
                assert!(part.len() <= BUS_PAYLOAD_BYTES_MAX);
                assert_eq!(assembly.take(part), Ok(None));
            }
            let (header, body) = assembly.take(last).expect("the last").expect("whole");
            assert_eq!(header, HEADER);
            assert_eq!(decode::<ObjectV1>(header.kind, &body), Ok(sent));
        }
    }

    #[test]
    fn a_lost_doubled_or_foreign_part_drops_the_message_and_nothing_else() {
        let parts = encode_parts(HEADER, &object(400_000)).expect("not too large");
        assert_eq!(parts.len(), 4);
        let other = encode_parts(Header { sequence: 4, ..HEADER }, &object(400_000)).expect("fits");
        let bad_orders = [
            vec![&parts[1]],
            vec![&parts[0], &parts[2]],
            vec![&parts[0], &parts[1], &parts[1]],
            vec![&parts[0], &other[1]],
        ];
        let mut assembly = Assembly::default();
        for order in bad_orders {
            let (last, before) = order.split_last().expect("some");
            for part in before {
                assert_eq!(assembly.take(part), Ok(None));
            }
            assert!(matches!(assembly.take(last), Err(WireError::Part(..))));
            let taken: Vec<_> = parts.iter().map(|part| assembly.take(part)).collect();
            assert!(matches!(taken[3], Ok(Some(_))), "{taken:?}");
        }
    }

    #[test]
    fn packed_parts_come_apart_again_and_damage_is_named() {
        let parts = encode_parts(HEADER, &object(300_000)).expect("not too large");
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let packed = pack(&parts);
        assert_eq!(unpack(packed.clone()), Ok(parts));
        assert_eq!(unpack(Bytes::new()), Ok(Vec::new()));
        for cut in [packed.len() - 1, 3] {
            assert!(matches!(unpack(packed.slice(..cut)), Err(WireError::Short(_))), "{cut}");
        }
        let no_header = pack(&[Bytes::from_static(b"abc")]);
        assert_eq!(unpack(no_header), Err(WireError::Short(3)));
    }

    #[test]
    fn a_bounded_assembly_takes_no_more_than_its_bound() {
        let parts = encode_parts(HEADER, &object(400_000)).expect("not too large");
        let mut assembly = Assembly::bounded(300_000);
        let taken: Vec<_> = parts.iter().map(|part| assembly.take(part)).collect();
        assert_eq!(taken[2], Err(WireError::TooLarge(HEADER.kind)), "{taken:?}");
        let small = encode(HEADER, &object(10));
        assert!(matches!(assembly.take(&small), Ok(Some(_))), "the next message is taken");
    }
}
