//! Writes of objects that live in memory only: the leader's alone, in no log entry.
//!
//! Their versions lie between two entries: the position of the last applied one, with an ordinal.

use std::sync::Arc;

use model::{
    ids::Version,
    limits::{OBJECT_BYTES_MAX, STORE_ENTRY_OPS_MAX},
};

use super::{
    entry::EntryV1,
    live::Live,
    log::AppendError,
    record,
    stage::Staged,
    standing::Mandate,
    types::{Base, Change, Committed, Op, ProposeError},
    writer::{Role, Writer},
};

impl Writer {
    pub(super) fn write_memory(&mut self, ops: Vec<Op>) -> Result<Committed, ProposeError> {
        // Dropped surplus objects take ordinals too.
        let ordinals = u32::try_from(2 * ops.len()).unwrap_or(u32::MAX);
        let exhausted = self.next_ordinal.saturating_add(ordinals) >= 1 << Version::ORDINAL_BITS;
        if ops.len() > STORE_ENTRY_OPS_MAX {
            return Err(ProposeError::TooLarge);
        }
        if let Role::Group(_) = self.role {
            let may_act = self.reign.borrow().as_ref().is_some_and(Mandate::may_act);
            // Positions move on with the next entry of the group: somebody writes within seconds.
            if !may_act || exhausted {
                return Err(ProposeError::Late);
            }
        } else if self.owes_term_start || exhausted {
            self.advance_position()?;
        }
        let shared = self.shared.clone();
        let mut changes = Vec::new();
        let versions = {
            let mut live = shared.write();
            check_memory(&live, &ops)?;
            let position = live.version.position();
            let mut versions = Vec::with_capacity(ops.len());
            for op in ops {
                let kind = op.key.kind.clone();
                let old = live.memory.get(&op.key).map(|record| record.body);
                let change = Change {
                    version: self.next_version(position),
                    old: old.clone().filter(|_| op.keep_old || op.body.is_none()),
                    created: old.is_none(),
                    key: op.key,
                    uid: op.uid,
                    body: op.body,
                };
                versions.push(change.version);
                changes.push(put_memory(&mut live, change, old.is_some()));
                while let Some(surplus) = live.memory.surplus(&kind) {
                    let gone = Change {
                        version: self.next_version(position),
                        key: surplus.key,
                        uid: surplus.uid,
                        body: None,
                        old: Some(surplus.body),
                        created: false,
                    };
                    changes.push(put_memory(&mut live, gone, true));
                }
            }
            versions
        };
        self.tell(&changes);
        Ok(Committed { versions })
    }

    fn next_version(&mut self, position: u64) -> Version {
        let version = Version::of_entry(position, self.next_ordinal);
        self.next_ordinal += 1;
        version
    }

    /// Logs an entry that changes nothing, for the versions above it.
    fn advance_position(&mut self) -> Result<(), ProposeError> {
        let mut group = self.log.group();
        let entry = EntryV1::At(self.options.clock.now(), Vec::new());
        let at = self.log.add(&mut group, &entry.encode());
        match self.append(&group) {
            Ok(()) => {
                self.owes_term_start = false;
                self.apply(vec![Staged { entry, at }]);
                Ok(())
            }
            Err(AppendError::Full) => Err(ProposeError::NoSpace),
            Err(AppendError::Descriptors) => Err(ProposeError::Descriptors),
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Err(ProposeError::Failed)
            }
        }
    }
}

fn check_memory(live: &Live, ops: &[Op]) -> Result<(), ProposeError> {
    for (nth, op) in ops.iter().enumerate() {
        if !live.memory.holds(&op.key.kind) || record::encode_key(&op.key).is_none() {
            tracing::error!(key = %op.key, "not a memory-only object");
            return Err(ProposeError::Failed);
        }
        if op.body.as_ref().is_some_and(|body| body.len() > OBJECT_BYTES_MAX) {
            return Err(ProposeError::TooLarge);
        }
        let current = live.memory.get(&op.key).map(|record| record.version);
        let held = match op.base {
            Base::Absent => current.is_none(),
            Base::At(version) => current == Some(version),
            Base::Any => op.body.is_some() || current.is_some(),
        };
        if !held {
            return Err(ProposeError::Conflict { op: nth, current });
        }
    }
    Ok(())
}

fn put_memory(live: &mut Live, change: Change, existed: bool) -> Arc<Change> {
    live.memory.put(&change.key, change.version, change.uid, change.body.clone());
    live.count(&change.key, existed, change.body.is_some());
    live.remember(change)
}
