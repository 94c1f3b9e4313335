//! Who may ask what.

use http::Method;

use super::harness::{As, Server};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_health_and_version() {
    let server = Server::start().await;
    for open in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/version"] {
        let reply = server.request(As::Anonymous, Method::GET, open, &[], "").await;
        assert_eq!(reply.code, 200, "{open}: {}", reply.text());
    }
    for (method, path) in [
        (Method::GET, "/api"),
        (Method::GET, "/openapi/v2"),
        (Method::GET, "/api/v1/namespaces/default/secrets"),
        (Method::POST, "/api/v1/namespaces"),
        (Method::DELETE, "/api/v1/namespaces/default"),
        (Method::GET, "/no/such/path"),
    ] {
        let reply = server.request(As::Anonymous, method.clone(), path, &[], "").await;
        assert_eq!(reply.code, 403, "{method} {path}");
        assert_eq!(reply.json()["reason"], "Forbidden");
        let user = "User \"system:anonymous\" cannot ";
        assert!(reply.json()["message"].as_str().unwrap().contains(user), "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_credentials_are_refused() {
    let server = Server::start().await;
    let bearer = [("authorization", "Bearer abc")];
    let token = server.request(As::Anonymous, Method::GET, "/version", &bearer, "").await;
    let stranger = server.request(As::Stranger, Method::GET, "/version", &[], "").await;
    for reply in [token, stranger] {
        assert_eq!(reply.code, 401, "{}", reply.text());
        let expected = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
        });
        assert_eq!(reply.json(), expected);
    }
    // A good certificate counts, whatever else is sent.
    let both = server.request(As::Admin, Method::GET, "/api/v1/nodes", &bearer, "").await;
    assert_eq!(both.code, 200, "{}", both.text());
}
