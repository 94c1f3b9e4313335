//! Who asks, and may they: authentication by client certificate or bearer token, then authorisation.
//!
//! ```text
//! certificate good? ─▶ its name and organizations; a board's only while the board is admitted
//! bearer token?     ─▶ whoever judges tokens ([`BearerTokens`])
//! neither           ─▶ system:anonymous            anything bad ─▶ 401
//!      └─▶ does it act for somebody else ([`impersonation`])? ─▶ logic::access ─▶ 403
//! ```
//! Texts are the real server's.

use std::net::SocketAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use logic::access::{self, Ask, Resource, Verdict, What};
use logic::world::World;
use model::access::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};
use model::resource;
use model::selector::FieldSelector;
use model::status::{ApiError, qualified};
use model::validation::error::go_quote;
use serde_json::{Value, json};

use super::path::{RequestPath, ResourcePath};
use super::query::Query;
use crate::io::tls::{BadCertificate, BoardPeer, PeerIdentity};
use crate::master::registry::{Target, WriteOptions, Written};

/// What the TLS handshake showed of the peer.
pub(super) type Peer = Option<Result<PeerIdentity, BadCertificate>>;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Caller {
    /// What its certificate says.
    pub(super) identity: Peer,
    /// The board that it is, by its certificate.
    pub(super) board: Option<BoardPeer>,
    /// Where it is.
    pub(super) address: SocketAddr,
}

/// Judges bearer tokens.
pub trait BearerTokens: Send + Sync {
    /// Whom a token stands for, if it is good for one of `audiences`; none of them means this API.
    ///
    /// # Errors
    /// It stands for nobody.
    fn review(&self, token: &str, audiences: &[String]) -> Result<BearerUser, TokenTrouble>;

    /// A new token of a service account: POST of a TokenRequest.
    ///
    /// # Errors
    /// As the API words them; 405 where no tokens are issued.
    fn issue(&self, _: &Target, _: Value, _: &WriteOptions) -> Result<Written, ApiError> {
        Err(super::route::method_not_allowed())
    }

    /// The public keys by which anybody may check tokens, as a JSON Web Key Set.
    fn key_set(&self) -> Option<Value> {
        None
    }
}

/// Whom a token stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BearerUser {
    /// The user, without the group of everybody who is known.
    pub user: UserInfo,
    /// Those of the audiences asked for that the token is good for.
    pub audiences: Vec<String>,
}

/// Why a token stands for nobody: told in a review, never to whoever shows the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenTrouble(pub String);

/// Takes no token.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTokens;

impl BearerTokens for NoTokens {
    fn review(&self, _: &str, _: &[String]) -> Result<BearerUser, TokenTrouble> {
        Err(TokenTrouble("invalid bearer token".into()))
    }
}

/// The user behind a request.
///
/// # Errors
/// 401 for a credential that is not accepted; no credential at all is the anonymous user.
pub(super) fn authenticate(
    caller: &Caller,
    headers: &HeaderMap,
    tokens: &dyn BearerTokens,
    admitted: impl Fn(&BoardPeer) -> bool,
) -> Result<UserInfo, ApiError> {
    if let Some(Ok(identity)) = &caller.identity {
        if caller.board.as_ref().is_some_and(|board| !admitted(board)) {
            return Err(unauthorized());
        }
        let groups = identity.groups.iter().cloned();
        return Ok(UserInfo::new(&identity.name, groups.chain([AUTHENTICATED.into()])));
    }
    if let Some(token) = bearer(headers) {
        let found = tokens.review(token, &[]).map_err(|trouble| {
            tracing::debug!(address = %caller.address, %trouble, "a bearer token is refused");
            unauthorized()
        })?;
        let mut user = found.user;
        if !user.is_in(AUTHENTICATED) {
            user.groups.push(AUTHENTICATED.into());
        }
        return Ok(user);
    }
    if caller.identity.is_some() {
        return Err(unauthorized());
    }
    Ok(UserInfo::new(ANONYMOUS, [UNAUTHENTICATED.into()]))
}

