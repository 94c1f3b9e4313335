//! Packets from bytes and to bytes: what the codec crate leaves to its user.
//!
//! The size and the kind are judged from the first bytes, before a body is waited for; then the
//! rules of the standard that the codec does not know.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v4::{Connect, Packet, Subscribe, Unsubscribe};
use rumqttc::mqttbytes::{self, Error, QoS};

use crate::outbox::Outgoing;
use crate::{Ended, Limits};

/// What the first bytes of a stream hold.
#[derive(Debug)]
pub(crate) enum Frame {
    Packet(Packet),
    /// At least so many bytes are missing.
    Missing(usize),
}

/// Takes the next packet that a client may send.
///
/// # Errors
///
/// Why the connection must end.
pub(crate) fn read(bytes: &mut BytesMut, limits: &Limits) -> Result<Frame, Ended> {
    let Some(first) = bytes.first().copied() else { return Ok(Frame::Missing(2)) };
    let max = body_bytes_max(first, limits)?;
    let frame = match mqttbytes::check(bytes.iter(), max) {
        Ok(header) => &bytes[..header.frame_length()],
        Err(Error::InsufficientBytes(missing)) => return Ok(Frame::Missing(missing)),
        Err(error) => return Err(ended(&error, max)),
    };
    if first == CONNECT {
        check_level(frame)?;
    }
    let packet = Packet::read(bytes, max).map_err(|error| ended(&error, max))?;
    check(&packet)?;
    Ok(Frame::Packet(packet))
}

const CONNECT: u8 = 0x10;

/// Bytes that may follow the header; the flags of the first byte are fixed but for PUBLISH
/// (section 2.2.2).
fn body_bytes_max(first: u8, limits: &Limits) -> Result<usize, Ended> {
    match first {
        // DUP belongs to QoS 1, and there is no QoS 3.
        0x30 | 0x31 | 0x32 | 0x33 | 0x3a | 0x3b => Ok(limits.packet_bytes_max),
        CONNECT | 0x82 | 0xa2 => Ok(limits.control_bytes_max),
        0x40 => Ok(2),
        0xc0 | 0xe0 => Ok(0),
        0x34 | 0x35 | 0x3c | 0x3d | 0x50 | 0x62 | 0x70 => Err(Ended::QosTwo),
        _ => Err(Ended::Malformed("its first byte is no packet that a client may send")),
    }
}

/// The protocol level stands before anything that depends on it (section 3.1.2).
fn check_level(frame: &[u8]) -> Result<(), Ended> {
    let length = frame[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let body = &frame[1 + length..];
    let (name, level, flags) = match body {
        [0, 4, b'M', b'Q', b'T', b'T', level, flags, ..] => (true, *level, *flags),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', level, ..] => (true, *level, 0),
        _ => (false, 0, 0),
    };
    if !name {
        return Err(Ended::Malformed("the protocol of its CONNECT is not MQTT"));
    }
    if level != 4 {
        return Err(Ended::ProtocolLevel(level));
    }
    let password_alone = flags & 0xc0 == 0x40;
    if flags & 1 != 0 || password_alone {
        return Err(Ended::Malformed("the flags of its CONNECT contradict each other"));
    }
    Ok(())
}

fn check(packet: &Packet) -> Result<(), Ended> {
    let zero = match packet {
        Packet::Subscribe(Subscribe { pkid, .. }) => *pkid == 0,
        Packet::Unsubscribe(Unsubscribe { pkid, topics }) if topics.is_empty() => *pkid == 0,
        Packet::Unsubscribe(Unsubscribe { pkid, .. }) => *pkid == 0,
        Packet::PubAck(ack) => ack.pkid == 0,
        _ => false,
    };
    if zero {
        return Err(Ended::Malformed("its packet id is 0"));
    }
    match packet {
        Packet::Unsubscribe(Unsubscribe { topics, .. }) if topics.is_empty() => {
            Err(Ended::Malformed("an UNSUBSCRIBE without filters"))
        }
        Packet::Connect(Connect { last_will: Some(will), .. }) if will.qos == QoS::ExactlyOnce => {
            Err(Ended::QosTwo)
        }
        _ => Ok(()),
    }
}

fn ended(error: &Error, allowed: usize) -> Ended {
    Ended::Malformed(match error {
        Error::PayloadSizeLimitExceeded(bytes) => {
            return Ended::TooLarge { bytes: *bytes, allowed };
        }
        Error::InvalidQoS(2) => return Ended::QosTwo,
        Error::MalformedRemainingLength => "its length is malformed",
        Error::TopicNotUtf8 => "a string is not UTF-8",
        Error::BoundaryCrossed(_) => "a string is longer than its packet",
        Error::PacketIdZero => "its packet id is 0",
        Error::EmptySubscription => "a SUBSCRIBE without filters",
        _ => "it breaks off or contradicts itself",
    })
}

/// Writes a PUBLISH without its payload (section 3.3).
pub(crate) fn write_publish_header(outgoing: &Outgoing, bytes: &mut BytesMut) {
    let Outgoing { delivery, id, dup } = outgoing;
    let message = &delivery.message;
    let id_bytes = if *id == 0 { 0 } else { 2 };
    let mut rest = 2 + message.topic.len() + id_bytes + message.payload.len();
    bytes.reserve(5 + 2 + message.topic.len() + id_bytes);
    let flags = u8::from(*dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
    bytes.put_u8(0x30 | flags);
    while rest > 0x7f {
        bytes.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.put_u8(rest as u8);
    bytes.put_u16(message.topic.len() as u16);
    bytes.put_slice(message.topic.as_bytes());
    if *id != 0 {
        bytes.put_u16(*id);
    }
}
