//! Rules as expressions.
//!
//! ```text
//! registers  0        1         2     3     4        5     8…11
//! frontend   address  protocol  port  slot  target's       address protocol port client
//!                                           address  port  (key of affinity)
//! ```

use std::net::Ipv4Addr;

use logic::network::rules::{Action, Choice, LOCAL_SLOT, Match, Rule, Verdict, names};

use super::expression::{Code, Compare, Connection, Expressions, Meta, Register, Tuple};
use super::set::protocol_number;

const NFPROTO_IPV4: u8 = 2;
/// `RTN_LOCAL`.
const ADDRESS_IS_HERE: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related connections.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// `NF_CT_STATE_BIT` of new connections.
const NEW: u32 = 8;
/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
const FRONTEND: Register = Register(0);
const SLOT: Register = Register(3);
const TARGET: Register = Register(4);
const TARGET_PORT: Register = Register(5);
const CLIENT: Register = Register(8);

/// Writes a rule.
pub(super) fn write(rule: &Rule, to: &mut Expressions<'_, '_>) {
    if reads_addresses(rule) {
        to.meta(Meta::Family, Register(0));
        to.compare(Register(0), Compare::Equal, &[NFPROTO_IPV4]);
    }
    for condition in &rule.matches {
        write_match(condition, to);
    }
    write_action(&rule.action, to);
}

/// What lies in a packet of IPv6 at these places is something else.
fn reads_addresses(rule: &Rule) -> bool {
    let by_action = !matches!(
        rule.action,
        Action::Verdict(_) | Action::Reset | Action::Unreachable | Action::Masquerade
    );
    let by_match = |condition: &Match| {
        !matches!(
            condition,
            Match::Established | Match::Translated | Match::Protocol(_) | Match::Ports(..)
        )
    };
    by_action || rule.matches.iter().any(by_match) || matches!(rule.action, Action::Masquerade)
}

fn write_match(condition: &Match, to: &mut Expressions<'_, '_>) {
    let first = Register(0);
    match condition {
        Match::Source(block, yes) => to.source(first).within(first, *block, *yes),
        Match::Destination(block, yes) => to.destination(first).within(first, *block, *yes),
        Match::SourceIn(set) => to.source(first).in_set(set, first),
        Match::DestinationIn(set) => to.destination(first).in_set(set, first),
        Match::Protocol(protocol) => to.meta(Meta::Protocol, first).compare(
            first,
            Compare::Equal,
            &[protocol_number(*protocol)],
        ),
        Match::Ports(from, end) if from == end => {
            to.port(first).compare(first, Compare::Equal, &from.to_be_bytes())
        }
        Match::Ports(from, end) => to
            .port(first)
            .compare(first, Compare::AtLeast, &from.to_be_bytes())
            .compare(first, Compare::AtMost, &end.to_be_bytes()),
        Match::DestinationIsHere => to.destination_kind(first).compare(
            first,
            Compare::Equal,
            &ADDRESS_IS_HERE.to_ne_bytes(),
        ),
        Match::Established => bits(to, Connection::State, ESTABLISHED_OR_RELATED),
        Match::Translated => bits(to, Connection::Status, TRANSLATED),
        Match::Hairpin => to.source(first).destination(Register(1)).in_set(names::HAIRPIN, first),
        Match::Refused { any } => frontend(to, *any, FRONTEND).in_set(names::REFUSED, FRONTEND),
    };
}

/// Goes on when one of the bits is set.
fn bits<'a, 'b, 'c>(
    to: &'a mut Expressions<'b, 'c>,
    key: Connection,
    bits: u32,
) -> &'a mut Expressions<'b, 'c> {
    let first = Register(0);
    to.connection(key, first).mask(first, &bits.to_ne_bytes()).compare(
        first,
        Compare::NotEqual,
        &[0; 4],
    )
}

/// Loads address, protocol and port into three registers.
fn frontend<'a, 'b, 'c>(
    to: &'a mut Expressions<'b, 'c>,
    any: bool,
    at: Register,
) -> &'a mut Expressions<'b, 'c> {
    match any {
        true => to.address(at, Ipv4Addr::UNSPECIFIED),
        false => to.destination(at),
    };
    to.meta(Meta::Protocol, Register(at.0 + 1)).port(Register(at.0 + 2))
}

/// Loads the key of affinity.
fn client<'a, 'b, 'c>(
    to: &'a mut Expressions<'b, 'c>,
    choice: &Choice,
) -> &'a mut Expressions<'b, 'c> {
    frontend(to, choice.any, CLIENT).source(Register(CLIENT.0 + 3))
}

/// Loads the frontend that a connection had before its destination was changed.
fn translated_frontend<'a, 'b, 'c>(
    to: &'a mut Expressions<'b, 'c>,
    any: bool,
) -> &'a mut Expressions<'b, 'c> {
    match any {
        true => to.address(CLIENT, Ipv4Addr::UNSPECIFIED),
        false => to.address_of(Tuple::Original, true, CLIENT),
    };
    to.meta(Meta::Protocol, Register(CLIENT.0 + 1)).port_of(
        Tuple::Original,
        true,
        Register(CLIENT.0 + 2),
    )
}

/// Loads one of the targets.
fn any_target<'a, 'b, 'c>(
    to: &'a mut Expressions<'b, 'c>,
    choice: &Choice,
) -> &'a mut Expressions<'b, 'c> {
    let offset = if choice.local { LOCAL_SLOT } else { 0 };
    frontend(to, choice.any, FRONTEND).random(SLOT, choice.count, offset).load(
        names::ENDPOINTS,
        FRONTEND,
        TARGET,
    )
}

fn write_action(action: &Action, to: &mut Expressions<'_, '_>) {
    let first = Register(0);
    match action {
        Action::Verdict(verdict) => to.verdict(&code(verdict)),
        Action::Reset => to.reset(),
        Action::Unreachable => to.unreachable(),
        Action::Masquerade => to.masquerade(),
        Action::SourceNat(address) => to.address(first, *address).new_source(first),
        Action::Serve { outside, any } => {
            let map = if *outside { names::OUTSIDE } else { names::SERVICES };
            frontend(to, *any, FRONTEND).branch(map, FRONTEND)
        }
        Action::Guard => frontend(to, false, FRONTEND).branch(names::GUARDED, FRONTEND),
        Action::Egress => to.source(first).branch(names::EGRESS, first),
        Action::Ingress => to.destination(first).branch(names::INGRESS, first),
        Action::Pick(choice) => any_target(to, choice).new_destination(TARGET, TARGET_PORT),
        Action::Stay(choice) => client(to, choice)
            .load(names::AFFINITY, CLIENT, TARGET)
            .new_destination(TARGET, TARGET_PORT),
        Action::Remember { set, any, seconds } => {
            bits(to, Connection::State, NEW);
            bits(to, Connection::Status, TRANSLATED);
            translated_frontend(to, *any).in_set(set, CLIENT);
            to.address_of(Tuple::Original, false, Register(CLIENT.0 + 3));
            to.address_of(Tuple::Reply, false, TARGET).port_of(Tuple::Reply, false, TARGET_PORT);
            // Whoever has a target came here by it: an update then only begins its time anew.
            to.update(names::AFFINITY, CLIENT, TARGET, *seconds)
        }
    };
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
