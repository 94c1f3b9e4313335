//! One client's bytes, judged without a stream: what the fuzzer calls.

use std::sync::Arc;
use std::task::Waker;

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::v4::Packet;
use tokio::time::Instant;

use crate::conversation::Conversation;
use crate::hub::Hub;
use crate::limits::{REPLY_BYTES_MAX, WRITE_BYTES};
use crate::{AllowAll, Ended, Limits, Peer};

/// Feeds what a client sends to a broker of its own, whole and then byte by byte; true when the
/// connection did not end by a breach of the protocol.
///
/// # Panics
///
/// When the outcome depends on how the bytes were cut, when an answer is no packet of the protocol,
/// or when anything outgrows its bound.
pub fn judge(bytes: &[u8]) -> bool {
    let whole = feed(bytes, bytes.len().max(1));
    let ended = whole.0.clone();
    if bytes.len() <= SLOW_BYTES_MAX {
        let slowly = feed(bytes, 1);
        assert_eq!(whole.0, slowly.0, "the end depends on how the bytes were cut");
        assert_eq!(own(whole.1), own(slowly.1), "the answers depend on how the bytes were cut");
    }
    matches!(ended, None | Some(Ended::Left))
}

/// Answers to the client's packets. Messages to it depend on what it has acknowledged by then.
fn own(answers: Vec<Packet>) -> Vec<Packet> {
    answers.into_iter().filter(|answer| !matches!(answer, Packet::Publish(_))).collect()
}

/// Longer input is fed whole only: byte by byte, each byte looks at the packet's start again.
const SLOW_BYTES_MAX: usize = 4096;

/// Why the connection ended, if it did, and the packets that were answered.
fn feed(bytes: &[u8], step: usize) -> (Option<Ended>, Vec<Packet>) {
    let limits = Limits { retained_max: 8, retained_bytes_max: 4096, ..Limits::DEFAULT };
    let largest = limits.packet_bytes_max + 5;
    let hub = Arc::new(Hub::new(limits, Arc::new(AllowAll)));
    let address = ([127, 0, 0, 1], 1).into();
    let seat = hub.seat().expect("a new broker has room");
    let mut conversation = Conversation::new(hub.clone(), seat, Peer { name: None, address });
    let (mut input, mut answers) = (BytesMut::new(), Vec::new());
    let mut ended = None;
    for part in bytes.chunks(step) {
        input.extend_from_slice(part);
        ended = turn(&mut conversation, &mut input, &mut answers).err();
        if let Some(ended) = &ended {
            conversation.end(ended.clone());
            drain(&mut conversation, &mut answers);
            break;
        }
        assert!(step > 1 || input.len() < largest, "an endless packet");
    }
    let counts = hub.counts();
    assert!(counts.retained <= 8 && counts.retained_bytes <= 4096, "{counts:?}");
    assert!(counts.held_bytes <= hub.limits.held_bytes_max, "{counts:?}");
    (ended, answers)
}

/// Reads and answers until nothing is left to do.
fn turn(
    conversation: &mut Conversation,
    input: &mut BytesMut,
    answers: &mut Vec<Packet>,
) -> Result<(), Ended> {
    loop {
        let now = Instant::now();
        let (_, any) = conversation.input(input, now)?;
        conversation.advance(Waker::noop(), now)?;
        if !any && conversation.output().is_empty() {
            return Ok(());
        }
        drain(conversation, answers);
    }
}

fn drain(conversation: &mut Conversation, answers: &mut Vec<Packet>) {
    let output = conversation.output();
    assert!(output.head.len() <= WRITE_BYTES.max(REPLY_BYTES_MAX) + 64 * 1024, "a full output");
    let mut written = BytesMut::from(&output.head[..]);
    written.extend_from_slice(&output.payload);
    output.advance(written.len());
    while written.has_remaining() {
        answers.push(Packet::read(&mut written, usize::MAX).expect("an answer is a packet"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_conversations_are_judged() {
        let mut bytes = BytesMut::new();
        rumqttc::mqttbytes::v4::Connect::new("c").write(&mut bytes).expect("a packet");
        let large = rumqttc::mqttbytes::v4::Publish::new(
            "t",
            rumqttc::mqttbytes::QoS::AtMostOnce,
            vec![1; 200_000],
        );
        for _ in 0..3 {
            large.write(&mut bytes).expect("a packet");
        }
        assert!(judge(&bytes));
        bytes.extend_from_slice(&[0xf0, 0]);
        assert!(!judge(&bytes));
    }
}
