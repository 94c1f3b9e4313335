//! Which boards do not answer on the pod network.
//!
//! In: who is to be asked, who answered, who did not. Out: who is out of reach, and which of the
//! boards have to be asked soon. One lost packet says nothing: a board is out of reach after
//! [`MISSES_MAX`] in a row, and back with its first answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Questions in a row without an answer after which a board is out of reach.
pub const MISSES_MAX: u8 = 3;

/// What is known of one board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    address: Ipv4Addr,
    misses: u8,
}

/// What is known of all boards that should answer.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    peers: BTreeMap<String, Peer>,
}

impl Reach {
    /// Whom to ask from here on: boards by name with an address each. What is known of those whose
    /// address stays is kept.
    pub fn ask(&mut self, boards: impl IntoIterator<Item = (String, Ipv4Addr)>) {
        let mut before = std::mem::take(&mut self.peers);
        for (name, address) in boards {
            let known = before.remove(&name).filter(|peer| peer.address == address);
            self.peers.insert(name, known.unwrap_or(Peer { address, misses: 0 }));
        }
    }

    /// Everybody to ask.
    pub fn peers(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer.address))
    }

    /// Those who were asked and have not answered yet.
    pub fn doubtful(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        let doubtful = |peer: &Peer| (1..MISSES_MAX).contains(&peer.misses);
        let peers = self.peers.iter().filter(move |(_, peer)| doubtful(peer));
        peers.map(|(name, peer)| (name.as_str(), peer.address))
    }

    /// Takes the outcome of one question to each board in `asked`.
    pub fn heard(&mut self, asked: &BTreeSet<Ipv4Addr>, answered: &BTreeSet<Ipv4Addr>) {
        for peer in self.peers.values_mut().filter(|peer| asked.contains(&peer.address)) {
            peer.misses = match answered.contains(&peer.address) {
                true => 0,
                false => peer.misses.saturating_add(1).min(MISSES_MAX),
            };
        }
    }

    /// Names of boards that are out of reach.
    pub fn lost(&self) -> BTreeSet<String> {
        let lost = self.peers.iter().filter(|(_, peer)| peer.misses == MISSES_MAX);
        lost.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_silences_are_a_loss_and_one_answer_ends_it() {
        let at = |last| Ipv4Addr::new(10, 42, last, 1);
        let mut reach = Reach::default();
        reach.ask([("b".to_owned(), at(1)), ("c".to_owned(), at(2))]);
        let both = BTreeSet::from([at(1), at(2)]);
        let names = |reach: &Reach| reach.lost().into_iter().collect::<Vec<_>>();
        for _ in 0..MISSES_MAX - 1 {
            reach.heard(&both, &BTreeSet::from([at(1)]));
            assert!(names(&reach).is_empty());
            assert_eq!(reach.doubtful().collect::<Vec<_>>(), [("c", at(2))]);
        }
        reach.heard(&both, &BTreeSet::from([at(1)]));
        assert_eq!(names(&reach), ["c"]);
        assert_eq!(reach.doubtful().count(), 0, "it is known, and asked in its turn");
        reach.ask([("b".to_owned(), at(1)), ("c".to_owned(), at(2))]);
        assert_eq!(names(&reach), ["c"], "who stays where it was is not forgotten");
        reach.heard(&BTreeSet::from([at(1)]), &BTreeSet::new());
        assert_eq!(names(&reach), ["c"], "who was not asked has not been silent");
        reach.heard(&both, &both);
        assert!(names(&reach).is_empty());
        reach.heard(&both, &BTreeSet::new());
        reach.ask([("c".to_owned(), at(3))]);
        assert_eq!(reach.doubtful().count(), 0, "another address is another beginning");
    }
}
