//! One request from head to answer: who, may they, what, and the headers that every answer has.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::upgrade::OnUpgrade;
use model::ids::Uid;
use model::limits::{
    API_LISTS_BYTES_MAX, API_REQUEST_SECONDS_MAX, API_REQUESTS_MAX, API_UPGRADES_MAX,
};
use model::resource::{self, Resource, Subresource, Verb};
use model::status::ApiError;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::answer::{Answer, AnswerBody, page_not_found, plain, whole};
use super::auth::{self, BearerTokens, Caller};
use super::body::Sent;
use super::health::Health;
use super::logs::LogSource;
use super::negotiate::{self, Form, Media};
use super::path::{self, RequestPath, ResourcePath};
use super::query::Query;
use super::serve::Working;
use super::shares::{Share, Shares};
use super::{
    ApiOptions, discovery, health, impersonation, logs, openapi, openid, read, render, reviews,
    streams, version, watching, write,
};
use crate::io::clock::Clock;
use crate::io::tls::BoardPeer;
use crate::master::audit::{Audit, Note};
use crate::master::both::Both;
use crate::master::controllers::Views;
use crate::master::keys::Keys;
use crate::master::registry::{Registry, UserInfo};

/// What a real server says to everybody who asks for Endpoints (KEP-4974).
const OLD_ENDPOINTS: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// What all requests share.
pub(super) struct Api {
    pub(super) registry: Registry,
    pub(super) views: Views,
    pub(super) tokens: Arc<dyn BearerTokens>,
    /// Where writes are told of.
    pub(super) audit: Audit,
    both: Both,
    /// Knows which boards belong here.
    pub(super) keys: Keys,
    pub(super) clock: Clock,
    pub(super) logs: Arc<dyn LogSource>,
    pub(super) health: Health,
    pub(super) version: String,
    pub(super) documents: openapi::Documents,
    /// Ends watches and followed logs.
    pub(super) shutdown: watch::Receiver<bool>,
    pub(super) requests: Semaphore,
    /// Pieces of memory that answers to LIST may still hold.
    pub(super) lists: Arc<Semaphore>,
    /// How much of it all a user may have.
    shares: Arc<Shares>,
    /// Connections that may still be upgraded.
    pub(super) upgrades: Arc<Semaphore>,
}

impl Api {
    pub(super) fn new(options: ApiOptions, shutdown: watch::Receiver<bool>) -> Self {
        let ApiOptions { registry, views, tokens, audit, both, clock, logs, health, version } =
            options;
        Self {
            keys: Keys::new(registry.clone()),
            registry,
            views,
            tokens,
            audit,
            both,
            clock,
            logs,
            health,
            version,
            documents: openapi::Documents::default(),
            shutdown,
            requests: Semaphore::new(API_REQUESTS_MAX),
            lists: Arc::new(Semaphore::new(API_LISTS_BYTES_MAX / read::LIST_UNIT_BYTES)),
            shares: Shares::new(),
            upgrades: Arc::new(Semaphore::new(API_UPGRADES_MAX)),
        }
    }
}

impl Api {
    /// Resolves when this board is not admitted any more. One that never was is told so with each
    /// answer.
    pub(super) async fn turned_out(&self, board: &BoardPeer) {
        // Taken before the question, so that no change of the answer is missed.
        let mut evictions = self.views.evictions();
        if self.keys.is_admitted(board) {
            while evictions.changed().await.is_ok() {
                if !self.keys.is_admitted(board) {
                    return;
                }
            }
        }
        // Nobody judges any more.
        std::future::pending().await
    }
}

/// One request, authenticated and authorized.
pub(super) struct Call {
    pub(super) api: Arc<Api>,
    pub(super) user: UserInfo,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) query: Query,
    /// Where the server was reached, as the client names it.
    pub(super) host: String,
    /// The connection, when this request may take it over.
    pub(super) upgrade: Option<OnUpgrade>,
    /// The user's place among the requests in work.
    pub(super) share: Option<Share>,
}

impl Call {
    /// How to write the answer.
    ///
    /// # Errors
    /// 406.
    pub(super) fn form(&self) -> Result<Form, ApiError> {
        negotiate::form(&self.headers, &self.query)
    }
}

