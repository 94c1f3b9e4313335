//! Sets and maps: what they hold, and their elements as bytes.
//!
//! Every part of a key takes four bytes; addresses, protocols and ports are in network order, numbers
//! in the host's.

use std::net::Ipv4Addr;
use std::sync::Arc;

use logic::network::rules::{
    Backends, Frontend, Key, LOCAL_SLOT, Set, SetKind, Target, Verdict, names,
};
use model::limits::{NFT_ELEMENTS_PER_MESSAGE_MAX, SERVICE_AFFINITY_CLIENTS_MAX};
use model::network::Protocol;

use super::expression::Code;
use super::message::Attributes;

// Numbers by which nft names the parts of a key (its own table of types); six bits each.
const ADDRESS: u32 = 7;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const MARK: u32 = 19;
const VERDICT: u32 = 0xffff_ff00;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;

/// How the kernel is told of a set.
pub(super) struct Shape {
    flags: u32,
    key: (u32, u32),
    data: Option<(u32, u32)>,
    size: u32,
}

const fn key(parts: &[u32]) -> (u32, u32) {
    let mut kind = 0;
    let mut at = 0;
    while at < parts.len() {
        kind = kind << 6 | parts[at];
        at += 1;
    }
    (kind, 4 * at as u32)
}

const FRONTEND: (u32, u32) = key(&[ADDRESS, PROTOCOL, PORT]);
const TARGET: (u32, u32) = key(&[ADDRESS, PORT]);

impl Shape {
    const fn set(key: (u32, u32)) -> Self {
        Self { flags: 0, key, data: None, size: 0 }
    }

    const fn map(key: (u32, u32), data: (u32, u32)) -> Self {
        Self { flags: NFT_SET_MAP, key, data: Some(data), size: 0 }
    }

    const fn verdicts(key: (u32, u32)) -> Self {
        Self::map(key, (VERDICT, 0))
    }

    /// Of a set of the program.
    pub(super) fn of(set: &Set) -> Self {
        let address = key(&[ADDRESS]);
        match set.kind {
            SetKind::Frontends => Self::set(FRONTEND),
            SetKind::Pods => Self::verdicts(address),
            SetKind::Pairs => Self::set(key(&[ADDRESS, ADDRESS])),
            SetKind::Addresses => Self::set(address),
            SetKind::Ranges => Self { flags: NFT_SET_INTERVAL, ..Self::set(address) },
        }
    }

    /// Writes the attributes behind table and name.
    pub(super) fn write(&self, id: u32, to: &mut Attributes<'_>) {
        to.u32(3, self.flags);
        to.u32(4, self.key.0);
        to.u32(5, self.key.1);
        if let Some((kind, length)) = self.data {
            to.u32(6, kind);
            to.u32(7, length);
        }
        if self.size > 0 {
            to.nested(9, |description| description.u32(1, self.size));
        }
        to.u32(10, id);
    }
}

/// The sets of services, which are always there.
pub(super) const SERVICE_SETS: [(&str, Shape); 6] = [
    (names::SERVICES, Shape::verdicts(FRONTEND)),
    (names::OUTSIDE, Shape::verdicts(FRONTEND)),
    (names::ENDPOINTS, Shape::map(key(&[ADDRESS, PROTOCOL, PORT, MARK]), TARGET)),
    (names::REFUSED, Shape::set(FRONTEND)),
    (names::GUARDED, Shape::verdicts(FRONTEND)),
    (
        names::AFFINITY,
        Shape {
            flags: NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL,
            size: SERVICE_AFFINITY_CLIENTS_MAX,
            ..Shape::map(key(&[ADDRESS, PROTOCOL, PORT, ADDRESS]), TARGET)
        },
    ),
];

/// What a map has for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Bytes(Vec<u8>),
    Verdict(Verdict),
}

/// An element as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) value: Value,
    /// It marks the end of a range.
    pub(super) end: bool,
    /// Milliseconds that it lives in all, and that are left.
    pub(super) lives: Option<(u64, u64)>,
}

impl Element {
    pub(super) fn new(key: Vec<u8>, value: Value) -> Self {
        Self { key, value, end: false, lives: None }
    }

