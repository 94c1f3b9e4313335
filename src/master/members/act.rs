//! One change of the group, carried out.

use std::time::Duration;

use logic::controller::Op;
use logic::masters::Action;
use model::join::{HOLDERS, key_text};
use model::masters::{KitV1, MasterAtV1, MemberId, MemberV1, MembersV1, Part, SecretBytes};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::desk::Candidate;
use super::driver::{Leading, Members};
use super::grouping::{Engine, FOUNDER};
use super::{Desk, Rows};
use crate::io::store::{ChangeError, Group, GroupError, MemberChange, StoreError};
use crate::io::tls::TlsError;
use crate::master::keys::Keys;
use crate::master::registry::CommitError;

/// Attempts while others write the same object.
const ATTEMPTS_MAX: u32 = 8;
/// A board that has its kit gets so long to come back as a member.
const STAND_WITHIN: Duration = Duration::from_secs(20);

/// Why a change did not take place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The board does not ask for the kit any more.
    #[error("board {0} does not ask to hold the log any more")]
    Away(String),
    /// It took the kit and was not seen again.
    #[error("board {0} has the keys of a master and does not come back with them")]
    Lost(String),
    /// It was thrown out.
    #[error("board {0} was evicted")]
    Evicted(String),
    /// There is no group that could change.
    #[error("this master has no group yet")]
    Alone,
    /// No engine.
    #[error("the group of masters cannot be founded")]
    Found(#[from] GroupError),
    /// The engine.
    #[error("the group of masters refuses the change")]
    Change(#[from] ChangeError),
    /// The objects.
    #[error("cannot read who the masters are")]
    Read(#[from] StoreError),
    /// The objects.
    #[error("cannot write who the masters are")]
    Write(#[from] CommitError),
    /// The certificate.
    #[error("cannot certify a new master")]
    Certify(#[from] TlsError),
    /// Nobody took the lead.
    #[error("no other voter took the lead")]
    Kept,
}

/// What a change is made with.
pub(super) struct Work {
    pub(super) leading: Leading,
    pub(super) members: Members,
    pub(super) engine: Option<Engine>,
    pub(super) known: MembersV1,
    /// Whether this leader knows by now who is no member.
    pub(super) sure: bool,
}

impl Work {
    /// Does it; resolves when it is committed.
    pub(super) async fn carry_out(self, action: Action) -> Result<(), Trouble> {
        match action {
            Action::AddLearner { board } => self.add(&board).await,
            Action::Change { voters, .. } => {
                let change = MemberChange::Voters { voters, keep_as_learner: true };
                Ok(self.group()?.change(change).await?)
            }
            Action::Forget(member) => self.forget(member).await,
            Action::HandOver(member) => match self.group()?.hand_over(Some(member)).await {
                true => Ok(()),
                false => Err(Trouble::Kept),
            },
            Action::Warn(_) => Ok(()),
        }
    }

    fn group(&self) -> Result<&Group, Trouble> {
        self.engine.as_ref().map(|engine| &engine.group).ok_or(Trouble::Alone)
    }

    fn desk(&self) -> &Desk {
        self.members.desk()
    }

    /// A board gets a new id and the kit, comes back with it, and follows the log.
    async fn add(&self, board: &str) -> Result<(), Trouble> {
        let epoch = self.leading.mandate.reign().epoch;
        self.write_rows(|rows| ((), self.rows_as_said(rows))).await?;
        let group = self.members.grouping().grow(epoch).await?;
        let away = || Trouble::Away(board.to_owned());
        let candidate = self.desk().candidates().remove(board).ok_or_else(away)?;
        // Before it has them: who holds the keys of the cluster is known for good.
        self.note_holder(board, &candidate.key).await?;
        let at = place(board, &candidate);
        let id = self.write_rows(|rows| self.numbered(rows).take(at.clone())).await?;
        let member =
            MemberV1 { id, board: board.to_owned(), key: candidate.key, part: Part::Learner };
        if !self.desk().give(board, self.kit(&member, &candidate, &group, epoch)?) {
            self.write_rows(|rows| ((), rows.without(id))).await?;
            return Err(away());
        }
        if !self.stands(board, id).await {
            self.write_rows(|rows| ((), rows.without(id))).await?;
            return Err(Trouble::Lost(board.to_owned()));
        }
        let added = group.change(MemberChange::AddLearner(member)).await;
        let members = self.leading.registry.store().members();
        if added.is_err() && members.is_none_or(|members| members.get(id).is_none()) {
            self.write_rows(|rows| ((), rows.without(id))).await?;
        }
        Ok(added?)
    }

    /// Lists a board, and this one, among those that were ever given the authority's key.
    async fn note_holder(&self, board: &str, key: &[u8; 32]) -> Result<(), Trouble> {
        let registry = &self.leading.registry;
        let keys = Keys::of(registry.store().clone());
        let own = self.members.grouping().member(FOUNDER, Part::Voter);
        for _ in 0..ATTEMPTS_MAX {
            let now = registry.clock().now();
            let entry = |board: &str, key: &[u8; 32]| -> (String, Value) {
                (key_text(key), format!("{board} {now}").into())
            };
            let entries = [entry(board, key), entry(&own.board, &own.key)];
            // Asked once it is listed: whoever throws it out later finds it there.
            let Some(op) = keys.write(HOLDERS, &entries)? else {
                return match keys.is_thrown_out(key)? {
                    true => Err(Trouble::Evicted(board.to_owned())),
                    false => Ok(()),
                };
            };
            match registry.commit(vec![op]).await {
                Ok(_) | Err(CommitError::Conflict) => {}
                Err(CommitError::Rejected(error)) if error.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }

    fn kit(
        &self,
        member: &MemberV1,
        candidate: &Candidate,
        group: &Group,
        epoch: u64,
    ) -> Result<KitV1, Trouble> {
        let pki = &self.leading.pki;
        let mut members = group.health().borrow().members.clone();
        members.members.push(member.clone());
        let pems = self.leading.token_keys.pems();
        Ok(KitV1 {
            member: member.id,
            epoch,
            authority_key: SecretBytes(pki.authority_key()),
            secrets_keys: self.leading.secrets_keys.export(),
            token_keys: pems.into_iter().map(|pem| SecretBytes(pem.into_bytes())).collect(),
            certificate: pki.issue_board(&member.board, &candidate.public_key, true)?,
            members,
            masters: Rows::read(self.leading.registry.store())?.0.members.into_values().collect(),
            group: self.members.grouping().own_name(),
        })
    }

    /// Waits for the board to ask as that member: then it serves the log.
    async fn stands(&self, board: &str, id: MemberId) -> bool {
        let deadline = Instant::now() + STAND_WITHIN;
        loop {
            let changed = self.desk().changed();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            let candidates = self.desk().candidates();
            if candidates.get(board).is_some_and(|it| it.ask.member == Some(id)) {
                return true;
            }
            if timeout_at(deadline, changed).await.is_err() {
                return false;
            }
        }
    }

    async fn forget(&self, member: MemberId) -> Result<(), Trouble> {
        let board = self.known.get(member).map(|member| member.board.clone());
        self.group()?.change(MemberChange::Forget(member)).await?;
        self.write_rows(|rows| ((), rows.without(member))).await?;
        if let Some(board) = board {
            self.desk().dismiss(&board, member);
        }
        Ok(())
    }

    /// The same rows, which give no id that a member has.
    fn numbered(&self, rows: &Rows) -> Rows {
        let applied = self.leading.registry.store().members().unwrap_or_default();
        rows.above([&applied, &self.known])
    }

    /// Every member, and where it says that it is.
    fn rows_as_said(&self, rows: &Rows) -> Rows {
        let own = self.engine.as_ref().map_or(FOUNDER, |engine| engine.own);
        let rows = &self.numbered(rows);
        let at = self.leading.at.borrow().clone();
        let applied = self.leading.registry.store().members().filter(|_| self.sure);
        // What is committed and what is under way: a board is in both once it was added.
        let rows = applied.map_or_else(|| rows.clone(), |it| rows.among([&it, &self.known]));
        let mut said = rows.with(MasterAtV1 { member: own, part: Part::Learner, ..at });
        said = said.wishing(self.leading.wanted);
        for (board, candidate) in self.desk().candidates() {
            let Some(id) = candidate.ask.member else { continue };
            let member = self.known.get(id);
            if member.is_some_and(|it| it.board == board && it.key == candidate.key) {
                said = said.with(MasterAtV1 { member: id, ..place(&board, &candidate) });
            }
        }
        said
    }

    /// Whether a member is elsewhere than the object says.
    pub(super) fn are_old(&self, rows: &Rows) -> bool {
        self.rows_as_said(rows) != *rows
    }

    /// Where members say that they are is where the others look for them.
    pub(super) async fn keep_rows(self) -> Result<(), Trouble> {
        self.write_rows(|rows| ((), self.rows_as_said(rows))).await
    }

    /// Changes the object by a compare-and-put, unless it says so already.
    async fn write_rows<T>(&self, change: impl Fn(&Rows) -> (T, Rows)) -> Result<T, Trouble> {
        let registry = &self.leading.registry;
        for _ in 0..ATTEMPTS_MAX {
            let (before, record) = Rows::read(registry.store())?;
            let (outcome, rows) = change(&before);
            if record.is_some() && rows == before {
                return Ok(outcome);
            }
            let op = match record {
                None => Op::Create { kind: Rows::key().kind, object: rows.object() },
                Some(record) => Op::Patch {
                    key: record.key,
                    base: record.version,
                    subresource: None,
                    merge: serde_json::json!({ "data": rows.data_since(&before) }),
                },
            };
            match registry.commit(vec![op]).await {
                Ok(_) => return Ok(outcome),
                Err(CommitError::Conflict) => {}
                // Somebody made it meanwhile.
                Err(CommitError::Rejected(error)) if error.code == 409 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }
}

/// Where a board says that it is.
fn place(board: &str, candidate: &Candidate) -> MasterAtV1 {
    let ask = &candidate.ask;
    MasterAtV1 {
        member: MemberId(0),
        board: board.to_owned(),
        key: candidate.key,
        addresses: ask.addresses.clone(),
        api_port: ask.api_port,
        mqtt_port: ask.mqtt_port,
        peer_port: ask.peer_port,
        part: Part::Learner,
    }
}
