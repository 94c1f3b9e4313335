//! Create and update: one pipeline for clients and controllers.
//!
//! ```text
//! body -> fields known? -> place -> [stored object] -> server's metadata -> what may change
//!      -> defaults -> valid? -> allocate -> equal to what is stored? -> propose
//! ```
//! Each write runs in a task of its own: a client that goes away does not cut it in half.

use std::future::Future;

use bytes::Bytes;
use model::ids::{Uid, Version};
use model::status::ApiError;
use model::validation::FieldError;
use model::{defaulting, limits, validation};
use serde_json::Value;

use super::allocate::Lease;
use super::errors::{MODIFIED, invalid_field, write_failed};
use super::object::{self, is_deleting, meta_mut, meta_str, uid_of};
use super::types::{Target, WriteOptions, Written};
use super::{Registry, admission, body, metadata, selection, service, strategy};
use crate::io::store::{Base, Op, ProposeError, Record};

/// Generated names that are tried before the request fails (KEP-4420).
const NAME_ATTEMPTS: usize = 8;
/// Times that an update without a version of its own is tried again when another one was faster.
pub(super) const UPDATE_ATTEMPTS: usize = 32;
/// Codes of refusals that depend on what is stored.
const TELL_OF_STORED: [u16; 4] = [403, 404, 409, 422];

/// A change that is ready to be proposed.
pub(super) struct Prepared {
    /// What to propose; absent when nothing changes.
    pub op: Option<Op>,
    /// The object as it will be, at rest.
    pub body: Bytes,
    /// Its version when nothing changes.
    pub version: Version,
}

impl Registry {
    /// Creates an object.
    ///
    /// # Errors
    /// 404 or 403 for its namespace, 409 when it exists, 400 or 422 when it is not valid.
    pub async fn create(
        &self,
        target: &Target,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (this, target, options) = (self.clone(), target.clone(), options.clone());
        self.detached(async move {
            match target.resource.kind {
                "Binding" => this.bind_by_name(&target, object, &options).await,
                _ => this.create_here(target, object, &options).await,
            }
        })
        .await
    }

    /// Replaces an object, or through `subresource` a part of it.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when it changed meanwhile, 400 or 422 when it is not valid.
    pub async fn update(
        &self,
        target: &Target,
        subresource: Option<&str>,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (this, target, options) = (self.clone(), target.clone(), options.clone());
        let subresource = subresource.map(str::to_owned);
        self.detached(async move {
            match subresource.as_deref() {
                Some("scale") => this.update_scale(&target, object, &options).await,
                part => this.update_here(&target, part, object, &options).await,
            }
        })
        .await
    }

    /// Checks a request that leaves no object behind: its fields and its place. Gives the object and the
    /// warnings.
    ///
    /// # Errors
    /// 400 as for objects.
    pub fn check_request(
        &self,
        target: &Target,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), ApiError> {
        let warnings = body::check(target.resource, &mut object, options)?;
        body::check_place(target, &mut object)?;
        Ok((object, warnings))
    }

    async fn create_here(
        &self,
        mut target: Target,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let warnings = body::check(target.resource, &mut object, options)?;
        body::check_place(&target, &mut object)?;
        target.name = meta_str(&object, "name").to_owned();
        let _active = self.inner.namespaces.read().await;
        self.admit_into_namespace(&target)?;
        if let Some(guard) = &options.guard {
            guard.judge(&target, None, &object)?;
        }
        let prefix = meta_str(&object, "generateName").to_owned();
        let generated = target.name.is_empty() && !prefix.is_empty();
        let attempts = if generated { NAME_ATTEMPTS } else { 1 };
        for _ in 0..attempts {
            let mut object = object.clone();
            if generated {
                target.name = metadata::generate_name(&prefix)?;
                meta_mut(&mut object).insert("name".into(), target.name.clone().into());
            }
            let mut lease = self.lease(&target, options.dry_run).await;
            let prepared = self.prepare_create(&target, object, lease.as_mut())?;
            if let Some(version) =
                self.commit_one(&target, &prepared, options.dry_run, lease).await?
            {
                let object = object::single(target.resource, &prepared.body, version);
                return Ok(Written { object, warnings, created: true });
            }
        }
        Err(self.taken(&target, generated))
    }

