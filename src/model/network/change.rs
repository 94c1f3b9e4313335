//! Differences between two states of the network, as small as they are on the wire.
//!
//! Invariant: `old.apply(old.change_to(&new)) == new`, and values that did not change keep their `Arc`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{NetEndpoint, NetPolicy, NetRule, NetService, NetState};
use crate::wire::{NetAddressesV1, NetEndpointsV1, NetPlace, NetStartingV1, NetV1};

/// A message is a difference to a revision that this board does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the difference is to revision {base} of the network, this board holds {held}")]
pub struct NetMismatch {
    /// What it is a difference to.
    pub base: u64,
    /// What is here.
    pub held: u64,
}

/// Calls `each` with the key, the old and the new value of everything that is not the same `Arc` in
/// both maps.
pub fn differences<'a, T>(
    old: &'a BTreeMap<Arc<str>, Arc<T>>,
    new: &'a BTreeMap<Arc<str>, Arc<T>>,
    mut each: impl FnMut(&'a Arc<str>, Option<&'a Arc<T>>, Option<&'a Arc<T>>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let before = old.next_if(|_| order.is_le());
        let after = new.next_if(|_| order.is_ge());
        match (before, after) {
            (Some((_, before)), Some((_, after))) if Arc::ptr_eq(before, after) => {}
            (Some((key, before)), after) => each(key, Some(before), after.map(|it| it.1)),
            (None, Some((key, after))) => each(key, None, Some(after)),
            (None, None) => return,
        }
    }
}

impl NetState {
    /// All there is as one message.
    pub fn whole(&self) -> NetV1 {
        NetV1 {
            revision: self.revision,
            boards: self.boards.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
            ..NetV1::default()
        }
    }

    /// The message that makes `new` of this state.
    pub fn change_to(&self, new: &Self) -> NetV1 {
        let (revision, base) = (new.revision, self.revision);
        let mut change = NetV1 { revision, base, ..NetV1::default() };
        differences(&self.boards, &new.boards, |key, old, new| match new {
            None => change.boards_gone.push(key.clone()),
            Some(new) if old != Some(new) => change.boards.push(new.clone()),
            Some(_) => {}
        });
        differences(&self.services, &new.services, |key, old, new| match (old, new) {
            (_, None) => change.services_gone.push(key.clone()),
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) if has_same_head(old, new) => {
                match endpoint_change(key, old, new) {
                    Some(endpoints) => change.endpoints.push(endpoints),
                    None => change.services.push(new.clone()),
                }
            }
            (_, Some(new)) => change.services.push(new.clone()),
        });
        differences(&self.policies, &new.policies, |key, old, new| match (old, new) {
            (_, None) => change.policies_gone.push(key.clone()),
            (Some(old), Some(new)) if old == new => {}
            (Some(old), Some(new)) if has_same_shape(old, new) => {
                address_changes(key, old, new, &mut change.addresses);
                if old.starting != new.starting {
                    let (policy, pods) = (key.clone(), new.starting.clone());
                    change.starting.push(NetStartingV1 { policy, pods });
                }
            }
            (_, Some(new)) => change.policies.push(new.clone()),
        });
        change
    }

    /// The state after a message.
    ///
    /// # Errors
    /// The message is a difference to something else.
    pub fn apply(&self, message: NetV1) -> Result<Self, NetMismatch> {
        let mismatch = NetMismatch { base: message.base, held: self.revision };
        let mut new = match message.base {
            0 => Self::default(),
            base if base == self.revision => self.clone(),
            _ => return Err(mismatch),
        };
        new.revision = message.revision;
        take(&mut new.boards, &self.boards, message.boards, |it| it.name.clone());
        take(&mut new.services, &self.services, message.services, |it| it.key());
        take(&mut new.policies, &self.policies, message.policies, |it| it.key());
        message.boards_gone.iter().for_each(|key| drop(new.boards.remove(key)));
        message.services_gone.iter().for_each(|key| drop(new.services.remove(key)));
        message.policies_gone.iter().for_each(|key| drop(new.policies.remove(key)));
        for change in message.endpoints {
            let service = new.services.get_mut(&change.service).ok_or(mismatch)?;
            change_endpoints(Arc::make_mut(service), change);
        }
        for change in message.addresses {
            let policy = new.policies.get_mut(&change.policy).ok_or(mismatch)?;
            change_addresses(Arc::make_mut(policy), change).ok_or(mismatch)?;
        }
        for change in message.starting {
            let policy = new.policies.get_mut(&change.policy).ok_or(mismatch)?;
            Arc::make_mut(policy).starting = change.pods;
        }
        Ok(new)
    }
}

