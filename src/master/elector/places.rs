//! Where each member may be: what its row in the book says, where it was reached last, where it came from,
//! and, while nobody leads, what its own record or another member says and the boards that the user named.
//!
//! Rows are written by a leader. When the addresses of a majority have changed there is none, and the rows
//! are wrong for good. Every address here is a guess: whoever is dialed proves the member's key. Guesses
//! that cost strangers nothing are tried at most once a second, and few are kept.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use model::limits::{MEMBER_HINTS_MAX, NAMED_ADDRESSES_MAX};
use model::masters::{MasterAtV1, MemberId};

/// How often guesses of a member that nobody has proven are tried.
const GUESS_EVERY: Duration = Duration::from_secs(1);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Places {
    members: HashMap<MemberId, Place>,
    /// Where boards are that the user named.
    named: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct Place {
    /// Where it was reached last.
    reached: Option<SocketAddr>,
    /// Where it came from last, with its own key.
    seen: Option<SocketAddr>,
    /// What its records and other members said, the newest first.
    hints: VecDeque<SocketAddr>,
    /// When guesses were tried last.
    guessed: Option<Instant>,
}

impl Places {
    /// Forgets those that are no members any more.
    pub(super) fn keep(&mut self, is_member: impl Fn(MemberId) -> bool) {
        self.members.retain(|member, _| is_member(*member));
    }

    /// A member was reached there.
    pub(super) fn reached(&mut self, member: MemberId, address: SocketAddr) {
        self.members.entry(member).or_default().reached = Some(address);
    }

    /// Nobody is there any more, or somebody else.
    pub(super) fn failed(&mut self, member: MemberId, address: SocketAddr) {
        if let Some(place) = self.members.get_mut(&member) {
            place.reached = place.reached.filter(|reached| *reached != address);
            place.seen = place.seen.filter(|seen| *seen != address);
        }
    }

    /// A member came from there.
    pub(super) fn seen(&mut self, member: MemberId, address: SocketAddr) {
        self.members.entry(member).or_default().seen = Some(address);
    }

    /// Where a member came from last.
    #[cfg(test)]
    pub(super) fn came_from(&self, member: MemberId) -> Option<SocketAddr> {
        self.members.get(&member)?.seen
    }

    /// A record of a member, or another member, says that it is there.
    pub(super) fn hint(&mut self, member: MemberId, addresses: &[Ipv4Addr], port: u16) {
        let hints = &mut self.members.entry(member).or_default().hints;
        for address in addresses.iter().rev().map(|address| SocketAddr::from((*address, port))) {
            hints.retain(|known| *known != address);
            hints.push_front(address);
        }
        hints.truncate(MEMBER_HINTS_MAX);
    }

    /// The boards that the user named are there.
    pub(super) fn name(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(NAMED_ADDRESSES_MAX);
        self.named = addresses;
    }

    /// Where members were met that have proven their keys.
    pub(super) fn met(&self) -> impl Iterator<Item = (MemberId, SocketAddr)> {
        let met = self.members.iter();
        met.filter_map(|(member, place)| Some((*member, place.reached.or(place.seen)?)))
    }

    /// Where to look for a member, the best first. `lost`: nobody leads, so its row may be old.
    pub(super) fn of(&mut self, at: &MasterAtV1, lost: bool, now: Instant) -> Vec<SocketAddr> {
        let place = self.members.entry(at.member).or_default();
        let rows = at.addresses.iter().map(|address| SocketAddr::from((*address, at.peer_port)));
        let mut all: Vec<SocketAddr> = place.reached.into_iter().chain(rows).collect();
        all.extend(place.seen);
        let is_time = place.guessed.is_none_or(|at| now.duration_since(at) >= GUESS_EVERY);
        if lost && is_time {
            place.guessed = Some(now);
            all.extend(place.hints.iter().chain(&self.named));
        }
        let mut known = std::collections::HashSet::new();
        all.retain(|address| known.insert(*address));
        all
    }
}

#[cfg(test)]
mod tests {
    use model::masters::Part;

    use super::*;

    const MEMBER: MemberId = MemberId(2);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7443))
    }

    fn row() -> MasterAtV1 {
        MasterAtV1 {
            member: MEMBER,
            board: "pi-2".to_owned(),
            key: [1; 32],
            addresses: vec![Ipv4Addr::new(192, 0, 2, 1)],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: 7443,
            part: Part::Voter,
        }
    }

    #[test]
    fn what_is_known_comes_first_and_guesses_only_while_nobody_leads() {
        let (mut places, now) = (Places::default(), Instant::now());
        places.hint(MEMBER, &[Ipv4Addr::new(192, 0, 2, 4)], 7443);
        places.name(vec![address(5), address(1)]);
        places.seen(MEMBER, address(3));
        assert_eq!(places.of(&row(), false, now), [1, 3].map(address));
        assert_eq!(places.of(&row(), true, now), [1, 3, 4, 5].map(address));
        places.reached(MEMBER, address(4));
        let soon = now + GUESS_EVERY / 2;
        assert_eq!(places.of(&row(), true, soon), [4, 1, 3].map(address), "guessed just before");
        assert_eq!(places.of(&row(), true, now + GUESS_EVERY), [4, 1, 3, 5].map(address));
        places.failed(MEMBER, address(4));
        places.failed(MEMBER, address(3));
        assert_eq!(places.of(&row(), false, now), [address(1)]);
        places.keep(|member| member != MEMBER);
        assert_eq!(places.of(&row(), true, now), [1, 5].map(address));
    }

    #[test]
    fn a_flood_of_hints_displaces_but_does_not_grow() {
        let (mut places, now) = (Places::default(), Instant::now());
        for number in 0..10_000_u32 {
            places.hint(MEMBER, &[Ipv4Addr::from(number)], 1);
        }
        places.hint(MEMBER, &[Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 8)], 7443);
        let all = places.of(&row(), true, now);
        assert_eq!(all.len(), 1 + MEMBER_HINTS_MAX);
        assert_eq!(all[..3], [1, 9, 8].map(address), "the newest record, as it says");
        places.name((0..200).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect());
        let all = places.of(&row(), true, now + GUESS_EVERY);
        assert_eq!(all.len(), 1 + MEMBER_HINTS_MAX + NAMED_ADDRESSES_MAX);
    }
}