/// What a resource path names, found in the table.
pub(super) struct Place {
    pub(super) resource: &'static Resource,
    pub(super) subresource: Option<&'static Subresource>,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Answers one request; never fails.
pub(super) async fn answer(
    api: Arc<Api>,
    caller: Arc<Caller>,
    request: Request<Sent>,
    working: Working,
) -> Answer {
    let (mut head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let form = negotiate::error_form(&head.headers, &query);
    let audit_id = audit_id(&head.headers);
    let (clock, id) = (api.clock.clone(), audit_id.to_str().unwrap_or_default());
    let mut telling = api.audit.begin(clock, id, caller.address);
    let is_head = head.method == Method::HEAD;
    let host = head.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = host.or_else(|| {
        head.headers.get(http::header::HOST).and_then(|h| h.to_str().ok()).map(str::to_owned)
    });
    let call = Call {
        api: api.clone(),
        user: UserInfo::default(),
        method: head.method,
        headers: head.headers,
        query,
        host: host.unwrap_or_default(),
        upgrade: head.extensions.remove(),
        share: None,
    };
    let answered = match api.requests.try_acquire() {
        Ok(_slot) => {
            let deadline = Duration::from_secs(API_REQUEST_SECONDS_MAX);
            let handling = handle(call, &caller, head.uri.path(), body, telling.note());
            let handling = Box::pin(handling);
            timeout(deadline, handling).await.unwrap_or_else(|_| Err(too_slow()))
        }
        Err(_) => Ok(too_many()),
    };
    let mut answer = answered.unwrap_or_else(|error| failure(&error, form));
    telling.done(answer.status().as_u16(), answer.extensions().get());
    let headers = answer.headers_mut();
    headers.insert(AUDIT_ID, audit_id);
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    if is_head {
        if let Some(bytes) = answer.body().whole_bytes() {
            answer.headers_mut().insert(CONTENT_LENGTH, bytes.into());
        }
        *answer.body_mut() = AnswerBody::from(Vec::new());
    }
    answer.body_mut().mark(working);
    answer
}

async fn handle(
    mut call: Call,
    caller: &Caller,
    path: &str,
    body: Sent,
    note: Option<&mut Note>,
) -> Result<Answer, ApiError> {
    let path = path::parse(&call.method, path, &call.query);
    let mut note = note.filter(|_| is_write(&path));
    if let Some(note) = note.as_mut() {
        **note = noted(&path);
    }
    let api = &call.api;
    let admitted = |board: &BoardPeer| api.keys.is_admitted(board);
    call.user = auth::authenticate(caller, &call.headers, &*api.tokens, admitted)?;
    call.share = api.shares.enter(&call.user);
    if call.share.is_none() {
        return Ok(too_many());
    }
    let asking = note.is_some().then(|| call.user.name.clone());
    let judged = judge(&mut call, &path);
    if let (Some(note), Some(asking)) = (note, asking) {
        note.acting_as = (asking != call.user.name).then(|| call.user.name.clone());
        note.user = asking;
    }
    if let Err(error) = judged {
        let mut answer = failure(&error, negotiate::error_form(&call.headers, &call.query));
        answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return Ok(answer);
    }
    match path.resource {
        Some(resource) => on_resource(call, resource, path.verb, body).await,
        None => off_resource(&call, &path),
    }
}

/// Whether a request is one that the audit tells of.
fn is_write(path: &RequestPath) -> bool {
    let Some(resource) = &path.resource else { return false };
    let reviews = matches!(&*resource.group, "authorization.k8s.io" | "authentication.k8s.io");
    let reads = matches!(path.verb, "get" | "list" | "watch" | "");
    !reviews && (!reads || streams::names(&resource.subresource))
}

fn noted(path: &RequestPath) -> Note {
    let ResourcePath { group, plural, subresource, namespace, name, .. } =
        path.resource.clone().unwrap_or_default();
    let resource = match subresource.as_str() {
        "" => plural,
        part => format!("{plural}/{part}"),
    };
    Note { verb: path.verb, group, resource, namespace, name, ..Note::default() }
}

/// Makes the call that of the user it is to act as, and asks whether they may do this.
fn judge(call: &mut Call, path: &RequestPath) -> Result<(), ApiError> {
    let api = call.api.clone();
    let world = api.views.world();
    if let Some(other) = impersonation::acting(&world, &call.user, &call.headers)? {
        call.user = other;
    }
    auth::authorize(&world, &call.user, path, &call.query)?;
    let Some(resource) = path.resource.as_ref().filter(|_| path.verb == "get") else {
        return Ok(());
    };
    // A WebSocket opens with GET, and what goes over it is as much as what a POST begins.
    if resource.group.is_empty()
        && resource.plural == "pods"
        && streams::names(&resource.subresource)
    {
        let opened = RequestPath { verb: "create", ..path.clone() };
        auth::authorize(&world, &call.user, &opened, &call.query)?;
    }
    Ok(())
}

fn off_resource(call: &Call, path: &RequestPath) -> Result<Answer, ApiError> {
    let parts: Vec<&str> = path.path.trim_end_matches('/').split('/').skip(1).collect();
    if let Some(answer) = health::answer(call, &parts) {
        return Ok(answer);
    }
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    match parts.as_slice() {
        ["version"] => Ok(json_answer(&version::info(&call.api.version))),
        ["openapi", "v2"] => Ok(openapi::v2(call)),
        ["openapi", "v3"] => Ok(openapi::v3_index()),
        ["openapi", "v3", rest @ ..] => Ok(openapi::v3(call, &rest.join("/"))),
        [] | ["api" | "apis", ..] => discovery::answer(call, &parts),
        ["openid", "v1", "jwks"] | [".well-known", "openid-configuration"] => {
            Ok(openid::answer(call, &parts))
        }
        _ => Ok(page_not_found()),
    }
}

async fn on_resource(
    call: Call,
    path: ResourcePath,
    verb: &'static str,
    body: Sent,
) -> Result<Answer, ApiError> {
    if !resource::discovery::versions(&path.group).contains(&path.version.as_str()) {
        return Ok(page_not_found());
    }
    let place = place(&path)?;
    if place.subresource.is_none() && !path.subresource.is_empty() {
        return Err(resource_not_found());
    }
    check_verb(&place, verb)?;
    if place.subresource.is_some_and(streams::serves) {
        return streams::answer(&call, &place).await;
    }
    if wants_newest(verb, &call.query) {
        call.api.registry.confirm().await?;
    }
    let both = call.api.both.clone();
    let waits = write::waits_for_both(verb, &place);
    let begun = if waits { Some(both.before().await?) } else { None };
    let mut answer = match verb {
        "get" if place.subresource.is_some_and(|sub| sub.name == "log") => {
            logs::answer(&call, &place).await
        }
        "get" => read::get(&call, &place),
        "list" => read::list(&call, &place).await,
        "watch" => watching::answer(&call, &place),
        "create" if reviews::serves(&place) => reviews::create(&call, &place, body).await,
        "create" => write::create(&call, &place, body).await,
        "update" => write::update(&call, &place, body).await,
        "patch" => write::patch(&call, &place, body).await,
        "delete" => write::delete(&call, &place, body).await,
        "deletecollection" => write::delete_collection(&call, &place, body).await,
        _ => Err(method_not_allowed()),
    }?;
    if let Some(begun) = begun {
        both.after(begun).await?;
    }
    if place.resource.key == "/endpoints" {
        add_warnings(&mut answer, &[OLD_ENDPOINTS.to_owned()]);
    }
    Ok(answer)
}

/// Whether a read has to see every write that was answered before it: so is each that names no
/// version.
fn wants_newest(verb: &str, query: &Query) -> bool {
    matches!(verb, "get" | "list" | "watch")
        && query.get("resourceVersion").is_none_or(str::is_empty)
}

fn place(path: &ResourcePath) -> Result<Place, ApiError> {
    let resource =
        resource::find(&path.group, &path.version, &path.plural).ok_or_else(resource_not_found)?;
    let namespace = if resource.namespaced { path.namespace.clone() } else { String::new() };
    // For a namespace itself the path's namespace is its own name. Rights were asked in that
    // namespace, so in any other they would be rights on every namespace.
    let own =
        resource.plural == "namespaces" && resource.group.is_empty() && path.namespace == path.name;
    let misplaced = match resource.namespaced {
        true => namespace.is_empty() && !path.name.is_empty(),
        false => !path.namespace.is_empty() && !own,
    };
    if misplaced || path.rest > 0 {
        return Err(resource_not_found());
    }
    let subresource = resource.subresource(&path.subresource);
    Ok(Place { resource, subresource, namespace, name: path.name.clone() })
}

fn check_verb(place: &Place, verb: &str) -> Result<(), ApiError> {
    let allowed = place.subresource.map_or(place.resource.verbs, |sub| sub.verbs);
    let known = allowed.iter().any(|allowed: &Verb| allowed.as_str() == verb);
    let collection = place.name.is_empty();
    let fits = match verb {
        // One path per verb: nothing is created on an item, or changed on a collection.
        "create" => {
            let across = place.resource.namespaced && place.namespace.is_empty();
            (collection || place.subresource.is_some()) && !across
        }
        "deletecollection" => !(place.resource.namespaced && place.namespace.is_empty()),
        "update" | "patch" => !collection,
        _ => true,
    };
    if known && fits { Ok(()) } else { Err(method_not_allowed()) }
}

/// Bytes of JSON in the form that the client wants.
pub(super) fn object_answer(code: StatusCode, json: bytes::Bytes, form: Form) -> Answer {
    let body = match (form.media, form.pretty) {
        (Media::Yaml, _) => render::yaml(&json),
        (Media::Json, true) => render::pretty(&json),
        (Media::Json, false) => {
            let mut line = Vec::with_capacity(json.len() + 1);
            line.extend_from_slice(&json);
            line.push(b'\n');
            line
        }
    };
    whole(code, form.content_type(), body)
}

/// A document outside the resources: always indented JSON.
pub(super) fn json_answer(value: &serde_json::Value) -> Answer {
    whole(StatusCode::OK, "application/json", render::pretty(value.to_string().as_bytes()))
}

/// The answer of a request that failed.
pub(super) fn failure(error: &ApiError, form: Form) -> Answer {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = error.to_status().to_string();
    let mut answer = object_answer(code, status.into(), form);
    let headers = answer.headers_mut();
    if let Some(seconds) = error.retry_after_seconds {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    answer
}

/// Adds the `Warning` headers (RFC 7234, 5.5) of a write, up to 4 KiB as the real server.
pub(super) fn add_warnings(answer: &mut Answer, warnings: &[String]) {
    const BYTES_MAX: usize = 4096;
    let mut bytes = 0;
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("299 - \"{quoted}\"");
        bytes += text.len();
        if bytes > BYTES_MAX {
            return;
        }
        if let Ok(value) = HeaderValue::from_str(&text) {
            answer.headers_mut().append(http::header::WARNING, value);
        }
    }
}

/// 404 for a path inside a group that is served.
pub(super) fn resource_not_found() -> ApiError {
    generic(404, "NotFound", "the server could not find the requested resource")
}

/// 405.
pub(super) fn method_not_allowed() -> ApiError {
    generic(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

/// An error of the router: with `details`, but nothing in them.
pub(super) fn generic(code: u16, reason: &'static str, message: &str) -> ApiError {
    ApiError { details: json!({}), ..ApiError::new(code, reason, message) }
}

/// 504.
pub(super) fn too_slow() -> ApiError {
    generic(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
}

pub(super) fn too_many() -> Answer {
    let mut answer =
        plain(StatusCode::TOO_MANY_REQUESTS, "Too many requests, please try again later.\n");
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// The client's name for its request, as long as the real server takes one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    const BYTES_MAX: usize = 64;
    let said = headers.get(AUDIT_ID).map(HeaderValue::as_bytes);
    let said = said.map(|said| HeaderValue::from_bytes(&said[..said.len().min(BYTES_MAX)]));
    said.and_then(Result::ok).unwrap_or_else(new_audit_id)
}

fn new_audit_id() -> HeaderValue {
    HeaderValue::from_str(&Uid::from_random(random()).to_string())
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Random bytes for what may as well be zeros: names of requests, spreading of timers.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = getrandom::fill(&mut bytes);
    bytes
}
