//! Chains and sets: what there is besides services, and the chains that all services share.
//!
//! ```text
//! prerouting ─▶ guarded? ─▶ outside | services ─▶ pick-N ─▶ affinity | endpoints: new destination
//! output     ─▶             services ─────────────┘
//! input, forward to a board: the tunnel's port ─▶ tunnel: from boards alone
//! forward, input, output-filter: established ▸ hairpin ▸ refused ▸ egress-P ▸ ingress-P
//! input, remember: a new connection to a frontend with affinity ─▶ affinity
//! postrouting: hairpin, from outside to another board, from pods to outside: new source
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::limits::HAIRPIN_PODS_MAX;
use model::network::{Ipv4Block, NetState, Protocol};

use super::super::local::LocalPods;
use super::super::paths::TUNNEL_PORT;
use super::frontend::guard_name;
use super::policy::Policies;
use super::{Choice, Site, own_address};

/// Names that adapters and tests look for.
pub mod names {
    /// Frontend to the chain of its choice, for all sources.
    pub const SERVICES: &str = "services";
    /// The same for sources outside of the pod network, where that differs.
    pub const OUTSIDE: &str = "outside";
    /// Frontend and slot to target.
    pub const ENDPOINTS: &str = "endpoints";
    /// Client and frontend to target.
    pub const AFFINITY: &str = "affinity";
    /// What sets of frontends with affinity begin with; the seconds follow.
    pub const STICKY: &str = "sticky-";
    /// Frontends that refuse.
    pub const REFUSED: &str = "refused";
    /// Frontend to the chain that guards it.
    pub const GUARDED: &str = "guarded";
    /// Pods, with themselves.
    pub const HAIRPIN: &str = "hairpin";
    /// Pod to the chain of what may come in.
    pub const INGRESS: &str = "ingress";
    /// Pod to the chain of what may go out.
    pub const EGRESS: &str = "egress";
    /// Addresses of the cluster's boards.
    pub const BOARDS: &str = "boards";
}

/// Where a chain is called by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Destinations of what comes from links.
    NatPrerouting,
    /// Destinations of what this board sends.
    NatOutput,
    /// Sources of everything.
    NatPostrouting,
    /// What is for this board.
    FilterInput,
    /// What passes through.
    FilterForward,
    /// What this board sends.
    FilterOutput,
    /// What leaves, before its source changes.
    FilterPostrouting,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is lost.
    Drop,
    /// This hook is done with it.
    Accept,
    /// Back to where the chain was called.
    Return,
    /// On in another chain, and back.
    Jump(Arc<str>),
    /// On in another chain.
    Goto(Arc<str>),
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The source lies in a block, or outside of it.
    Source(Ipv4Block, bool),
    /// The destination lies in a block, or outside of it.
    Destination(Ipv4Block, bool),
    /// The source is in a set of addresses or ranges.
    SourceIn(Arc<str>),
    /// The destination is in a set of addresses or ranges.
    DestinationIn(Arc<str>),
    /// Of this protocol.
    Protocol(Protocol),
    /// The destination's port, first and last.
    Ports(u16, u16),
    /// The destination is an address of this board.
    DestinationIsHere,
    /// Of a connection that was let through, or an error about one.
    Established,
    /// The destination was changed.
    Translated,
    /// A pod that talks to itself.
    Hairpin,
    /// The frontend is in [`names::REFUSED`]; as a port of all addresses or of one.
    Refused {
        /// As a port of all addresses.
        any: bool,
    },
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A verdict.
    Verdict(Verdict),
    /// Ends a TCP connection.
    Reset,
    /// ICMP: nobody is at that port.
    Unreachable,
    /// The source becomes the address of the link on which it leaves.
    Masquerade,
    /// The source becomes this address.
    SourceNat(Ipv4Addr),
    /// Looks the frontend up and goes to the chain that its choice names.
    Serve {
        /// In [`names::OUTSIDE`] instead of [`names::SERVICES`].
        outside: bool,
        /// As a port of all addresses.
        any: bool,
    },
    /// Looks the frontend up in [`names::GUARDED`].
    Guard,
    /// Looks the source up in [`names::EGRESS`].
    Egress,
    /// Looks the destination up in [`names::INGRESS`].
    Ingress,
    /// Leads to a target by chance.
    Pick(Choice),
    /// Leads to the target that the client had.
    Stay(Choice),
    /// Remembers the target of a new connection to a frontend of the set for its client.
    Remember {
        /// The set of frontends.
        set: Arc<str>,
        /// As a port of all addresses.
        any: bool,
        /// How long.
        seconds: u32,
    },
}