/// Takes values in; one that is as before stays the same `Arc`.
fn take<T: PartialEq>(
    new: &mut BTreeMap<Arc<str>, Arc<T>>,
    held: &BTreeMap<Arc<str>, Arc<T>>,
    values: Vec<Arc<T>>,
    key: impl Fn(&T) -> String,
) {
    for value in values {
        let name = key(&value);
        match held.get_key_value(name.as_str()) {
            Some((name, same)) if *same == value => drop(new.insert(name.clone(), same.clone())),
            _ => drop(new.insert(name.into(), value)),
        }
    }
}

/// Whether two services differ in their endpoints at most.
fn has_same_head(old: &NetService, new: &NetService) -> bool {
    fn head(service: &NetService) -> impl PartialEq + '_ {
        let NetService { namespace, name, cluster_ip, external_name, load_balancer, .. } = service;
        let NetService { external_ips, source_ranges, ports, affinity_seconds, .. } = service;
        let NetService { internal_local, external_local, health_check_node_port, .. } = service;
        let NetService { publish_not_ready, endpoints: _, .. } = service;
        (
            (namespace, name, cluster_ip, external_name, load_balancer, external_ips),
            (source_ranges, ports, affinity_seconds, internal_local, external_local),
            (health_check_node_port, publish_not_ready),
        )
    }
    head(old) == head(new)
}

/// What changed among endpoints; `None` when all of them are shorter to say.
fn endpoint_change(key: &Arc<str>, old: &NetService, new: &NetService) -> Option<NetEndpointsV1> {
    let (before, after) = (by_address(&old.endpoints), by_address(&new.endpoints));
    let gone = before.keys().filter(|address| !after.contains_key(address)).copied().collect();
    let changed = after.iter().filter(|(address, now)| before.get(address) != Some(now));
    let set: Vec<NetEndpoint> = changed.flat_map(|(_, now)| now.iter().cloned()).collect();
    let change = NetEndpointsV1 { service: key.clone(), gone, set };
    (2 * change.set.len() <= new.endpoints.len() || change.set.len() <= 1).then_some(change)
}

/// Endpoints at each address; they are sorted.
fn by_address(endpoints: &[NetEndpoint]) -> BTreeMap<Ipv4Addr, &[NetEndpoint]> {
    let groups = endpoints.chunk_by(|one, next| one.address == next.address);
    groups.map(|group| (group[0].address, group)).collect()
}

fn change_endpoints(service: &mut NetService, change: NetEndpointsV1) {
    let mut touched: BTreeSet<Ipv4Addr> = change.gone.into_iter().collect();
    touched.extend(change.set.iter().map(|endpoint| endpoint.address));
    service.endpoints.retain(|endpoint| !touched.contains(&endpoint.address));
    service.endpoints.extend(change.set);
    service.endpoints.sort_unstable();
}

