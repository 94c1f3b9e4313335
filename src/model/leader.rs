//! The leader record: which board leads a cluster, and where it is reached.
//!
//! The leader signs its record with the cluster's authority and announces it over mDNS; the same text
//! travels on the bus and lies on each board's disk. A record is a hint and never a permission: a
//! forged one makes somebody dial and fail. Whoever knows the cluster's authority checks the signature
//! over [`LeaderRecord::signed_bytes`]; a board that only has a token finds its cluster by the
//! fingerprint in the record and proves the rest when it dials.
//!
//! One text form, in this order, a pair each as an mDNS TXT property, or all of them with spaces:
//! `c=<cluster> e=<epoch> t=<term> n=<name> a=<address>,... p=<api>,<mqtt>,<peer> f=<ca> s=<signature>`.
//! Reading is total and bounded, and gives back exactly the bytes that were signed.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::limits::{LEADER_ADDRESSES_MAX, LEADER_RECORD_BYTES_MAX, LEADER_SIGNATURE_BYTES_MAX};
use crate::validation::names;

/// Keys of the text form, in order; the last is the signature's.
const KEYS: [&str; 8] = ["c", "e", "t", "n", "a", "p", "f", "s"];
/// What a signature covers besides the record, so that it means nothing elsewhere.
const SIGNED_START: &str = "kumquat leader record 1\n";

/// The first half of the SHA-256 of an authority's SubjectPublicKeyInfo.
pub type CaFingerprint = [u8; 16];

/// Who leads a cluster, since which term, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderRecord {
    /// Name of the cluster, an RFC 1123 label.
    pub cluster: String,
    /// Raised by promote and restore.
    pub epoch: u64,
    /// Raised by each election.
    pub term: u64,
    /// Name of the leading board, an RFC 1123 label.
    pub name: String,
    /// Where it listens, the best first; one to [`LEADER_ADDRESSES_MAX`].
    pub addresses: Vec<Ipv4Addr>,
    /// Port of the API.
    pub api_port: u16,
    /// Port of the bus.
    pub mqtt_port: u16,
    /// Port for other boards: join, tunnel.
    pub peer_port: u16,
    /// Which authority signs for this cluster.
    pub ca: CaFingerprint,
}

/// Why something is no leader record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Not the pairs that there must be.
    #[error("leader record has other fields")]
    Fields,
    /// A pair whose value cannot be.
    #[error("leader record has a bad field `{0}`")]
    Field(&'static str),
    /// More bytes than any record has.
    #[error("leader record is larger than {LEADER_RECORD_BYTES_MAX} bytes")]
    TooLarge,
}

impl LeaderRecord {
    /// Epoch and term: the record with the greater rank is the newer one of a cluster.
    pub fn rank(&self) -> (u64, u64) {
        (self.epoch, self.term)
    }

    /// What the authority signs.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut text = SIGNED_START.to_owned();
        join(&mut text, &self.values());
        text.into_bytes()
    }

    /// Values of the text form, in the order of [`KEYS`], without the signature.
    fn values(&self) -> [String; 7] {
        let list = |parts: Vec<String>| parts.join(",");
        [
            self.cluster.clone(),
            self.epoch.to_string(),
            self.term.to_string(),
            self.name.clone(),
            list(self.addresses.iter().map(Ipv4Addr::to_string).collect()),
            list([self.api_port, self.mqtt_port, self.peer_port].map(|p| p.to_string()).into()),
            self.ca.iter().map(|byte| format!("{byte:02x}")).collect(),
        ]
    }

    fn read(values: &[&str; 7]) -> Result<Self, BadRecord> {
        let [cluster, epoch, term, name, addresses, ports, ca] = *values;
        let record = Self {
            cluster: label(cluster).ok_or(BadRecord::Field("c"))?,
            epoch: number(epoch).ok_or(BadRecord::Field("e"))?,
            term: number(term).ok_or(BadRecord::Field("t"))?,
            name: label(name).ok_or(BadRecord::Field("n"))?,
            addresses: read_addresses(addresses).ok_or(BadRecord::Field("a"))?,
            api_port: 0,
            mqtt_port: 0,
            peer_port: 0,
            ca: read_fingerprint(ca).ok_or(BadRecord::Field("f"))?,
        };
        let mut read = ports.split(',').map(|port| number(port).filter(|port| *port > 0));
        match (read.next(), read.next(), read.next(), read.next()) {
            (Some(Some(api_port)), Some(Some(mqtt_port)), Some(Some(peer_port)), None) => {
                Ok(Self { api_port, mqtt_port, peer_port, ..record })
            }
            _ => Err(BadRecord::Field("p")),
        }
    }
}

