//! What the policy is told and what it decides, as data.

use std::collections::BTreeSet;

use model::masters::{MemberId, MembersV1};
use model::token::TokenRole;

/// One board as the leader sees it: one for each Node, member or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub board: String,
    /// When the leader last heard the newest member of this board over the group's own connections,
    /// on the clock of `now`. The leader's own: `now`.
    pub heard_ms: Option<u64>,
    /// Entries that this member is behind the leader.
    pub lag_entries: u64,
    /// Whether the Node is Ready.
    pub ready: bool,
    /// Since when it is Ready without a break.
    pub stable_since: u64,
    /// What it was let in for.
    pub role: TokenRole,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Whether it can hold the log: version, space on its disk, a sane clock.
    pub capable: bool,
    /// Whether it was told to leave.
    pub leaving: bool,
    /// Whether its key was turned out.
    pub evicted: bool,
}

/// What happens; time comes with each as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This board begins or ceases to lead.
    Leads(bool),
    /// Time passes.
    Tick,
    /// All boards, fresh.
    Boards(Vec<Seen>),
    /// The group as applied on this board.
    Changed(MembersV1),
    /// A term began for which `by` stood.
    TermBegan {
        /// Who forced the election.
        by: MemberId,
        /// Whether it leads that term.
        won: bool,
    },
    /// A board lost its replica and asks for a new one.
    Rejoin {
        /// The board.
        board: String,
        /// The member that it was and never will be again.
        old: MemberId,
    },
    /// What the user wants.
    Wanted(Wanted),
    /// The last action did not take place.
    Failed,
    /// The last action was not begun: the mandate was not fresh, or another one is under way.
    NotBegun,
}

/// What the user wants of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Voters; `None`: by the number of boards.
    pub voters: Option<u8>,
    /// When a write is acknowledged on two boards.
    pub durability: Durability,
}

/// When a write of a group with one voter is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the voter has it.
    #[default]
    One,
    /// When the learner has it too.
    Both,
}

/// What to do; only a leader with a fresh mandate does it, one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the board a new id and the kit, and let it follow the log.
    AddLearner {
        /// The board.
        board: String,
    },
    /// One joint change; members in neither list stay learners until they are forgotten.
    Change {
        /// Who decides afterwards, an odd number.
        voters: BTreeSet<MemberId>,
        /// Voters of before that keep the log.
        learners: BTreeSet<MemberId>,
    },
    /// Remove a learner.
    Forget(MemberId),
    /// Let this voter lead.
    HandOver(MemberId),
    /// Tell the user, once.
    Warn(Warning),
}

/// What the user should know; the text is the shell's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// A voter cannot do its part and there is nobody in its place.
    NoReplacement {
        /// Its board.
        board: String,
    },
    /// A voter forces elections again and again.
    Flaps {
        /// Its board.
        board: String,
    },
    /// A candidate does not catch up.
    Stuck {
        /// Its board.
        board: String,
    },
    /// Writes wait for this learner, which is not heard.
    LearnerAway {
        /// Its board.
        board: String,
    },
    /// No further board can hold the log.
    Full,
}
