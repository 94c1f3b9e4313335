//! Watches: as recorded from a real server, bookmarks on request, many at a time.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::harness::{As, Opened, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");

async fn create(server: &Server, name: &str, labels: Value) -> Value {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}});
    let reply = server.send(Method::POST, CONFIG_MAPS, &body).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    reply.json()
}

async fn label(server: &Server, name: &str, value: &str) -> Value {
    let headers = [("content-type", "application/merge-patch+json")];
    let body = json!({"metadata": {"labels": {"x": value}}}).to_string();
    let path = format!("{CONFIG_MAPS}/{name}");
    server.request(As::Admin, Method::PATCH, &path, &headers, body).await.json()
}

async fn watch(server: &Server, query: &str, headers: &[(&str, &str)]) -> Opened {
    let path = format!("{CONFIG_MAPS}?watch=true&{query}");
    let opened = server.open(As::Admin, Method::GET, &path, headers, "").await;
    assert_eq!(opened.code, 200);
    opened
}

async fn next(watch: &mut Opened) -> (String, Value) {
    let event = timeout(Duration::from_secs(10), watch.event()).await.expect("an event in time");
    (event["type"].as_str().expect("a type").to_owned(), event["object"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_enters_and_leaves_a_selection() {
    let server = Server::start().await;
    let mut events = watch(&server, "labelSelector=x%3D1", &[]).await;
    create(&server, "t", json!({"x": "1"})).await;
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind.as_str(), &object["kind"]), ("ADDED", &json!("ConfigMap")));
    let left = label(&server, "t", "2").await;
    let (kind, object) = next(&mut events).await;
    // The old content with the version of the change.
    assert_eq!((kind.as_str(), &object["metadata"]["labels"]["x"]), ("DELETED", &json!("1")));
    assert_eq!(object["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    label(&server, "t", "1").await;
    assert_eq!(next(&mut events).await.0, "ADDED");
    server.send(Method::DELETE, &format!("{CONFIG_MAPS}/t"), &Value::Null).await;
    assert_eq!(next(&mut events).await.0, "DELETED");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_with_the_first_event_only() {
    let server = Server::start().await;
    create(&server, "t", json!({})).await;
    let mut events = watch(&server, "", &[TABLE]).await;
    let (kind, table) = next(&mut events).await;
    assert_eq!((kind.as_str(), &table["kind"]), ("ADDED", &json!("Table")));
    assert_eq!(table["columnDefinitions"].as_array().map(Vec::len), Some(3));
    let changed = label(&server, "t", "1").await;
    let (kind, table) = next(&mut events).await;
    assert_eq!((kind.as_str(), &table["columnDefinitions"]), ("MODIFIED", &Value::Null));
    let version = &changed["metadata"]["resourceVersion"];
    assert_eq!(&table["metadata"]["resourceVersion"], version);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["cells"][0], "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_resumes_and_a_made_up_one_is_gone() {
    let server = Server::start().await;
    let first = create(&server, "a", json!({})).await;
    create(&server, "b", json!({})).await;
    label(&server, "a", "1").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = watch(&server, &format!("resourceVersion={version}"), &[]).await;
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("b")));
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("MODIFIED", &json!("a")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_at_its_timeout() {
    let server = Server::start().await;
    let mut events = watch(&server, "timeoutSeconds=1", &[]).await;
    let ended = timeout(Duration::from_secs(10), events.line()).await.expect("an end in time");
    assert_eq!(ended, None);
}

/// Proportional share of this process' memory, in kB.
fn memory_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps");
    let line = text.lines().find(|line| line.starts_with("Pss:")).expect("Pss");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watches_all_hear_of_a_change() {
    let server = Server::start().await;
    let before = memory_kb();
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watch(&server, "", &[]).await);
    }
    // Client and server side of each, both in this process.
    println!("memory: {before} kB, with 100 idle watches {} kB", memory_kb());
    create(&server, "t", json!({})).await;
    for events in &mut watches {
        assert_eq!(next(events).await.0, "ADDED");
    }
}
