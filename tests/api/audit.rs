//! One line for each write, whoever asks and whatever comes of it.

use http::Method;
use serde_json::{Value, json};

use super::harness::{As, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_told_and_nothing_else() {
    let (server, mut lines) = Server::with_audit().await;
    let map = json!({"metadata": {"name": "audited"}, "data": {"secret": "hush"}});
    let made = server.send(Method::POST, MAPS, &map).await;
    server.get(MAPS).await;
    server.send(Method::PUT, &format!("{MAPS}/none"), &map).await;
    server.act("jane", &[], Method::DELETE, &format!("{MAPS}/audited"), &Value::Null).await;
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    server.send(Method::POST, reviews, &review).await;
    let body = map.to_string();
    server.request(As::Stranger, Method::POST, MAPS, &[("audit-id", "mine")], body).await;
    let mut told = Vec::new();
    // The namespaces and roles that the server began with come first.
    while told.len() < 4 {
        let text = lines.next().await.expect("a line");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert!(!text.contains("hush"), "no content is told");
        if line["resource"] != "namespaces" {
            told.push(line);
        }
    }
    let fields = ["user", "actingAs", "verb", "resource", "namespace", "name"];
    let told_of = |line: &Value| fields.map(|field| line[field].as_str().unwrap_or("").to_owned());
    let admin = "kubernetes-admin";
    let of = "configmaps";
    assert_eq!(told_of(&told[0]), [admin, "", "create", of, "default", "audited"]);
    assert_eq!(told[0]["code"], 201);
    assert_eq!(told[0]["resourceVersion"], made.json()["metadata"]["resourceVersion"]);
    assert_eq!(told[0]["auditID"], made.header("audit-id"));
    assert!(told[0]["source"].as_str().expect("a text").starts_with("127.0.0.1:"));
    assert_eq!(told_of(&told[1]), [admin, "", "update", of, "default", "none"]);
    assert_eq!(told[1]["code"], 400);
    assert_eq!(told_of(&told[2]), [admin, "jane", "delete", of, "default", "audited"]);
    assert_eq!(told[2]["code"], 403);
    assert_eq!(told_of(&told[3]), ["", "", "create", of, "default", ""]);
    assert_eq!((&told[3]["code"], &told[3]["auditID"]), (&json!(401), &json!("mine")));
}
