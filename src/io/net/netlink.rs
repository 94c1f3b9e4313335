//! Route netlink messages, their acknowledgements and dumps (linux/netlink.h, linux/rtnetlink.h).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
/// Flag of an answer that was torn by a change while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;
/// Bits of an attribute's type that are no flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Flags of a request that creates, and fails when the thing exists (NLM_F_CREATE | NLM_F_EXCL).
pub(super) const CREATE: u16 = 0x400 | 0x200;
/// Flags of a request that creates or replaces (NLM_F_CREATE | NLM_F_REPLACE).
pub(super) const REPLACE: u16 = 0x400 | 0x100;
/// Bytes that the kernel puts into one part of a dump at most.
const DUMP_BYTES: usize = 32 * 1024;
/// A dump that is torn by changes is begun again this often.
const DUMP_TRIES: u8 = 5;
/// The kernel answers at once; a socket that does not is broken.
const ANSWER_SECONDS: i64 = 10;

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

/// A route netlink socket of the network namespace that the thread was in which opened it.
#[derive(Debug)]
pub(super) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        Ok(Self { descriptor, sequence: 0 })
    }

    /// Sends one request and waits for its acknowledgement.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.requests([message])
    }

    /// Sends requests in one go and waits for all acknowledgements; the first error counts. A request
    /// is carried out although one before it failed.
    pub(super) fn requests(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut count = 0_u32;
        for message in messages {
            bytes.extend(message.finish(first.wrapping_add(count)));
            count += 1;
        }
        self.sequence = self.sequence.wrapping_add(count);
        if count == 0 {
            return Ok(());
        }
        send(self.descriptor.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let (mut open, mut outcome) = (count, Ok(()));
        let mut buffer = [0; 8192];
        while open > 0 {
            let length = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for answer in answers(&buffer[..length]) {
                let ours = answer.sequence.wrapping_sub(first) < count;
                let (true, Some(code)) = (ours, answer.code()) else { continue };
                open = open.saturating_sub(1);
                if code != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(-code));
                }
            }
        }
        outcome
    }

    /// Asks for one thing: the type and body of the first answer.
    pub(super) fn ask(&mut self, message: Message) -> io::Result<Option<(u16, Vec<u8>)>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        send(self.descriptor.as_raw_fd(), &message.finish(sequence), MsgFlags::empty())?;
        let mut found = None;
        let mut buffer = vec![0; DUMP_BYTES];
        loop {
            let length = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for answer in answers(&buffer[..length]).filter(|a| a.sequence == sequence) {
                match answer.code() {
                    Some(0) => return Ok(found),
                    Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                    None if found.is_none() => found = Some((answer.kind, answer.body.to_vec())),
                    None => {}
                }
            }
        }
    }

    /// Everything of a kind: `take` gets the body of each answer.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            if let Some(bodies) = self.dump_once(kind, body)? {
                bodies.iter().for_each(|body| take(body));
                return Ok(());
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the network changes all the time"))
    }

    /// `None` when it was torn by a change.
    fn dump_once(&mut self, kind: u16, body: &[u8]) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let message = Message::new(kind, NLM_F_DUMP, body).finish(sequence);
        send(self.descriptor.as_raw_fd(), &message, MsgFlags::empty())?;
        let (mut bodies, mut torn) = (Vec::new(), false);
        let mut buffer = vec![0; DUMP_BYTES];
        loop {
            let length = recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for answer in answers(&buffer[..length]).filter(|a| a.sequence == sequence) {
                torn |= answer.flags & NLM_F_DUMP_INTR != 0;
                match (answer.kind, answer.code()) {
                    (NLMSG_DONE, _) => return Ok((!torn).then_some(bodies)),
                    (_, Some(code)) if code != 0 => {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    (_, Some(_)) => {}
                    (_, None) => bodies.push(answer.body.to_vec()),
                }
            }
        }
    }
}

/// One message of the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The error code of an acknowledgement, negative or 0 for success.
    fn code(&self) -> Option<i32> {
        let code = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        (self.kind == NLMSG_ERROR).then_some(code)
    }
}

/// The messages in what one call received.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = number(&header[..4]) as usize;
        let answer = Answer {
            kind: u16_at(4),
            flags: u16_at(6),
            sequence: number(&header[8..12]),
            body: bytes.get(HEADER_BYTES..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// The attributes in `bytes`: type and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
    })
}

/// A 32-bit number in host order; 0 when there is none.
pub(super) fn number(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Text up to its closing zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back() {
        let message = Message::new(1, 0, &[]).text(3, "eth0").number(4, 1_500).nested(
            18,
            &[1, 2, 3, 4],
            |inner| inner.attribute(1, &[7]),
        );
        let found: Vec<(u16, Vec<u8>)> = attributes(&message.bytes[HEADER_BYTES..])
            .map(|(kind, value)| (kind, value.to_vec()))
            .collect();
        assert_eq!(found.len(), 3);
        assert_eq!((found[0].0, text(&found[0].1)), (3, "eth0".to_owned()));
        assert_eq!((found[1].0, number(&found[1].1)), (4, 1_500));
        assert_eq!((found[2].0, &found[2].1[..4]), (18, &[1, 2, 3, 4][..]));
        assert_eq!(attributes(&found[2].1[4..]).next(), Some((1, &[7][..])));
    }

    #[test]
    fn damaged_bytes_end_the_list() {
        for bad in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[0, 0, 0, 0, 1, 2, 3, 4]] {
            assert_eq!(attributes(bad).count(), 0, "{bad:?}");
        }
        let mut header = [0; HEADER_BYTES];
        assert_eq!(answers(&header).count(), 0, "a length of 0");
        header[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(answers(&header).count(), 0, "longer than what was received");
    }

    #[test]
    fn the_first_error_of_many_requests_counts() {
        let mut socket = Socket::open().expect("a socket");
        let nonsense = || Message::new(9_999, 0, &[0; 16]);
        let lookup = || Message::new(22, 0, &[0; 8]);
        assert!(socket.requests([nonsense(), lookup()]).is_err());
        assert!(socket.requests([]).is_ok());
        let mut loopback = 0;
        // RTM_GETADDR.
        socket.dump(22, &[0; 8], |_| loopback += 1).expect("addresses");
        assert!(loopback > 0 || !nix::unistd::geteuid().is_root());
    }
}
