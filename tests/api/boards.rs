//! A board whose certificate is good has what is its own, and nothing else: it tries every verb on
//! every kind.

use http::Method;
use kumquat::io::store::Store;
use model::resource::{RESOURCES, Resource, Verb};
use serde_json::{Value, json};

use super::harness::{As, Reply, Server};

const BOARD: As = As::Board("pi-2");
const MERGE: (&str, &str) = ("content-type", "application/merge-patch+json");

/// Two boards, each with a pod that names a Secret and a ConfigMap; `mine` is on the one that asks.
async fn two_boards() -> Server {
    let server = Server::start().await;
    for (node, name) in [("pi-1", "theirs"), ("pi-2", "mine")] {
        let at = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
        for (path, object) in [
            ("/api/v1/nodes".to_owned(), json!({"metadata": {"name": node}})),
            (at("secrets"), json!({"metadata": {"name": name}, "data": {"key": "aHVzaA=="}})),
            (at("configmaps"), json!({"metadata": {"name": name}, "data": {"a": "b"}})),
            (at("serviceaccounts"), json!({"metadata": {"name": name}})),
            (at("pods"), pod(node, name)),
        ] {
            let reply = server.send(Method::POST, &path, &object).await;
            assert_eq!(reply.code, 201, "{path}: {}", reply.text());
        }
        let lease = json!({"metadata": {"name": node}});
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        assert_eq!(server.send(Method::POST, leases, &lease).await.code, 201);
    }
    server
}

fn pod(node: &str, name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": node, "serviceAccountName": name,
        "containers": [{"name": "c", "image": "example.com/c",
            "envFrom": [{"configMapRef": {"name": name}}]}],
        "volumes": [{"name": "v", "secret": {"secretName": name}}],
    }})
}

