//! POST, PUT, PATCH and DELETE: bodies and options in, the registry's answer out.

use bytes::Bytes;
use http::StatusCode;
use logic::access::{Ask, Resource as Asked, Verdict, What};
use model::masters::MASTERS_OBJECT;
use model::resource::{Resource, Storage};
use model::schema;
use model::status::ApiError;
use serde_json::Value;

use super::answer::Answer;
use super::body::{self, Payload, Sent};
use super::options;
use super::read::{list_answer, list_query, shaper};
use super::route::{Call, Place, add_warnings, generic, object_answer};
use super::{negotiate, render};
use crate::master::access;
use crate::master::audit::WriteOf;
use crate::master::keys::SYSTEM;
use crate::master::registry::{Guard, PatchBody, PatchKind, Target, WriteOptions, Written};

/// Whether two boards are to have what a request writes. Of what lies in memory there is one copy, and the
/// object that says how many there are must be written when one board is left.
pub(super) fn waits_for_both(verb: &str, place: &Place) -> bool {
    let writes = matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    let lasts = place.resource.storage != Storage::Memory && !super::reviews::serves(place);
    writes
        && lasts
        && !is_of_masters(place)
        && place.subresource.is_none_or(|sub| sub.name != "token")
}

/// Whether this is the object of the masters.
fn is_of_masters(place: &Place) -> bool {
    place.resource.key == "/configmaps"
        && (place.namespace.as_str(), place.name.as_str()) == (SYSTEM, MASTERS_OBJECT)
}

/// POST: a new object, or a `binding` or `eviction` of a pod.
pub(super) async fn create(call: &Call, place: &Place, body: Sent) -> Result<Answer, ApiError> {
    let mut options = guarded(call, place, "CreateOptions")?;
    let object = read_object(call, place, body, &mut options).await?;
    let target = target(place);
    let registry = &call.api.registry;
    let written = match place.subresource.map(|sub| sub.name) {
        None => registry.create(&target, object, &options).await?,
        Some("binding") => registry.bind(&target, object, &options).await?,
        Some("token") => call.api.tokens.issue(&target, object, &options)?,
        Some("eviction") => registry.evict(&target, object, &options).await?,
        Some(_) => return Err(super::route::method_not_allowed()),
    };
    finish(call, place, written)
}

/// The options of a write, with what judges its content.
fn guarded(call: &Call, place: &Place, kind: &str) -> Result<WriteOptions, ApiError> {
    let guard = access::of_write(&call.api.views, &call.user, place.resource);
    Ok(WriteOptions { guard, ..options::write(call, kind)? })
}

/// Whether the user may also create what a PUT finds missing (`withAuthorization` of the real server).
fn creating(call: &Call, place: &Place) -> Guard {
    let (views, user) = (call.api.views.clone(), call.user.clone());
    let Place { resource, namespace, name, .. } = place;
    let (resource, namespace, name) = (*resource, namespace.clone(), name.clone());
    Guard::new(move |_, _, _| {
        let Resource { group, version, plural, .. } = *resource;
        let (namespace, name) = (&*namespace, &*name);
        let asked = Asked { group, version, plural, namespace, name, ..Asked::default() };
        let ask = Ask { user: &user, verb: "create", what: What::Resource(asked) };
        let judged = logic::access::decide(&views.world(), &ask);
        match judged {
            Verdict::Allowed(_) => Ok(()),
            Verdict::NoOpinion(reason) => Err(ApiError::forbidden(group, plural, name, &reason)),
        }
    })
}

/// PUT.
pub(super) async fn update(call: &Call, place: &Place, body: Sent) -> Result<Answer, ApiError> {
    let mut options = guarded(call, place, "UpdateOptions")?;
    options.creating = Some(creating(call, place));
    let object = read_object(call, place, body, &mut options).await?;
    let subresource = place.subresource.map(|sub| sub.name);
    let written = call.api.registry.update(&target(place), subresource, object, &options).await?;
    finish(call, place, written)
}

