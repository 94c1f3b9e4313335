//! A request's body: is it of the right kind, and do its fields exist?

use model::resource::{self, Resource};
use model::schema::{self, TypeId};
use model::status::ApiError;
use model::validation::error::{FieldError, invalid};
use serde_json::Value;

use super::types::{FieldValidation, Target, WriteOptions};

/// The type that a body has to be of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    schema: TypeId,
}

impl Type {
    /// The type of a subresource's body.
    pub(super) fn of(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        let schema = TypeId::of_kind(group, version, kind);
        Self { group, version, kind, schema: schema.expect("the schema table has every body") }
    }

    fn api_version(self) -> String {
        resource::api_version(self.group, self.version)
    }

    fn refuse(self, kind: &str, version: &str, why: &str) -> ApiError {
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        ))
    }
}

/// [`check_as`] for an object of `resource` itself.
pub(super) fn check(
    resource: &Resource,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let Resource { group, version, kind, schema, .. } = *resource;
    check_as(Type { group, version, kind, schema }, object, options)
}

/// Checks kind, version and fields of `object`, drops what the schema does not know, and sets the
/// type. Gives the warnings.
///
/// # Errors
/// 400 with the words of a real server's decoder.
pub(super) fn check_as(
    wanted: Type,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    let (kind, version) = check_type(wanted, object)?;
    check_fields(wanted, object, options).map_err(|why| wanted.refuse(&kind, &version, &why))
}

/// [`check`] for an object that a patch has made; `patched` is what the server shows of it.
///
/// # Errors
/// 422 with the words of `applyPatchToObject` in the apiserver's `patch.go`.
pub(super) fn check_patched(
    resource: &Resource,
    object: &mut Value,
    options: &WriteOptions,
    patched: impl FnOnce() -> String,
) -> Result<Vec<String>, ApiError> {
    let Resource { group, version, kind, schema, .. } = *resource;
    let wanted = Type { group, version, kind, schema };
    check_type(wanted, object)?;
    check_fields(wanted, object, options)
        .map_err(|why| invalid("", "", "", &[FieldError::invalid("patch", patched(), why)]))
}

/// Drops unknown fields; gives them as warnings, or says why the object is refused.
fn check_fields(
    wanted: Type,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, String> {
    let unknown = schema::check_type(wanted.schema, object)?;
    let issues: Vec<String> =
        unknown.iter().map(ToString::to_string).chain(options.decode_issues.clone()).collect();
    match options.field_validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(issues),
        FieldValidation::Strict if issues.is_empty() => Ok(issues),
        FieldValidation::Strict => Err(format!("strict decoding error: {}", issues.join(", "))),
    }
}

/// Compares the body's type with the wanted one; an absent one is filled in, as by a real server.
/// Gives kind and version as the body names them.
fn check_type(wanted: Type, object: &mut Value) -> Result<(String, String), ApiError> {
    let text = |field: &str| object[field].as_str().filter(|text| !text.is_empty());
    let kind = text("kind").unwrap_or(wanted.kind).to_owned();
    let api_version = text("apiVersion").map_or_else(|| wanted.api_version(), str::to_owned);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    if kind == wanted.kind && api_version == wanted.api_version() {
        let version = version.to_owned();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("kind".into(), kind.clone().into());
            fields.insert("apiVersion".into(), api_version.into());
        }
        return Ok((kind, version));
    }
    let why = match resource::by_kind(group, version, &kind) {
        Some(_) => format!(
            "converting ({version}.{kind}) to ({}.{}): unknown conversion",
            package(wanted.group),
            wanted.kind
        ),
        None => format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        ),
    };
    Err(wanted.refuse(&kind, version, &why))
}

/// Name of the Go package of a group's internal types.
fn package(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) }
}

/// Compares the body's namespace and name with those of the path.
///
/// # Errors
/// 400 when they differ.
pub(super) fn check_place(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let meta = super::object::meta_mut(object);
    let namespace = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if target.namespace.is_empty() {
        meta.remove("namespace");
    } else if namespace.is_empty() {
        meta.insert("namespace".into(), target.namespace.clone().into());
    } else if namespace != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Compares the body's name with that of the path (PUT and PATCH).
///
/// # Errors
/// 400 when they differ.
pub(super) fn check_name(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let meta = super::object::meta_mut(object);
    let name = meta.get("name").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() {
        return Err(ApiError::bad_request("name must be provided"));
    }
    if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}
