//! What a board without a cluster tells the link: that it wants to found one with the others that have
//! the same bootstrap token.
//!
//! A record is a hint and never a permission: it makes others dial, and the token's secret decides.
//! Text form: pairs of a TXT record, `b=<token id> i=<board id> x=<expect> a=<address>,... p=<port>`.

use std::net::Ipv4Addr;

use crate::limits::{GENESIS_EXPECT_MAX, LEADER_ADDRESSES_MAX};
use crate::token::TokenId;

/// Keys of the text form, in order.
const KEYS: [&str; 5] = ["b", "i", "x", "a", "p"];
/// Bytes of all values; the longest of each have less.
const BYTES_MAX: usize = 160;

/// A board that wants to found a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisRecord {
    /// With which token.
    pub token: TokenId,
    /// Random, chosen once and kept.
    pub id: [u8; 16],
    /// How many boards it expects, itself among them.
    pub expect: u8,
    /// Where it listens, the best first; one to [`LEADER_ADDRESSES_MAX`].
    pub addresses: Vec<Ipv4Addr>,
    /// Port for other boards.
    pub peer_port: u16,
}

impl GenesisRecord {
    /// The text form as pairs.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let addresses: Vec<String> = self.addresses.iter().map(Ipv4Addr::to_string).collect();
        let values = [
            self.token.to_string(),
            self.id.iter().map(|byte| format!("{byte:02x}")).collect(),
            self.expect.to_string(),
            addresses.join(","),
            self.peer_port.to_string(),
        ];
        KEYS.into_iter().zip(values).collect()
    }

    /// Reads the text form from pairs; others than its own are ignored. `None` when a pair is missing,
    /// has a value that cannot be, or is too long.
    pub fn from_pairs<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let mut values = [""; 5];
        for (slot, key) in values.iter_mut().zip(KEYS) {
            *slot = value(key)?;
        }
        if values.iter().map(|value| value.len()).sum::<usize>() > BYTES_MAX {
            return None;
        }
        let [token, id, expect, addresses, port] = values;
        let addresses: Vec<Ipv4Addr> =
            addresses.split(',').map(|text| text.parse().ok()).collect::<Option<_>>()?;
        Some(Self {
            token: token.parse().ok()?,
            id: read_id(id)?,
            expect: expect.parse().ok().filter(|n| (1..=GENESIS_EXPECT_MAX).contains(n))?,
            addresses: Some(addresses).filter(|all| all.len() <= LEADER_ADDRESSES_MAX)?,
            peer_port: port.parse().ok().filter(|port| *port > 0)?,
        })
    }
}

fn read_id(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> GenesisRecord {
        GenesisRecord {
            token: TokenId([1, 2, 3, 4, 5]),
            id: std::array::from_fn(|at| at as u8 * 17),
            expect: 3,
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 0, 0, 7)],
            peer_port: 7443,
        }
    }

    #[test]
    fn the_text_is_frozen_and_read_back() {
        let pairs = record().pairs();
        let text: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text.join(" "),
            "b=aebagbaf i=00112233445566778899aabbccddeeff x=3 a=192.0.2.1,10.0.0.7 p=7443"
        );
        let value = |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
        assert_eq!(GenesisRecord::from_pairs(value), Some(record()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = record().pairs();
        for (key, bad) in [
            ("b", "short"),
            ("i", "00"),
            ("i", "0011223344556677889\u{e4}aabbccddeef"),
            ("x", "0"),
            ("x", "65"),
            ("a", ""),
            ("a", "1.2.3.4,1.2.3.4,1.2.3.4,1.2.3.4,1.2.3.4"),
            ("p", "0"),
            ("p", "70000"),
        ] {
            let value = |asked: &str| match asked == key {
                true => Some(bad),
                false => good.iter().find(|(k, _)| *k == asked).map(|(_, v)| v.as_str()),
            };
            assert_eq!(GenesisRecord::from_pairs(value), None, "{key}={bad}");
        }
        assert_eq!(GenesisRecord::from_pairs(|_| None), None);
    }
}
