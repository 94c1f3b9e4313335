//! Delete: preconditions, grace, finalizers, dependents, namespaces, collections.
//!
//! ```text
//! live --(grace > 0, or finalizers)--> deletionTimestamp set --(grace 0 and no finalizer)--> gone
//!   \----(no grace, no finalizer)-----------------------------------------------------------^
//! ```
//! As `Store.Delete`, `rest.BeforeDelete` and the namespace storage of a real server; one write
//! instead of its two where an object ends at once.

use bytes::Bytes;
use model::ids::{Uid, Version};
use model::resource::Resource;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::validation::FieldError;
use serde_json::{Value, json};

use super::allocate::Lease;
use super::errors::{MODIFIED, invalid_options};
use super::metadata::bump_generation;
use super::object::{self, finalizers, is_deleting, meta_mut, meta_str, set_finalizers};
use super::strategy::{self, GarbagePolicy};
use super::types::{Deleted, ListPage, ListQuery, Target, WriteOptions};
use super::write::{Prepared, UPDATE_ATTEMPTS, broken_off};
use super::{Registry, admission};
use crate::io::store::{Base, Op, Record};

/// Objects of a collection that are being deleted at the same time.
const COLLECTION_DELETES: usize = 16;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions` of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_seconds: Option<i64>,
    /// `propagationPolicy`: `Background`, `Foreground`, `Orphan`.
    pub propagation: Option<String>,
    /// `orphanDependents`, from before there were policies.
    pub orphan_dependents: Option<bool>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Reads a body of kind DeleteOptions whose types were checked; null is none.
    pub fn from_object(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            grace_seconds: object["gracePeriodSeconds"].as_i64(),
            propagation: text(&object["propagationPolicy"]),
            orphan_dependents: object["orphanDependents"].as_bool(),
            uid: text(&object["preconditions"]["uid"]),
            resource_version: text(&object["preconditions"]["resourceVersion"]),
        }
    }

    /// `ValidateDeleteOptions` of apimachinery.
    fn check(&self) -> Result<(), ApiError> {
        const FIELD: &str = "propagationPolicy";
        let known = ["Background", "Foreground", "Orphan"];
        let error = match (&self.propagation, self.orphan_dependents) {
            (Some(policy), Some(_)) => FieldError::invalid(
                FIELD,
                policy.as_str(),
                "orphanDependents and deletionPropagation cannot be both set",
            ),
            (Some(policy), None) if !known.contains(&policy.as_str()) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                FieldError::not_supported(FIELD, policy.as_str(), &supported)
            }
            _ => return Ok(()),
        };
        Err(invalid_options("DeleteOptions", &[error]))
    }

    /// Compares the preconditions with the stored object.
    fn check_preconditions(&self, target: &Target, record: &Record) -> Result<(), ApiError> {
        if let Some(uid) = self.uid.as_deref().filter(|uid| Uid::parse(uid) != Some(record.uid)) {
            return Err(target.kind_conflict(&format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
                 object might have been deleted and then recreated",
                record.uid
            )));
        }
        let stored = record.version.to_string();
        if let Some(version) = self.resource_version.as_ref().filter(|asked| **asked != stored) {
            return Err(target.kind_conflict(&format!(
                "the ResourceVersion in the precondition ({version}) does not match the \
                 ResourceVersion in record ({stored}). The object might have been modified"
            )));
        }
        Ok(())
    }
}

impl Registry {
    /// Deletes an object, or begins to.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when a precondition fails, 403 for the namespaces that the
    /// cluster needs, 422 for options that exclude each other.
    pub async fn delete(
        &self,
        target: &Target,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, ApiError> {
        let (this, target) = (self.clone(), target.clone());
        let (delete, dry_run) = (delete.clone(), options.dry_run);
        self.detached(async move { this.delete_here(&target, &delete, dry_run).await }).await
    }

    /// Deletes what `query` selects, one by one, and gives what was deleted.
    ///
    /// # Errors
    /// As [`Self::list`] and [`Self::delete`]; objects that are gone already are passed over.
    pub async fn delete_collection(
        &self,
        query: &ListQuery,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<ListPage, ApiError> {
        delete.check()?;
        // Of what is not there nothing is deleted, so nobody else is asked whether this is the past.
        self.confirm().await?;
        let mut page = self.list(query)?;
        let mut deleted = Vec::with_capacity(page.items.len());
        let mut items = page.items.into_iter().peekable();
        while items.peek().is_some() {
            // Several at a time share one write to the log.
            let mut running = Vec::with_capacity(COLLECTION_DELETES);
            for item in items.by_ref().take(COLLECTION_DELETES) {
                let (this, one) = (self.clone(), delete.clone());
                let (target, dry_run) = (target_of(query.resource, &item.json()), options.dry_run);
                let work = async move { this.delete_here(&target, &one, dry_run).await };
                running.push((item, tokio::spawn(work)));
            }
            for (item, work) in running {
                match work.await.unwrap_or_else(|_| Err(broken_off())) {
                    Ok(_) => deleted.push(item),
                    Err(error) if error.code == 404 => {}
                    Err(error) => return Err(error),
                }
            }
        }
        page.items = deleted;
        Ok(page)
    }

    pub(super) async fn delete_here(
        &self,
        target: &Target,
        delete: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deleted, ApiError> {
        delete.check()?;
        admission::admit_delete(target)?;
        // After this no object can be created in a namespace that is found live below.
        let _closing = match target.resource.kind {
            "Namespace" => Some(self.inner.namespaces.write().await),
            _ => None,
        };
        for _ in 0..UPDATE_ATTEMPTS {
            let mut lease = self.lease(target, dry_run).await;
            let record = self.record(target)?;
            delete.check_preconditions(target, &record)?;
            let prepared = self.prepare_delete(target, &record, delete, lease.as_mut());
            if let Some(version) = self.commit_one(target, &prepared, dry_run, lease).await? {
                let gone = prepared.op.as_ref().is_some_and(|op| op.body.is_none());
                return Ok(answer(target.resource, &record, &prepared.body, version, gone));
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// What a delete of `record` does to it at this moment; preconditions hold already.
    pub(super) fn prepare_delete(
        &self,
        target: &Target,
        record: &Record,
        delete: &DeleteOptions,
        lease: Option<&mut Lease>,
    ) -> Prepared {
        let resource = target.resource;
        let mut object = object::parse(&record.body);
        let gone = match resource.kind {
            "Namespace" => end_namespace(&mut object, resource, delete, self.inner.clock.now()),
            _ => end_object(&mut object, resource, delete, self.inner.clock.now()),
        };
        if gone && let Some(lease) = lease {
            lease.release(&object);
        }
        let body = object::encode(&object);
        if !gone && body == record.body {
            return Prepared { op: None, body, version: record.version };
        }
        let op = Op {
            key: record.key.clone(),
            base: Base::At(record.version),
            uid: record.uid,
            body: (!gone).then(|| body.clone()),
            keep_old: gone,
        };
        Prepared { op: Some(op), body, version: record.version }
    }
}

/// What a list item is.
fn target_of(resource: &'static Resource, item: &[u8]) -> Target {
    let object = object::parse(item);
    Target::new(resource, meta_str(&object, "namespace"), meta_str(&object, "name"))
}

/// The object for kinds that answer with it and for those that stay; else a Status that names it.
fn answer(
    resource: &Resource,
    record: &Record,
    body: &Bytes,
    version: Version,
    gone: bool,
) -> Deleted {
    if !gone || strategy::answers_with_object(resource) {
        return Deleted { object: object::single(resource, body, version), gone };
    }
    let mut details = json!({
        "name": record.key.name, "kind": resource.plural, "uid": record.uid.to_string(),
    });
    if !resource.group.is_empty() {
        details["group"] = resource.group.into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details,
    });
    Deleted { object: status.to_string().into(), gone }
}

/// Marks what has to be marked; true when nothing holds the object any more.
fn end_object(
    object: &mut Value,
    resource: &Resource,
    delete: &DeleteOptions,
    now: Timestamp,
) -> bool {
    let asked = delete.grace_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let graceful = match strategy::grace_seconds(resource, object, asked) {
        Some(_) if is_deleting(object) => match shorten(object, asked) {
            Shortened::Pending => return is_free(object),
            Shortened::Done => true,
            Shortened::Ungraceful => false,
        },
        Some(seconds) => {
            let end = now.plus_millis(seconds.saturating_mul(1_000));
            mark(object, end, seconds);
            true
        }
        None => false,
    };
    if let Some(names) = garbage_finalizers(object, resource, delete) {
        set_finalizers(object, &names);
    }
    let held = !finalizers(object).is_empty();
    if graceful {
        let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        return !held && grace == 0;
    }
    if held {
        let begun = Timestamp::parse(meta_str(object, "deletionTimestamp"));
        mark(object, begun.map_or(now, |begun| begun.min(now)), 0);
    }
    !held
}

enum Shortened {
    /// Deletion goes on as it was.
    Pending,
    /// It ends earlier.
    Done,
    /// It began without a grace period.
    Ungraceful,
}

/// A deletion that has begun may only be shortened.
fn shorten(object: &mut Value, asked: Option<i64>) -> Shortened {
    let Some(grace) = object["metadata"]["deletionGracePeriodSeconds"].as_i64() else {
        return Shortened::Ungraceful;
    };
    let end = Timestamp::parse(meta_str(object, "deletionTimestamp"));
    match (asked, end) {
        (Some(asked), Some(end)) if asked < grace => {
            let end = end.plus_millis((asked - grace).saturating_mul(1_000));
            let meta = meta_mut(object);
            meta.insert("deletionTimestamp".into(), end.to_string().into());
            meta.insert("deletionGracePeriodSeconds".into(), asked.into());
            Shortened::Done
        }
        _ => Shortened::Pending,
    }
}

/// Whether a deletion that is under way has nothing left to wait for.
fn is_free(object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    grace == 0 && finalizers(object).is_empty()
}

/// Sets the end of an object's life; the first time counts as a change of its spec.
fn mark(object: &mut Value, end: Timestamp, grace: i64) {
    if !is_deleting(object) {
        bump_generation(object);
    }
    let meta = meta_mut(object);
    meta.insert("deletionTimestamp".into(), end.to_string().into());
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
}

/// A namespace ends in two steps: Terminating until `spec.finalizers` is empty, then as any object.
fn end_namespace(
    object: &mut Value,
    resource: &Resource,
    delete: &DeleteOptions,
    now: Timestamp,
) -> bool {
    let kept = object["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if !is_deleting(object) && kept {
        meta_mut(object).insert("deletionTimestamp".into(), now.to_string().into());
        object::child_mut(object, "status").insert("phase".into(), "Terminating".into());
        if let Some(names) = garbage_finalizers(object, resource, delete) {
            set_finalizers(object, &names);
        }
    }
    !kept && end_object(object, resource, delete, now)
}

/// The finalizers that the wanted propagation asks for, when they differ from what is there
/// (`deletionFinalizersForGarbageCollection`).
fn garbage_finalizers(
    object: &Value,
    resource: &Resource,
    delete: &DeleteOptions,
) -> Option<Vec<String>> {
    let policy = strategy::garbage_policy(resource);
    if policy == GarbagePolicy::Unsupported {
        return None;
    }
    let before = finalizers(object);
    let has = |name: &str| before.iter().any(|one| one == name);
    let (orphan, foreground) = match (delete.orphan_dependents, delete.propagation.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
        (None, None) if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        (None, None) => (policy == GarbagePolicy::Orphan, false),
    };
    let mut after: Vec<String> =
        before.iter().filter(|name| *name != ORPHAN && *name != FOREGROUND).cloned().collect();
    if orphan {
        after.push(ORPHAN.into());
    }
    if foreground {
        after.push(FOREGROUND.into());
    }
    (after != before).then_some(after)
}