/// Whether two policies differ in addresses of pods at most, other than those of named ports.
fn has_same_shape(old: &NetPolicy, new: &NetPolicy) -> bool {
    let same_rule = |(old, new): (&NetRule, &NetRule)| {
        old.ports == new.ports
            && old.peers.as_ref().map(|peers| &peers.blocks)
                == new.peers.as_ref().map(|peers| &peers.blocks)
    };
    let same = |old: &Option<Vec<NetRule>>, new: &Option<Vec<NetRule>>| match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => old.len() == new.len() && old.iter().zip(new).all(same_rule),
        _ => false,
    };
    (&old.namespace, &old.name) == (&new.namespace, &new.name)
        && same(&old.ingress, &new.ingress)
        && same(&old.egress, &new.egress)
}

/// What changed in the lists of addresses of two policies of the same shape.
fn address_changes(
    key: &Arc<str>,
    old: &NetPolicy,
    new: &NetPolicy,
    changes: &mut Vec<NetAddressesV1>,
) {
    let mut compare = |place, old: &[Ipv4Addr], new: &[Ipv4Addr]| {
        let missing_in = |others: &[Ipv4Addr], list: &[Ipv4Addr]| -> Vec<Ipv4Addr> {
            list.iter().filter(|it| others.binary_search(it).is_err()).copied().collect()
        };
        let (gone, come) = (missing_in(new, old), missing_in(old, new));
        if !gone.is_empty() || !come.is_empty() {
            changes.push(NetAddressesV1 { policy: key.clone(), place, gone, come });
        }
    };
    compare(NetPlace::Pods, &old.pods, &new.pods);
    let rules = |old, new| (0..).zip(addresses_of(old).zip(addresses_of(new)));
    for (number, (old, new)) in rules(&old.ingress, &new.ingress) {
        compare(NetPlace::Ingress(number), old, new);
    }
    for (number, (old, new)) in rules(&old.egress, &new.egress) {
        compare(NetPlace::Egress(number), old, new);
    }
}

/// The addresses of each rule's peers.
fn addresses_of(rules: &Option<Vec<NetRule>>) -> impl Iterator<Item = &[Ipv4Addr]> {
    let rules = rules.iter().flatten();
    rules.map(|rule| rule.peers.as_ref().map_or(&[][..], |peers| &peers.addresses))
}

fn change_addresses(policy: &mut NetPolicy, change: NetAddressesV1) -> Option<()> {
    let list = match change.place {
        NetPlace::Pods => &mut policy.pods,
        NetPlace::Ingress(number) => peers_of(&mut policy.ingress, number)?,
        NetPlace::Egress(number) => peers_of(&mut policy.egress, number)?,
    };
    let gone: BTreeSet<Ipv4Addr> = change.gone.into_iter().collect();
    list.retain(|address| !gone.contains(address));
    list.extend(change.come);
    list.sort_unstable();
    list.dedup();
    Some(())
}

fn peers_of(rules: &mut Option<Vec<NetRule>>, number: u32) -> Option<&mut Vec<Ipv4Addr>> {
    let rule = rules.as_mut()?.get_mut(usize::try_from(number).ok()?)?;
    Some(&mut rule.peers.as_mut()?.addresses)
}

#[cfg(test)]
mod tests {
    use super::super::{NetBoard, NetPeers, NetPort, Protocol};
    use super::*;
    use crate::wire::{Header, MessageKind, encode};

    fn endpoint(number: u32, ready: bool) -> NetEndpoint {
        NetEndpoint {
            address: Ipv4Addr::from_bits(0x0a2a_0000 + number),
            board: format!("pi-{}", number % 3),
            pod: format!("web-{number}"),
            ready,
            serving: ready,
            ports: vec![8080],
            ..NetEndpoint::default()
        }
    }

