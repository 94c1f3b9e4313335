//! Identifiers: uids, resource versions, object keys.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A resource version: `(epoch base + log index) << 20 | ordinal in the entry`.
///
/// Unique, never reused, strictly increasing over the whole life of a cluster. Zero means
/// "no version": before the first write, or "any" where a client says `resourceVersion=0`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version(pub u64);

impl Version {
    /// Bits of the ordinal: one entry carries fewer than 2^20 operations.
    pub const ORDINAL_BITS: u32 = 20;

    /// The version of operation `ordinal` in the log entry at `position` (epoch base + index).
    pub fn of_entry(position: u64, ordinal: u32) -> Self {
        debug_assert!(ordinal < 1 << Self::ORDINAL_BITS);
        Self(position << Self::ORDINAL_BITS | u64::from(ordinal))
    }

    /// Epoch base plus log index of the entry that this version belongs to.
    pub fn position(self) -> u64 {
        self.0 >> Self::ORDINAL_BITS
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A uid as 16 raw bytes; printed as a UUID (RFC 9562).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Uid(pub [u8; 16]);

impl Uid {
    /// Turns 16 random bytes into a version 4 UUID.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Reads the usual text form; `None` when it is not a UUID.
    pub fn parse(text: &str) -> Option<Self> {
        let raw = text.as_bytes();
        if raw.len() != 36 || [8, 13, 18, 23].iter().any(|&at| raw[at] != b'-') {
            return None;
        }
        let mut digits = raw.iter().filter(|b| **b != b'-');
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let high = (*digits.next()? as char).to_digit(16)?;
            let low = (*digits.next()? as char).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        digits.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({self})")
    }
}

/// Where an object lives: `group/plural` of its kind, namespace (empty when cluster-scoped), name.
///
/// Orders by kind, then namespace, then name: the order of a LIST.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Storage prefix of the kind: `/pods`, `apps/deployments` (the core group is empty).
    pub kind: KindKey,
    /// Namespace, or empty for a cluster-scoped object.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

/// `group/plural`, the same in every version of an API: the stable name of a kind in the store.
pub type KindKey = std::borrow::Cow<'static, str>;

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_text_comes_back() {
        let uid = Uid::from_random(*b"0123456789abcdef");
        assert_eq!(Uid::parse(&uid.to_string()), Some(uid));
        for bad in
            ["", "x", "30313233-3435-4637-b839-61626364656", "30313233x3435-4637-b839-616263646566"]
        {
            assert_eq!(Uid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_order_by_entry_then_ordinal() {
        assert!(Version::of_entry(7, 1048575) < Version::of_entry(8, 0));
        assert_eq!(Version::of_entry(7, 3).position(), 7);
    }
}
