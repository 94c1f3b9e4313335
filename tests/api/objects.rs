//! What HTTP adds to the registry: formats, shapes, options, protobuf bodies, warnings.

use http::Method;
use serde_json::{Value, json};

use super::harness::{As, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_every_form() {
    let server = Server::start().await;
    for number in 0..500 {
        let body = config_map(&format!("c{number:03}"));
        assert_eq!(server.send(Method::POST, CONFIG_MAPS, &body).await.code, 201);
    }
    let plain = server.get(CONFIG_MAPS).await;
    let list = plain.json();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), 500);
    assert!(items.iter().all(|item| item.get("kind").is_none() && item["data"]["k"] == "v"));
    let pretty = server.get(&format!("{CONFIG_MAPS}?pretty=true")).await;
    assert_eq!(pretty.json(), list);
    assert!(pretty.text().starts_with("{\n  \"kind\": \"ConfigMapList\",\n"));
    let yaml = server.get_as(CONFIG_MAPS, "application/yaml").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    let read: Value = serde_norway::from_slice(&yaml.body).expect("YAML");
    assert_eq!(read, list);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for (query, kind) in [
        ("", json!("PartialObjectMetadata")),
        ("?includeObject=Object", json!("ConfigMap")),
        ("?includeObject=None", Value::Null),
    ] {
        let table = server.get_as(&format!("{CONFIG_MAPS}{query}"), table).await.json();
        assert_eq!(table["kind"], "Table");
        assert_eq!(table["rows"].as_array().map(Vec::len), Some(500));
        assert_eq!(table["rows"][0]["object"]["kind"], kind, "{query}");
    }
    let mut pages = 0;
    let mut next = String::new();
    let mut seen = Vec::new();
    loop {
        let page = server.get(&format!("{CONFIG_MAPS}?limit=120&continue={next}")).await.json();
        let names = page["items"].as_array().unwrap().iter();
        seen.extend(names.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        pages += 1;
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if next.is_empty() {
            break;
        }
        if pages == 1 {
            assert_eq!(page["metadata"]["remainingItemCount"], 380);
        }
    }
    assert_eq!((pages, seen.len()), (5, 500));
    assert!(seen.is_sorted());
    let empty = server.get_as("/api/v1/namespaces/none/configmaps", "application/yaml").await;
    assert_eq!(serde_norway::from_slice::<Value>(&empty.body).unwrap()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_objects_in_every_form() {
    let server = Server::start().await;
    let created = server.send(Method::POST, CONFIG_MAPS, &config_map("a")).await.json();
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(server.get(&path).await.json(), created);
    let yaml = server.get_as(&path, "application/yaml").await;
    assert_eq!(serde_norway::from_slice::<Value>(&yaml.body).unwrap(), created);
    let table = server.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.json();
    assert_eq!(table["rows"][0]["cells"][0], "a");
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let partial = server.get_as(&path, partial).await.json();
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert_eq!(partial["metadata"], created["metadata"]);
    let head = server.request(As::Admin, Method::HEAD, &path, &[], "").await;
    assert_eq!((head.code, head.body.len()), (200, 0));
    let length: usize = head.header("content-length").parse().expect("a length");
    assert_eq!(length, server.get(&path).await.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_answer_as_recorded() {
    let server = Server::start().await;
    let created = server.send(Method::POST, CONFIG_MAPS, &config_map("t1")).await.json();
    let path = format!("{CONFIG_MAPS}/t1");
    let dry = server.send(Method::DELETE, &format!("{path}?dryRun=All"), &Value::Null).await;
    assert_eq!(dry.code, 200);
    assert_eq!(server.get(&path).await.code, 200, "a dry run deletes nothing");
    for (body, code) in [
        (json!({"propagationPolicy": "Nonsense"}), 422),
        (json!({"gracePeriodSeconds": "soon"}), 400),
        (json!({"dryRun": ["yes"]}), 422),
        (json!({"preconditions": {"resourceVersion": "1"}}), 409),
    ] {
        let reply = server.send(Method::DELETE, &path, &body).await;
        assert_eq!(reply.code, code, "{body}: {}", reply.text());
    }
    let reply =
        server.send(Method::DELETE, &path, &json!({"propagationPolicy": "Background"})).await;
    let uid = &created["metadata"]["uid"];
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "t1", "kind": "configmaps", "uid": uid},
    });
    assert_eq!((reply.code, reply.json()), (200, expected));
    for name in ["x", "y", "z"] {
        server.send(Method::POST, CONFIG_MAPS, &config_map(name)).await;
    }
    let all = server.send(Method::DELETE, CONFIG_MAPS, &Value::Null).await;
    assert_eq!(all.json()["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(server.get(CONFIG_MAPS).await.json()["items"], json!([]));
}

/// A protobuf field of bytes: number, length, content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).expect("short")];
    bytes.extend_from_slice(content);
    bytes
}

/// The envelope that client-go sends: magic, then TypeMeta and the raw message.
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, raw)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_bodies_are_read() {
    let server = Server::start().await;
    let headers = [
        ("content-type", "application/vnd.kubernetes.protobuf"),
        ("accept", "application/vnd.kubernetes.protobuf,application/json"),
    ];
    let metadata = field(1, &field(1, b"from-protobuf"));
    let namespace = envelope("v1", "Namespace", &metadata);
    let reply =
        server.request(As::Admin, Method::POST, "/api/v1/namespaces", &headers, namespace).await;
    assert_eq!((reply.code, reply.header("content-type")), (201, "application/json"));
    assert_eq!(reply.json()["metadata"]["name"], "from-protobuf");
    server.send(Method::POST, CONFIG_MAPS, &config_map("p")).await;
    // DeleteOptions{gracePeriodSeconds: 0}
    let options = envelope("v1", "DeleteOptions", &[1 << 3, 0]);
    let path = format!("{CONFIG_MAPS}/p");
    let reply = server.request(As::Admin, Method::DELETE, &path, &headers, options).await;
    assert_eq!(reply.code, 200, "{}", reply.text());
    assert_eq!(server.get(&path).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_writes_are_checked() {
    let server = Server::start().await;
    let body = config_map("a");
    let long = "m".repeat(129);
    for (query, text) in [
        (
            "fieldValidation=Maybe".to_owned(),
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \
             \"Maybe\": supported values: \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (
            format!("fieldManager={long}"),
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more \
             than 128 bytes",
        ),
    ] {
        let reply = server.send(Method::POST, &format!("{CONFIG_MAPS}?{query}"), &body).await;
        assert_eq!((reply.code, reply.json()["message"].as_str()), (422, Some(text)));
    }
    let mut odd = config_map("odd");
    odd["one"] = json!(1);
    odd["two\"quoted"] = json!(2);
    let reply = server.send(Method::POST, CONFIG_MAPS, &odd).await;
    let warnings: Vec<_> = reply.headers.get_all("warning").iter().collect();
    let expected =
        ["299 - \"unknown field \\\"one\\\"\"", "299 - \"unknown field \\\"two\\\"quoted\\\"\""];
    assert_eq!(warnings, expected);
    let path = format!("{CONFIG_MAPS}?fieldValidation=Ignore");
    odd["metadata"]["name"] = json!("quiet");
    assert!(server.send(Method::POST, &path, &odd).await.headers.get("warning").is_none());
}
