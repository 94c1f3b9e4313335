//! The engine's types, and the conversions between them and the ones of the log and the wire.
//!
//! The engine counts entries from 0, log and wire from 1: [`to_engine`] and [`to_log`] are the one
//! place that knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use model::masters::{
    EntryWireV1, LogIdV1, MemberId, MembersV1, PayloadWireV1, SnapshotHeadV1, VoteV1,
};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, PayloadOf, SnapshotMetaOf, StoredMembershipOf, VoteOf,
};
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EntryPayload, LogId, Membership};

use super::seam::LogEntry;
use crate::io::store::entry::{self, What};

openraft::declare_raft_types!(
    /// What the engine is made of. The leader id is the one of Raft's paper: with the engine's own
    /// there may be several leaders in one term, which the fence of boards would not tell apart.
    pub(in crate::io::store) Types:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = Place,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// An entry of the store on its way through the engine, which never looks into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::io::store) struct Payload {
    /// As in the frame.
    pub(super) bytes: Bytes,
    /// Which proposal of this board it is.
    pub(super) tag: u64,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// The board of a member. Addresses are not part of it: they change without a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::io::store) struct Place {
    /// Its name.
    pub(super) board: String,
    /// SHA-256 of its public key.
    pub(super) key: [u8; 32],
}

/// A place in the log, for the engine. Index 0 is none.
pub(super) fn to_engine(id: LogIdV1) -> Option<LogIdOf<Types>> {
    let index = id.index.checked_sub(1)?;
    Some(LogId::new(CommittedLeaderId::new(id.term), index))
}

/// A place in the log, from the engine.
pub(super) fn to_log(id: &LogIdOf<Types>) -> LogIdV1 {
    LogIdV1 { term: **id.committed_leader_id(), index: id.index() + 1 }
}

/// A vote, for the engine.
pub(super) fn vote_to_engine(vote: VoteV1) -> VoteOf<Types> {
    match vote.granted {
        true => VoteOf::<Types>::new_committed(vote.term, vote.of.0),
        false => VoteOf::<Types>::new(vote.term, vote.of.0),
    }
}

/// A vote, from the engine.
pub(super) fn vote_to_log(vote: &VoteOf<Types>) -> VoteV1 {
    let leader = vote.leader_id();
    VoteV1 { term: leader.term, of: MemberId(leader.voted_for), granted: vote.is_committed() }
}

/// The group, for the engine.
pub(super) fn members_to_engine(members: &MembersV1) -> Membership<u64, Place> {
    let configs: Vec<BTreeSet<u64>> =
        members.configs.iter().map(|config| config.iter().map(|id| id.0).collect()).collect();
    let place = |board: &str, key| Place { board: board.to_owned(), key };
    let places: BTreeMap<u64, Place> = members
        .members
        .iter()
        .map(|member| (member.id.0, place(&member.board, member.key)))
        .collect();
    // Every voter is a member: lists are checked where they are decoded, and before in the engine.
    Membership::new(configs, places).unwrap_or_default()
}

/// The group, from the engine.
pub(super) fn members_to_log(membership: &Membership<u64, Place>) -> MembersV1 {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|config| config.iter().map(|id| MemberId(*id)).collect::<BTreeSet<_>>());
    let members =
        membership.nodes().map(|(id, place)| (MemberId(*id), place.board.clone(), place.key));
    // The engine's empty membership, before there is a group, is the one that is none.
    MembersV1::of(configs, members).unwrap_or_default()
}

/// The group with the entry that made it so.
pub(super) fn stored(at: Option<LogIdV1>, members: &MembersV1) -> StoredMembershipOf<Types> {
    StoredMembershipOf::<Types>::new(at.and_then(to_engine), members_to_engine(members))
}

/// What the engine knows of a snapshot. The entry that made the group so is older than the last one:
/// any applied one does as well.
pub(super) fn meta(head: &SnapshotHeadV1) -> SnapshotMetaOf<Types> {
    SnapshotMetaOf::<Types> {
        last_log_id: to_engine(head.last),
        last_membership: stored(Some(head.last), &head.members),
    }
}

/// An entry of the engine, for the log.
pub(super) fn entry_to_log(entry: &EntryOf<Types>) -> LogEntry {
    let LogIdV1 { term, index } = to_log(&entry.log_id);
    let (payload, tag) = match &entry.payload {
        EntryPayload::Blank => (entry::blank(), 0),
        EntryPayload::Normal(payload) => (payload.bytes.clone(), payload.tag),
        EntryPayload::Membership(members) => (entry::members(&members_to_log(members)), 0),
    };
    LogEntry { term, index, payload, tag }
}

/// An entry of the log, for the engine; `None` when its payload says nothing to this build.
pub(super) fn entry_to_engine(entry: LogEntry) -> Option<EntryOf<Types>> {
    let log_id = to_engine(LogIdV1 { term: entry.term, index: entry.index })?;
    let payload: PayloadOf<Types> = match entry::what(&entry.payload)? {
        What::Blank => EntryPayload::Blank,
        What::Members(members) => EntryPayload::Membership(members_to_engine(&members)),
        What::Other => EntryPayload::Normal(Payload { bytes: entry.payload, tag: entry.tag }),
    };
    Some(EntryOf::<Types> { log_id, payload })
}

/// An entry of the engine, for the wire.
pub(super) fn entry_to_wire(entry: EntryOf<Types>) -> EntryWireV1 {
    let payload = match entry.payload {
        EntryPayload::Blank => PayloadWireV1::Blank,
        EntryPayload::Normal(payload) => PayloadWireV1::Entry(payload.bytes),
        EntryPayload::Membership(members) => PayloadWireV1::Members(members_to_log(&members)),
    };
    EntryWireV1 { id: to_log(&entry.log_id), payload }
}

/// An entry of the wire, for the engine.
pub(super) fn entry_from_wire(entry: EntryWireV1) -> Option<EntryOf<Types>> {
    let log_id = to_engine(entry.id)?;
    let payload = match entry.payload {
        PayloadWireV1::Blank => EntryPayload::Blank,
        PayloadWireV1::Entry(bytes) => EntryPayload::Normal(Payload { bytes, tag: 0 }),
        PayloadWireV1::Members(members) => EntryPayload::Membership(members_to_engine(&members)),
    };
    Some(EntryOf::<Types> { log_id, payload })
}
