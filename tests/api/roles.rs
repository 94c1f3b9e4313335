//! Roles over the wire: what they allow, reviews, acting for others, and that nobody gives what they
//! do not have.

use http::Method;
use kumquat::master::access;
use serde_json::{Value, json};

use super::harness::{As, Reply, Server};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({"metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": ["", "rbac.authorization.k8s.io"],
            "resources": resources}]})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user}]})
}

async fn made(server: &Server, path: &str, object: Value) -> Value {
    let reply = server.send(Method::POST, path, &object).await;
    assert_eq!(reply.code, 201, "{path}: {}", reply.text());
    reply.json()
}

/// Gives a user a role in `default`.
async fn grant(server: &Server, user: &str, name: &str, verbs: &[&str], resources: &[&str]) {
    made(server, ROLES, role(name, verbs, resources)).await;
    made(server, BINDINGS, binding(name, "Role", name, user)).await;
}

async fn get_as(server: &Server, user: &str, path: &str) -> Reply {
    server.act(user, &[], Method::GET, path, &Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_opens_and_its_end_closes() {
    let server = Server::start().await;
    assert_eq!(get_as(&server, "jane", PODS).await.code, 403);
    grant(&server, "jane", "reader", &["get", "list"], &["pods"]).await;
    assert_eq!(get_as(&server, "jane", PODS).await.code, 200);
    for path in ["/api/v1/pods", "/api/v1/namespaces/default/secrets", "/api/v1/nodes"] {
        let reply = get_as(&server, "jane", path).await;
        assert_eq!(reply.code, 403, "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
    }
    assert_eq!(get_as(&server, "jane", &format!("{PODS}?watch=1")).await.code, 403);
    let gone = server.send(Method::DELETE, &format!("{BINDINGS}/reader"), &Value::Null).await;
    assert_eq!(gone.code, 200);
    assert_eq!(get_as(&server, "jane", PODS).await.code, 403);
    // What a real server fills in and refuses.
    let stored = made(&server, BINDINGS, binding("again", "Role", "reader", "jane")).await;
    assert_eq!(stored["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(stored["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let other = json!({"roleRef": {"kind": "Role", "name": "other"}});
    let headers = [("content-type", "application/merge-patch+json")];
    let path = format!("{BINDINGS}/again");
    let reply = server.request(As::Admin, Method::PATCH, &path, &headers, other.to_string()).await;
    assert_eq!(reply.code, 422, "{}", reply.text());
    assert!(reply.text().contains("cannot change roleRef"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_what_they_do_not_have() {
    let server = Server::start().await;
    let all = ["get", "create", "update", "delete"];
    grant(&server, "jane", "keeper", &all, &["roles", "rolebindings", "configmaps"]).await;
    let act = |method: Method, path: &'static str, object: Value| {
        let server = &server;
        async move { server.act("jane", &["dev"], method, path, &object).await }
    };
    let reply = act(Method::POST, ROLES, role("mine", &["get"], &["configmaps"])).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    let more = role("more", &["get", "list"], &["configmaps", "secrets"]);
    let reply = act(Method::POST, ROLES, more.clone()).await;
    assert_eq!(reply.code, 403);
    let expected = "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" \
        (groups=[\"dev\" \"system:authenticated\"]) is attempting to grant RBAC permissions not \
        currently held:\n\
        {APIGroups:[\"\"], Resources:[\"configmaps\"], Verbs:[\"list\"]}\n\
        {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}\n\
        {APIGroups:[\"rbac.authorization.k8s.io\"], Resources:[\"configmaps\"], Verbs:[\"list\"]}\n\
        {APIGroups:[\"rbac.authorization.k8s.io\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}";
    assert_eq!(reply.json()["message"], expected);
    // Not by changing a role either, nor by binding one.
    let mine = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/mine";
    let mut changed = more.clone();
    changed["metadata"]["name"] = "mine".into();
    assert_eq!(act(Method::PUT, mine, changed).await.code, 403);
    let admin = binding("admin", "ClusterRole", "cluster-admin", "jane");
    assert_eq!(act(Method::POST, BINDINGS, admin.clone()).await.code, 403);
    let missing = act(Method::POST, BINDINGS, binding("none", "Role", "none", "jane")).await;
    assert_eq!(missing.code, 404, "{}", missing.text());
    assert_eq!(missing.json()["message"], "roles.rbac.authorization.k8s.io \"none\" not found");
    assert_eq!(act(Method::POST, BINDINGS, binding("own", "Role", "mine", "eve")).await.code, 201);
    // The verbs `escalate` and `bind` say that somebody may.
    let rules = json!([{"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["roles"]},
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]}]);
    made(&server, ROLES, json!({"metadata": {"name": "free"}, "rules": rules})).await;
    made(&server, BINDINGS, binding("free", "Role", "free", "jane")).await;
    assert_eq!(act(Method::POST, ROLES, more).await.code, 201);
    assert_eq!(act(Method::POST, BINDINGS, admin).await.code, 201);
    let view = binding("view", "ClusterRole", "system:node", "jane");
    // Now bound to cluster-admin in this namespace, jane has all that a role can give here.
    assert_eq!(act(Method::POST, BINDINGS, view).await.code, 201);
    let clusterwide = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let reply =
        act(Method::POST, clusterwide, binding("all", "ClusterRole", "cluster-admin", "jane"))
            .await;
    assert_eq!(reply.code, 403, "a namespace's admin is not the cluster's: {}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_answer_as_a_real_server() {
    let server = Server::start().await;
    grant(&server, "jane", "reader", &["get", "list"], &["pods"]).await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let asked = |verb: &str, resource: &str| json!({"namespace": "default", "verb": verb, "resource": resource});
    let own = format!("{authorization}/selfsubjectaccessreviews");
    let ask = |object: Value| {
        let (server, own) = (&server, &own);
        async move { server.act("jane", &[], Method::POST, own, &object).await }
    };
    let yes = ask(json!({"spec": {"resourceAttributes": asked("list", "pods")}})).await;
    let reason =
        "RBAC: allowed by RoleBinding \"reader/default\" of Role \"reader\" to User \"jane\"";
    let expected = json!({
        "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
        "spec": {"resourceAttributes": asked("list", "pods")},
        "status": {"allowed": true, "reason": reason},
    });
    assert_eq!((yes.code, yes.json()), (201, expected));
    let no = ask(json!({"spec": {"resourceAttributes": asked("delete", "pods")}})).await;
    assert_eq!(no.json()["status"], json!({"allowed": false}));
    let bad = ask(json!({"spec": {}})).await;
    assert_eq!(bad.code, 422, "{}", bad.text());
    let rules = server
        .act(
            "jane",
            &[],
            Method::POST,
            &format!("{authorization}/selfsubjectrulesreviews"),
            &json!({"spec": {"namespace": "default"}}),
        )
        .await
        .json();
    let groups = json!(["", "rbac.authorization.k8s.io"]);
    let wanted = json!({"verbs": ["get", "list"], "apiGroups": groups, "resources": ["pods"]});
    let listed = rules["status"]["resourceRules"].as_array().expect("rules");
    assert!(listed.contains(&wanted), "{rules}");
    let paths = rules["status"]["nonResourceRules"].as_array().expect("rules");
    assert!(paths.iter().any(|rule| rule["nonResourceURLs"].to_string().contains("/healthz")));
    assert_eq!(rules["status"]["incomplete"], false);
    // About somebody else: for those who may ask that, and in one namespace for those who may there.
    let of_jane = json!({"spec": {"user": "jane", "resourceAttributes": asked("get", "pods")}});
    let all = format!("{authorization}/subjectaccessreviews");
    let found = server.send(Method::POST, &all, &of_jane).await;
    assert_eq!(found.json()["status"]["allowed"], true, "{}", found.text());
    assert_eq!(server.act("jane", &[], Method::POST, &all, &of_jane).await.code, 403);
    let local = format!("{authorization}/namespaces/default/localsubjectaccessreviews");
    let found = server.send(Method::POST, &local, &of_jane).await;
    assert_eq!(found.json()["status"]["allowed"], true, "{}", found.text());
    let elsewhere = format!("{authorization}/namespaces/kube-system/localsubjectaccessreviews");
    assert_eq!(server.send(Method::POST, &elsewhere, &of_jane).await.code, 422);
    let authentication = "/apis/authentication.k8s.io/v1";
    let who = format!("{authentication}/selfsubjectreviews");
    let who = server.act("jane", &["dev"], Method::POST, &who, &json!({})).await;
    let user = json!({"username": "jane", "groups": ["dev", "system:authenticated"]});
    assert_eq!((who.code, &who.json()["status"]["userInfo"]), (201, &user), "{}", who.text());
    let token = json!({"spec": {"token": "abc"}});
    let review = format!("{authentication}/tokenreviews");
    let review = server.send(Method::POST, &review, &token).await.json();
    assert_eq!(review["status"], json!({"user": {}, "error": "invalid bearer token"}), "{review}");
}

#[tokio::test(flavor = "multi_thread")]
async fn acting_for_somebody_needs_a_right_to_it() {
    let server = Server::start().await;
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let robot = "system:serviceaccount:default:robot";
    let reply = server.act(robot, &[], Method::POST, who, &json!({})).await.json();
    let groups = &reply["status"]["userInfo"]["groups"];
    let expected =
        ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(groups, &json!(expected));
    let nobody = server.act("system:anonymous", &[], Method::GET, "/apis", &Value::Null).await;
    assert_eq!(nobody.code, 403, "{}", nobody.text());
    // Who is not known may be nobody else.
    let headers = [("impersonate-user", "jane")];
    let reply = server.request(As::Anonymous, Method::GET, "/version", &headers, "").await;
    assert_eq!(reply.code, 403);
    let expected = "users \"jane\" is forbidden: User \"system:anonymous\" cannot impersonate \
        resource \"users\" in API group \"\" at the cluster scope";
    assert_eq!(reply.json()["message"], expected);
    let headers = [("impersonate-group", "system:masters")];
    let reply = server.request(As::Admin, Method::GET, "/version", &headers, "").await;
    assert_eq!(reply.code, 500, "a group without a user");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_roles_come_back_and_are_written_once() {
    let server = Server::start().await;
    let version = || server.registry.store().version();
    let before = version();
    access::bootstrap::ensure(&server.registry).await.expect("nothing to do");
    assert_eq!(version(), before, "nothing is written twice");
    let role = format!("{RBAC}/clusterroles/system:discovery");
    assert_eq!(server.send(Method::DELETE, &role, &Value::Null).await.code, 200);
    let headers = [("content-type", "application/merge-patch+json")];
    let binding = format!("{RBAC}/clusterrolebindings/system:basic-user");
    let other = json!({"subjects": [{"kind": "User", "name": "jane"}]}).to_string();
    let reply = server.request(As::Admin, Method::PATCH, &binding, &headers, other).await;
    assert_eq!(reply.code, 200, "{}", reply.text());
    assert_eq!(get_as(&server, "jane", "/apis").await.code, 403);
    access::bootstrap::ensure(&server.registry).await.expect("written");
    assert_eq!(get_as(&server, "jane", "/apis").await.code, 200);
    let subjects = server.get(&binding).await.json()["subjects"].clone();
    assert_eq!(subjects.as_array().map(Vec::len), Some(2), "what was added stays: {subjects}");
    let list = server.get(&format!("{RBAC}/clusterroles")).await.json();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(70));
}

#[tokio::test(flavor = "multi_thread")]
async fn view_edit_and_admin_gather_their_rules() {
    let server = Server::with_controllers().await;
    for (user, role) in [("vera", "view"), ("eddy", "edit"), ("ada", "admin")] {
        made(&server, BINDINGS, binding(user, "ClusterRole", role, user)).await;
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while get_as(&server, "ada", ROLES).await.code != 200 {
        assert!(tokio::time::Instant::now() < deadline, "admin has no rules");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let secrets = "/api/v1/namespaces/default/secrets";
    for (user, path, code) in [
        ("vera", PODS, 200),
        ("vera", secrets, 403),
        ("eddy", secrets, 200),
        ("eddy", ROLES, 403),
        ("ada", ROLES, 200),
        ("ada", "/api/v1/nodes", 403),
    ] {
        assert_eq!(get_as(&server, user, path).await.code, code, "{user} {path}");
    }
    // Opening a stream is no reading.
    let exec = format!("{PODS}/p/exec?command=true");
    let reply = get_as(&server, "vera", &exec).await;
    assert!(reply.text().contains("cannot get resource \\\"pods/exec\\\""), "{}", reply.text());
    assert_eq!(get_as(&server, "eddy", &exec).await.code, 404, "there is no such pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_in_a_namespace_reach_no_other_namespace() {
    let server = Server::start().await;
    grant(&server, "jane", "all", &["*"], &["*"]).await;
    let other = "/api/v1/namespaces/default/namespaces/kube-public";
    let merge = [("content-type", "application/merge-patch+json"), ("impersonate-user", "jane")];
    let labels = json!({"metadata": {"labels": {"mine": "yes"}}});
    let before = server.get("/api/v1/namespaces/kube-public").await.json();
    for (method, path, body) in [
        (Method::GET, other.to_owned(), Value::Null),
        (Method::DELETE, other.to_owned(), Value::Null),
        (Method::PUT, other.to_owned(), before.clone()),
        (Method::PUT, format!("{other}/finalize"), before.clone()),
        (Method::PUT, format!("{other}/status"), before.clone()),
        (
            Method::GET,
            "/api/v1/watch/namespaces/default/namespaces/kube-public".into(),
            Value::Null,
        ),
        (Method::GET, "/api/v1/namespaces/default/namespaces".into(), Value::Null),
        (Method::GET, "/api/v1/namespaces/default/namespaces?watch=1".into(), Value::Null),
        (Method::DELETE, "/api/v1/namespaces/default/namespaces".into(), Value::Null),
        (
            Method::POST,
            "/api/v1/namespaces/default/namespaces".into(),
            json!({"metadata": {"name": "hers"}}),
        ),
    ] {
        for user in ["jane", "kubernetes-admin"] {
            let groups: &[&str] = if user == "jane" { &[] } else { &["system:masters"] };
            let reply = server.act(user, groups, method.clone(), &path, &body).await;
            assert_eq!(reply.code, 404, "{user} {method} {path}: {}", reply.text());
        }
    }
    let reply = server.request(As::Admin, Method::PATCH, other, &merge, labels.to_string()).await;
    assert_eq!(reply.code, 404, "{}", reply.text());
    assert_eq!(server.get("/api/v1/namespaces/kube-public").await.json(), before);
    assert_eq!(server.get("/api/v1/namespaces/hers").await.code, 404);
    // Her own is hers.
    assert_eq!(get_as(&server, "jane", "/api/v1/namespaces/default").await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_creates_only_for_those_who_may_create() {
    let server = Server::start().await;
    grant(&server, "jane", "changer", &["update", "get"], &["services", "roles"]).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let path = "/api/v1/namespaces/default/services/web";
    let reply = server.act("jane", &[], Method::PUT, path, &service).await;
    assert_eq!(reply.code, 403, "{}", reply.text());
    assert_eq!(reply.json()["message"], "services \"web\" is forbidden: ");
    assert_eq!(server.get(path).await.code, 404);
    let empty = json!({"metadata": {"name": "mine"}, "rules": []});
    let reply = server.act("jane", &[], Method::PUT, &format!("{ROLES}/mine"), &empty).await;
    assert_eq!(reply.code, 403, "{}", reply.text());
    grant(&server, "jane", "maker", &["create"], &["services"]).await;
    let reply = server.act("jane", &[], Method::PUT, path, &service).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    let mut changed = reply.json();
    changed["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(server.act("jane", &[], Method::PUT, path, &changed).await.code, 200);
}