    /// Why a name cannot be had (`rest.CheckGeneratedNameError` and `Store.Create`).
    fn taken(&self, target: &Target, generated: bool) -> ApiError {
        let mut error = target.already_exists();
        if generated {
            let text = ", the server was not able to generate a unique name for the object";
            error.message.push_str(text);
            error.retry_after_seconds = Some(1);
            error.details["retryAfterSeconds"] = 1.into();
            return error;
        }
        let record = self.find(target).ok().flatten();
        if record.is_some_and(|record| is_deleting(&object::parse(&record.body))) {
            error.message.insert_str(0, "object is being deleted: ");
        }
        error
    }

    /// Completes a new object: everything between the check of its fields and the proposal. The
    /// caller holds the namespace open and has admitted the object to it.
    pub(super) fn prepare_create(
        &self,
        target: &Target,
        mut object: Value,
        lease: Option<&mut Lease>,
    ) -> Result<Prepared, ApiError> {
        let resource = target.resource;
        admission::admit_create(target, &object)?;
        metadata::for_create(&mut object, resource.has_generation, self.inner.clock.now())?;
        strategy::prepare_create(resource, &mut object);
        defaulting::create(resource, &mut object);
        self.add_token_volume(target, &mut object)?;
        self.validate(target, None, &object, None)?;
        if let Some(lease) = lease {
            lease.allocate(&mut object, None)?;
        }
        let body = sized(target, object::encode(&object))?;
        let op = Op {
            key: target.key(),
            base: Base::Absent,
            uid: uid_of(&object),
            body: Some(body.clone()),
            keep_old: false,
        };
        Ok(Prepared { op: Some(op), body, version: Version(0) })
    }

