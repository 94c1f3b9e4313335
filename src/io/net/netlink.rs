//! Route netlink messages and their acknowledgements (linux/netlink.h, linux/rtnetlink.h).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLA_F_NESTED: u16 = 0x8000;
/// Flag of a request that creates, and fails when the thing exists (NLM_F_CREATE | NLM_F_EXCL).
pub(super) const CREATE: u16 = 0x400 | 0x200;

/// One request under construction: header, fixed struct, attributes.
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of type `kind` whose fixed struct is `body`.
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Adds an attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes here are a few bytes");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a text attribute with its closing zero.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, format!("{value}\0").as_bytes())
    }

    /// Adds a 32-bit attribute in host order.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute made of attributes, after `head` (empty for most).
    pub(super) fn nested(self, kind: u16, head: &[u8], build: impl FnOnce(Self) -> Self) -> Self {
        let inner = build(Self { bytes: head.to_vec() }).bytes;
        self.attribute(kind | NLA_F_NESTED, &inner)
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("requests are small");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A route netlink socket of the calling thread's network namespace.
pub(super) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        send(self.descriptor.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut buffer = [0; 8192];
        loop {
            let count = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(code) = acknowledgement(&buffer[..count], self.sequence) {
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }
}

/// The error code that acknowledges `sequence`, 0 for success.
fn acknowledgement(mut bytes: &[u8], sequence: u32) -> Option<i32> {
    while bytes.len() >= HEADER_BYTES + 4 {
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("checked"));
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if kind == NLMSG_ERROR && u32_at(8) == sequence {
            return Some(u32_at(HEADER_BYTES).cast_signed());
        }
        let length = (u32_at(0) as usize).max(HEADER_BYTES).next_multiple_of(4);
        bytes = bytes.get(length..)?;
    }
    None
}
