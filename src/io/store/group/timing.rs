//! The clocks of a group: the same at every member.

use std::time::Duration;

/// Clocks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// A member waits the second of these since it last heard of a leader, which is the leader's lease,
    /// and a random time between the two, before it stands for election.
    pub election_ms: (u64, u64),
    /// A leader whose disk takes longer than this gives way.
    pub unsynced_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Timing {
    /// Those of every cluster.
    pub const DEFAULT: Self =
        Self { heartbeat_ms: 200, election_ms: (250, 500), unsynced_max_ms: 2_000 };

    /// How long a member that acknowledged a leader votes for no other.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.election_ms.1)
    }
}
