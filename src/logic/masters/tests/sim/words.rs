//! What simulated boards say to each other, and the wire that loses, doubles, delays and blocks it.

use std::rc::Rc;

use model::masters::{ClusterTimeV1, GenesisAnswerV1, GenesisWordV1, MemberId, MembersV1};

use super::random::Random;

/// Most boards of one simulated cluster.
pub(super) const BOARDS_MAX: usize = 10;

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Disk and process of the receiver that are meant, where that matters; see [`Word::Kit`].
    pub(super) word: Word,
}

/// What a message says.
#[derive(Clone, Debug)]
pub(super) enum Word {
    GenesisAsk(GenesisWordV1),
    GenesisAnswer(GenesisAnswerV1),
    /// A board wants to become a member of the cluster.
    Join,
    Joined,
    /// Who leads: asks for a beat.
    Lead {
        term: u64,
        sequence: u64,
    },
    /// How a board stands: its disk, its replica.
    Beat {
        term: u64,
        sequence: u64,
        disk: u64,
        replica: Option<MemberId>,
        able: bool,
    },
    /// The board becomes this member, if its disk is still the one that asked.
    Kit {
        disk: u64,
        member: MemberId,
    },
    /// Between replicas.
    Raft {
        from: MemberId,
        to: MemberId,
        time: ClusterTimeV1,
        raft: Raft,
    },
}

/// A message of the group's log.
#[derive(Clone, Debug)]
pub(super) enum Raft {
    PreVote {
        term: u64,
        last: (u64, u64),
    },
    PreVoteAnswer {
        term: u64,
        granted: bool,
    },
    Vote {
        term: u64,
        last: (u64, u64),
        transfer: bool,
    },
    VoteAnswer {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        previous: (u64, u64),
        entries: Vec<Entry>,
        commit: u64,
        sent: u64,
    },
    /// `matched`: `Err` with the length of the log when the previous entry is another.
    AppendAnswer {
        term: u64,
        of: MemberId,
        matched: Result<u64, u64>,
        sent: u64,
    },
    TimeoutNow {
        term: u64,
    },
}

/// An entry of a replica's log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) payload: Payload,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Payload {
    Blank,
    Write(u64),
    Members(Rc<MembersV1>),
    /// Takes this id, if it is the next one.
    TakeId(u64),
    Node(usize),
    Leave(usize),
    Evict(usize),
}

/// The network: per pair, because faults may have a direction.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) blocked: [[bool; BOARDS_MAX]; BOARDS_MAX],
    pub(super) drop_percent: u64,
    pub(super) double_percent: u64,
    pub(super) late_percent: u64,
    pub(super) late_ms_max: u64,
}

impl Wire {
    pub(super) fn good() -> Self {
        Self {
            blocked: [[false; BOARDS_MAX]; BOARDS_MAX],
            drop_percent: 0,
            double_percent: 0,
            late_percent: 0,
            late_ms_max: 1,
        }
    }

    /// How long each copy of a letter is on its way; none when it is lost.
    pub(super) fn delays(&self, letter: &Letter, random: &mut Random) -> [Option<u64>; 2] {
        if self.blocked[letter.from][letter.to] || random.percent(self.drop_percent) {
            return [None, None];
        }
        let mut delay = || {
            let late = random.percent(self.late_percent);
            random.range(1, 30) + if late { random.range(0, self.late_ms_max) } else { 0 }
        };
        let first = delay();
        let second = delay();
        [Some(first), (random.percent(self.double_percent)).then_some(second)]
    }
}
