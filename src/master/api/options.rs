//! The options of write requests: `dryRun`, `fieldManager`, `fieldValidation`, `DeleteOptions`.
//!
//! Checks follow `k8s.io/apimachinery/pkg/apis/meta/v1/validation`.

use http::header::USER_AGENT;
use model::schema::{self, TypeId};
use model::status::ApiError;
use serde_json::{Value, json};

use super::query::{OptionProblem, invalid_options};
use super::route::Call;
use crate::master::registry::{DeleteOptions, FieldValidation, WriteOptions};

/// Longest `fieldManager`.
const MANAGER_BYTES_MAX: usize = 128;

/// Schema of delete bodies.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// The options in the query of a create, update or patch; `kind` names them in errors.
///
/// # Errors
/// 422 when one is not valid.
pub(super) fn write(call: &Call, kind: &str) -> Result<WriteOptions, ApiError> {
    let mut problems = Vec::new();
    let dry_run = dry_run(&call.query.all("dryRun"), &mut problems);
    check_manager(call, &mut problems);
    let field_validation = match call.query.get("fieldValidation").unwrap_or_default() {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            problems.push(unsupported(
                "fieldValidation",
                format!("{other:?}"),
                &["Ignore", "Strict", "Warn"],
            ));
            FieldValidation::Warn
        }
    };
    if !problems.is_empty() {
        return Err(invalid_options(kind, &problems));
    }
    Ok(WriteOptions {
        dry_run,
        field_validation,
        field_manager: manager(call),
        user: call.user.clone(),
        guard: None,
        creating: None,
        decode_issues: Vec::new(),
    })
}

/// The options of a delete: those of the body, or without one those of the query.
///
/// # Errors
/// 400 for a body that is not DeleteOptions, 422 when an option is not valid.
pub(super) fn delete(
    call: &Call,
    mut body: Value,
) -> Result<(DeleteOptions, WriteOptions), ApiError> {
    let mut problems = Vec::new();
    let sent = if body.is_null() {
        query_as_body(call)?
    } else {
        check_delete_body(&mut body)?;
        body
    };
    let in_body = sent["dryRun"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut dry_runs: Vec<_> = in_body.iter().filter_map(Value::as_str).collect();
    dry_runs.extend(call.query.all("dryRun"));
    let dry_run = dry_run(&dry_runs, &mut problems);
    if !problems.is_empty() {
        return Err(invalid_options("DeleteOptions", &problems));
    }
    let options = WriteOptions { dry_run, user: call.user.clone(), ..WriteOptions::default() };
    Ok((DeleteOptions::from_object(&sent), options))
}

fn query_as_body(call: &Call) -> Result<Value, ApiError> {
    let mut body = json!({});
    if let Some(seconds) = call.query.integer("gracePeriodSeconds")? {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(orphan) = call.query.flag("orphanDependents") {
        body["orphanDependents"] = orphan.into();
    }
    if let Some(policy) = call.query.get("propagationPolicy").filter(|text| !text.is_empty()) {
        body["propagationPolicy"] = policy.into();
    }
    Ok(body)
}

fn check_delete_body(body: &mut Value) -> Result<(), ApiError> {
    let refuse = |body: &Value, why: &str| {
        let kind = body["kind"].as_str().unwrap_or("DeleteOptions");
        let version = body["apiVersion"].as_str().unwrap_or("v1");
        let version = version.rsplit('/').next().unwrap_or(version);
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a DeleteOptions: {why}"
        ))
    };
    if body["kind"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "DeleteOptions") {
        let why = "no kind is registered for the type v1.DeleteOptions in scheme";
        return Err(refuse(body, why));
    }
    let id = TypeId::named(DELETE_OPTIONS).expect("the tables hold the meta kinds");
    schema::check_type(id, body).map(drop).map_err(|why| refuse(body, &why))
}

/// The options of a server-side apply.
///
/// # Errors
/// 422 when the manager's name is missing.
pub(super) fn check_apply(call: &Call) -> Result<(), ApiError> {
    if call.query.get("fieldManager").is_some_and(|name| !name.is_empty()) {
        return Ok(());
    }
    let problem = OptionProblem {
        field: "fieldManager",
        reason: "FieldValueRequired",
        text: "Required value: is required for apply patch".into(),
    };
    Err(invalid_options("PatchOptions", &[problem]))
}

fn check_manager(call: &Call, problems: &mut Vec<OptionProblem>) {
    let name = call.query.get("fieldManager").unwrap_or_default();
    if name.len() > MANAGER_BYTES_MAX {
        problems.push(OptionProblem {
            field: "fieldManager",
            reason: "FieldValueTooLong",
            text: format!("Too long: may not be more than {MANAGER_BYTES_MAX} bytes"),
        });
    }
    if name.chars().any(char::is_control) {
        problems.push(OptionProblem {
            field: "fieldManager",
            reason: "FieldValueInvalid",
            text: format!("Invalid value: {name:?}: should only contain printable characters"),
        });
    }
}

/// The manager's name: as sent, or the program's name from its user agent.
fn manager(call: &Call) -> String {
    let agent = || {
        let agent = call.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let name = agent.unwrap_or("unknown").split('/').next().unwrap_or("unknown");
        name.chars().take(MANAGER_BYTES_MAX).collect()
    };
    let sent = call.query.get("fieldManager").filter(|name| !name.is_empty());
    sent.map_or_else(agent, str::to_owned)
}

/// Reads `dryRun`: only `All` is known.
fn dry_run(values: &[&str], problems: &mut Vec<OptionProblem>) -> bool {
    let values: Vec<_> = values.iter().copied().filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        let shown: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
        problems.push(unsupported("dryRun", format!("[{}]", shown.join(",")), &["All"]));
    }
    !values.is_empty()
}

fn unsupported(field: &'static str, value: String, supported: &[&str]) -> OptionProblem {
    let supported: Vec<_> = supported.iter().map(|word| format!("{word:?}")).collect();
    OptionProblem {
        field,
        reason: "FieldValueNotSupported",
        text: format!("Unsupported value: {value}: supported values: {}", supported.join(", ")),
    }
}