/// One request of the board.
async fn ask(server: &Server, method: Method, path: &str, body: &Value) -> Reply {
    let headers = match method {
        Method::PATCH => [MERGE],
        _ => [("content-type", "application/json")],
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    server.request(BOARD, method, path, &headers, body).await
}

/// The paths and methods of a verb on what is not the board's, with and without a namespace.
fn attempts(resource: &Resource, subresource: &str, verb: Verb) -> Vec<(Method, String)> {
    let (group, version, plural) = (resource.group, resource.version, resource.plural);
    let root = match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    let mut roots = vec![root.clone()];
    if resource.namespaced {
        roots = ["default", "kube-system", "kube-node-lease"]
            .map(|namespace| format!("{root}/namespaces/{namespace}"))
            .to_vec();
        roots.extend(matches!(verb, Verb::List | Verb::Watch).then_some(root));
    }
    let name = match plural {
        "nodes" | "leases" => "pi-1",
        "namespaces" => "default",
        "clusterroles" | "clusterrolebindings" => "cluster-admin",
        _ => "theirs",
    };
    let part = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
    let paths = roots.into_iter().map(|root| {
        let collection = format!("{root}/{plural}");
        let item = format!("{collection}/{name}{part}");
        match verb {
            Verb::Create if subresource.is_empty() => (Method::POST, collection),
            Verb::Create => (Method::POST, item),
            Verb::Delete => (Method::DELETE, item),
            Verb::DeleteCollection => (Method::DELETE, collection),
            Verb::Get => (Method::GET, item),
            Verb::List => (Method::GET, collection),
            Verb::Patch => (Method::PATCH, item),
            Verb::Update => (Method::PUT, item),
            Verb::Watch => (Method::GET, format!("{collection}?watch=1")),
        }
    });
    paths.collect()
}

/// What everybody who is known may do: ask about themselves.
fn is_everybodys(resource: &Resource) -> bool {
    matches!(
        resource.plural,
        "selfsubjectreviews" | "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_on_what_is_not_its_own_is_refused() {
    let server = two_boards().await;
    let version = |store: &Store| store.version();
    let before = version(server.registry.store());
    let mut tried = 0;
    for resource in RESOURCES.iter().filter(|resource| !is_everybodys(resource)) {
        let whole = resource.verbs.iter().map(|verb| ("", *verb));
        let parts = resource.subresources.iter();
        let parts = parts.flat_map(|sub| sub.verbs.iter().map(|verb| (sub.name, *verb)));
        for (subresource, verb) in whole.chain(parts) {
            for (method, path) in attempts(resource, subresource, verb) {
                let body = match method {
                    Method::GET | Method::DELETE => Value::Null,
                    _ => json!({"metadata": {"name": "theirs"}, "kind": resource.kind,
                        "apiVersion": resource.api_version()}),
                };
                let reply = ask(&server, method.clone(), &path, &body).await;
                assert_eq!(reply.code, 403, "{method} {path}: {}", reply.text());
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "only {tried} attempts");
    assert_eq!(version(server.registry.store()), before, "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_secret_is_reached_on_no_way() {
    let server = two_boards().await;
    let own = ask(&server, Method::GET, "/api/v1/namespaces/default/secrets/mine", &Value::Null);
    assert_eq!(own.await.code, 200);
    for path in [
        "/api/v1/namespaces/default/secrets/theirs",
        "/api/v1/namespaces/default/secrets/theirs?resourceVersion=0",
        "/api/v1/namespaces/default/secrets/mine/../theirs",
        "/api/v1/namespaces/default/secrets/%74heirs",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dtheirs",
        "/api/v1/namespaces/default/secrets?watch=true&fieldSelector=metadata.name%3Dtheirs",
        "/api/v1/watch/namespaces/default/secrets/theirs",
        "/api/v1/secrets?fieldSelector=metadata.name%3Dmine",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%21%3Dmine",
        "/api/v1//namespaces/default/secrets/theirs",
    ] {
        let reply = ask(&server, Method::GET, path, &Value::Null).await;
        assert!([403, 404].contains(&reply.code), "{path}: {}", reply.text());
        assert!(!reply.text().contains("aHVzaA"), "{path}");
    }
    // A list that is limited to its own Secret shows no other.
    let path = "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dmine";
    let list = ask(&server, Method::GET, path, &Value::Null).await.json();
    assert_eq!(list["items"].as_array().expect("items").len(), 1);
    // It cannot make itself the board of the pod that names it.
    let theirs = "/api/v1/namespaces/default/pods/theirs";
    for (method, path, body) in [
        (Method::PATCH, theirs.to_owned(), json!({"spec": {"nodeName": "pi-2"}})),
        (Method::PATCH, format!("{theirs}/status"), json!({"status": {"phase": "Failed"}})),
        (Method::POST, "/api/v1/namespaces/default/pods".into(), pod("pi-2", "other")),
        (
            Method::POST,
            format!("{theirs}/binding"),
            json!({"metadata": {"name": "theirs"}, "target": {"kind": "Node", "name": "pi-2"}}),
        ),
    ] {
        let reply = ask(&server, method, &path, &body).await;
        assert_eq!(reply.code, 403, "{path}: {}", reply.text());
    }
    // And nobody helps it to be somebody else.
    let headers =
        [("impersonate-user", "kubernetes-admin"), ("impersonate-group", "system:masters")];
    let reply = server.request(BOARD, Method::GET, theirs, &headers, "").await;
    assert_eq!(reply.code, 403, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_is_its_own_as_far_as_a_board_may_say() {
    let server = two_boards().await;
    let status = |path: &str| format!("{path}/status");
    let (pod, node) = ("/api/v1/namespaces/default/pods/mine", "/api/v1/nodes/pi-2");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for path in [pod, node, &format!("{leases}/pi-2")] {
        assert_eq!(ask(&server, Method::GET, path, &Value::Null).await.code, 200, "{path}");
    }
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Dpi-2";
    let list = ask(&server, Method::GET, pods, &Value::Null).await.json();
    assert_eq!(list["items"].as_array().expect("items").len(), 1);
    let running = json!({"status": {"phase": "Running", "message": "by hand"}});
    assert_eq!(ask(&server, Method::PATCH, &status(pod), &running).await.code, 200);
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let reply = ask(&server, Method::PATCH, &status(node), &ready).await;
    assert_eq!(reply.code, 200, "{}", reply.text());
    let renewed = json!({"spec": {"holderIdentity": "pi-2"}});
    let lease = ask(&server, Method::PATCH, &format!("{leases}/pi-2"), &renewed).await;
    assert_eq!(lease.code, 200, "{}", lease.text());
    for (method, path, body) in [
        (Method::PATCH, status(pod), json!({"status": {"podIP": "10.42.0.9"}})),
        (Method::PATCH, status(pod), json!({"metadata": {"labels": {"app": "shop"}}})),
        (Method::PATCH, status(node), json!({"metadata": {"annotations": {"a": "b"}}})),
        (
            Method::PATCH,
            status(node),
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
        ),
        (Method::POST, leases.to_owned(), json!({"metadata": {"name": "pi-3"}})),
        (Method::POST, leases.to_owned(), json!({"metadata": {"generateName": "pi-"}})),
    ] {
        let reply = ask(&server, method, &path, &body).await;
        assert_eq!(reply.code, 403, "{path} {body}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_board_is_nobody() {
    let server = two_boards().await;
    let path = "/api/v1/namespaces/default/secrets/mine";
    assert_eq!(ask(&server, Method::GET, path, &Value::Null).await.code, 200);
    // Another board took its name: the key that the Node names is not the one it shows.
    let key = json!({"metadata": {"annotations": {"kumquat.dev/board-key": "0".repeat(64)}}});
    let headers = [MERGE];
    let node = "/api/v1/nodes/pi-2";
    let patched = server.request(As::Admin, Method::PATCH, node, &headers, key.to_string()).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(ask(&server, Method::GET, path, &Value::Null).await.code, 401);
}
