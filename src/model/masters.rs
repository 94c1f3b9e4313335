//! The group of masters: who belongs to it, and what its members say to each other.
//!
//! [`MembersV1`] lies in the log, in snapshots and in the state; the messages of `group` travel
//! between masters as postcard with a version byte in front. All are frozen: golden bytes in the
//! tests, a change of shape is a new struct. What JSON carries (`kit`) only ever gains fields.
//!
//! A member is a replica, not a board: a board whose disk was wiped or whose log was damaged comes
//! back under a new [`MemberId`], so nobody ever votes twice in one term under one id.

mod authority;
/// Before there is a cluster.
pub mod genesis;
mod group;
mod kit;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{LABEL_BYTES_MAX, MASTERS_MAX};

pub use authority::{AUTHORITY_OBJECT, AuthorityKeysV1, CertifiedV1};
pub use genesis::{FoundedV1, GenesisAnswerV1, GenesisAskV1, GenesisId, GenesisWordV1, PromiseV1};
pub use group::{
    AnswerFrameV1, AppendedV1, AskFrameV1, BadFrame, ClusterTimeV1, EntryWireV1, FenceV1,
    GROUP_SCHEMA, GroupAnswerV1, GroupAskV1, GroupHeadV1, LogIdV1, PayloadWireV1, SnapshotHeadV1,
    VoteV1,
};
pub use kit::{
    ApiCallV1, CallerV1, KitAskV1, KitV1, MasterAtV1, MastersV1, SecretBytes, SecretsKeyV1,
    UpgradeV1,
};

/// Annotation of a Node: what its board can do beyond the first release, separated by commas.
pub const CAN: &str = "kumquat.dev/can";
/// Word in [`CAN`]: the board can hold the log.
pub const CAN_MASTERS: &str = "masters1";
/// Annotation of a Node: for which role the board was let in (a `TokenRole`); absent is `auto`.
pub const ROLE: &str = "kumquat.dev/role";
/// ConfigMap in `kube-system`: next member id, what is wanted of the group.
pub const MASTERS_OBJECT: &str = "kumquat-masters";

/// One replica of the log; never used again, whatever becomes of its disk. Zero names nobody.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One leadership; the greater one is the newer one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Reign {
    /// Raised by promote, restore and repair.
    pub epoch: u64,
    /// Raised by each election.
    pub term: u64,
}

impl fmt::Display for Reign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.term)
    }
}

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Its copy counts and it votes.
    Voter,
    /// It holds the log and has no say.
    Learner,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberV1 {
    /// Which replica.
    pub id: MemberId,
    /// Name of its board.
    pub board: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its board.
    pub key: [u8; 32],
    /// Voter when it is in any of the configurations.
    pub part: Part,
}

/// Everybody who holds the log, and who of them decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersV1 {
    /// Voters, ascending; two lists, the earlier one first, while one takes over from the other.
    pub configs: Vec<Vec<MemberId>>,
    /// Voters and learners, ascending by id, at most [`MASTERS_MAX`].
    pub members: Vec<MemberV1>,
}

/// Why a list of members cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMembers {
    /// None or more than two configurations, or one without voters.
    #[error("a group of masters has one or two configurations with voters")]
    Configs,
    /// A voter that is no member, or ids that do not ascend.
    #[error("voters of a group of masters are not its members in order")]
    Voters,
    /// Too many members, ids that do not ascend, or a name that no board has.
    #[error("members of a group of masters are too many or not in order")]
    Members,
    /// A member whose part says something else than the configurations.
    #[error("member {0} has another part than the configurations say")]
    Part(MemberId),
}

impl MembersV1 {
    /// A group of one.
    pub fn sole(id: MemberId, board: String, key: [u8; 32]) -> Self {
        let member = MemberV1 { id, board, key, part: Part::Voter };
        Self { configs: vec![vec![id]], members: vec![member] }
    }

    /// A group from its parts: sorts, and gives each member its part.
    ///
    /// # Errors
    /// [`BadMembers`] when such a group cannot be.
    pub fn of(
        configs: impl IntoIterator<Item = BTreeSet<MemberId>>,
        members: impl IntoIterator<Item = (MemberId, String, [u8; 32])>,
    ) -> Result<Self, BadMembers> {
        let configs: Vec<Vec<MemberId>> =
            configs.into_iter().map(|config| config.into_iter().collect()).collect();
        let part = |id: MemberId| match configs.iter().any(|config| config.contains(&id)) {
            true => Part::Voter,
            false => Part::Learner,
        };
        let members = members.into_iter();
        let mut members: Vec<MemberV1> =
            members.map(|(id, board, key)| MemberV1 { part: part(id), id, board, key }).collect();
        members.sort_by_key(|member| member.id);
        let group = Self { configs, members };
        group.check().map(|()| group)
    }

    /// Whether this can be: decoded lists are believed only after it.
    ///
    /// # Errors
    /// [`BadMembers`].
    pub fn check(&self) -> Result<(), BadMembers> {
        let ascends = |ids: &[MemberId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        let ids: Vec<MemberId> = self.members.iter().map(|member| member.id).collect();
        let names = self.members.iter().all(|member| member.board.len() <= LABEL_BYTES_MAX);
        if ids.len() > MASTERS_MAX || !ascends(&ids) || !names || ids.contains(&MemberId(0)) {
            return Err(BadMembers::Members);
        }
        if !matches!(self.configs.len(), 1 | 2) || self.configs.iter().any(Vec::is_empty) {
            return Err(BadMembers::Configs);
        }
        let known = |id: &MemberId| ids.binary_search(id).is_ok();
        if !self.configs.iter().all(|config| ascends(config) && config.iter().all(known)) {
            return Err(BadMembers::Voters);
        }
        let part = |id| if self.is_voter(id) { Part::Voter } else { Part::Learner };
        match self.members.iter().find(|member| member.part != part(member.id)) {
            Some(member) => Err(BadMembers::Part(member.id)),
            None => Ok(()),
        }
    }

    /// Whether one configuration is taking over from another.
    pub fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// Voters of the newest configuration.
    pub fn voters(&self) -> BTreeSet<MemberId> {
        self.configs.last().into_iter().flatten().copied().collect()
    }

    /// Members that no configuration names.
    pub fn learners(&self) -> BTreeSet<MemberId> {
        let learners = self.members.iter().filter(|member| member.part == Part::Learner);
        learners.map(|member| member.id).collect()
    }

    /// Whether any configuration names it.
    pub fn is_voter(&self, id: MemberId) -> bool {
        self.configs.iter().any(|config| config.contains(&id))
    }

    /// One member.
    pub fn get(&self, id: MemberId) -> Option<&MemberV1> {
        self.members.iter().find(|member| member.id == id)
    }

    /// The newest member that a board is: while a wiped disk is replaced there are two.
    pub fn of_board(&self, board: &str) -> Option<&MemberV1> {
        self.members.iter().rev().find(|member| member.board == board)
    }

    /// Whether those for whom `says` holds are a majority of every configuration.
    pub fn is_quorum(&self, says: impl Fn(MemberId) -> bool) -> bool {
        !self.configs.is_empty()
            && self
                .configs
                .iter()
                .all(|config| 2 * config.iter().filter(|id| says(**id)).count() > config.len())
    }
}
