//! Who asks, and may they: authentication by client certificate, authorization by group.
//!
//! `system:masters` may do everything; everyone may see health and version; a user whose
//! certificate is good may read discovery. Roles come with RBAC. Texts are the real server's.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use model::status::{ApiError, qualified};
use serde_json::json;

use super::path::{RequestPath, ResourcePath};
use crate::io::tls::{BadCertificate, PeerIdentity};
use crate::master::registry::UserInfo;

const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const ANONYMOUS: &str = "system:anonymous";

/// What the TLS handshake showed of the peer.
pub(super) type Peer = Option<Result<PeerIdentity, BadCertificate>>;

/// The user behind a request.
///
/// # Errors
/// 401 for a credential that is not accepted; no credential at all is the anonymous user.
pub(super) fn authenticate(peer: &Peer, headers: &HeaderMap) -> Result<UserInfo, ApiError> {
    if let Some(Ok(identity)) = peer {
        let mut groups = identity.groups.clone();
        groups.push(AUTHENTICATED.into());
        return Ok(UserInfo { name: identity.name.clone(), groups });
    }
    let bearer = headers.get(AUTHORIZATION).is_some_and(|value| {
        let scheme = value.as_bytes().get(..7);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Bearer "))
    });
    if matches!(peer, Some(Err(BadCertificate))) || bearer {
        return Err(ApiError::new(401, "Unauthorized", "Unauthorized"));
    }
    Ok(UserInfo { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()] })
}

/// Whether the user may do this.
///
/// # Errors
/// 403 in the words of the real server.
pub(super) fn authorize(user: &UserInfo, request: &RequestPath) -> Result<(), ApiError> {
    let is_in = |group: &str| user.groups.iter().any(|found| found == group);
    if is_in(MASTERS) {
        return Ok(());
    }
    if request.resource.is_none() && matches!(request.verb, "get" | "head") {
        let open = is_public(&request.path);
        let discovery = is_in(AUTHENTICATED) && is_discovery(&request.path);
        if open || (discovery && request.verb == "get") {
            return Ok(());
        }
    }
    Err(forbidden(&user.name, request))
}

/// `system:public-info-viewer`, bound to everyone.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version" | "/version/")
}

/// `system:discovery`, bound to everyone who is known.
fn is_discovery(path: &str) -> bool {
    ["/api", "/apis", "/openapi"].iter().any(|root| {
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn forbidden(user: &str, request: &RequestPath) -> ApiError {
    let Some(resource) = &request.resource else {
        let text =
            format!("forbidden: User {user:?} cannot {} path {:?}", request.verb, request.path);
        return ApiError { details: json!({}), ..ApiError::new(403, "Forbidden", text) };
    };
    let ResourcePath { group, namespace, plural, name, subresource, .. } = resource;
    let whole = match subresource.as_str() {
        "" => plural.clone(),
        subresource => format!("{plural}/{subresource}"),
    };
    let place = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let named = if name.is_empty() { String::new() } else { format!(" {name:?}") };
    let text = format!(
        "{}{named} is forbidden: User {user:?} cannot {} resource {whole:?} in API group {group:?} \
         {place}",
        qualified(group, plural),
        request.verb,
    );
    let mut error = ApiError::new(403, "Forbidden", text);
    error.details = json!({"kind": plural});
    for (field, text) in [("name", name), ("group", group)] {
        if !text.is_empty() {
            error.details[field] = text.as_str().into();
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::path;
    use super::super::query::Query;
    use super::*;

    fn refusal(user: &UserInfo, method: Method, path: &str) -> Option<String> {
        let request = path::parse(&method, path, &Query::default());
        authorize(user, &request).err().map(|error| error.message)
    }

    #[test]
    fn anonymous_sees_health_and_version_only() {
        let user = authenticate(&None, &HeaderMap::new()).unwrap();
        for open in ["/healthz", "/livez", "/readyz", "/version"] {
            assert_eq!(refusal(&user, Method::GET, open), None, "{open}");
        }
        let check = |method, path, text: &str| {
            assert_eq!(refusal(&user, method, path).as_deref(), Some(text));
        };
        check(
            Method::GET,
            "/api/v1/namespaces/default/configmaps",
            "configmaps is forbidden: User \"system:anonymous\" cannot list resource \
             \"configmaps\" in API group \"\" in the namespace \"default\"",
        );
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/x/deployments/d/scale",
            "deployments.apps \"d\" is forbidden: User \"system:anonymous\" cannot patch resource \
             \"deployments/scale\" in API group \"apps\" in the namespace \"x\"",
        );
        check(
            Method::GET,
            "/api/v1/nodes",
            "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API \
             group \"\" at the cluster scope",
        );
        check(
            Method::GET,
            "/apis",
            "forbidden: User \"system:anonymous\" cannot get path \"/apis\"",
        );
        check(
            Method::POST,
            "/version",
            "forbidden: User \"system:anonymous\" cannot post path \"/version\"",
        );
    }

    #[test]
    fn known_users_read_discovery_and_masters_do_all() {
        let peer = |groups: &[&str]| {
            let groups = groups.iter().map(|&group| group.to_owned()).collect();
            Some(Ok(PeerIdentity { name: "u".into(), groups }))
        };
        let user = authenticate(&peer(&[]), &HeaderMap::new()).unwrap();
        assert_eq!(refusal(&user, Method::GET, "/apis/apps/v1"), None);
        assert_eq!(refusal(&user, Method::GET, "/openapi/v3"), None);
        assert!(refusal(&user, Method::GET, "/apisix").is_some());
        assert!(refusal(&user, Method::GET, "/api/v1/pods").is_some());
        let admin = authenticate(&peer(&["system:masters"]), &HeaderMap::new()).unwrap();
        assert_eq!(refusal(&admin, Method::DELETE, "/api/v1/namespaces/x"), None);
    }

    #[test]
    fn bad_credentials_are_401() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "bearer abc".parse().unwrap());
        let code = |peer, headers| authenticate(&peer, headers).map_err(|error| error.code);
        assert_eq!(code(None, &headers), Err(401));
        assert_eq!(code(Some(Err(BadCertificate)), &HeaderMap::new()), Err(401));
    }
}
