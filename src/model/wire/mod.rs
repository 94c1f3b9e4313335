//! Messages between master and board: a fixed header, then a postcard body.
//!
//! The same bytes travel over MQTT and over the in-memory link of a single board. Bodies are frozen
//! `XxxV1` structs with golden bytes in tests: a change of shape is a new struct and a new schema
//! number, because postcard is not self-describing. Kubernetes objects travel as minified JSON.

/// Frames of duplex streams.
pub mod channel;
mod down;
mod header;
mod net;
mod parts;
mod stream;
mod tunnel;
mod up;

#[cfg(test)]
mod tests;

pub use down::{
    BeatDownV1, CommandV1, DesiredPodV1, DesiredV1, FetchV1, ObjectV1, TokenAnswerV1, TokenV1,
    TokensV1,
};
pub use header::{Header, MessageKind, Part, SCHEMA, WireError, decode, encode, encode_body};
pub use net::{NetAddressesV1, NetEndpointsV1, NetPlace, NetStartingV1, NetV1};
pub use parts::{Assembly, encode_parts, pack, parts_of, unpack};
pub use stream::{
    AttachRequestV1, BlobRequestV1, ExecRequestV1, LogsRequestV1, PortForwardRequestV1, StdioV1,
    StreamRequestV1,
};
pub use tunnel::{Frames, TunnelRequest, frame};
pub use up::{BeatUpV1, HelloV1, PodStatusV1, StatusV1, TokenAskV1, TokenWantV1};
