//! Staging: the compare of compare-and-put, against the state and the group that is being made.
//!
//! Runs on the store's thread before anything is durable and changes nothing but the group. The leader
//! does this once; applying an entry never compares again.

use std::collections::HashMap;

use bytes::Bytes;
use model::{
    ids::Version,
    limits::{
        OBJECT_BYTES_MAX, STORE_ENTRY_BYTES_MAX, STORE_ENTRY_OPS_MAX, STORE_OVERLAY_BYTES_MAX,
        STORE_OVERLAY_FLUSH_BYTES,
    },
};

use super::{
    entry::{BaseV1, EntryV1, OpV1},
    live::Shared,
    log::{Group, Position},
    record,
    requests::versions,
    types::{Base, Committed, Op, ProposeError, StoreError},
    writer::Writer,
};

/// An entry with its place, to be applied.
pub(super) struct Staged {
    /// What is logged.
    pub(super) entry: EntryV1,
    /// Where.
    pub(super) at: Position,
}

/// What a key holds, as far as staging needs it.
#[derive(Clone)]
pub(super) struct Current {
    version: Option<Version>,
    body: Option<Bytes>,
}

/// Keys that entries of this group change before they are applied.
pub(super) type Pending = HashMap<Vec<u8>, Current>;

/// Operations whose bases hold.
struct Checked {
    ops: Vec<OpV1>,
    /// What each key holds afterwards, with the operation's number.
    changed: Vec<(u32, (Vec<u8>, Current))>,
}

impl Writer {
    /// Checks the bases of a proposal against the state and the group so far, and adds its entry.
    pub(super) fn stage(
        &mut self,
        ops: Vec<Op>,
        group: &mut Group,
        pending: &mut Pending,
        staged: &mut Vec<Staged>,
    ) -> Result<Committed, ProposeError> {
        if self.shared.read().failed {
            return Err(ProposeError::Failed);
        }
        if ops.is_empty() {
            return Ok(Committed { versions: Vec::new() });
        }
        if self.shared.read().overlay_bytes + group.bytes() > STORE_OVERLAY_BYTES_MAX {
            self.flush();
            if self.shared.read().overlay_bytes > STORE_OVERLAY_FLUSH_BYTES {
                return Err(ProposeError::NoSpace);
            }
        }
        let Checked { ops, changed } = self.check(ops, pending)?;
        let count = ops.len();
        let entry = EntryV1::At(self.options.clock.now(), ops);
        let payload = entry.encode();
        if payload.len() > STORE_ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        if self.owes_term_start && staged.is_empty() {
            let entry = EntryV1::At(self.options.clock.now(), Vec::new());
            let at = self.log.add(group, &entry.encode());
            staged.push(Staged { entry, at });
        }
        let at = self.log.add(group, &payload);
        for (nth, (key, mut current)) in changed {
            current.version = current.body.is_some().then(|| Version::of_entry(at.place(), nth));
            pending.insert(key, current);
        }
        staged.push(Staged { entry, at });
        Ok(versions(at.place(), count))
    }

    /// Checks the bases of a proposal of a group's leader against the applied state, and gives the
    /// payload of its entry. Nothing that it touches is in flight.
    pub(super) fn stage_for_group(&self, ops: Vec<Op>) -> Result<Bytes, ProposeError> {
        if self.shared.read().failed {
            return Err(ProposeError::Failed);
        }
        let Checked { ops, .. } = self.check(ops, &Pending::new())?;
        let payload = EntryV1::At(self.options.clock.now(), ops).encode();
        if payload.len() > STORE_ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        Ok(Bytes::from(payload))
    }

    /// The operations as logged, and what they leave behind.
    fn check(&self, ops: Vec<Op>, pending: &Pending) -> Result<Checked, ProposeError> {
        if ops.len() > STORE_ENTRY_OPS_MAX {
            return Err(ProposeError::TooLarge);
        }
        let mut logged = Vec::with_capacity(ops.len());
        let mut changed: Vec<(u32, (Vec<u8>, Current))> = Vec::new();
        for (nth, op) in ops.into_iter().enumerate() {
            let key = record::encode_key(&op.key).ok_or(ProposeError::TooLarge)?;
            if op.body.as_ref().is_some_and(|body| body.len() > OBJECT_BYTES_MAX) {
                return Err(ProposeError::TooLarge);
            }
            if self.shared.read().memory.holds(&op.key.kind) {
                tracing::error!(key = %op.key, "memory-only object proposed to the log");
                return Err(ProposeError::Failed);
            }
            let wants_old = op.keep_old || op.body.is_none();
            let own = changed.iter().rev().find(|(_, (changed, _))| *changed == key);
            let current = match own.map(|(_, (_, current))| current).or(pending.get(&key)) {
                Some(current) => current.clone(),
                None => current(&self.shared, &key, wants_old).map_err(|error| {
                    tracing::error!(key = %op.key, error = &error as &dyn std::error::Error, "store cannot read its state");
                    ProposeError::Failed
                })?,
            };
            let held = match op.base {
                Base::Absent => current.version.is_none(),
                Base::At(version) => current.version == Some(version),
                Base::Any => op.body.is_some() || current.version.is_some(),
            };
            if !held {
                return Err(ProposeError::Conflict { op: nth, current: current.version });
            }
            let left =
                Current { version: op.body.is_some().then_some(Version(0)), body: op.body.clone() };
            changed.push((u32::try_from(nth).unwrap_or(u32::MAX), (key, left)));
            logged.push(OpV1 {
                kind: op.key.kind,
                namespace: op.key.namespace,
                name: op.key.name,
                // What was found, not what was asked: applying reads from it whether there was an object.
                base: current.version.map_or(BaseV1::Absent, BaseV1::At),
                uid: op.uid,
                body: op.body,
                old: current.body.filter(|_| wants_old),
            });
        }
        Ok(Checked { ops: logged, changed })
    }
}

/// What a key holds before this group.
fn current(shared: &Shared, key: &[u8], with_body: bool) -> Result<Current, StoreError> {
    let live = shared.read();
    if let Some(latest) = live.overlay.get(key) {
        let version = latest.body.is_some().then_some(latest.version);
        return Ok(Current { version, body: latest.body.clone() });
    }
    let state = live.state()?.clone();
    // The disk may take its time.
    drop(live);
    let reading = state.read()?;
    if with_body {
        let found = reading.get(key)?;
        let version = found.as_ref().map(|(version, ..)| *version);
        return Ok(Current { version, body: found.map(|(.., body)| body) });
    }
    Ok(Current { version: reading.version(key)?, body: None })
}