    async fn update_here(
        &self,
        target: &Target,
        subresource: Option<&str>,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let warnings = body::check(target.resource, &mut object, options)?;
        body::check_name(target, &mut object)?;
        body::check_place(target, &mut object)?;
        for _ in 0..UPDATE_ATTEMPTS {
            let mut lease = self.lease(target, options.dry_run).await;
            let Some(record) = self.find(target)? else {
                if subresource.is_some() || !strategy::creates_on_update(target.resource) {
                    return Err(target.not_found());
                }
                drop(lease);
                if let Some(creating) = &options.creating {
                    creating.judge(target, None, &object)?;
                }
                let create = self.create_here(target.clone(), object, options);
                return create.await.map(|written| Written { warnings, ..written });
            };
            judge(target, &record, &object, options)?;
            check_preconditions(target, &record, &object)?;
            let prepared =
                self.prepare_update(target, &record, subresource, object.clone(), lease.as_mut())?;
            if let Some(version) =
                self.commit_one(target, &prepared, options.dry_run, lease).await?
            {
                let object = object::single(target.resource, &prepared.body, version);
                return Ok(Written { object, warnings, created: false });
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// Turns `new`, a whole object, into the change of `record` that a request to `subresource` may
    /// make. An object that is being deleted and loses its last finalizer goes away.
    pub(super) fn prepare_update(
        &self,
        target: &Target,
        record: &Record,
        subresource: Option<&str>,
        mut new: Value,
        lease: Option<&mut Lease>,
    ) -> Result<Prepared, ApiError> {
        let resource = target.resource;
        let mut old = object::decode(resource, &record.body, record.version);
        meta_mut(&mut old).remove("resourceVersion");
        metadata::for_update(&old, &mut new);
        strategy::prepare_update(resource, subresource, &old, &mut new);
        if resource.kind == "Service" && subresource.is_none() {
            service::prepare_update(&old, &mut new);
        }
        defaulting::apply(resource, &mut new);
        if subresource.is_none() {
            strategy::count_generation(resource, &old, &mut new);
        }
        self.validate(target, subresource, &new, Some(&old))?;
        let gone = is_gone(&old, &new);
        if let Some(lease) = lease {
            match gone {
                true => lease.release(&old),
                false if subresource.is_none() => lease.allocate(&mut new, Some(&old))?,
                false => {}
            }
        }
        let body = sized(target, object::encode(&new))?;
        if !gone && body == record.body {
            return Ok(Prepared { op: None, body, version: record.version });
        }
        let op = Op {
            key: record.key.clone(),
            base: Base::At(record.version),
            uid: record.uid,
            keep_old: gone || selection::differs(resource, &old, &new),
            body: (!gone).then(|| body.clone()),
        };
        Ok(Prepared { op: Some(op), body, version: record.version })
    }

    fn validate(
        &self,
        target: &Target,
        subresource: Option<&str>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let errors = match (subresource, old) {
            (Some("status"), Some(old)) => validation::validate_status(target.resource, new, old),
            _ => validation::validate(target.resource, new, old),
        };
        if errors.is_empty() {
            return Ok(());
        }
        Err(validation::invalid(target.resource, meta_str(new, "name"), &errors))
    }

    /// The allocator, for writes of Services.
    pub(super) async fn lease(&self, target: &Target, dry_run: bool) -> Option<Lease> {
        if target.resource.kind != "Service" {
            return None;
        }
        let allocator = self.inner.services.clone().lock_owned().await;
        Some(Lease::new(allocator, dry_run))
    }

    /// Runs a write to its end even if nobody waits for it any more.
    ///
    /// # Errors
    /// Those of the write; 503 instead of one that tells of what is stored when this master does not lead
    /// any more: it may be the past.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let done = tokio::spawn(work).await.unwrap_or_else(|_| Err(broken_off()));
        if let Err(error) = &done
            && TELL_OF_STORED.contains(&error.code)
        {
            self.confirm().await?;
        }
        done
    }

    /// Proposes one change. `None` when the object is no longer what it was prepared on.
    pub(super) async fn commit_one(
        &self,
        target: &Target,
        prepared: &Prepared,
        dry_run: bool,
        lease: Option<Lease>,
    ) -> Result<Option<Version>, ApiError> {
        if prepared.op.is_none() || dry_run {
            // What is not proposed asks no other master whether this is the past.
            self.confirm().await?;
        }
        let Some(op) = &prepared.op else { return Ok(Some(prepared.version)) };
        if dry_run {
            let taken = op.base == Base::Absent && self.find(target)?.is_some();
            return Ok((!taken).then_some(prepared.version));
        }
        match self.propose(target, vec![op.clone()]).await {
            Ok(version) => {
                if let Some(lease) = lease {
                    lease.commit();
                }
                Ok(Some(version))
            }
            Err(ProposeError::Conflict { .. }) => Ok(None),
            Err(error @ ProposeError::Unknown) => {
                if let Some(mut lease) = lease {
                    lease.keep();
                }
                Err(write_failed(target.resource, &error))
            }
            Err(error) => Err(write_failed(target.resource, &error)),
        }
    }

    /// Proposes operations on objects of the target's kind and gives the last version.
    async fn propose(&self, target: &Target, ops: Vec<Op>) -> Result<Version, ProposeError> {
        let store = &self.inner.store;
        let committed = if strategy::in_memory(target.resource) {
            store.propose_memory(ops).await?
        } else {
            store.propose(ops).await?
        };
        Ok(committed.versions.last().copied().unwrap_or_default())
    }
}

/// Asks the guard of an update, if there is one.
pub(super) fn judge(
    target: &Target,
    record: &Record,
    object: &Value,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    let Some(guard) = &options.guard else { return Ok(()) };
    let old = object::decode(target.resource, &record.body, record.version);
    guard.judge(target, Some(&old), object)
}

/// Compares the uid and the version that an update names with the stored object.
///
/// # Errors
/// 409 when they differ, 422 when this kind needs a version and there is none.
pub(super) fn check_preconditions(
    target: &Target,
    record: &Record,
    object: &Value,
) -> Result<(), ApiError> {
    let uid = meta_str(object, "uid");
    if !uid.is_empty() && Uid::parse(uid) != Some(record.uid) {
        return Err(target.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            record.uid
        )));
    }
    match meta_str(object, "resourceVersion") {
        "" | "0" if strategy::updates_unconditionally(target.resource) => Ok(()),
        "" | "0" => {
            let error = FieldError::invalid(
                "metadata.resourceVersion",
                0,
                "must be specified for an update",
            );
            Err(invalid_field(target.resource, &target.name, error))
        }
        asked if asked == record.version.to_string() => Ok(()),
        _ => Err(target.conflict(MODIFIED)),
    }
}

/// Whether an update takes the last reason away why a deleted object was still there.
fn is_gone(old: &Value, new: &Value) -> bool {
    let held = |object: &Value| {
        let listed = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
        listed(&object["metadata"]["finalizers"])
            || object["kind"] == "Namespace" && listed(&object["spec"]["finalizers"])
    };
    let grace = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    is_deleting(old) && grace == 0 && held(old) && !held(new)
}

/// Refuses an object that is too large to store.
pub(super) fn sized(target: &Target, body: Bytes) -> Result<Bytes, ApiError> {
    if body.len() > limits::OBJECT_BYTES_MAX {
        return Err(write_failed(target.resource, &ProposeError::TooLarge));
    }
    Ok(body)
}

/// A write whose task ended without an answer.
pub(super) fn broken_off() -> ApiError {
    ApiError::internal("Internal error occurred: the write was broken off")
}
