//! Network policies of this board's own pods as chains.
//!
//! A pod that some policy with a direction selects gets one chain for that direction: every rule of
//! every such policy lets traffic return, the end drops it. Chains are named by the pod's address, sets
//! by the policy, so that several pods share them; `_` parts what names of policies may look like. What
//! comes back on a connection that was let through, a pod that talks to itself, and this board's own
//! traffic never get here. A pod has its chains from the moment the board gives it an address, not only
//! when the cluster knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::ids::Uid;
use model::network::{Ipv4Block, NetPeers, NetPolicy, NetPolicyPort, NetRule, NetState};

use super::super::local::LocalPods;
use super::Site;
use super::frontend::short;
use super::program::{Action, Key, Match, Program, Rule, SetKind, Verdict, names};

/// Which side of a pod traffic is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn rules(self, policy: &NetPolicy) -> Option<&[NetRule]> {
        match self {
            Self::Ingress => policy.ingress.as_deref(),
            Self::Egress => policy.egress.as_deref(),
        }
    }

    fn map(self) -> &'static str {
        match self {
            Self::Ingress => names::INGRESS,
            Self::Egress => names::EGRESS,
        }
    }

    /// What sets of this direction begin with.
    fn peers(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }

    fn peer_in(self, set: Arc<str>) -> Match {
        match self {
            Self::Ingress => Match::SourceIn(set),
            Self::Egress => Match::DestinationIn(set),
        }
    }
}

/// The policies of the pods of one board.
pub(super) struct Policies<'a> {
    pods: BTreeMap<(Direction, Ipv4Addr), Vec<&'a NetPolicy>>,
}

impl<'a> Policies<'a> {
    pub(super) fn of(state: &'a NetState, local: &LocalPods, site: &Site) -> Self {
        let mut pods: BTreeMap<_, Vec<&NetPolicy>> = BTreeMap::new();
        let Some(block) = site.block else { return Self { pods } };
        let here: BTreeMap<Uid, Ipv4Addr> =
            local.pods.iter().map(|(address, pod)| (pod.uid, *address)).collect();
        for policy in state.policies.values() {
            let known = policy.pods.iter().copied().filter(|pod| block.contains(*pod));
            let starting = policy.starting.iter().filter_map(|uid| here.get(uid).copied());
            let selected: BTreeSet<Ipv4Addr> = known.chain(starting).collect();
            let directions = Direction::BOTH.into_iter().filter(|d| d.rules(policy).is_some());
            for direction in directions {
                for pod in &selected {
                    pods.entry((direction, *pod)).or_default().push(policy);
                }
            }
        }
        Self { pods }
    }

    pub(super) fn add_to(&self, program: &mut Program) {
        for direction in Direction::BOTH {
            let of = self.pods.iter().filter(|((side, _), _)| *side == direction);
            let mut verdicts = Vec::new();
            for ((_, pod), policies) in of {
                let name: Arc<str> = format!("{}-{pod}", direction.map()).into();
                let mut rules = Vec::new();
                for policy in policies {
                    allow(program, policy, direction, *pod, &mut rules);
                }
                rules.push(Rule::new([], Action::Verdict(Verdict::Drop)));
                program.chain(&name, rules);
                verdicts.push((Key::Address(*pod), Some(Verdict::Jump(name))));
            }
            program.set(direction.map(), SetKind::Pods, verdicts);
        }
    }
}

fn allow(
    program: &mut Program,
    policy: &NetPolicy,
    direction: Direction,
    pod: Ipv4Addr,
    rules: &mut Vec<Rule>,
) {
    for (index, rule) in direction.rules(policy).unwrap_or_default().iter().enumerate() {
        let name = format!("{}-{}/{}", direction.peers(), policy.namespace, policy.name);
        let name = format!("{}_{index}", short(&name));
        let peers = match &rule.peers {
            None => vec![None],
            Some(peers) => {
                let sets = sets_of(program, &name, peers);
                sets.into_iter().map(|set| Some(direction.peer_in(set))).collect()
            }
        };
        let ports = ports_of(program, &name, rule, direction, pod);
        for peer in &peers {
            for port in &ports {
                let matches: Vec<Match> = peer.iter().chain(port).cloned().collect();
                rules.push(Rule::new(matches, Action::Verdict(Verdict::Return)));
            }
        }
    }
}

