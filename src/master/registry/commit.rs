//! Controllers' writes: the operations of a plan, all or nothing, through the same strategies.
//!
//! Every operation names the version that it was planned on; if any object has moved on, nothing
//! happens and the plan is made again. Events and objects that live in memory are written after the
//! rest has been committed, because they are in no log entry; an Event never makes a commit fail.

use std::collections::BTreeMap;

use logic::controller::{Event, Op as Change, Propagation, set_conditions};
use model::ids::{KindKey, ObjectKey, Version};
use model::patch;
use model::resource::{self, Resource};
use model::status::ApiError;
use serde_json::Value;

use super::allocate::Lease;
use super::delete::DeleteOptions;
use super::errors::write_failed;
use super::object::{self, meta_mut, meta_str};
use super::types::{CommitError, Target, WriteOptions};
use super::write::Prepared;
use super::{Registry, admission, body, metadata, strategy};
use crate::io::store::{Base, Op, ProposeError, Record};

/// A plan that is being turned into one proposal.
#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    /// Operations on objects that live in memory.
    memory: Vec<Op>,
    events: Vec<Event>,
    /// Where each object's operation stands, so that a second one builds on the first.
    places: BTreeMap<ObjectKey, Place>,
    /// Names that were generated: a collision with them is bad luck, not an error.
    generated: Vec<usize>,
}

#[derive(Clone, Copy)]
enum Place {
    Log(usize),
    Memory(usize),
}

impl Batch {
    fn staged(&self, key: &ObjectKey) -> Option<&Op> {
        self.places.get(key).map(|place| match *place {
            Place::Log(at) => &self.ops[at],
            Place::Memory(at) => &self.memory[at],
        })
    }

    fn add(&mut self, resource: &Resource, mut op: Op) {
        if let Some(place) = self.places.get(&op.key) {
            let slot = match *place {
                Place::Log(at) => &mut self.ops[at],
                Place::Memory(at) => &mut self.memory[at],
            };
            op.base = slot.base;
            op.keep_old |= slot.keep_old;
            *slot = op;
            return;
        }
        let list = if strategy::in_memory(resource) { &mut self.memory } else { &mut self.ops };
        let at = list.len();
        let place = if strategy::in_memory(resource) { Place::Memory(at) } else { Place::Log(at) };
        self.places.insert(op.key.clone(), place);
        list.push(op);
    }
}

impl From<ApiError> for CommitError {
    fn from(error: ApiError) -> Self {
        Self::Rejected(error)
    }
}

