//! Gives the addresses of a board's block to its pods, each one as late as possible a second time.
//!
//! The first address of the block is no pod's, the second (`.1`) is the board's own, and the last is
//! left out because much software takes it for a broadcast.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::ids::Uid;
use model::network::Ipv4Block;

/// Place of the board's own address.
const OWN_PLACE: u32 = 1;

/// The addresses of one block.
#[derive(Clone, Debug)]
pub struct AddressPool {
    block: Ipv4Block,
    taken: BTreeMap<Ipv4Addr, Uid>,
    /// Where the next search begins.
    next: u32,
}

/// The address in a block that is the board's own: source of what the board says to pods, and where
/// they find its DNS.
pub fn own_address(block: Ipv4Block) -> Ipv4Addr {
    block.nth(OWN_PLACE).unwrap_or(block.network)
}

impl AddressPool {
    /// A block of which nothing is taken.
    pub fn new(block: Ipv4Block) -> Self {
        Self { block, taken: BTreeMap::new(), next: OWN_PLACE + 1 }
    }

    /// Takes the next free address for a pod; the one it has, if it has one. `None`: all are taken.
    pub fn take(&mut self, pod: Uid) -> Option<Ipv4Addr> {
        if let Some(address) = self.of(pod) {
            return Some(address);
        }
        let first = OWN_PLACE + 1;
        let count = self.places_end().saturating_sub(first);
        let offset = self.next.saturating_sub(first);
        let mut places = (0..count).map(|step| first + (offset + step) % count);
        let (place, address) = places.find_map(|place| {
            let address = self.block.nth(place)?;
            (!self.taken.contains_key(&address)).then_some((place, address))
        })?;
        self.next = place + 1;
        self.taken.insert(address, pod);
        Some(address)
    }

    /// Takes a certain address, which a pod had before a restart; whether it is the pod's.
    pub fn claim(&mut self, address: Ipv4Addr, pod: Uid) -> bool {
        let Some(place) = address.to_bits().checked_sub(self.block.network.to_bits()) else {
            return false;
        };
        if !(OWN_PLACE + 1..self.places_end()).contains(&place) {
            return false;
        }
        let owner = *self.taken.entry(address).or_insert(pod);
        if owner == pod {
            self.next = self.next.max(place + 1);
        }
        owner == pod
    }

    /// Gives a pod's address back.
    pub fn free(&mut self, pod: Uid) {
        self.taken.retain(|_, owner| *owner != pod);
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

    #[test]
    fn addresses_are_given_in_turn_and_come_again_late() {
        let mut pool = pool("10.42.0.128/29");
        let at = |last| Some(Ipv4Addr::new(10, 42, 0, last));
        assert_eq!(own_address(pool.block()), Ipv4Addr::new(10, 42, 0, 129));
        assert_eq!(pool.take(uid(1)), at(130));
        assert_eq!(pool.take(uid(2)), at(131));
        assert_eq!(pool.take(uid(1)), at(130), "a pod has one address");
        pool.free(uid(1));
        assert_eq!(pool.take(uid(3)), at(132), "130 rests");
        assert_eq!(pool.take(uid(4)), at(133));
        assert_eq!(pool.take(uid(5)), at(134));
        assert_eq!(pool.take(uid(6)), at(130), "around");
        assert_eq!(pool.take(uid(7)), None, "135 is the last of the block");
        pool.free(uid(4));
        assert_eq!(pool.take(uid(7)), at(133));
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
        assert_eq!(pool.take(uid(2)), Some(Ipv4Addr::new(10, 42, 0, 10)));
    }

    #[test]
    fn a_block_too_small_for_pods_gives_none() {
        for block in ["10.0.0.0/32", "10.0.0.0/31", "10.0.0.0/30"] {
            let mut pool = pool(block);
            let given = pool.take(uid(1)).is_some();
            assert_eq!(given, block.ends_with("/30"), "{block}");
            assert_eq!(pool.take(uid(2)), None);
        }
    }
}