/// Makes the sets of a rule's other side; one per kind that there is something of.
fn sets_of(program: &mut Program, name: &str, peers: &NetPeers) -> Vec<Arc<str>> {
    let mut sets = Vec::new();
    if !peers.addresses.is_empty() {
        let elements = peers.addresses.iter().map(|address| (Key::Address(*address), None));
        program.set(name, SetKind::Addresses, elements);
        sets.push(Arc::from(name));
    }
    let ranges = ranges_of(&peers.blocks);
    if !ranges.is_empty() {
        let name = format!("{name}_blocks");
        let elements = ranges.into_iter().map(|(first, last)| (Key::Range(first, last), None));
        program.set(&name, SetKind::Ranges, elements);
        sets.push(name.into());
    }
    sets
}

/// Conditions on ports, any of which is enough; none at all when no port is open.
fn ports_of(
    program: &mut Program,
    name: &str,
    rule: &NetRule,
    direction: Direction,
    pod: Ipv4Addr,
) -> Vec<Vec<Match>> {
    if rule.ports.is_empty() {
        return vec![Vec::new()];
    }
    let mut open = Vec::new();
    for (index, port) in rule.ports.iter().enumerate() {
        let mut matches = of_port(port);
        if !port.only.is_empty() {
            match direction {
                Direction::Ingress if port.only.contains(&pod) => (),
                Direction::Ingress => continue,
                Direction::Egress => {
                    let set = format!("{name}_port_{index}");
                    let elements = port.only.iter().map(|address| (Key::Address(*address), None));
                    program.set(&set, SetKind::Addresses, elements);
                    matches.push(Match::DestinationIn(set.into()));
                }
            }
        }
        open.push(matches);
    }
    open
}

fn of_port(port: &NetPolicyPort) -> Vec<Match> {
    let mut matches = vec![Match::Protocol(port.protocol)];
    if port.port != 0 {
        matches.push(Match::Ports(port.port, port.end.max(port.port)));
    }
    matches
}

/// Blocks without their exceptions, as ranges that neither overlap nor touch.
fn ranges_of(blocks: &[(Ipv4Block, Vec<Ipv4Block>)]) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    // Ends are one behind the last address: 64 bits have room for it.
    let bounds = |block: &Ipv4Block| {
        (u64::from(block.network.to_bits()), u64::from(block.last().to_bits()) + 1)
    };
    let mut kept = BTreeSet::new();
    for (block, except) in blocks {
        let (mut from, end) = bounds(block);
        let holes: BTreeSet<(u64, u64)> = except.iter().map(bounds).collect();
        for (hole, hole_end) in holes {
            if from < hole.min(end) {
                kept.insert((from, hole.min(end)));
            }
            from = from.max(hole_end);
        }
        if from < end {
            kept.insert((from, end));
        }
    }
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (from, end) in kept {
        match merged.last_mut() {
            Some((_, last)) if from <= *last => *last = end.max(*last),
            _ => merged.push((from, end)),
        }
    }
    let address = |number: u64| Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX));
    merged.into_iter().map(|(from, end)| (address(from), address(end - 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lose_their_exceptions_and_melt_together() {
        let block = |text: &str| text.parse::<Ipv4Block>().expect("a block");
        let check = |blocks: &[(&str, &[&str])], expected: &[(&str, &str)]| {
            let parsed: Vec<_> = blocks
                .iter()
                .map(|(whole, except)| (block(whole), except.iter().map(|e| block(e)).collect()))
                .collect();
            let found: Vec<_> =
                ranges_of(&parsed).iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            let expected: Vec<_> =
                expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(found, expected, "{blocks:?}");
        };
        check(&[("10.0.0.0/8", &[])], &[("10.0.0.0", "10.255.255.255")]);
        check(
            &[("10.0.0.0/24", &["10.0.0.0/26", "10.0.0.128/25"])],
            &[("10.0.0.64", "10.0.0.127")],
        );
        check(&[("10.0.0.0/24", &["10.0.0.0/24"])], &[]);
        check(
            &[("0.0.0.0/0", &["10.0.0.0/8", "10.1.0.0/16"])],
            &[("0.0.0.0", "9.255.255.255"), ("11.0.0.0", "255.255.255.255")],
        );
        // One policy's exception is no exception of another.
        check(
            &[("10.0.0.0/24", &["10.0.0.64/26"]), ("10.0.0.64/26", &[])],
            &[("10.0.0.0", "10.0.0.255")],
        );
        check(&[("10.0.0.0/25", &[]), ("10.0.0.128/25", &[])], &[("10.0.0.0", "10.0.0.255")]);
    }
}