impl Registry {
    /// Commits the operations of a plan, all or none, and gives the version of the last one.
    ///
    /// # Errors
    /// `Conflict` when an object is no longer at the version that was planned on (plan again),
    /// `Rejected` when an operation is not valid, and the store's own failures.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Version, CommitError> {
        let this = self.clone();
        let work = tokio::spawn(async move { this.commit_here(changes).await });
        work.await.unwrap_or(Err(CommitError::Closed))
    }

    async fn commit_here(&self, changes: Vec<Change>) -> Result<Version, CommitError> {
        let ends_namespace = changes.iter().any(
            |change| matches!(change, Change::Delete { key, .. } if key.kind == "/namespaces"),
        );
        let namespaces = &self.inner.namespaces;
        let _open = if ends_namespace { None } else { Some(namespaces.read().await) };
        let _closing = if ends_namespace { Some(namespaces.write().await) } else { None };
        let mut lease = match changes.iter().any(|change| kind_of(change) == Some("/services")) {
            true => Some(Lease::new(self.inner.services.clone().lock_owned().await, false)),
            false => None,
        };
        let mut batch = Batch::default();
        for change in changes {
            self.stage(&mut batch, change, lease.as_mut())?;
        }
        let mut version = self.inner.store.version();
        if !batch.ops.is_empty() {
            let committed = self.inner.store.propose(batch.ops.clone()).await;
            if let (Err(ProposeError::Unknown), Some(lease)) = (&committed, lease.as_mut()) {
                lease.keep();
            }
            let committed = committed.map_err(|error| failed(&batch, error))?;
            version = committed.versions.last().copied().unwrap_or(version);
        }
        if let Some(lease) = lease {
            lease.commit();
        }
        if !batch.memory.is_empty() {
            let committed = self.inner.store.propose_memory(batch.memory.clone()).await;
            let committed = committed.map_err(|error| failed(&Batch::default(), error))?;
            version = committed.versions.last().copied().unwrap_or(version);
        }
        for event in &batch.events {
            self.record_event(event).await;
        }
        Ok(version)
    }

    fn stage(
        &self,
        batch: &mut Batch,
        change: Change,
        lease: Option<&mut Lease>,
    ) -> Result<(), CommitError> {
        match change {
            Change::Create { kind, object } => self.stage_create(batch, &kind, object, lease),
            Change::Patch { key, base, subresource, merge } => {
                let (target, record) = self.planned_on(batch, &key, base)?;
                let mut object = object::decode(target.resource, &record.body, record.version);
                patch::merge(&mut object, merge).map_err(ApiError::from)?;
                body::check(target.resource, &mut object, &WriteOptions::default())?;
                meta_mut(&mut object).remove("resourceVersion");
                let lease = lease.filter(|_| target.resource.kind == "Service");
                let prepared = self.prepare_update(&target, &record, subresource, object, lease)?;
                stage_prepared(batch, &target, prepared);
                Ok(())
            }
            Change::Conditions { key, base, set } => {
                let (target, record) = self.planned_on(batch, &key, base)?;
                let mut object = object::decode(target.resource, &record.body, record.version);
                set_conditions(&mut object, set);
                meta_mut(&mut object).remove("resourceVersion");
                let prepared =
                    self.prepare_update(&target, &record, Some("status"), object, None)?;
                stage_prepared(batch, &target, prepared);
                Ok(())
            }
            Change::Delete { key, base, uid, grace_seconds, propagation } => {
                let (target, record) = self.planned_on(batch, &key, base)?;
                admission::admit_delete(&target)?;
                if record.uid != uid {
                    return Err(CommitError::Conflict);
                }
                let delete = DeleteOptions {
                    grace_seconds: grace_seconds.map(i64::from),
                    propagation: Some(word(propagation).to_owned()),
                    ..DeleteOptions::default()
                };
                let lease = lease.filter(|_| target.resource.kind == "Service");
                let prepared = self.prepare_delete(&target, &record, &delete, lease);
                stage_prepared(batch, &target, prepared);
                Ok(())
            }
            Change::Bind { pod, base, uid, node } => {
                let (target, record) = self.planned_on(batch, &pod, base)?;
                if record.uid != uid {
                    return Err(CommitError::Conflict);
                }
                let prepared = self.prepare_bind(&target, &record, &node, &Value::Null)?;
                stage_prepared(batch, &target, prepared);
                Ok(())
            }
            Change::Event(event) => {
                batch.events.push(event);
                Ok(())
            }
        }
    }

    fn stage_create(
        &self,
        batch: &mut Batch,
        kind: &KindKey,
        mut object: Value,
        lease: Option<&mut Lease>,
    ) -> Result<(), CommitError> {
        let resource = known(kind)?;
        body::check(resource, &mut object, &WriteOptions::default())?;
        let namespace = meta_str(&object, "namespace").to_owned();
        let mut name = meta_str(&object, "name").to_owned();
        let prefix = meta_str(&object, "generateName");
        if name.is_empty() && !prefix.is_empty() {
            name = metadata::generate_name(prefix)?;
            meta_mut(&mut object).insert("name".into(), name.clone().into());
            batch.generated.push(batch.ops.len());
        }
        let target = Target::new(resource, namespace, name);
        self.admit_into_namespace(&target)?;
        if batch.staged(&target.key()).is_some() {
            return Err(CommitError::Rejected(target.already_exists()));
        }
        let lease = lease.filter(|_| resource.kind == "Service");
        let prepared = self.prepare_create(&target, object, lease)?;
        stage_prepared(batch, &target, prepared);
        Ok(())
    }

    /// The object that an operation is about: as an earlier operation of the plan leaves it, else as
    /// stored, if that is still what was planned on.
    fn planned_on(
        &self,
        batch: &Batch,
        key: &ObjectKey,
        base: Version,
    ) -> Result<(Target, Record), CommitError> {
        let target = Target::new(known(&key.kind)?, key.namespace.as_str(), key.name.as_str());
        let record = match batch.staged(key) {
            Some(op) => {
                let Some(body) = op.body.clone() else { return Err(CommitError::Conflict) };
                Record { key: key.clone(), version: base, uid: op.uid, body }
            }
            None => self.find(&target)?.ok_or(CommitError::Conflict)?,
        };
        if record.version == base { Ok((target, record)) } else { Err(CommitError::Conflict) }
    }

    /// Writes an Event, or counts up the same one. Trouble is logged: nothing depends on it.
    async fn record_event(&self, event: &Event) {
        if let Err(error) = self.try_record_event(event).await {
            tracing::debug!(%error, reason = event.reason, "cannot record an event");
        }
    }

    async fn try_record_event(&self, event: &Event) -> Result<(), ApiError> {
        let resource = resource::by_kind_key("/events").expect("events are in the table");
        let name = self.event_name(&event.about.name, event.happening());
        let target = Target::new(resource, event.namespace(), name);
        let now = self.inner.clock.now();
        let prepared = match self.find(&target)? {
            Some(record) => {
                let mut object = object::parse(&record.body);
                Event::count_up(&mut object, now);
                let body = object::encode(&object);
                let op = Op {
                    key: record.key,
                    base: Base::At(record.version),
                    uid: record.uid,
                    body: Some(body.clone()),
                    keep_old: false,
                };
                Prepared { op: Some(op), body, version: record.version }
            }
            None => {
                self.admit_into_namespace(&target)?;
                self.prepare_create(&target, event.to_object(&target.name, now), None)?
            }
        };
        self.commit_one(&target, &prepared, false, None).await.map(drop)
    }
}