/// PATCH by content type.
pub(super) async fn patch(call: &Call, place: &Place, body: Sent) -> Result<Answer, ApiError> {
    let content_type = negotiate::content_type(&call.headers);
    let kind = match content_type.as_str() {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => return Err(refuse_apply(call)),
        _ => return Err(body::unsupported_patch()),
    };
    let options = guarded(call, place, "PatchOptions")?;
    let payload = body::read(call, body).await?;
    let (body, _) = schema::decode_json(&payload.bytes).map_err(|why| {
        ApiError::bad_request(match kind {
            PatchKind::Json => format!("error decoding patch: {why}"),
            _ => why,
        })
    })?;
    let subresource = place.subresource.map(|sub| sub.name);
    let patch = PatchBody { kind, body };
    let written = call.api.registry.patch(&target(place), subresource, patch, &options).await?;
    finish(call, place, written)
}

/// Server-side apply needs the managed fields, which are not kept yet.
fn refuse_apply(call: &Call) -> ApiError {
    match options::check_apply(call) {
        Err(error) => error,
        Ok(()) => generic(
            415,
            "UnsupportedMediaType",
            "server-side apply is not served by this version of kumquat yet: use client-side \
             apply (kubectl apply without --server-side)",
        ),
    }
}

/// DELETE of one object.
pub(super) async fn delete(call: &Call, place: &Place, body: Sent) -> Result<Answer, ApiError> {
    let payload = body::read(call, body).await?;
    let (delete, options) = options::delete(call, delete_body(call, &payload)?)?;
    let deleted = call.api.registry.delete(&target(place), &delete, &options).await?;
    let code = match (deleted.gone, delete.orphan_dependents) {
        (false, Some(false)) => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    object_or_status(call, place, code, deleted.object)
}

/// DELETE of a collection.
pub(super) async fn delete_collection(
    call: &Call,
    place: &Place,
    body: Sent,
) -> Result<Answer, ApiError> {
    let payload = body::read(call, body).await?;
    let (delete, options) = options::delete(call, delete_body(call, &payload)?)?;
    let query = list_query(call, place)?;
    let page = call.api.registry.delete_collection(&query, &delete, &options).await?;
    list_answer(call, place, page, None)
}

/// The DeleteOptions sent as body; `null` when there is none.
fn delete_body(call: &Call, payload: &Payload) -> Result<Value, ApiError> {
    if payload.bytes.is_empty() {
        return Ok(Value::Null);
    }
    body::decode(&call.headers, &payload.bytes, "DeleteOptions").map(|(options, _)| options)
}

pub(super) async fn read_object(
    call: &Call,
    place: &Place,
    body: Sent,
    options: &mut WriteOptions,
) -> Result<Value, ApiError> {
    let payload = body::read(call, body).await?;
    let kind = place.subresource.map_or(place.resource.kind, |sub| sub.kind);
    let (object, issues) = body::decode(&call.headers, &payload.bytes, kind)?;
    options.decode_issues = issues.iter().map(ToString::to_string).collect();
    Ok(object)
}

pub(super) fn target(place: &Place) -> Target {
    Target::new(place.resource, &*place.namespace, &*place.name)
}

fn finish(call: &Call, place: &Place, written: Written) -> Result<Answer, ApiError> {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut answer = object_or_status(call, place, code, written.object)?;
    add_warnings(&mut answer, &written.warnings);
    Ok(answer)
}

/// A Status is sent as it is, whatever shape the client wants objects in.
fn object_or_status(
    call: &Call,
    place: &Place,
    code: StatusCode,
    object: Bytes,
) -> Result<Answer, ApiError> {
    let form = call.form()?;
    let wrote = call.api.audit.is_on().then(|| WriteOf::object(&object));
    let object = match render::is_status(&object) {
        true => object,
        false => shaper(call, place, form)?.single(object, true),
    };
    let mut answer = object_answer(code, object, form);
    if let Some(wrote) = wrote {
        answer.extensions_mut().insert(wrote);
    }
    Ok(answer)
}
