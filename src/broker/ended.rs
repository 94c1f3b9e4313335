//! Why a connection ended, for one line in the log.

use std::io;

use crate::Refusal;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The client sent DISCONNECT: its will is not published.
    #[error("the client disconnected")]
    Left,
    /// The stream ended without a DISCONNECT.
    #[error("the stream ended without a DISCONNECT")]
    Closed,
    /// The stream failed.
    #[error("the stream failed: {0}")]
    Failed(io::ErrorKind),
    /// Nothing came for one and a half keep-alive times.
    #[error("nothing was heard for one and a half keep-alive times")]
    Silent,
    /// No CONNECT came in time.
    #[error("no CONNECT came in time")]
    NoConnect,
    /// The first packet was another one.
    #[error("the first packet is not a CONNECT")]
    NotConnect,
    /// A second CONNECT came.
    #[error("a second CONNECT came")]
    SecondConnect,
    /// The client speaks another version than 3.1.1.
    #[error("the client speaks protocol level {0}, not 4 (MQTT 3.1.1)")]
    ProtocolLevel(u8),
    /// The CONNECT was refused.
    #[error("the client was refused: {0}")]
    Refused(#[source] Refusal),
    /// A packet that breaks the protocol.
    #[error("a malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet larger than allowed.
    #[error("a packet of {bytes} bytes, more than the {allowed} allowed")]
    TooLarge {
        /// What its header announced.
        bytes: usize,
        /// The bound for its kind.
        allowed: usize,
    },
    /// A packet of QoS 2.
    #[error("QoS 2, which this broker does not offer")]
    QosTwo,
    /// A publish that [`crate::Access`] forbids.
    #[error("publishing to {0:?} is not allowed")]
    PublishDenied(Box<str>),
    /// Another connection with the same client id came.
    #[error("another connection took over its client id")]
    TakenOver,
    /// The client did not take what waits for it.
    #[error("the client does not take its messages")]
    Stalled,
    /// Others sent their CONNECT, this one did not, and room was short.
    #[error("room was needed for connections that send their CONNECT")]
    CrowdedOut,
    /// There are too many connections.
    #[error("there are too many connections")]
    TooMany,
    /// The owner of the broker ended it.
    #[error("the broker's owner ended it")]
    Removed,
    /// The broker stopped.
    #[error("the broker stopped")]
    Stopped,
}

impl Ended {
    /// Whether it is an ordinary end, not worth a warning.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Left | Self::Stopped | Self::Removed)
    }

    /// Whether the will is published: section 3.1.2.5, and never while the broker stops.
    pub(crate) fn publishes_will(&self) -> bool {
        !matches!(self, Self::Left | Self::Stopped)
    }
}