fn stage_prepared(batch: &mut Batch, target: &Target, prepared: Prepared) {
    if let Some(op) = prepared.op {
        batch.add(target.resource, op);
    }
}

fn known(kind: &str) -> Result<&'static Resource, ApiError> {
    resource::by_kind_key(kind)
        .ok_or_else(|| ApiError::internal(format!("Internal error occurred: unknown kind {kind}")))
}

fn kind_of(change: &Change) -> Option<&str> {
    match change {
        Change::Create { kind, .. } => Some(kind),
        Change::Patch { key, .. } | Change::Conditions { key, .. } | Change::Delete { key, .. } => {
            Some(&key.kind)
        }
        Change::Bind { .. } | Change::Event(_) => None,
    }
}

fn word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
        Propagation::Orphan => "Orphan",
    }
}

/// What a controller has to know about a proposal that did not happen.
fn failed(batch: &Batch, error: ProposeError) -> CommitError {
    match error {
        ProposeError::Conflict { op, .. } => {
            let created = batch.ops.get(op).filter(|staged| staged.base == Base::Absent);
            match created {
                Some(staged) if !batch.generated.contains(&op) => {
                    let Some(resource) = resource::by_kind_key(&staged.key.kind) else {
                        return CommitError::Conflict;
                    };
                    let key = &staged.key;
                    let target = Target::new(resource, key.namespace.as_str(), key.name.as_str());
                    CommitError::Rejected(target.already_exists())
                }
                _ => CommitError::Conflict,
            }
        }
        ProposeError::NoSpace | ProposeError::Descriptors => CommitError::NoSpace,
        ProposeError::TooLarge => {
            let pods = resource::by_kind_key("/pods").expect("pods are in the table");
            CommitError::Rejected(write_failed(pods, &ProposeError::TooLarge))
        }
        ProposeError::NotLeading { .. } => CommitError::NotLeading,
        ProposeError::Late | ProposeError::Unknown => CommitError::Late,
        ProposeError::Failed | ProposeError::Closed => CommitError::Closed,
    }
}