    fn state(revision: u64, endpoints: Vec<NetEndpoint>, peers: &[u32]) -> NetState {
        let address = |number: &u32| Ipv4Addr::from_bits(0x0a2a_0000 + number);
        let port = NetPort { protocol: Protocol::Tcp, port: 80, ..NetPort::default() };
        let service = NetService {
            namespace: "shop".into(),
            name: "web".into(),
            ports: vec![port],
            endpoints,
            ..NetService::default()
        };
        let addresses = peers.iter().map(address).collect();
        let rule =
            NetRule { peers: Some(NetPeers { addresses, blocks: Vec::new() }), ports: Vec::new() };
        let policy = NetPolicy {
            namespace: "shop".into(),
            name: "allow".into(),
            ingress: Some(vec![NetRule::default(), rule]),
            ..NetPolicy::default()
        };
        let board = NetBoard { name: "pi-0".into(), ready: true, ..NetBoard::default() };
        NetState {
            revision,
            boards: [("pi-0".into(), Arc::new(board))].into(),
            services: [("shop/web".into(), Arc::new(service))].into(),
            policies: [("shop/allow".into(), Arc::new(policy))].into(),
        }
    }

    #[test]
    fn one_endpoint_of_a_thousand_is_a_small_message() {
        let endpoints: Vec<_> = (1..=1_000).map(|number| endpoint(number, true)).collect();
        let mut changed = endpoints.clone();
        changed[500] = endpoint(501, false);
        let (old, new) = (state(7, endpoints, &[1, 2, 3]), state(9, changed, &[1, 3, 4]));
        let change = old.change_to(&new);
        assert_eq!((change.revision, change.base), (9, 7));
        assert!(change.boards.is_empty() && change.services.is_empty());
        assert!(change.policies.is_empty());
        assert_eq!((change.endpoints[0].set.len(), change.endpoints[0].gone.len()), (1, 0));
        assert_eq!(change.addresses[0].place, NetPlace::Ingress(1));
        let header = Header { kind: MessageKind::Net, epoch: 1, term: 1, sequence: 1 };
        let bytes = encode(header, &change).len();
        assert!(bytes < 128, "{bytes} bytes");
        let applied = old.apply(change).expect("its base");
        assert_eq!(applied, new);
        assert!(Arc::ptr_eq(&applied.boards["pi-0"], &old.boards["pi-0"]), "shared");
    }

    #[test]
    fn a_difference_fits_its_base_only() {
        let old = state(7, vec![endpoint(1, true)], &[]);
        let new = state(9, Vec::new(), &[]);
        let change = old.change_to(&new);
        assert_eq!(new.apply(change.clone()), Err(NetMismatch { base: 7, held: 9 }));
        assert_eq!(NetState::default().apply(change), Err(NetMismatch { base: 7, held: 0 }));
        let again = new.apply(new.whole()).expect("a whole state fits everything");
        assert_eq!(again, new);
        assert!(Arc::ptr_eq(&again.services["shop/web"], &new.services["shop/web"]), "shared");
        assert_eq!(NetState::default().apply(new.whole()), Ok(new));
    }

    #[test]
    fn a_pod_that_starts_is_a_small_message() {
        let mut old = state(7, Vec::new(), &(1..1_000).collect::<Vec<_>>());
        let mut new = old.clone();
        new.revision = 8;
        let policy = new.policies.get_mut("shop/allow").expect("there");
        Arc::make_mut(policy).starting = vec![crate::ids::Uid([7; 16])];
        let change = old.change_to(&new);
        assert!(change.policies.is_empty() && change.addresses.is_empty() && !change.is_empty());
        assert_eq!(old.apply(change.clone()), Ok(new));
        old.policies.clear();
        assert!(old.apply(change).is_err(), "the policy is not there");
    }

    #[test]
    fn a_message_about_what_is_not_there_is_a_mismatch() {
        let old = state(7, Vec::new(), &[]);
        let mut change = old.change_to(&state(9, vec![endpoint(1, true)], &[1]));
        change.addresses[0].place = NetPlace::Egress(0);
        assert!(old.apply(change.clone()).is_err());
        change.addresses.clear();
        change.endpoints[0].service = "shop/other".into();
        assert!(old.apply(change).is_err());
    }
}