/// A leader record with the signature of its cluster's authority, not checked yet.
///
/// In JSON it is its text form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignedRecord {
    record: LeaderRecord,
    signature: Vec<u8>,
}

impl SignedRecord {
    /// Signs a record with `sign`, which gets the bytes to sign.
    ///
    /// # Errors
    /// A field that others would refuse.
    pub fn sign(
        record: LeaderRecord,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Self, BadRecord> {
        let values = record.values();
        LeaderRecord::read(&values.each_ref().map(String::as_str))?;
        let signature = sign(&record.signed_bytes());
        if signature.is_empty() || signature.len() > LEADER_SIGNATURE_BYTES_MAX {
            return Err(BadRecord::Field("s"));
        }
        Ok(Self { record, signature })
    }

    /// What it says; believe it only after the signature has been checked.
    pub fn record(&self) -> &LeaderRecord {
        &self.record
    }

    /// The signature over [`LeaderRecord::signed_bytes`].
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
        let mut values = [""; 8];
        for (slot, key) in values.iter_mut().zip(KEYS) {
            *slot = value(key).ok_or(BadRecord::Fields)?;
        }
        if values.iter().map(|value| value.len() + 3).sum::<usize>() > LEADER_RECORD_BYTES_MAX {
            return Err(BadRecord::TooLarge);
        }
        let [c, e, t, n, a, p, f, s] = values;
        let record = LeaderRecord::read(&[c, e, t, n, a, p, f])?;
        let signature = URL_SAFE_NO_PAD.decode(s).map_err(|_| BadRecord::Field("s"))?;
        if signature.is_empty() || signature.len() > LEADER_SIGNATURE_BYTES_MAX {
            return Err(BadRecord::Field("s"));
        }
        Ok(Self { record, signature })
    }
}

impl fmt::Display for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        join(&mut text, &self.pairs().into_iter().map(|(_, value)| value).collect::<Vec<_>>());
        f.write_str(&text)
    }
}

impl FromStr for SignedRecord {
    type Err = BadRecord;

    fn from_str(text: &str) -> Result<Self, BadRecord> {
        if text.len() > LEADER_RECORD_BYTES_MAX {
            return Err(BadRecord::TooLarge);
        }
        let mut values = [""; 8];
        let mut pairs = text.split(' ');
        for (slot, key) in values.iter_mut().zip(KEYS) {
            let pair = pairs.next().and_then(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            *slot = pair.ok_or(BadRecord::Fields)?;
        }
        if pairs.next().is_some() {
            return Err(BadRecord::Fields);
        }
        Self::from_pairs(|key| {
            KEYS.iter().zip(values).find(|(known, _)| **known == key).map(|(_, value)| value)
        })
    }
}

impl TryFrom<String> for SignedRecord {
    type Error = BadRecord;

    fn try_from(text: String) -> Result<Self, BadRecord> {
        text.parse()
    }
}

impl From<SignedRecord> for String {
    fn from(record: SignedRecord) -> Self {
        record.to_string()
    }
}

fn join(text: &mut String, values: &[String]) {
    for (index, (key, value)) in KEYS.iter().zip(values).enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
}

fn label(text: &str) -> Option<String> {
    names::label(text).is_empty().then(|| text.to_owned())
}

/// Only the form that `Display` gives, so that what was signed comes back.
pub(crate) fn number<T: FromStr + fmt::Display>(text: &str) -> Option<T> {
    let number: T = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

pub(crate) fn read_addresses(text: &str) -> Option<Vec<Ipv4Addr>> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        let address: Ipv4Addr = number(part)?;
        let is_host =
            !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast();
        if !is_host || addresses.len() == LEADER_ADDRESSES_MAX {
            return None;
        }
        addresses.push(address);
    }
    Some(addresses)
}