/// Conditions, all of which must be true, and what is done then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of them.
    pub matches: Vec<Match>,
    /// What is done.
    pub action: Action,
}

/// Rules in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `None` when only other chains lead here.
    pub hook: Option<Hook>,
    /// In their order.
    pub rules: Vec<Rule>,
}

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// [`Key::Address`] to verdict.
    Pods,
    /// [`Key::Address`], paired with itself.
    Pairs,
    /// [`Key::Address`].
    Addresses,
    /// [`Key::Range`].
    Ranges,
    /// Frontends; the elements come with the services.
    Frontends,
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An address.
    Address(Ipv4Addr),
    /// First and last address.
    Range(Ipv4Addr, Ipv4Addr),
}

/// A set or a map to verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it holds.
    pub kind: SetKind,
    /// The verdict is `None` in what is no map.
    pub elements: BTreeMap<Key, Option<Verdict>>,
}

/// Chains and sets by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// By name.
    pub chains: BTreeMap<Arc<str>, Chain>,
    /// By name.
    pub sets: BTreeMap<Arc<str>, Set>,
}

impl Rule {
    pub(super) fn new(matches: impl Into<Vec<Match>>, action: Action) -> Self {
        Self { matches: matches.into(), action }
    }
}

const LOOPBACK: Ipv4Block = Ipv4Block { network: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
const REFUSE: &str = "refuse";
const TUNNEL: &str = "tunnel";

impl Program {
    /// Everything but services, for a state, the addresses of its boards and the choices that services
    /// make.
    pub(super) fn new(
        site: &Site,
        (state, boards): (&NetState, &BTreeSet<Ipv4Addr>),
        local: &LocalPods,
        choices: impl Iterator<Item = Choice>,
    ) -> Self {
        let mut program = Self::default();
        program.nat(site);
        program.filter(site);
        program.tunnel(boards);
        program.guards(state);
        program.choices(choices);
        Policies::of(state, local, site).add_to(&mut program);
        program
    }

    pub(super) fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { hook: None, rules });
    }

    fn hooked(&mut self, name: &str, hook: Hook, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Chain { hook: Some(hook), rules });
    }

    pub(super) fn set(
        &mut self,
        name: &str,
        kind: SetKind,
        elements: impl IntoIterator<Item = (Key, Option<Verdict>)>,
    ) {
        self.sets.insert(name.into(), Set { kind, elements: elements.into_iter().collect() });
    }

    fn nat(&mut self, site: &Site) {
        let from_outside = Match::Source(site.pod_range, false);
        let here = Match::DestinationIsHere;
        let serve = |outside, any| Action::Serve { outside, any };
        self.hooked(
            "prerouting",
            Hook::NatPrerouting,
            vec![
                Rule::new([from_outside.clone()], Action::Guard),
                Rule::new([from_outside.clone()], serve(true, false)),
                Rule::new([], serve(false, false)),
                Rule::new([from_outside.clone(), here.clone()], serve(true, true)),
                Rule::new([here.clone()], serve(false, true)),
            ],
        );
        let not_loopback = Match::Destination(LOOPBACK, false);
        self.hooked(
            "output",
            Hook::NatOutput,
            vec![
                Rule::new([], serve(false, false)),
                Rule::new([not_loopback, here], serve(false, true)),
            ],
        );
        let to_pods = |yes| Match::Destination(site.pod_range, yes);
        let mut rules = Vec::new();
        if let Some(block) = site.block {
            let own = Action::SourceNat(own_address(block));
            rules.push(Rule::new([Match::Hairpin], own.clone()));
            let elsewhere = Match::Destination(block, false);
            let matches = [Match::Translated, from_outside.clone(), to_pods(true), elsewhere];
            rules.push(Rule::new(matches, own));
            let from_own = Match::Source(block, true);
            rules.push(Rule::new([from_own, to_pods(false)], Action::Masquerade));
        }
        let matches = [Match::Translated, from_outside, to_pods(false)];
        rules.push(Rule::new(matches, Action::Masquerade));
        self.hooked("postrouting", Hook::NatPostrouting, rules);
    }

    fn filter(&mut self, site: &Site) {
        let accept = |matched| Rule::new([matched], Action::Verdict(Verdict::Accept));
        let refuse =
            |matched| Rule::new([matched], Action::Verdict(Verdict::Goto(Arc::from(REFUSE))));
        let to_services = || refuse(Match::Destination(site.service_range, true));
        let refused = |any| refuse(Match::Refused { any });
        self.hooked(
            "forward",
            Hook::FilterForward,
            vec![
                accept(Match::Established),
                accept(Match::Hairpin),
                to_services(),
                refused(false),
                Rule::new([], Action::Egress),
                Rule::new([], Action::Ingress),
            ],
        );
        let input = vec![accept(Match::Established), refused(false), refused(true)];
        self.hooked("input", Hook::FilterInput, input);
        let output = vec![accept(Match::Established), to_services(), refused(false)];
        self.hooked("output-filter", Hook::FilterOutput, output);
        let tcp = Match::Protocol(Protocol::Tcp);
        let refuse = vec![Rule::new([tcp], Action::Reset), Rule::new([], Action::Unreachable)];
        self.chain(REFUSE, refuse);
        let own = |address| (Key::Address(address), None);
        let places = site.block.into_iter().flat_map(|block| {
            (2..HAIRPIN_PODS_MAX).map_while(move |place| block.nth(place)).map(own)
        });
        self.set(names::HAIRPIN, SetKind::Pairs, places);
    }

    /// What comes through the tunnel counts as a pod's, whoever sent it: boards alone may. That goes before
    /// everything else, and for who would have it sent on to a board, a pod under its board's address.
    fn tunnel(&mut self, boards: &BTreeSet<Ipv4Addr>) {
        let from = Match::SourceIn(names::BOARDS.into());
        let rules = vec![
            Rule::new([from], Action::Verdict(Verdict::Return)),
            Rule::new([], Action::Verdict(Verdict::Drop)),
        ];
        self.chain(TUNNEL, rules);
        self.set(
            names::BOARDS,
            SetKind::Addresses,
            boards.iter().map(|at| (Key::Address(*at), None)),
        );
        let port = [Match::Protocol(Protocol::Udp), Match::Ports(TUNNEL_PORT, TUNNEL_PORT)];
        let to_boards = [Match::DestinationIn(names::BOARDS.into())];
        for (name, to) in [("input", &[][..]), ("forward", &to_boards)] {
            let Some(chain) = self.chains.get_mut(name) else { continue };
            let judge = Action::Verdict(Verdict::Jump(TUNNEL.into()));
            chain.rules.insert(0, Rule::new([&port[..], to].concat(), judge));
        }
    }

    fn guards(&mut self, state: &NetState) {
        for service in state.services.values() {
            let Some(name) = guard_name(service) else { continue };
            let allow = |range: &Ipv4Block| {
                Rule::new([Match::Source(*range, true)], Action::Verdict(Verdict::Return))
            };
            let mut rules: Vec<Rule> = service.source_ranges.iter().map(allow).collect();
            rules.push(Rule::new([], Action::Verdict(Verdict::Drop)));
            self.chain(&name, rules);
        }
    }

    fn choices(&mut self, choices: impl Iterator<Item = Choice>) {
        let mut lasting = BTreeMap::new();
        for choice in choices.filter(|choice| choice.count > 0) {
            let mut rules = Vec::new();
            if let Some(set) = choice.sticky_set() {
                rules.push(Rule::new([], Action::Stay(choice)));
                lasting.insert(choice.sticky_seconds, set);
            }
            rules.push(Rule::new([], Action::Pick(choice)));
            self.chain(&choice.to_string(), rules);
        }
        let mut remember = Vec::new();
        for (seconds, set) in lasting {
            self.set(&set, SetKind::Frontends, []);
            for any in [false, true] {
                let set = Arc::clone(&set);
                remember.push(Rule::new([], Action::Remember { set, any, seconds }));
            }
        }
        if let Some(input) = self.chains.get_mut("input") {
            // What is for this board leaves by no link. Others' rules of the chain come behind.
            input.rules.splice(2..2, remember.iter().cloned());
        }
        self.hooked("remember", Hook::FilterPostrouting, remember);
    }
}