/// The token in `Authorization: Bearer`; one that is no text is the empty one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?;
    let is_bearer = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"Bearer ");
    value.as_bytes().get(..7).filter(|scheme| is_bearer(scheme))?;
    Some(value.to_str().map_or("", |text| text[7..].trim()))
}

fn unauthorized() -> ApiError {
    ApiError::new(401, "Unauthorized", "Unauthorized")
}

/// Whether the user may do this.
///
/// # Errors
/// 403 in the words of the real server.
pub(super) fn authorize(
    world: &World,
    user: &UserInfo,
    path: &RequestPath,
    query: &Query,
) -> Result<(), ApiError> {
    let chosen = path.resource.as_ref().map(|path_of| Chosen::by(path_of, path.verb, query));
    let what = match (&path.resource, &chosen) {
        (Some(resource), Some(chosen)) => What::Resource(of_path(resource, chosen)),
        _ => What::Path(&path.path),
    };
    permit(world, &Ask { user, verb: path.verb, what })
}

/// Whether a question is answered with yes.
///
/// # Errors
/// 403 in the words of the real server.
pub(super) fn permit(world: &World, ask: &Ask<'_>) -> Result<(), ApiError> {
    if access::may(world, ask) {
        return Ok(());
    }
    match access::decide(world, ask) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::NoOpinion(reason) => Err(forbidden(ask, &reason)),
    }
}

/// What a list or watch is limited to by its field selector.
#[derive(Default)]
struct Chosen {
    name: String,
    node: String,
}

impl Chosen {
    fn by(path: &ResourcePath, verb: &str, query: &Query) -> Self {
        if !matches!(verb, "list" | "watch" | "deletecollection") {
            return Self::default();
        }
        let Some(text) = query.get("fieldSelector").filter(|text| !text.is_empty()) else {
            return Self::default();
        };
        let kind = resource::find(&path.group, &path.version, &path.plural);
        let selector = kind.and_then(|kind| FieldSelector::parse(kind, text).ok());
        let exact = |field| {
            let found = selector.as_ref().and_then(|selector| selector.exact(field));
            found.unwrap_or_default().to_owned()
        };
        let name = if verb == "deletecollection" { String::new() } else { exact("metadata.name") };
        let is_segment = !name.contains(['/', '%']) && name != "." && name != "..";
        Self { name: if is_segment { name } else { String::new() }, node: exact("spec.nodeName") }
    }
}

fn of_path<'a>(path: &'a ResourcePath, chosen: &'a Chosen) -> Resource<'a> {
    Resource {
        group: &path.group,
        version: &path.version,
        plural: &path.plural,
        subresource: &path.subresource,
        namespace: &path.namespace,
        name: if path.name.is_empty() { &chosen.name } else { &path.name },
        of_node: &chosen.node,
    }
}

fn forbidden(ask: &Ask<'_>, reason: &str) -> ApiError {
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let Ask { user, verb, what } = ask;
    let user = go_quote(&user.name);
    let asked = match what {
        What::Resource(asked) => asked,
        What::Path(path) => {
            let text = escaped(&format!("User {user} cannot {verb} path {}", go_quote(path)));
            let error = ApiError::new(403, "Forbidden", format!("forbidden: {text}{because}"));
            return ApiError { details: json!({}), ..error };
        }
    };
    let Resource { group, plural, subresource, namespace, name, .. } = *asked;
    let whole = match subresource {
        "" => plural.to_owned(),
        subresource => format!("{plural}/{subresource}"),
    };
    let place = match namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {}", go_quote(namespace)),
    };
    let (whole, of) = (go_quote(&whole), go_quote(group));
    let text =
        escaped(&format!("User {user} cannot {verb} resource {whole} in API group {of} {place}"));
    let named = if name.is_empty() { String::new() } else { format!(" {}", go_quote(name)) };
    let what = qualified(group, plural);
    let message = format!("{what}{named} is forbidden: {text}{because}");
    let mut error = ApiError::new(403, "Forbidden", message);
    error.details = json!({"kind": plural});
    for (field, text) in [("name", name), ("group", group)] {
        if !text.is_empty() {
            error.details[field] = text.into();
        }
    }
    error
}

/// As the real server keeps markup out of what a browser may show.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
