//! Gives the addresses of a board's block to its pods, each one as late as possible a second time.
//!
//! The search for an address begins at a place that the pod's uid says: a pod of which nothing is known
//! after a reboot most likely gets the address that it had. The first address of the block is no pod's,
//! the second (`.1`) is the board's own, and the last is left out because much software takes it for a
//! broadcast.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use model::ids::Uid;
use model::limits::ADDRESSES_RESTING_MAX;
use model::network::Ipv4Block;

/// Place of the board's own address.
const OWN_PLACE: u32 = 1;

/// The addresses of one block.
#[derive(Clone, Debug)]
pub struct AddressPool {
    block: Ipv4Block,
    taken: BTreeMap<Ipv4Addr, Uid>,
    /// Free ones that were given back last; the one that rests longest is the first.
    resting: VecDeque<Ipv4Addr>,
}

/// The address in a block that is the board's own: source of what the board says to pods, and where
/// they find its DNS.
pub fn own_address(block: Ipv4Block) -> Ipv4Addr {
    block.nth(OWN_PLACE).unwrap_or(block.network)
}

impl AddressPool {
    /// A block of which nothing is taken.
    pub fn new(block: Ipv4Block) -> Self {
        Self { block, taken: BTreeMap::new(), resting: VecDeque::new() }
    }

    /// Takes a free address for a pod; the one it has, if it has one. One that rests, or that is to be
    /// `avoided`, only when there is no other. `None`: all are taken.
    pub fn take(&mut self, pod: Uid, avoided: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some(address) = self.of(pod) {
            return Some(address);
        }
        let good = |address: &Ipv4Addr| !avoided.contains(address);
        let address = self
            .free_from(pod)
            .find(|address| good(address) && !self.resting.contains(address))
            .or_else(|| self.resting.iter().copied().find(good))
            .or_else(|| self.resting.front().copied())
            .or_else(|| self.free_from(pod).next())?;
        self.claim(address, pod).then_some(address)
    }

    /// The addresses that nobody has, in the order in which a pod is to have them.
    fn free_from(&self, pod: Uid) -> impl Iterator<Item = Ipv4Addr> {
        let first = OWN_PLACE + 1;
        let count = self.places_end().saturating_sub(first);
        let begin = u128::from_be_bytes(pod.0).checked_rem(count.into()).unwrap_or_default();
        let begin = u32::try_from(begin).unwrap_or_default();
        let places = (begin..count).chain(0..begin).map(move |place| first + place);
        let addresses = places.filter_map(|place| self.block.nth(place));
        addresses.filter(|address| !self.taken.contains_key(address))
    }

    /// Takes a certain address, such as the one a pod had before a restart; whether it is the pod's.
    pub fn claim(&mut self, address: Ipv4Addr, pod: Uid) -> bool {
        let Some(place) = address.to_bits().checked_sub(self.block.network.to_bits()) else {
            return false;
        };
        if !(OWN_PLACE + 1..self.places_end()).contains(&place) {
            return false;
        }
        self.resting.retain(|other| *other != address);
        *self.taken.entry(address).or_insert(pod) == pod
    }

    /// Gives a pod's address back.
    pub fn free(&mut self, pod: Uid) {
        let Some(address) = self.of(pod) else { return };
        self.taken.remove(&address);
        self.resting.push_back(address);
        let half = self.places_end().saturating_sub(OWN_PLACE + 1) / 2;
        if self.resting.len() > ADDRESSES_RESTING_MAX.min(half.max(1) as usize) {
            self.resting.pop_front();
        }
    }

    /// A pod's address.
    pub fn of(&self, pod: Uid) -> Option<Ipv4Addr> {
        self.taken.iter().find(|(_, owner)| **owner == pod).map(|(address, _)| *address)
    }

    /// The block.
    pub fn block(&self) -> Ipv4Block {
        self.block
    }

    /// The place behind the last that a pod may have.
    fn places_end(&self) -> u32 {
        self.block.last().to_bits() - self.block.network.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: u8) -> Uid {
        Uid::from_random([number; 16])
    }

    fn pool(block: &str) -> AddressPool {
        AddressPool::new(block.parse().expect("a block"))
    }

