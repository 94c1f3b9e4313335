//! The subresource `scale` of workloads: `spec.replicas` as an `autoscaling/v1` Scale.

use model::resource::Resource;
use model::selector::LabelSelector;
use model::status::ApiError;
use model::validation::FieldError;
use model::validation::error::invalid;
use serde_json::{Value, json};

use super::errors::MODIFIED;
use super::object::{self, child_mut};
use super::types::{PatchBody, PatchKind, Target, WriteOptions, Written};
use super::write::{UPDATE_ATTEMPTS, check_preconditions};
use super::{Registry, body, patch};
use crate::io::store::Record;

const GROUP: &str = "autoscaling";
const KIND: &str = "Scale";

impl Registry {
    /// The Scale of a workload.
    ///
    /// # Errors
    /// 404 when the workload does not exist.
    pub fn get_scale(&self, target: &Target) -> Result<bytes::Bytes, ApiError> {
        let record = self.record(target)?;
        let object = object::decode(target.resource, &record.body, record.version);
        Ok(scale_of(target.resource, &object).to_string().into())
    }

    /// Sets a workload's replicas from a Scale.
    pub(super) async fn update_scale(
        &self,
        target: &Target,
        mut scale: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let warnings = check(target, &mut scale, options)?;
        for _ in 0..UPDATE_ATTEMPTS {
            let record = self.record(target)?;
            if let Some(object) = self.try_scale(target, &record, &scale, options).await? {
                return Ok(Written { object, warnings, created: false });
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// Patches a workload's Scale.
    pub(super) async fn patch_scale(
        &self,
        target: &Target,
        patch: &PatchBody,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        // A Scale has no lists, so a strategic patch of it is a merge patch.
        let kind = match patch.kind {
            PatchKind::Json => PatchKind::Json,
            PatchKind::Merge | PatchKind::Strategic => PatchKind::Merge,
        };
        let patch = PatchBody { kind, body: patch.body.clone() };
        for _ in 0..UPDATE_ATTEMPTS {
            let record = self.record(target)?;
            let object = object::decode(target.resource, &record.body, record.version);
            let mut scale = scale_of(target.resource, &object);
            patch::apply(target, &mut scale, &patch)?;
            let warnings = check(target, &mut scale, options)?;
            if let Some(object) = self.try_scale(target, &record, &scale, options).await? {
                return Ok(Written { object, warnings, created: false });
            }
        }
        Err(target.conflict(MODIFIED))
    }

    /// Writes the replicas of `scale` into `record`; `None` when somebody else was faster.
    async fn try_scale(
        &self,
        target: &Target,
        record: &Record,
        scale: &Value,
        options: &WriteOptions,
    ) -> Result<Option<bytes::Bytes>, ApiError> {
        check_preconditions(target, record, scale)?;
        let mut object = object::decode(target.resource, &record.body, record.version);
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        child_mut(&mut object, "spec").insert("replicas".into(), replicas.into());
        let prepared = self.prepare_update(target, record, None, object, None)?;
        let version = self.commit_one(target, &prepared, options.dry_run, None).await?;
        Ok(version.map(|version| {
            let object = object::decode(target.resource, &prepared.body, version);
            scale_of(target.resource, &object).to_string().into()
        }))
    }
}

/// Checks a Scale's fields, place and replicas.
fn check(
    target: &Target,
    scale: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let warnings = body::check_as(body::Type::of(GROUP, "v1", KIND), scale, options)?;
    body::check_name(target, scale)?;
    body::check_place(target, scale)?;
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error =
            FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(invalid(GROUP, KIND, &target.name, &[error]));
    }
    Ok(warnings)
}

/// The Scale that shows `object`, a complete workload.
fn scale_of(resource: &Resource, object: &Value) -> Value {
    let mut meta = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            meta[field] = value.clone();
        }
    }
    let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    let mut scale = json!({
        "kind": KIND, "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {}, "status": { "replicas": replicas("status") },
    });
    if replicas("spec") != 0 {
        scale["spec"]["replicas"] = replicas("spec").into();
    }
    let selector = &object["spec"]["selector"];
    let selector = match resource.kind {
        "ReplicationController" => LabelSelector::from_map(selector),
        _ => LabelSelector::from_object(selector).unwrap_or_else(|_| LabelSelector::nothing()),
    };
    let selector = selector.to_string();
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}
