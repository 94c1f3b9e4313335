//! Every bound of the broker, with what happens at it.
//!
//! The defaults suit a master of a thousand boards; relations between them are proven below.

use std::time::Duration;

/// What the broker holds, waits for and accepts at most.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, those before their CONNECT included. Further ones end at once.
    pub connections_max: usize,
    /// Connections that have not sent their CONNECT. One more ends the one that waits longest, so
    /// that streams that never speak cannot keep out a client that does.
    pub connecting_max: usize,
    /// Time for the CONNECT to arrive; then the connection ends.
    pub connect_within: Duration,
    /// Persistent sessions kept for clients that are away. One more forgets the one that is away
    /// longest.
    pub sessions_kept_max: usize,
    /// Filters of one client. A further one is answered with a failure in its SUBACK.
    pub subscriptions_max: usize,
    /// Bytes of a client id. A longer one is refused in the CONNACK.
    pub client_id_bytes_max: usize,
    /// Bytes of a topic or filter. Publishing to a longer one ends the connection, subscribing to
    /// one is answered with a failure.
    pub topic_bytes_max: usize,
    /// Levels of a topic or filter; as with its bytes. Bounds the recursion in the topic tree.
    pub topic_levels_max: usize,
    /// Bytes of a PUBLISH packet. A larger one ends the connection before its body is read.
    pub packet_bytes_max: usize,
    /// Bytes of any other packet; likewise. A will is part of its CONNECT.
    pub control_bytes_max: usize,
    /// Retained messages. A further one is delivered but not kept, and counted.
    pub retained_max: usize,
    /// Bytes of all retained messages; likewise.
    pub retained_bytes_max: usize,
    /// Bytes queued for one client, sent but unacknowledged ones included. A publisher waits for
    /// room; see `stall`. For a client that is away a further message is dropped and counted.
    pub queue_bytes_max: usize,
    /// Messages queued for one client. Only retained ones, which are no copies, can reach it: then
    /// the client is cut off.
    pub queue_messages_max: usize,
    /// Bytes of all messages in the broker together. Beyond, a queue is full at its equal share.
    pub held_bytes_max: usize,
    /// QoS 1 messages that a client may leave unacknowledged; further ones stay queued.
    pub inflight_max: usize,
    /// Time in which a full queue must fall to its half; then its client is cut off. So no
    /// publisher waits longer for anybody.
    pub stall: Duration,
    /// Time in which a client must take some bytes that wait for it; then it is cut off.
    pub write_within: Duration,
    /// Time for the last bytes, such as a refusal, to leave before the stream is dropped.
    pub close_within: Duration,
    /// Time that `stop` waits for the connections to end.
    pub stop_within: Duration,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Limits = Limits {
        connections_max: 4096,
        connecting_max: 512,
        connect_within: Duration::from_secs(5),
        sessions_kept_max: 256,
        subscriptions_max: 32,
        client_id_bytes_max: 256,
        topic_bytes_max: 512,
        topic_levels_max: 16,
        packet_bytes_max: 256 * 1024,
        control_bytes_max: 16 * 1024,
        retained_max: 4096,
        retained_bytes_max: 8 * 1024 * 1024,
        queue_bytes_max: 512 * 1024,
        queue_messages_max: 16 * 1024,
        held_bytes_max: 32 * 1024 * 1024,
        inflight_max: 20,
        stall: Duration::from_secs(2),
        write_within: Duration::from_secs(10),
        close_within: Duration::from_secs(1),
        stop_within: Duration::from_secs(5),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bytes that a queued message costs beside its topic and payload.
pub(crate) const MESSAGE_OVERHEAD_BYTES: usize = 64;
/// Bytes read from a stream at once, on the stack, so that an idle connection holds no buffer.
pub(crate) const READ_BYTES: usize = 4096;
/// Encoded bytes after which a connection writes before it encodes more.
pub(crate) const WRITE_BYTES: usize = 4096;
/// Answers that wait for the client to read them, after which nothing more is read from it.
pub(crate) const REPLY_BYTES_MAX: usize = 4096;
/// Payloads from here on are written from where they lie, not copied behind their header.
pub(crate) const PAYLOAD_COPY_BYTES_MAX: usize = 1024;
/// Payloads from here on may keep the buffer that they were read into; shorter ones are copied out.
pub(crate) const PAYLOAD_KEEP_BYTES_MIN: usize = 4096;

const _: () = {
    let limits = Limits::DEFAULT;
    assert!(limits.connecting_max < limits.connections_max);
    assert!(limits.control_bytes_max < limits.packet_bytes_max);
    assert!(limits.packet_bytes_max <= limits.queue_bytes_max, "one packet fits a queue");
    assert!(limits.queue_bytes_max <= limits.held_bytes_max);
    assert!(limits.retained_bytes_max < limits.held_bytes_max);
    assert!(2 * limits.retained_max <= limits.queue_messages_max);
    // All bytes of a queue taken by empty messages stay below the bound of their number.
    assert!(limits.queue_bytes_max / MESSAGE_OVERHEAD_BYTES <= limits.queue_messages_max);
    assert!(limits.topic_bytes_max <= u16::MAX as usize);
    assert!(limits.inflight_max < u16::MAX as usize, "an unused packet id is always found");
    // Publishers wait as long as `stall`; boards expect a beat every few seconds.
    assert!(limits.stall.as_millis() < limits.connect_within.as_millis());
};
