//! Discovery and OpenAPI as clients negotiate and cache them.

use std::io::Read as _;

use flate2::read::GzDecoder;
use http::Method;
use serde_json::Value;

use super::harness::{As, Server};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[tokio::test(flavor = "multi_thread")]
async fn aggregated_discovery_is_negotiated_exactly() {
    let server = Server::start().await;
    let both = format!("{V2},{V2_BETA},application/json");
    let beta_first = format!("{V2_BETA},{V2},application/json");
    for (accept, content_type, api_version) in [
        (both.as_str(), V2, "apidiscovery.k8s.io/v2"),
        (beta_first.as_str(), V2_BETA, "apidiscovery.k8s.io/v2beta1"),
        (V2, V2, "apidiscovery.k8s.io/v2"),
    ] {
        for path in ["/api", "/apis"] {
            let reply = server.get_as(path, accept).await;
            assert_eq!(reply.header("content-type"), content_type);
            assert_eq!(reply.json()["apiVersion"], api_version);
            assert_eq!(reply.header("vary"), "Accept");
        }
    }
    for accept in [
        "application/json",
        "*/*",
        "application/json;v=v9;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList,application/json",
    ] {
        assert_eq!(server.get_as("/api", accept).await.json()["kind"], "APIVersions", "{accept}");
        assert_eq!(server.get_as("/apis", accept).await.json()["kind"], "APIGroupList", "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_spare_clients_what_they_have() {
    let server = Server::start().await;
    let first = server.get_as("/apis", V2).await;
    let headers = [("accept", V2), ("if-none-match", first.header("etag"))];
    let again = server.request(As::Admin, Method::GET, "/apis", &headers, "").await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    assert_eq!(again.header("etag"), first.header("etag"));

    let index = server.get("/openapi/v3").await.json();
    for (path, entry) in index["paths"].as_object().expect("paths") {
        let url = entry["serverRelativeURL"].as_str().expect("a URL");
        let plain = server.get(url).await;
        assert_eq!(plain.code, 200, "{path}");
        assert!(plain.header("cache-control").contains("immutable"), "{path}");
        assert!(plain.json()["components"]["schemas"].is_object(), "{path}");
        let headers = [("accept-encoding", "gzip")];
        let gzipped = server.request(As::Admin, Method::GET, url, &headers, "").await;
        assert_eq!(gzipped.header("content-encoding"), "gzip");
        let mut text = String::new();
        GzDecoder::new(&*gzipped.body).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, plain.text(), "{path}");
        let headers = [("if-none-match", plain.header("etag"))];
        let known = server.request(As::Admin, Method::GET, url, &headers, "").await;
        assert_eq!(known.code, 304, "{path}");
    }
    let moved = server.get("/openapi/v3/apis/apps/v1?hash=OLD").await;
    assert_eq!(moved.code, 301);
    assert_eq!(server.get(moved.header("location")).await.code, 200);
    assert_eq!(server.get("/openapi/v3/apis/none/v1").await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_documents_lead_to_every_kind() {
    let server = Server::start().await;
    let mut kinds = 0;
    let groups = server.get("/apis").await.json();
    let versions = groups["groups"].as_array().expect("groups").iter();
    let mut paths: Vec<String> = versions
        .map(|group| {
            format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap())
        })
        .collect();
    paths.push("/api/v1".into());
    for path in paths {
        let list = server.get(&path).await.json();
        for resource in list["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            let verbs = resource["verbs"].as_array().expect("verbs");
            if name.contains('/') || !verbs.contains(&Value::from("list")) {
                continue;
            }
            kinds += 1;
            let reply = server.get(&format!("{path}/{name}")).await;
            assert_eq!(reply.code, 200, "{path}/{name}: {}", reply.text());
            assert!(reply.json()["items"].is_array());
        }
    }
    assert!(kinds >= 14, "{kinds}");
}

/// The columns of a real server, by the path of the list over all namespaces.
const COLUMNS: &str = include_str!("../../data/kubernetes-1.36/print-columns.json");

#[tokio::test(flavor = "multi_thread")]
async fn table_columns_are_those_of_a_real_server() {
    let server = Server::start().await;
    let recorded: Value = serde_json::from_str(COLUMNS).expect("JSON");
    let mut compared = 0;
    for resource in model::resource::RESOURCES {
        let path = match resource.group {
            "" => format!("/api/{}/{}", resource.version, resource.plural),
            group => format!("/apis/{group}/{}/{}", resource.version, resource.plural),
        };
        let Some(expected) = recorded.get(&path) else { continue };
        let reply = server.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        let mut found = reply.json()["columnDefinitions"].take();
        for column in found.as_array_mut().expect("columns") {
            assert_eq!(column["description"], "");
            column.as_object_mut().expect("a column").remove("description");
        }
        assert_eq!(&found, expected, "{path}");
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
}
