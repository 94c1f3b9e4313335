//! Connections that the kernel remembers (linux/netfilter/nfnetlink_conntrack.h), to forget some.

use std::io;
use std::net::Ipv4Addr;

use logic::network::rules::Flow;
use model::limits::CONNTRACK_FORGET_MAX;
use model::network::Protocol;

use super::message::{Reader, Received};
use super::set::protocol_number;
use super::socket::Socket;

const CONNTRACK: u16 = 1;
const GET: (u16, u16) = (CONNTRACK, 1);
const DELETE: (u16, u16) = (CONNTRACK, 2);
const AF_INET: u8 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const NLA_F_NESTED: u16 = 0x8000;
/// `IPS_SEEN_REPLY` (linux/netfilter/nf_conntrack_common.h).
const SEEN_REPLY: u32 = 2;

/// A connection that is to be forgotten, by what tells it from others.
struct Remembered {
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
}

/// Makes the kernel forget connections of UDP, and those of TCP that nobody has answered; the next packet
/// is led anew. Returns how many.
///
/// # Errors
/// The kernel does not tell, or does not forget.
pub fn forget(is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let socket = Socket::open()?;
    let stale = socket.dump(
        GET,
        AF_INET,
        |_| (),
        |stale: &mut Vec<Remembered>, message| {
            if stale.len() < CONNTRACK_FORGET_MAX
                && flow(message).is_some_and(|flow| is_stale(&flow))
            {
                let attributes = message.attributes();
                stale.push(Remembered {
                    tuple: attributes.get(CTA_TUPLE_ORIG).unwrap_or_default().to_vec(),
                    id: attributes.get(CTA_ID).map(<[u8]>::to_vec),
                });
            }
        },
    )?;
    for remembered in &stale {
        let forgotten = socket.request(DELETE, AF_INET, |to| {
            to.bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, &remembered.tuple);
            if let Some(id) = &remembered.id {
                to.bytes(CTA_ID, id);
            }
        });
        match forgotten {
            // It ended by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            other => other?,
        }
    }
    Ok(stale.len())
}

/// The connection that a message is about, when it is one of UDP or an unanswered one of TCP.
fn flow(message: &Received<'_>) -> Option<Flow> {
    let attributes = message.attributes();
    let original = attributes.within(CTA_TUPLE_ORIG)?;
    let reply = attributes.within(CTA_TUPLE_REPLY)?;
    let number = original.within(2)?.get(1)?;
    let is = |protocol| number == [protocol_number(protocol)];
    let protocol = if is(Protocol::Udp) {
        Protocol::Udp
    } else {
        let status = attributes.get(CTA_STATUS)?.try_into().ok()?;
        let is_answered = u32::from_be_bytes(status) & SEEN_REPLY != 0;
        (is(Protocol::Tcp) && !is_answered).then_some(Protocol::Tcp)?
    };
    Some(Flow {
        protocol,
        to: (address(original, 2)?, port(original, 3)?),
        answered_by: (address(reply, 1)?, port(reply, 2)?),
    })
}

fn address(tuple: Reader<'_>, kind: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = tuple.within(1)?.get(kind)?.try_into().ok()?;
    Some(octets.into())
}

fn port(tuple: Reader<'_>, kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(tuple.within(2)?.get(kind)?.try_into().ok()?))
}
