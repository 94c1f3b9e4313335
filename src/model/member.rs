//! The member record: where one member of the group of masters is, while nobody leads the group.
//!
//! A member signs its record with the cluster's authority, which every master has, and announces it over
//! mDNS, so that members whose addresses have all changed find each other. A record is a hint and never a
//! permission: it makes another member dial, and whoever answers there proves the member's key.
//!
//! Text form: pairs of a TXT record, `m=<member> a=<address>,... p=<port> f=<ca> s=<signature>`. Neither
//! a leader record nor that of a board without a cluster can be taken for it. Reading is total and
//! bounded, and gives back exactly the bytes that were signed.

use std::net::Ipv4Addr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::leader::{BadRecord, CaFingerprint, number, read_addresses, read_fingerprint};
use crate::limits::{LEADER_RECORD_BYTES_MAX, LEADER_SIGNATURE_BYTES_MAX};
use crate::masters::MemberId;

/// Keys of the text form, in order; the last is the signature's.
const KEYS: [&str; 5] = ["m", "a", "p", "f", "s"];
/// What a signature covers besides the record, so that it means nothing elsewhere.
const SIGNED_START: &str = "kumquat member record 1\n";

/// Where a member of the group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Which member.
    pub member: MemberId,
    /// Where it listens, the best first; one to [`crate::limits::LEADER_ADDRESSES_MAX`].
    pub addresses: Vec<Ipv4Addr>,
    /// Port for other boards.
    pub peer_port: u16,
    /// Which authority signs for its cluster.
    pub ca: CaFingerprint,
}

impl MemberRecord {
    /// What the authority signs.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let pairs = KEYS.iter().zip(self.values()).map(|(key, value)| format!("{key}={value}"));
        format!("{SIGNED_START}{}", pairs.collect::<Vec<_>>().join(" ")).into_bytes()
    }

    /// Values of the text form, in the order of [`KEYS`], without the signature.
    fn values(&self) -> [String; 4] {
        let addresses: Vec<String> = self.addresses.iter().map(Ipv4Addr::to_string).collect();
        [
            self.member.0.to_string(),
            addresses.join(","),
            self.peer_port.to_string(),
            self.ca.iter().map(|byte| format!("{byte:02x}")).collect(),
        ]
    }

    fn read(values: [&str; 4]) -> Result<Self, BadRecord> {
        let [member, addresses, port, ca] = values;
        let member = number(member).filter(|member| *member > 0);
        let port = number(port).filter(|port| *port > 0);
        Ok(Self {
            member: MemberId(member.ok_or(BadRecord::Field("m"))?),
            addresses: read_addresses(addresses).ok_or(BadRecord::Field("a"))?,
            peer_port: port.ok_or(BadRecord::Field("p"))?,
            ca: read_fingerprint(ca).ok_or(BadRecord::Field("f"))?,
        })
    }
}

/// A member record with the signature of its cluster's authority, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedMember {
    record: MemberRecord,
    signature: Vec<u8>,
}

impl SignedMember {
    /// Signs a record with `sign`, which gets the bytes to sign.
    ///
    /// # Errors
    /// A field that others would refuse.
    pub fn sign(
        record: MemberRecord,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Self, BadRecord> {
        let values = record.values();
        MemberRecord::read(values.each_ref().map(String::as_str))?;
        let signature = sign(&record.signed_bytes());
        Self { record, signature }.checked()
    }

    /// What it says; believe it only after the signature has been checked.
    pub fn record(&self) -> &MemberRecord {
        &self.record
    }

    /// The signature over [`MemberRecord::signed_bytes`].
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The text form as pairs, for a TXT record.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let signature = URL_SAFE_NO_PAD.encode(&self.signature);
        KEYS.into_iter().zip(self.record.values().into_iter().chain([signature])).collect()
    }

    /// Reads the text form from pairs; others than its own are ignored.
    ///
    /// # Errors
    /// A pair is missing, has a value that cannot be, or is too long.
    pub fn from_pairs<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, BadRecord> {
        let mut values = [""; 5];
        for (slot, key) in values.iter_mut().zip(KEYS) {
            *slot = value(key).ok_or(BadRecord::Fields)?;
        }
        if values.iter().map(|value| value.len() + 3).sum::<usize>() > LEADER_RECORD_BYTES_MAX {
            return Err(BadRecord::TooLarge);
        }
        let [m, a, p, f, s] = values;
        let record = MemberRecord::read([m, a, p, f])?;
        let signature = URL_SAFE_NO_PAD.decode(s).map_err(|_| BadRecord::Field("s"))?;
        Self { record, signature }.checked()
    }

    fn checked(self) -> Result<Self, BadRecord> {
        match self.signature.len() {
            1..=LEADER_SIGNATURE_BYTES_MAX => Ok(self),
            _ => Err(BadRecord::Field("s")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::SignedRecord;

    fn signed() -> SignedMember {
        let record = MemberRecord {
            member: MemberId(12),
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 0, 0, 7)],
            peer_port: 7443,
            ca: std::array::from_fn(|at| at as u8 * 17),
        };
        SignedMember::sign(record, |_| b"signed".to_vec()).expect("good")
    }

    #[test]
    fn the_text_is_frozen_and_read_back() {
        let pairs = signed().pairs();
        let text: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let said = "m=12 a=192.0.2.1,10.0.0.7 p=7443 f=00112233445566778899aabbccddeeff";
        assert_eq!(text.join(" "), format!("{said} s=c2lnbmVk"));
        let value = |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        assert_eq!(SignedMember::from_pairs(value), Ok(signed()));
        assert_eq!(SignedRecord::from_pairs(value), Err(BadRecord::Fields), "it leads nobody");
        let bytes = signed().record().signed_bytes();
        assert_eq!(bytes, format!("kumquat member record 1\n{said}").into_bytes());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = signed().pairs();
        for (key, bad) in [
            ("m", "0"),
            ("m", "+1"),
            ("a", ""),
            ("a", "0.0.0.0"),
            ("a", "1.2.3.4,1.2.3.4,1.2.3.4,1.2.3.4,1.2.3.4"),
            ("p", "0"),
            ("p", "70000"),
            ("f", "00"),
            ("s", ""),
            ("s", "!"),
        ] {
            let value = |asked: &str| match asked == key {
                true => Some(bad),
                false => good.iter().find(|(k, _)| *k == asked).map(|(_, v)| v.as_str()),
            };
            assert!(SignedMember::from_pairs(value).is_err(), "{key}={bad}");
        }
        let long = "1".repeat(LEADER_RECORD_BYTES_MAX);
        let read = SignedMember::from_pairs(|_| Some(long.as_str()));
        assert_eq!(read, Err(BadRecord::TooLarge));
        assert_eq!(SignedMember::from_pairs(|_| None), Err(BadRecord::Fields));
    }
}
