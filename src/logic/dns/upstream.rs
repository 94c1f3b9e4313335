//! Which upstream server is asked, and whether one is asked at all.
//!
//! Servers are asked in the order of the host's resolv.conf; one that failed goes to the end for a
//! while that doubles. While all of them fail, one question in a second finds out whether that is
//! over, and all others are told at once that there is no answer.

use std::net::SocketAddr;

/// A server that failed once is asked last for this long; twice as long after the next failure.
const PENALTY_MILLIS_MIN: u64 = 1_000;
/// At most.
const PENALTY_MILLIS_MAX: u64 = 30_000;
/// Failures in a row after which a server counts as gone.
const FAILURES_GONE: u32 = 2;
/// While all are gone, one question per this time is still asked.
const TRIAL_MILLIS: u64 = 1_000;

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    failures: u32,
    /// Asked last until then.
    until: u64,
}

/// The upstream servers. Times are of any clock that counts milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    all: Vec<Server>,
    /// When the next question may be asked while all are gone.
    next_trial: u64,
}

impl Servers {
    /// Servers of which nothing is known; those that stay keep their record.
    pub fn replace(&mut self, addresses: &[SocketAddr]) {
        let known = |address: &SocketAddr| self.all.iter().find(|old| old.address == *address);
        let fresh = |address: &SocketAddr| Server { address: *address, failures: 0, until: 0 };
        let all = addresses.iter().map(|a| known(a).cloned().unwrap_or_else(|| fresh(a)));
        self.all = all.collect();
        self.next_trial = 0;
    }

    /// The addresses, as they were given.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|server| server.address).collect()
    }

    /// Whom to ask a question, in this order; empty when it is not to be asked.
    pub fn order(&mut self, now: u64) -> Vec<SocketAddr> {
        let gone = |server: &Server| server.failures >= FAILURES_GONE;
        if !self.all.is_empty() && self.all.iter().all(gone) {
            if now < self.next_trial {
                return Vec::new();
            }
            self.next_trial = now + TRIAL_MILLIS;
        }
        let mut order: Vec<&Server> = self.all.iter().collect();
        order.sort_by_key(|server| server.until.max(now));
        order.into_iter().map(|server| server.address).collect()
    }

    /// A server has answered.
    pub fn answered(&mut self, address: SocketAddr) {
        if let Some(server) = self.all.iter_mut().find(|server| server.address == address) {
            (server.failures, server.until) = (0, 0);
        }
    }

    /// A server has not answered, or not well. Whether it counts as gone from here on.
    pub fn failed(&mut self, address: SocketAddr, now: u64) -> bool {
        let found = self.all.iter_mut().find(|server| server.address == address);
        let Some(server) = found else { return false };
        server.failures = server.failures.saturating_add(1);
        let doubled = PENALTY_MILLIS_MIN << server.failures.saturating_sub(1).min(6);
        server.until = now + doubled.min(PENALTY_MILLIS_MAX);
        server.failures == FAILURES_GONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 53))
    }

    #[test]
    fn who_fails_is_asked_last_for_a_while() {
        let mut servers = Servers::default();
        assert!(servers.order(0).is_empty());
        servers.replace(&[address(1), address(2)]);
        assert_eq!(servers.order(0), [address(1), address(2)]);
        assert!(!servers.failed(address(1), 0));
        assert_eq!(servers.order(999), [address(2), address(1)]);
        assert_eq!(servers.order(1_000), [address(1), address(2)]);
        assert!(servers.failed(address(1), 1_000), "gone");
        assert!(!servers.failed(address(1), 1_000), "said once");
        assert_eq!(servers.order(4_999), [address(2), address(1)]);
        servers.answered(address(1));
        assert_eq!(servers.order(4_999), [address(1), address(2)]);
    }

    #[test]
    fn while_all_are_gone_one_question_in_a_second_is_asked() {
        let mut servers = Servers::default();
        servers.replace(&[address(1), address(2)]);
        for last in [1, 1, 2, 2] {
            servers.failed(address(last), 0);
        }
        assert_eq!(servers.order(10).len(), 2);
        assert!(servers.order(11).is_empty());
        assert_eq!(servers.order(1_010).len(), 2);
        servers.answered(address(2));
        assert_eq!(servers.order(1_011).first(), Some(&address(2)));
        servers.replace(&[address(3), address(2)]);
        assert_eq!(servers.addresses(), [address(3), address(2)]);
    }

    #[test]
    fn penalties_are_bounded() {
        let mut servers = Servers::default();
        servers.replace(&[address(1)]);
        for _ in 0..100 {
            servers.failed(address(1), 5);
        }
        assert_eq!(servers.all[0].until, 5 + PENALTY_MILLIS_MAX);
    }
}