    fn take(pool: &mut AddressPool, number: u8) -> Option<u8> {
        Some(pool.take(uid(number), &BTreeSet::new())?.octets()[3])
    }

    #[test]
    fn the_search_begins_where_the_uid_says() {
        let mut pool = pool("10.42.0.128/29");
        assert_eq!(own_address(pool.block()), Ipv4Addr::new(10, 42, 0, 129));
        let place = |number| 130 + u8::try_from(u128::from_be_bytes(uid(number).0) % 5).expect("5");
        assert_eq!(take(&mut pool, 1), Some(place(1)));
        assert_eq!(take(&mut pool, 1), Some(place(1)), "a pod has one address");
        let same = (2..).find(|number| place(*number) == place(1)).expect("one of five");
        let next = if place(1) == 134 { 130 } else { place(1) + 1 };
        assert_eq!(take(&mut pool, same), Some(next), "the next one, around");
        let mut rebooted = AddressPool::new(pool.block());
        assert_eq!(take(&mut rebooted, 1), Some(place(1)), "nothing is known, and it is the same");
        let others: BTreeSet<_> = (50..53).filter_map(|number| take(&mut pool, number)).collect();
        assert_eq!(others.len(), 3);
        assert_eq!(take(&mut pool, 60), None, "135 is the last of the block");
    }

    #[test]
    fn addresses_come_again_late() {
        let mut pool = pool("10.42.0.0/25");
        let mut freed: Vec<Option<u8>> = Vec::new();
        for number in 0..=255 {
            let address = take(&mut pool, number);
            let recent = freed.iter().rev().take(60);
            assert!(!recent.into_iter().any(|earlier| *earlier == address), "{address:?} rests");
            assert_eq!(take(&mut pool, number), address);
            pool.free(uid(number));
            pool.free(uid(number));
            freed.push(address);
        }
        assert!(pool.taken.is_empty() && pool.resting.len() <= ADDRESSES_RESTING_MAX);
        let mut tight = AddressPool::new("10.42.0.128/29".parse().expect("a block"));
        let given: Vec<_> = (0..5).map(|number| take(&mut tight, number)).collect();
        tight.free(uid(3));
        tight.free(uid(1));
        assert_eq!(take(&mut tight, 9), given[3], "the one that rests longest");
    }

    #[test]
    fn what_is_to_be_avoided_is_taken_last() {
        let mut pool = pool("10.42.0.128/29");
        let avoided: BTreeSet<_> =
            [130, 131, 133, 134].map(|last| Ipv4Addr::new(10, 42, 0, last)).into();
        let mut taken = Vec::new();
        for number in 1..=5 {
            taken.push(pool.take(uid(number), &avoided).expect("one is free"));
            if number == 1 {
                assert_eq!(taken, [Ipv4Addr::new(10, 42, 0, 132)]);
                pool.free(uid(1));
                assert_eq!(pool.take(uid(1), &avoided), Some(taken[0]), "rather one that rests");
            }
        }
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), 5);
        assert_eq!(pool.take(uid(6), &avoided), None);
    }

    #[test]
    fn what_a_pod_had_it_keeps() {
        let mut pool = pool("10.42.0.0/25");
        let address = Ipv4Addr::new(10, 42, 0, 9);
        assert!(pool.claim(address, uid(1)));
        assert!(pool.claim(address, uid(1)));
        assert!(!pool.claim(address, uid(2)), "it is taken");
        for other in
            [[10, 42, 0, 0], [10, 42, 0, 1], [10, 42, 0, 127], [10, 42, 0, 130], [9, 9, 9, 9]]
        {
            assert!(!pool.claim(other.into(), uid(3)), "{other:?} is no pod's");
        }
        assert_ne!(pool.take(uid(2), &BTreeSet::new()), Some(address));
    }

    #[test]
    fn a_block_too_small_for_pods_gives_none() {
        for block in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30"] {
            let mut pool = pool(block);
            let given = take(&mut pool, 1).is_some();
            assert_eq!(given, block.ends_with("/30"), "{block}");
            assert_eq!(take(&mut pool, 2), None);
        }
    }
}
