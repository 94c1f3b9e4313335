//! Chains of others that drop what nobody accepts, as Docker and ufw set them up through iptables.
//!
//! An accept in another table does not help against a drop: rules have to go into `ip filter` itself.
//! They are put in only while the chain is there and drops, stand first, carry a comment by which they
//! are found again, and go when the board's role ends.

use std::io;
use std::net::Ipv4Addr;

use model::network::Ipv4Block;

use super::NftError;
use super::expression::{Code, Expressions, Register};
use super::message::{Attributes, Buffer, NFPROTO_INET, NFPROTO_IPV4, NFTABLES, Received};
use super::socket::Socket;
use super::table::TABLE;

const GETCHAIN: (u16, u16) = (NFTABLES, 4);
const NEWRULE: (u16, u16) = (NFTABLES, 6);
const GETRULE: (u16, u16) = (NFTABLES, 7);
const DELRULE: (u16, u16) = (NFTABLES, 8);
const NLM_F_CREATE: u16 = 0x400;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
/// The table that iptables has.
pub(super) const FILTER: &str = "filter";
/// What our rules' comments begin with.
const COMMENT: &str = "kumquat: ";
/// `NFTNL_UDATA_RULE_COMMENT`: the kind of user data that nft shows as a comment.
const USERDATA_COMMENT: u8 = 0;

/// Who is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The addresses of all pods.
    pub pods: Ipv4Block,
    /// The board's own address among them, where names are answered.
    pub own: Option<Ipv4Addr>,
}

/// A chain that the kernel calls.
struct Base {
    family: u8,
    table: String,
    name: String,
    hook: u32,
    drops: bool,
}

/// One rule: sources, destinations, and the comment that tells them.
struct Accept {
    from: Option<Ipv4Block>,
    to: Option<Ipv4Block>,
}

impl Accept {
    fn comment(&self) -> String {
        let side = |word: &str, block: Option<Ipv4Block>| {
            block.map(|block| format!(" {word} {block}")).unwrap_or_default()
        };
        format!("{COMMENT}pods{}{}", side("from", self.from), side("to", self.to))
    }

    fn write(&self, to: &mut Attributes<'_>) {
        to.nested(4, |list| {
            let mut expressions = Expressions(list);
            let first = Register(0);
            if let Some(block) = self.from {
                expressions.source(first).within(first, block, true);
            }
            if let Some(block) = self.to {
                expressions.destination(first).within(first, block, true);
            }
            expressions.verdict(&Code::Accept);
        });
        let comment = self.comment();
        let length = u8::try_from(comment.len() + 1).expect("two blocks are short");
        let mut data = vec![USERDATA_COMMENT, length];
        data.extend(comment.as_bytes());
        data.push(0);
        to.bytes(7, &data);
    }
}

/// What a chain should hold.
fn wanted(base: &Base, passage: &Passage) -> Vec<Accept> {
    if !base.drops {
        return Vec::new();
    }
    let pods = Some(passage.pods);
    match base.hook {
        HOOK_FORWARD => {
            vec![Accept { from: pods, to: None }, Accept { from: None, to: pods }]
        }
        // Only the board's own address among the pods': names are asked there.
        HOOK_INPUT => {
            let own = passage.own.map(|own| Ipv4Block::new(own, 32));
            own.into_iter().map(|own| Accept { from: pods, to: Some(own) }).collect()
        }
        _ => Vec::new(),
    }
}

/// Puts accept rules where they are needed and removes them where they are not.
pub(super) fn let_through(socket: &Socket, passage: &Passage) -> Result<Vec<String>, NftError> {
    let chains = chains(socket).map_err(NftError::Read)?;
    for base in chains.iter().filter(|base| is_iptables(base)) {
        settle(socket, base, &wanted(base, passage))
            .map_err(|source| NftError::Passage { chain: shown(base), source })?;
    }
    let shut = |base: &&Base| base.drops && base.hook == HOOK_FORWARD && !is_iptables(base);
    Ok(chains.iter().filter(shut).map(shown).collect())
}

/// Removes all accept rules.
pub(super) fn remove(socket: &Socket) -> Result<(), NftError> {
    for base in chains(socket).map_err(NftError::Read)?.iter().filter(|base| is_iptables(base)) {
        settle(socket, base, &[])
            .map_err(|source| NftError::Passage { chain: shown(base), source })?;
    }
    Ok(())
}

fn is_iptables(base: &Base) -> bool {
    base.family == NFPROTO_IPV4 && base.table == FILTER
}

fn shown(base: &Base) -> String {
    let family = if base.family == NFPROTO_IPV4 { "ip" } else { "inet" };
    format!("{family} {} {}", base.table, base.name)
}

/// Chains of others at the hooks where pods pass.
fn chains(socket: &Socket) -> io::Result<Vec<Base>> {
    let mut all = Vec::new();
    for family in [NFPROTO_IPV4, NFPROTO_INET] {
        let take = |bases: &mut Vec<Base>, message: &Received<'_>| bases.extend(base(message));
        let found = socket.dump(GETCHAIN, family, |_| (), take)?;
        all.extend(found.into_iter().filter(|base| base.table != TABLE));
    }
    Ok(all)
}

fn base(message: &Received<'_>) -> Option<Base> {
    let attributes = message.attributes();
    let hook = attributes.within(4)?.u32(1)?;
    Some(Base {
        family: message.family(),
        table: attributes.text(1)?.to_owned(),
        name: attributes.text(3)?.to_owned(),
        hook,
        drops: attributes.u32(5) == Some(POLICY_DROP),
    })
    .filter(|base| [HOOK_INPUT, HOOK_FORWARD].contains(&base.hook))
}

/// Makes ours among a chain's rules be these.
fn settle(socket: &Socket, base: &Base, wanted: &[Accept]) -> io::Result<()> {
    let own = own_rules(socket, base)?;
    let same = own.len() == wanted.len()
        && wanted.iter().all(|accept| own.iter().any(|(_, text)| *text == accept.comment()));
    if same {
        return Ok(());
    }
    let mut batch = Buffer::batch();
    for (handle, _) in own {
        batch.request(DELRULE, base.family, 0, |to| {
            to.text(1, &base.table);
            to.text(2, &base.name);
            to.u64(3, handle);
        });
    }
    for accept in wanted {
        batch.request(NEWRULE, base.family, NLM_F_CREATE, |to| {
            to.text(1, &base.table);
            to.text(2, &base.name);
            accept.write(to);
        });
    }
    socket.commit(batch)
}

/// Handles and comments of our rules in a chain.
fn own_rules(socket: &Socket, base: &Base) -> io::Result<Vec<(u64, String)>> {
    let narrow = |to: &mut Attributes<'_>| {
        to.text(1, &base.table);
        to.text(2, &base.name);
    };
    socket.dump(GETRULE, base.family, narrow, |own: &mut Vec<_>, message| {
        let attributes = message.attributes();
        // Kernels before 4.17 tell of all chains.
        if attributes.text(1) != Some(&base.table) || attributes.text(2) != Some(&base.name) {
            return;
        }
        let comment = attributes.get(7).and_then(comment);
        if let (Some(handle), Some(comment)) = (attributes.u64(3), comment) {
            own.push((handle, comment));
        }
    })
}

/// The comment in a rule's user data, when it is one of ours.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            let text = std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()?;
            return text.starts_with(COMMENT).then(|| text.to_owned());
        }
        data = &rest[value.len()..];
    }
    None
}