pub(crate) fn read_fingerprint(text: &str) -> Option<CaFingerprint> {
    let digits = text.as_bytes();
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = CaFingerprint::default();
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LABEL_BYTES_MAX;

    fn record() -> LeaderRecord {
        LeaderRecord {
            cluster: "kumquat".into(),
            epoch: 1,
            term: 12,
            name: "board-1".into(),
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7)],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: 7443,
            ca: *b"0123456789abcdef",
        }
    }

    const GOLDEN: &str = "c=kumquat e=1 t=12 n=board-1 a=192.0.2.1,198.51.100.7 p=6443,8883,7443 \
                          f=30313233343536373839616263646566 s=c2lnbmVk";

    #[test]
    fn golden_text_comes_back() {
        let signed = SignedRecord::sign(record(), |_| b"signed".to_vec()).expect("valid");
        assert_eq!(signed.to_string(), GOLDEN);
        assert_eq!(GOLDEN.parse(), Ok(signed.clone()));
        let json = serde_json::to_string(&signed).expect("text");
        assert_eq!(json, format!("\"{GOLDEN}\""));
        assert_eq!(serde_json::from_str::<SignedRecord>(&json).expect("text"), signed);
        let start = GOLDEN.split(" s=").next().expect("a start");
        let bytes = signed.record().signed_bytes();
        assert_eq!(bytes, format!("kumquat leader record 1\n{start}").into_bytes());
        let pairs = signed.pairs();
        let find = |key: &str| {
            let pair = pairs.iter().find(|pair| pair.0 == key)?;
            Some(pair.1.as_str())
        };
        assert_eq!(SignedRecord::from_pairs(find), Ok(signed.clone()));
    }

    /// The largest record that a board may make fits into a TXT record of 400 bytes.
    #[test]
    fn the_largest_record_is_read_back() {
        let large = LeaderRecord {
            cluster: "c".repeat(LABEL_BYTES_MAX),
            epoch: u64::MAX,
            term: u64::MAX,
            name: "n".repeat(LABEL_BYTES_MAX),
            addresses: vec![Ipv4Addr::new(192, 168, 255, 254); LEADER_ADDRESSES_MAX],
            api_port: u16::MAX,
            mqtt_port: u16::MAX,
            peer_port: u16::MAX,
            ca: [255; 16],
        };
        let signed = SignedRecord::sign(large, |_| vec![1; LEADER_SIGNATURE_BYTES_MAX]);
        let signed = signed.expect("valid");
        // A TXT property is one byte of length, the key, `=` and the value (RFC 6763 section 6).
        let txt: usize =
            signed.pairs().iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        assert!(txt < 400, "{txt} bytes");
        assert!(signed.pairs().iter().all(|(_, value)| value.len() < 250));
        assert_eq!(signed.to_string().parse(), Ok(signed));
    }

    #[test]
    fn bad_records_are_refused() {
        let check = |from: &str, to: &str, expected| {
            let text = GOLDEN.replacen(from, to, 1);
            assert_ne!(text, GOLDEN, "{from}");
            assert_eq!(text.parse::<SignedRecord>(), Err(expected), "{text}");
        };
        check("c=kumquat ", "", BadRecord::Fields);
        check("c=kumquat", "C=kumquat", BadRecord::Fields);
        check("c=kumquat", "c=Kumquat", BadRecord::Field("c"));
        check("c=kumquat", "c=", BadRecord::Field("c"));
        check("e=1", "e=01", BadRecord::Field("e"));
        check("e=1", "e=-1", BadRecord::Field("e"));
        check("t=12", "t=+12", BadRecord::Field("t"));
        check("t=12", "t=18446744073709551616", BadRecord::Field("t"));
        check("n=board-1", "n=board_1", BadRecord::Field("n"));
        check("a=192.0.2.1,198.51.100.7", "a=", BadRecord::Field("a"));
        check("a=192.0.2.1", "a=0.0.0.0", BadRecord::Field("a"));
        check("a=192.0.2.1", "a=224.0.0.251", BadRecord::Field("a"));
        check("a=192.0.2.1", "a=192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4", BadRecord::Field("a"));
        check("p=6443", "p=0", BadRecord::Field("p"));
        check("p=6443", "p=6443,1", BadRecord::Field("p"));
        check("p=6443,", "p=", BadRecord::Field("p"));
        check("f=30", "f=3", BadRecord::Field("f"));
        check("f=30", "f=3G", BadRecord::Field("f"));
        check("s=c2lnbmVk", "s=", BadRecord::Field("s"));
        check("s=c2lnbmVk", "s=c2lnbmVk=", BadRecord::Field("s"));
        check("s=c2lnbmVk", "s=c2lnbmVk x=1", BadRecord::Fields);
        let long = format!("s={}", "A".repeat(LEADER_SIGNATURE_BYTES_MAX * 4 / 3 + 4));
        check("s=c2lnbmVk", &long, BadRecord::Field("s"));
        check("s=c2lnbmVk", &format!("s={}", "A".repeat(4_000)), BadRecord::TooLarge);
        let none = LeaderRecord { addresses: Vec::new(), ..record() };
        assert_eq!(SignedRecord::sign(none, |_| vec![1]), Err(BadRecord::Field("a")));
    }

    #[test]
    fn rank_is_epoch_then_term() {
        let of = |epoch, term| LeaderRecord { epoch, term, ..record() }.rank();
        assert!(of(1, 13) > of(1, 12) && of(2, 1) > of(1, 99) && of(1, 12) == record().rank());
    }
}
