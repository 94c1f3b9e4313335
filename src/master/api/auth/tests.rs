//! Authentication, and the words of refusals.

use http::Method;
use model::access::bootstrap;
use model::ids::{ObjectKey, Uid, Version};

use super::super::path;
use super::*;

/// A world with the first roles.
fn world() -> World {
    let mut world = World::default();
    for (at, (kind, object)) in bootstrap::objects().enumerate() {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = ObjectKey { kind, namespace: text("namespace"), name: text("name") };
        let body = object.to_string();
        world.apply(&key, Version(1), Uid([at as u8; 16]), Some(body.as_bytes())).unwrap();
    }
    world
}

fn caller(identity: Peer, board: Option<&str>) -> Caller {
    let board = board.map(|name| BoardPeer { name: name.into(), key: [7; 32], is_master: false });
    Caller { identity, board, address: "10.0.0.7:4321".parse().unwrap() }
}

fn peer(name: &str, groups: &[&str]) -> Peer {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Some(Ok(PeerIdentity { name: name.into(), groups }))
}

fn known(identity: Peer) -> UserInfo {
    authenticate(&caller(identity, None), &HeaderMap::new(), &NoTokens, |_| true).unwrap()
}

fn refusal(world: &World, user: &UserInfo, method: Method, path: &str) -> Option<String> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = Query::parse(query);
    let request = path::parse(&method, path, &query);
    authorize(world, user, &request, &query).err().map(|error| error.message)
}

#[test]
fn anonymous_sees_health_and_version_only() {
    let world = world();
    let user = known(None);
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(refusal(&world, &user, Method::GET, open), None, "{open}");
    }
    let check = |method, path, text: &str| {
        assert_eq!(refusal(&world, &user, method, path).as_deref(), Some(text));
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
    check(Method::GET, "/apis", "forbidden: User \"system:anonymous\" cannot get path \"/apis\"");
    check(
        Method::POST,
        "/version",
        "forbidden: User \"system:anonymous\" cannot post path \"/version\"",
    );
    check(
        Method::GET,
        "/<script>",
        "forbidden: User \"system:anonymous\" cannot get path \"/&lt;script&gt;\"",
    );
}

#[test]
fn known_users_read_discovery_and_masters_do_all() {
    let world = world();
    let user = known(peer("u", &[]));
    assert_eq!(refusal(&world, &user, Method::GET, "/apis/apps/v1"), None);
    assert_eq!(refusal(&world, &user, Method::GET, "/openapi/v3"), None);
    assert!(refusal(&world, &user, Method::GET, "/apisix").is_some());
    assert!(refusal(&world, &user, Method::GET, "/api/v1/pods").is_some());
    let admin = known(peer("u", &["system:masters"]));
    assert_eq!(refusal(&world, &admin, Method::DELETE, "/api/v1/namespaces/x"), None);
    let empty = World::default();
    assert_eq!(refusal(&empty, &admin, Method::DELETE, "/api/v1/namespaces/x"), None);
}

#[test]
fn a_list_of_one_name_asks_for_that_name() {
    let world = world();
    let board = known(peer("system:node:pi-1", &["system:nodes"]));
    let check = |path: &str, expected: bool| {
        assert_eq!(refusal(&world, &board, Method::GET, path).is_none(), expected, "{path}");
    };
    check("/api/v1/nodes?fieldSelector=metadata.name%3Dpi-1", true);
    check("/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dpi-1", true);
    check("/api/v1/watch/nodes/pi-1", true);
    check("/api/v1/nodes?fieldSelector=metadata.name%3Dpi-2", false);
    check("/api/v1/nodes?fieldSelector=metadata.name%21%3Dpi-1", false);
    check("/api/v1/nodes?fieldSelector=metadata.name%3Dpi-1&fieldSelector=", true);
    check("/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-1", true);
    check("/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-2", false);
    check("/api/v1/pods", false);
}

#[test]
fn bad_credentials_are_401() {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, "bearer abc".parse().unwrap());
    let code = |caller: Caller, headers: &HeaderMap, admitted: bool| {
        authenticate(&caller, headers, &NoTokens, |_| admitted).map_err(|error| error.code)
    };
    assert_eq!(code(caller(None, None), &headers, true), Err(401));
    let stranger = || caller(Some(Err(BadCertificate)), None);
    assert_eq!(code(stranger(), &HeaderMap::new(), true), Err(401));
    let board = || caller(peer("system:node:pi-1", &["system:nodes"]), Some("pi-1"));
    assert_eq!(code(board(), &HeaderMap::new(), false), Err(401), "it was evicted");
    assert!(code(board(), &HeaderMap::new(), true).is_ok());
}

#[test]
fn a_token_stands_for_its_user() {
    struct One;
    impl BearerTokens for One {
        fn review(&self, token: &str, audiences: &[String]) -> Result<BearerUser, TokenTrouble> {
            assert!(audiences.is_empty(), "the API is the audience");
            match token {
                "good" => {
                    let user = UserInfo::new("robot", ["system:serviceaccounts".into()]);
                    Ok(BearerUser { user, audiences: Vec::new() })
                }
                other => Err(TokenTrouble(format!("no {other}"))),
            }
        }

        fn issue(&self, _: &Target, _: Value, _: &WriteOptions) -> Result<Written, ApiError> {
            Err(ApiError::internal("nobody asks for a token here"))
        }

        fn key_set(&self) -> Option<Value> {
            None
        }
    }
    let check = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, text.parse().unwrap());
        authenticate(&caller(None, None), &headers, &One, |_| true)
    };
    let user = check("Bearer good").unwrap();
    assert_eq!(user.groups, ["system:serviceaccounts", "system:authenticated"]);
    assert_eq!(check("Bearer bad").unwrap_err().code, 401);
    assert_eq!(check("Basic good").unwrap().name, ANONYMOUS);
}
