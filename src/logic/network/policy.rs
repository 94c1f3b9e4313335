//! NetworkPolicies with their selectors resolved to addresses of pods.
//!
//! Ports with a name are another number in another pod: they are resolved for each destination, which
//! is a pod that the policy applies to for ingress, and a peer for egress (any pod where the peers
//! are everybody or a block). A rule none of whose ports exists allows nothing and is left out.
//!
//! Pods that have no address yet are named by uid: their board isolates them with the address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::ids::Uid;
use model::limits::NET_POLICY_STARTING_MAX;
use model::network::{NetPeers, NetPolicy, NetPolicyPort, NetRule};
use model::view::{NetworkPolicyView, PolicyPeer, PolicyPort, PolicyRule, Selector, TargetPort};

use super::pods::{Member, Name, Namespaces, PodQuery, PodSets, Queries};
use crate::world::World;

/// The sets that policies use.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) sets: PodSets,
    used: HashMap<Name, Queries>,
}

impl Policies {
    /// What boards know of a policy; `None` when there is none.
    pub(super) fn compile(&mut self, world: &World, name: &Name) -> Option<NetPolicy> {
        let view = world.policy(&name.0, &name.1);
        let now = view.map(queries).unwrap_or_default();
        let before = self.used.remove(name).unwrap_or_default();
        self.sets.set_uses(world, name, &before, &now);
        let view = view?;
        self.used.insert(name.clone(), now);
        Some(self.render(view))
    }

    fn render(&self, view: &NetworkPolicyView) -> NetPolicy {
        let own = PodQuery::own(&view.meta.namespace, &view.pods);
        let selected: Vec<&Member> = self.members(&own).collect();
        let ingress = |rule: &PolicyRule| {
            Some(NetRule {
                ports: ports(&rule.ports, || selected.clone())?,
                peers: self.peers(&view.meta.namespace, rule),
            })
        };
        let egress = |rule: &PolicyRule| {
            let destinations = || self.destinations(&view.meta.namespace, rule);
            Some(NetRule {
                ports: ports(&rule.ports, destinations)?,
                peers: self.peers(&view.meta.namespace, rule),
            })
        };
        let rules = view.ingress.as_ref();
        NetPolicy {
            namespace: view.meta.namespace.to_string(),
            name: view.meta.name.to_string(),
            pods: addresses(selected.iter().copied()),
            ingress: rules.map(|rules| rules.iter().filter_map(ingress).collect()),
            egress: view.egress.as_ref().map(|rules| rules.iter().filter_map(egress).collect()),
            starting: starting(&selected),
        }
    }

    fn members(&self, query: &PodQuery) -> impl Iterator<Item = &Member> {
        self.sets.get(query).into_iter().flat_map(|set| set.members.values())
    }

    fn peers(&self, namespace: &Arc<str>, rule: &PolicyRule) -> Option<NetPeers> {
        if rule.peers.is_empty() {
            return None;
        }
        let queries: Vec<PodQuery> =
            rule.peers.iter().filter_map(|peer| PodQuery::peer(namespace, peer)).collect();
        let blocks = rule.peers.iter().filter_map(|peer| match peer {
            PolicyPeer::Block(block, except) => Some((*block, except.to_vec())),
            _ => None,
        });
        Some(NetPeers {
            addresses: addresses(queries.iter().flat_map(|query| self.members(query))),
            blocks: blocks.collect(),
        })
    }

    fn destinations(&self, namespace: &Arc<str>, rule: &PolicyRule) -> Vec<&Member> {
        let queries: Vec<PodQuery> = destination_queries(namespace, rule).collect();
        queries.iter().flat_map(|query| self.members(query)).collect()
    }
}

impl PodQuery {
    fn own(namespace: &Arc<str>, pods: &Selector) -> Self {
        Self { namespaces: Namespaces::One(namespace.clone()), pods: pods.clone() }
    }

    fn everywhere() -> Self {
        let all = Selector { present: true, ..Selector::default() };
        Self { namespaces: Namespaces::Labelled(all.clone()), pods: all }
    }

