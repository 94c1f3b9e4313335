//! The ways from this board to the pods of the others.
//!
//! A board on the same link is a gateway to its pods; any other is reached through the VXLAN tunnel.
//! Who is on the link is the kernel's word, because only it knows all routes of this board.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::network::{Ipv4Block, NetState};

/// UDP port of the tunnel, on every board: Linux' old default, which other pod networks use too (RFC 7348
/// has another one).
pub const TUNNEL_PORT: u16 = 8_472;

/// How the kernel reaches an address of another board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Without a router, on the interface with this index.
    Link(u32),
    /// Through a router.
    Routed,
    /// It is this board's own address, or there is no route.
    Nowhere,
}

/// Where packets to a block of pods go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To a board on the same link.
    Link {
        /// Index of the interface.
        interface: u32,
        /// The board's address.
        via: Ipv4Addr,
    },
    /// Through the tunnel.
    Tunnel {
        /// The board's address.
        remote: Ipv4Addr,
    },
}

/// What becomes of each other board's block. `ways` tells how its address is reached. Of two boards
/// that claim the same addresses the first by name has them: no block moves by itself.
pub fn hops(
    state: &NetState,
    own: &str,
    own_block: Option<Ipv4Block>,
    mut ways: impl FnMut(Ipv4Addr) -> Way,
) -> BTreeMap<Ipv4Block, Hop> {
    let mut hops: BTreeMap<Ipv4Block, Hop> = BTreeMap::new();
    for board in state.boards.values().filter(|board| board.name != own) {
        let (Some(block), Some(address)) = (board.pods, board.address) else { continue };
        let overlaps = |other: &Ipv4Block| other.covers(&block) || block.covers(other);
        if own_block.as_ref().is_some_and(overlaps) || hops.keys().any(overlaps) {
            continue;
        }
        let hop = match ways(address) {
            Way::Link(interface) => Hop::Link { interface, via: address },
            Way::Routed => Hop::Tunnel { remote: address },
            Way::Nowhere => continue,
        };
        hops.insert(block, hop);
    }
    hops
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::network::NetBoard;

    use super::*;

    fn state(boards: &[(&str, &str, &str)]) -> NetState {
        let board = |(name, address, pods): &(&str, &str, &str)| {
            let board = NetBoard {
                name: (*name).to_owned(),
                address: address.parse().ok(),
                pods: pods.parse().ok(),
                ..NetBoard::default()
            };
            (Arc::from(*name), Arc::new(board))
        };
        NetState { boards: boards.iter().map(board).collect(), ..NetState::default() }
    }

    #[test]
    fn neighbours_are_gateways_and_others_are_behind_the_tunnel() {
        let state = state(&[
            ("a", "10.0.0.1", "10.42.0.0/25"),
            ("b", "10.0.0.2", "10.42.0.128/25"),
            ("c", "10.1.0.3", "10.42.1.0/25"),
            ("d", "10.0.0.4", ""),
            ("e", "", "10.42.2.0/25"),
            ("f", "10.0.0.6", "10.42.0.128/25"),
            ("g", "10.0.0.7", "10.42.0.0/24"),
            ("h", "10.9.0.8", "10.42.3.0/25"),
        ]);
        let ways = |address: Ipv4Addr| match address.octets() {
            [10, 0, ..] => Way::Link(7),
            [10, 1, ..] => Way::Routed,
            _ => Way::Nowhere,
        };
        let own = "10.42.0.0/25".parse().ok();
        let hops = hops(&state, "a", own, ways);
        let expected: BTreeMap<Ipv4Block, Hop> = [
            ("10.42.0.128/25", Hop::Link { interface: 7, via: Ipv4Addr::new(10, 0, 0, 2) }),
            ("10.42.1.0/25", Hop::Tunnel { remote: Ipv4Addr::new(10, 1, 0, 3) }),
        ]
        .map(|(block, hop)| (block.parse().expect("a block"), hop))
        .into();
        assert_eq!(hops, expected);
    }
}
