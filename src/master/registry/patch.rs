//! PATCH: read, patch, and write as an update, again when somebody else was faster.

use model::patch;
use model::status::ApiError;
use serde_json::Value;

use super::errors::MODIFIED;
use super::object;
use super::types::{PatchBody, PatchKind, Target, WriteOptions, Written};
use super::write::{check_preconditions, judge};
use super::{Registry, body};

/// `MaxRetryWhenPatchConflicts` of the apiserver.
const ATTEMPTS: usize = 5;

impl Registry {
    /// Patches an object, or through `subresource` a part of it.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when the patch names another version, 400 or 422 when the
    /// patch cannot be applied or its result is not valid.
    pub async fn patch(
        &self,
        target: &Target,
        subresource: Option<&str>,
        patch: PatchBody,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (this, target, options) = (self.clone(), target.clone(), options.clone());
        let subresource = subresource.map(str::to_owned);
        self.detached(async move {
            match subresource.as_deref() {
                Some("scale") => this.patch_scale(&target, &patch, &options).await,
                part => this.patch_here(&target, part, &patch, &options).await,
            }
        })
        .await
    }

    async fn patch_here(
        &self,
        target: &Target,
        subresource: Option<&str>,
        patch: &PatchBody,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        for _ in 0..ATTEMPTS {
            let mut lease = self.lease(target, options.dry_run).await;
            let record = self.record(target)?;
            let mut object = object::decode(target.resource, &record.body, record.version);
            apply(target, &mut object, patch)?;
            let warnings = check(target, &mut object, patch, options)?;
            body::check_name(target, &mut object)?;
            body::check_place(target, &mut object)?;
            judge(target, &record, &object, options)?;
            // A version that comes from the patch itself will not match at the next try either.
            check_preconditions(target, &record, &object)?;
            let prepared =
                self.prepare_update(target, &record, subresource, object, lease.as_mut())?;
            if let Some(version) =
                self.commit_one(target, &prepared, options.dry_run, lease).await?
            {
                let object = object::single(target.resource, &prepared.body, version);
                return Ok(Written { object, warnings, created: false });
            }
        }
        Err(target.conflict(MODIFIED))
    }
}

/// Checks the fields of what a patch has made. A refusal shows the patched object as JSON, or a
/// strategic patch as Go prints it, as the real server does.
fn check(
    target: &Target,
    object: &mut Value,
    patch: &PatchBody,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let patched = match patch.kind {
        PatchKind::Strategic => go_text(&patch.body),
        PatchKind::Json | PatchKind::Merge => object.to_string(),
    };
    body::check_patched(target.resource, object, options, || patched)
}

/// A value as Go's `%+v` prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name}:{}", go_text(value));
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// Applies a patch of any kind.
pub(super) fn apply(
    target: &Target,
    object: &mut Value,
    patch: &PatchBody,
) -> Result<(), ApiError> {
    let body = patch.body.clone();
    match patch.kind {
        PatchKind::Json => patch::json(object, body)?,
        PatchKind::Merge => patch::merge(object, body)?,
        PatchKind::Strategic => patch::strategic(target.resource, object, body)?,
    }
    Ok(())
}
