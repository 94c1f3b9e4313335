//! Expressions of rules: instructions of the kernel's packet filter on sixteen registers of 32 bits
//! (linux/netfilter/nf_tables.h).

use std::net::Ipv4Addr;

use model::network::Ipv4Block;

use super::message::Attributes;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG32_00: u32 = 8;

/// A register of 32 bits, from 0 to 15.
#[derive(Clone, Copy)]
pub(super) struct Register(pub(super) u32);

impl Register {
    fn number(self) -> u32 {
        NFT_REG32_00 + self.0
    }
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy)]
pub(super) enum Compare {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// `enum nft_meta_keys`.
#[derive(Clone, Copy)]
pub(super) enum Meta {
    Family = 15,
    Protocol = 16,
}

/// `enum nft_ct_keys`.
#[derive(Clone, Copy)]
pub(super) enum Connection {
    State = 0,
    Status = 2,
}

/// What a packet of a connection had before it was changed, or what answers it has.
#[derive(Clone, Copy)]
pub(super) enum Tuple {
    /// Where the client sent to: address and port.
    Original,
    /// Who answers.
    Reply,
}

/// What is left of a packet's journey.
pub(super) enum Code<'a> {
    Drop,
    Accept,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

impl Code<'_> {
    /// Writes it as an attribute of a value.
    pub(super) fn write(&self, to: &mut Attributes<'_>) {
        // `enum nft_verdicts` and the numbers of netfilter(9).
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Return => (-5, None),
            Self::Jump(chain) => (-3, Some(*chain)),
            Self::Goto(chain) => (-4, Some(*chain)),
        };
        to.nested(NFTA_DATA_VERDICT, |verdict| {
            verdict.u32(NFTA_VERDICT_CODE, i32::cast_unsigned(code));
            if let Some(chain) = chain {
                verdict.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

/// The expressions of a rule, in their order.
pub(super) struct Expressions<'a, 'b>(pub(super) &'a mut Attributes<'b>);

impl Expressions<'_, '_> {
    fn push(&mut self, name: &str, build: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nested(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, name);
            element.nested(NFTA_EXPR_DATA, build);
        });
        self
    }

    pub(super) fn meta(&mut self, key: Meta, to: Register) -> &mut Self {
        self.push("meta", |data| {
            data.u32(2, key as u32);
            data.u32(1, to.number());
        })
    }

    pub(super) fn connection(&mut self, key: Connection, to: Register) -> &mut Self {
        self.push("ct", |data| {
            data.u32(2, key as u32);
            data.u32(1, to.number());
        })
    }

    /// An address of a connection (`NFT_CT_SRC_IP`, or with `destination` `NFT_CT_DST_IP`).
    pub(super) fn address_of(&mut self, of: Tuple, destination: bool, to: Register) -> &mut Self {
        self.tuple(19 + u32::from(destination), of, to)
    }

    /// A port of a connection (`NFT_CT_PROTO_SRC`, or with `destination` `NFT_CT_PROTO_DST`).
    pub(super) fn port_of(&mut self, of: Tuple, destination: bool, to: Register) -> &mut Self {
        self.tuple(11 + u32::from(destination), of, to)
    }

    fn tuple(&mut self, key: u32, of: Tuple, to: Register) -> &mut Self {
        self.push("ct", |data| {
            data.u32(2, key);
            data.u32(1, to.number());
            data.u8(3, of as u8);
        })
    }

    /// Bytes of the network header (base 1) or the transport header (base 2).
    fn payload(&mut self, base: u32, offset: u32, length: u32, to: Register) -> &mut Self {
        self.push("payload", |data| {
            data.u32(1, to.number());
            data.u32(2, base);
            data.u32(3, offset);
            data.u32(4, length);
        })
    }

    pub(super) fn source(&mut self, to: Register) -> &mut Self {
        self.payload(1, 12, 4, to)
    }

    pub(super) fn destination(&mut self, to: Register) -> &mut Self {
        self.payload(1, 16, 4, to)
    }

    pub(super) fn port(&mut self, to: Register) -> &mut Self {
        self.payload(2, 2, 2, to)
    }

    pub(super) fn compare(&mut self, what: Register, how: Compare, with: &[u8]) -> &mut Self {
        self.push("cmp", |data| {
            data.u32(1, what.number());
            data.u32(2, how as u32);
            data.nested(3, |value| value.bytes(NFTA_DATA_VALUE, with));
        })
    }

    pub(super) fn mask(&mut self, what: Register, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).expect("a few bytes");
        self.push("bitwise", |data| {
            data.u32(1, what.number());
            data.u32(2, what.number());
            data.u32(3, length);
            data.nested(4, |value| value.bytes(NFTA_DATA_VALUE, mask));
            data.nested(5, |value| value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    /// Goes on when an address lies in a block, or outside of it.
    pub(super) fn within(&mut self, what: Register, block: Ipv4Block, yes: bool) -> &mut Self {
        let how = if yes { Compare::Equal } else { Compare::NotEqual };
        if block.prefix < 32 {
            let mask = u32::MAX.checked_shl(32 - u32::from(block.prefix)).unwrap_or_default();
            self.mask(what, &mask.to_be_bytes());
        }
        self.compare(what, how, &block.network.octets())
    }

    pub(super) fn address(&mut self, to: Register, address: Ipv4Addr) -> &mut Self {
        self.push("immediate", |data| {
            data.u32(1, to.number());
            data.nested(2, |value| value.bytes(NFTA_DATA_VALUE, &address.octets()));
        })
    }

    pub(super) fn verdict(&mut self, code: &Code<'_>) -> &mut Self {
        self.push("immediate", |data| {
            data.u32(1, NFT_REG_VERDICT);
            data.nested(2, |value| code.write(value));
        })
    }

    /// A number by chance: `offset` and below `offset + count`.
    pub(super) fn random(&mut self, to: Register, count: u32, offset: u32) -> &mut Self {
        self.push("numgen", |data| {
            data.u32(1, to.number());
            data.u32(2, count);
            data.u32(3, 1);
            data.u32(4, offset);
        })
    }

    /// Goes on when the key is in the set.
    pub(super) fn in_set(&mut self, set: &str, key: Register) -> &mut Self {
        self.push("lookup", |data| {
            data.text(1, set);
            data.u32(2, key.number());
        })
    }

    /// Loads what the map has for the key, or ends the rule.
    pub(super) fn load(&mut self, map: &str, key: Register, to: Register) -> &mut Self {
        self.push("lookup", |data| {
            data.text(1, map);
            data.u32(2, key.number());
            data.u32(3, to.number());
        })
    }

    /// Does what the map says for the key, or ends the rule.
    pub(super) fn branch(&mut self, map: &str, key: Register) -> &mut Self {
        self.push("lookup", |data| {
            data.text(1, map);
            data.u32(2, key.number());
            data.u32(3, NFT_REG_VERDICT);
        })
    }

    /// `NFT_DYNSET_OP_UPDATE`: adds an element to a map, or lets the one that is there live as long
    /// anew; ends the rule when there is no place.
    pub(super) fn update(
        &mut self,
        map: &str,
        key: Register,
        value: Register,
        seconds: u32,
    ) -> &mut Self {
        self.push("dynset", |data| {
            data.text(1, map);
            data.u32(3, 1);
            data.u32(4, key.number());
            data.u32(5, value.number());
            data.u64(6, u64::from(seconds) * 1000);
        })
    }

    /// `NF_NAT_RANGE_PROTO_SPECIFIED`: address and port become what is in the registers.
    pub(super) fn new_destination(&mut self, address: Register, port: Register) -> &mut Self {
        self.push("nat", |data| {
            data.u32(1, 1);
            data.u32(2, 2);
            data.u32(3, address.number());
            data.u32(5, port.number());
            data.u32(7, 2);
        })
    }

    /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: two connections never fight for one port.
    pub(super) fn new_source(&mut self, address: Register) -> &mut Self {
        self.push("nat", |data| {
            data.u32(1, 0);
            data.u32(2, 2);
            data.u32(3, address.number());
            data.u32(7, 1 << 4);
        })
    }

    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.push("masq", |data| data.u32(1, 1 << 4))
    }

    /// The kind of a destination address, as in rtnetlink(7).
    pub(super) fn destination_kind(&mut self, to: Register) -> &mut Self {
        self.push("fib", |data| {
            data.u32(1, to.number());
            data.u32(2, 3);
            data.u32(3, 2);
        })
    }

    /// `NFT_REJECT_TCP_RST`.
    pub(super) fn reset(&mut self) -> &mut Self {
        self.push("reject", |data| data.u32(1, 1))
    }

    /// `NFT_REJECT_ICMPX_PORT_UNREACH`.
    pub(super) fn unreachable(&mut self) -> &mut Self {
        self.push("reject", |data| {
            data.u32(1, 2);
            data.u8(2, 1);
        })
    }
}