    /// Writes it; a key alone suffices to delete it.
    pub(super) fn write(&self, with_value: bool, to: &mut Attributes<'_>) {
        to.nested(1, |key| key.bytes(1, &self.key));
        if self.end {
            to.u32(3, NFT_SET_ELEM_INTERVAL_END);
        }
        if !with_value {
            return;
        }
        match &self.value {
            Value::None => (),
            Value::Bytes(bytes) => to.nested(2, |value| value.bytes(1, bytes)),
            Value::Verdict(verdict) => to.nested(2, |value| code(verdict).write(value)),
        }
        if let Some((all, left)) = self.lives {
            to.u64(4, all);
            to.u64(5, left);
        }
    }
}

/// Elements in pieces that fit into a message each.
pub(super) fn pieces(elements: &[Element]) -> impl Iterator<Item = &[Element]> {
    elements.chunks(NFT_ELEMENTS_PER_MESSAGE_MAX)
}

fn code(verdict: &Verdict) -> Code<'_> {
    match verdict {
        Verdict::Drop => Code::Drop,
        Verdict::Accept => Code::Accept,
        Verdict::Return => Code::Return,
        Verdict::Jump(chain) => Code::Jump(chain),
        Verdict::Goto(chain) => Code::Goto(chain),
    }
}

/// The number of a protocol in an IP header.
pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn target(bytes: &mut Vec<u8>, (address, port): Target) {
    bytes.extend(address.octets());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 2]);
}

fn frontend(frontend: &Frontend) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(frontend.address.octets());
    bytes.extend([protocol_number(frontend.protocol), 0, 0, 0]);
    bytes.extend(frontend.port.to_be_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// Frontend and target of an element of the map of affinity.
pub(super) fn client_of(element: &Element) -> Option<(Frontend, Target)> {
    let Value::Bytes(value) = &element.value else { return None };
    let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    let port = |bytes: &[u8]| <[u8; 2]>::try_from(bytes).ok().map(u16::from_be_bytes);
    let number = element.key.get(4)?;
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = all.into_iter().find(|protocol| protocol_number(*protocol) == *number)?;
    let frontend = Frontend {
        address: address(element.key.get(..4)?)?,
        protocol,
        port: port(element.key.get(8..10)?)?,
    };
    Some((frontend, (address(value.get(..4)?)?, port(value.get(4..6)?)?)))
}

/// Elements of a set of the program.
pub(super) fn of_set(key: &Key, verdict: Option<&Verdict>, kind: SetKind) -> Vec<Element> {
    let octets = |address: &Ipv4Addr| address.octets().to_vec();
    let value = verdict.map_or(Value::None, |verdict| Value::Verdict(verdict.clone()));
    match key {
        Key::Address(address) if kind == SetKind::Pairs => {
            vec![Element::new(octets(address).repeat(2), value)]
        }
        Key::Address(address) => vec![Element::new(octets(address), value)],
        Key::Range(first, last) => {
            let mut elements = vec![Element::new(octets(first), value)];
            // A range up to the last of all addresses has no end.
            if let Some(end) = last.to_bits().checked_add(1) {
                let end = Element::new(end.to_be_bytes().to_vec(), Value::None);
                elements.push(Element { end: true, ..end });
            }
            elements
        }
    }
}

/// Elements of a frontend, each with the set that it belongs to.
pub(super) fn of_service(at: &Frontend, backends: &Backends) -> Vec<(Arc<str>, Element)> {
    let own = || frontend(at);
    let mut elements = Vec::new();
    let sides = [
        (names::SERVICES, backends.inside, &backends.endpoints, 0),
        (names::OUTSIDE, backends.outside, &backends.local, LOCAL_SLOT),
    ];
    for (map, choice, targets, offset) in sides {
        let Some(choice) = choice else { continue };
        elements.push((map.into(), Element::new(own(), Value::Verdict(choice.verdict()))));
        for (slot, to) in (offset..).zip(targets) {
            let mut key = own();
            key.extend(slot.to_ne_bytes());
            let mut value = Vec::with_capacity(8);
            target(&mut value, *to);
            elements.push((names::ENDPOINTS.into(), Element::new(key, Value::Bytes(value))));
        }
        if let Some(set) = choice.sticky_set().filter(|_| offset == 0) {
            elements.push((set, Element::new(own(), Value::None)));
        }
    }
    if backends.refused {
        elements.push((names::REFUSED.into(), Element::new(own(), Value::None)));
    }
    if let Some(guard) = &backends.guard {
        let verdict = Value::Verdict(Verdict::Jump(guard.clone()));
        elements.push((names::GUARDED.into(), Element::new(own(), verdict)));
    }
    elements
}
