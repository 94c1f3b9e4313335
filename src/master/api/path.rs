//! Reads a request's path: which API, which resource, which object, which verb.
//!
//! The rules are those of `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`; nothing is looked
//! up here, so an unknown group or resource still has a verb that can be refused.

use http::Method;

use super::query::{self, Query};

/// What the path and method ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequestPath {
    /// The path as sent, percent-decoded.
    pub(super) path: String,
    /// Verb of authorization: `get`, `list`, `create`, ...; the method in lower case off-resource.
    pub(super) verb: &'static str,
    /// The resource, when it is a resource request.
    pub(super) resource: Option<ResourcePath>,
}

/// The parts of `/apis/GROUP/VERSION[/watch]/namespaces/NS/PLURAL/NAME/SUBRESOURCE/REST`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: String,
    pub(super) plural: String,
    pub(super) name: String,
    pub(super) subresource: String,
    /// Elements after the subresource.
    pub(super) rest: usize,
}

/// Reads method, path and query.
pub(super) fn parse(method: &Method, path: &str, query: &Query) -> RequestPath {
    let path = query::decode(path, false).unwrap_or_else(|| path.to_owned());
    let off_resource = |path: String| RequestPath { path, verb: lower(method), resource: None };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, mut parts) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return off_resource(path),
    };
    let mut watch = query.flag("watch").unwrap_or(false);
    if let ["watch", rest @ ..] = parts {
        watch = true;
        parts = rest;
    }
    let mut namespace = "";
    if let ["namespaces", ns, rest @ ..] = parts {
        namespace = ns;
        // `/namespaces/NS/status` and `/finalize` are the namespace's own subresources.
        if !rest.is_empty() && !matches!(rest[0], "status" | "finalize") {
            parts = rest;
        }
    }
    let [plural, item @ ..] = parts else { return off_resource(path) };
    let at = |index: usize| item.get(index).copied().unwrap_or_default();
    let resource = ResourcePath {
        group: group.into(),
        version: version.into(),
        namespace: namespace.into(),
        plural: (*plural).into(),
        name: at(0).into(),
        subresource: at(1).into(),
        rest: item.len().saturating_sub(2),
    };
    let verb = verb(method, resource.name.is_empty(), watch);
    RequestPath { verb, resource: Some(resource), path }
}

fn verb(method: &Method, collection: bool, watch: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn lower(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, query: &str, verb: &str, expected: [&str; 6]) {
        let parsed = parse(&method, path, &Query::parse(query));
        assert_eq!(parsed.verb, verb, "{method} {path}?{query}");
        let r = parsed.resource.expect(path);
        let found = [&*r.group, &*r.version, &*r.namespace, &*r.plural, &*r.name, &*r.subresource];
        assert_eq!(found, expected, "{method} {path}?{query}");
    }

    #[test]
    fn resource_paths() {
        check(Method::GET, "/api/v1/pods", "", "list", ["", "v1", "", "pods", "", ""]);
        check(Method::GET, "/api/v1/pods", "watch=1", "watch", ["", "v1", "", "pods", "", ""]);
        check(
            Method::POST,
            "/api/v1/namespaces",
            "",
            "create",
            ["", "v1", "", "namespaces", "", ""],
        );
        let ns = ["", "v1", "x", "namespaces", "x", ""];
        check(Method::DELETE, "/api/v1/namespaces/x", "", "delete", ns);
        let finalize = ["", "v1", "x", "namespaces", "x", "finalize"];
        check(Method::PUT, "/api/v1/namespaces/x/finalize", "", "update", finalize);
        let item = ["apps", "v1", "x", "deployments", "d", "scale"];
        check(Method::PATCH, "/apis/apps/v1/namespaces/x/deployments/d/scale", "", "patch", item);
        let all = ["apps", "v1", "x", "deployments", "", ""];
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/x/deployments",
            "",
            "deletecollection",
            all,
        );
        let watched = ["", "v1", "x", "pods", "", ""];
        check(Method::GET, "/api/v1/watch/namespaces/x/pods", "", "watch", watched);
    }

    #[test]
    fn other_paths() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/api/v1",
            "//",
            "/%zz",
        ] {
            let parsed = parse(&Method::GET, path, &Query::default());
            assert_eq!((parsed.resource, parsed.verb), (None, "get"), "{path}");
        }
    }
}