    fn peer(namespace: &Arc<str>, peer: &PolicyPeer) -> Option<Self> {
        match peer {
            PolicyPeer::Pods { namespaces: None, pods } => Some(Self::own(namespace, pods)),
            PolicyPeer::Pods { namespaces: Some(namespaces), pods } => Some(Self {
                namespaces: Namespaces::Labelled(namespaces.clone()),
                pods: pods.clone(),
            }),
            PolicyPeer::Block(..) | PolicyPeer::Nobody => None,
        }
    }
}

/// The sets that a policy needs.
fn queries(view: &NetworkPolicyView) -> Queries {
    let namespace = &view.meta.namespace;
    let own = [PodQuery::own(namespace, &view.pods)].into_iter();
    let rules = view.ingress.iter().chain(&view.egress).flatten();
    let peers = rules.flat_map(|rule| &rule.peers);
    let peers = peers.filter_map(|peer| PodQuery::peer(namespace, peer));
    let destinations = view.egress.iter().flatten();
    let destinations = destinations.flat_map(|rule| destination_queries(namespace, rule));
    own.chain(peers).chain(destinations).map(Arc::new).collect()
}

/// The pods whose names of ports an egress rule may mean.
fn destination_queries(namespace: &Arc<str>, rule: &PolicyRule) -> impl Iterator<Item = PodQuery> {
    let is_named = |port: &PolicyPort| matches!(port.port, Some(TargetPort::Name(_)));
    let has_names = rule.ports.iter().any(is_named);
    let is_block = |peer: &PolicyPeer| matches!(peer, PolicyPeer::Block(..));
    let anywhere = rule.peers.is_empty() || rule.peers.iter().any(is_block);
    let all = (has_names && anywhere).then(PodQuery::everywhere);
    let peers = rule.peers.iter().filter(move |_| has_names);
    let peers = peers.filter_map(|peer| PodQuery::peer(namespace, peer));
    all.into_iter().chain(peers)
}

fn addresses<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<Ipv4Addr> {
    let sorted: BTreeSet<Ipv4Addr> = members.filter_map(|member| member.address).collect();
    sorted.into_iter().collect()
}

/// Those without an address; when there are too many, the ones that boards start already.
fn starting(members: &[&Member]) -> Vec<Uid> {
    let mut starting: Vec<&Member> =
        members.iter().copied().filter(|member| member.address.is_none()).collect();
    if starting.len() > NET_POLICY_STARTING_MAX {
        starting.sort_by_key(|member| (!member.is_bound, member.uid));
        starting.truncate(NET_POLICY_STARTING_MAX);
    }
    let sorted: BTreeSet<Uid> = starting.iter().map(|member| member.uid).collect();
    sorted.into_iter().collect()
}

/// The ports of a rule; `None` when it limits ports and none of them exists.
fn ports<'a>(
    ports: &[PolicyPort],
    destinations: impl FnOnce() -> Vec<&'a Member>,
) -> Option<Vec<NetPolicyPort>> {
    let mut destinations_of_names = None;
    let mut destinations = Some(destinations);
    let mut resolved = Vec::new();
    for port in ports {
        let protocol = port.protocol;
        match &port.port {
            None => resolved.push(NetPolicyPort { protocol, ..NetPolicyPort::default() }),
            Some(TargetPort::Number(first)) => {
                let end = port.end.map_or(*first, |end| end.max(*first));
                resolved.push(NetPolicyPort { protocol, port: *first, end, only: Vec::new() });
            }
            Some(TargetPort::Name(name)) => {
                let destinations = destinations_of_names
                    .get_or_insert_with(|| destinations.take().map(|it| it()).unwrap_or_default());
                let mut numbers: BTreeMap<u16, BTreeSet<Ipv4Addr>> = BTreeMap::new();
                for member in destinations.iter() {
                    let Some(address) = member.address else { continue };
                    let ports = member.named_ports.iter();
                    let mut same = ports.filter(|it| it.name == *name && it.protocol == protocol);
                    if let Some(found) = same.next() {
                        numbers.entry(found.port).or_default().insert(address);
                    }
                }
                resolved.extend(numbers.into_iter().map(|(number, only)| NetPolicyPort {
                    protocol,
                    port: number,
                    end: number,
                    only: only.into_iter().collect(),
                }));
            }
        }
    }
    (ports.is_empty() || !resolved.is_empty()).then_some(resolved)
}
