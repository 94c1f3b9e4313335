//! Messages to nfnetlink, appended to one buffer (linux/netlink.h, linux/netfilter/nfnetlink.h).
//!
//! Attributes are numbers in network order, unlike those of rtnetlink. A change of the packet filter is
//! a batch: a message that begins it, the changes, one that ends it; the kernel takes all or nothing.

pub(super) const HEADER_BYTES: usize = 16;
pub(super) const GENERIC_BYTES: usize = 4;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
/// The subsystem of packet filters.
pub(super) const NFTABLES: u16 = 10;
/// Tables of IPv4 and IPv6 together.
pub(super) const NFPROTO_INET: u8 = 1;
/// Tables of IPv4.
pub(super) const NFPROTO_IPV4: u8 = 2;

/// Messages one after another.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the message that is being written begins.
    start: usize,
}

impl Buffer {
    /// Messages of a batch that is begun.
    pub(super) fn batch() -> Self {
        let mut buffer = Self::default();
        buffer.mark(NFNL_MSG_BATCH_BEGIN);
        buffer
    }

    /// Whether there is anything besides the beginning.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() <= HEADER_BYTES + GENERIC_BYTES
    }

    /// Ends the batch. The last change is the one that is acknowledged: kernels before 6.10 do not
    /// acknowledge the end of a batch. Returns the bytes and the sequence number to wait for.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let flags = u16::from_ne_bytes([self.bytes[self.start + 6], self.bytes[self.start + 7]]);
        let flags = flags | NLM_F_ACK;
        self.bytes[self.start + 6..self.start + 8].copy_from_slice(&flags.to_ne_bytes());
        let last = self.sequence;
        self.mark(NFNL_MSG_BATCH_END);
        (self.bytes, last)
    }

    /// The bytes of messages that are no batch.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn mark(&mut self, kind: u16) {
        let to = NFTABLES.to_be_bytes();
        self.message(kind, 0, [0, 0, to[0], to[1]], |_| ());
    }

    /// Appends a message of a subsystem's own kind for a family of protocols.
    pub(super) fn request(
        &mut self,
        (subsystem, kind): (u16, u16),
        family: u8,
        flags: u16,
        build: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.message(subsystem << 8 | kind, flags, [family, 0, 0, 0], build);
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        generic: [u8; GENERIC_BYTES],
        build: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&generic);
        build(&mut Attributes { bytes: &mut self.bytes });
        let length = u32::try_from(self.bytes.len() - self.start).expect("messages are bounded");
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Attributes of a message, or of an attribute.
pub(super) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("attributes are bounded");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let length = u16::try_from(value.len() + 5).expect("names are bounded");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub(super) fn nested(&mut self, kind: u16, build: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        build(&mut Attributes { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are bounded");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A message of the kernel.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    /// Subsystem and kind.
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

impl<'a> Received<'a> {
    /// The family of protocols that it is about.
    pub(super) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }

    /// Its attributes.
    pub(super) fn attributes(&self) -> Reader<'a> {
        Reader { bytes: self.body.get(GENERIC_BYTES..).unwrap_or_default() }
    }
}

/// The messages in what was received; ends at the first that is cut off.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER_BYTES)?;
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = usize::try_from(u32_at(0)).ok()?;
        let body = bytes.get(HEADER_BYTES..length)?;
        let message = Received { kind: u16_at(4), flags: u16_at(6), sequence: u32_at(8), body };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes that were received.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Attributes in these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The value of the first attribute of a kind.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes within one.
    pub(super) fn within(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self::new)
    }

    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.bytes.get(4..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut buffer = Buffer::batch();
        assert!(buffer.is_empty());
        buffer.request((NFTABLES, 3), NFPROTO_INET, 0x400, |attributes| {
            attributes.text(1, "abc");
            attributes.nested(4, |hook| {
                hook.u32(1, 7);
                hook.u64(2, 1 << 40);
            });
        });
        let (bytes, last) = buffer.finish();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 3);
        let change = all[1];
        assert_eq!((change.kind, change.flags, change.sequence), (10 << 8 | 3, 0x405, last));
        assert_eq!(change.family(), NFPROTO_INET);
        assert_eq!(change.attributes().text(1), Some("abc"));
        let hook = change.attributes().within(4).expect("nested");
        assert_eq!((hook.u32(1), hook.u64(2), hook.get(9)), (Some(7), Some(1 << 40), None));
        for cut in 0..bytes.len() {
            let whole = messages(&bytes[..cut]).count();
            assert!(whole < 3, "cut at {cut}");
            messages(&bytes[..cut]).for_each(|message| message.attributes().for_each(drop));
        }
    }
}
