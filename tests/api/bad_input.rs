//! Whatever a peer sends, only its own connection ends and everybody else goes on.

use std::time::{Duration, Instant};

use http::Method;
use model::limits::{API_CLIENTS_MAX, API_STRANGERS_MAX};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::harness::{As, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SOON: Duration = Duration::from_secs(20);

async fn still_serves(server: &Server) {
    let reply = timeout(SOON, server.get(CONFIG_MAPS)).await.expect("an answer in time");
    assert_eq!(reply.code, 200, "{}", reply.text());
}

/// Reads until the peer closes; how many bytes came does not matter.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection stayed open after {rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_tls() {
    let server = Server::start().await;
    let samples: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        b"\x16\x03\x01\xff\xff garbage in a handshake record",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in samples {
        let mut stream = TcpStream::connect(server.address).await.expect("sent");
        let _refused = stream.write_all(bytes).await;
        let _refused = stream.shutdown().await;
        closed(&mut stream).await;
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_http() {
    let server = Server::start().await;
    for (protocol, bytes) in [
        ("http/1.1", &b"\x00\x01\x02 not http\r\n\r\n"[..]),
        ("http/1.1", b"GET /version HTTP/1.1\r\nbad header\r\n\r\n"),
        ("http/1.1", b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n"),
        ("h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("h2", b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let mut stream = server.connect(As::Admin, &[protocol]).await.expect("sent");
        stream.write_all(bytes).await.expect("sent");
        stream.flush().await.expect("sent");
        closed(&mut stream).await;
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_and_idle_connections_stop_nobody() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut shaken = Vec::new();
    for _ in 0..50 {
        shaken.push(server.connect(As::Anonymous, &["h2"]).await.unwrap());
        let mut slow = server.connect(As::Anonymous, &["http/1.1"]).await.expect("sent");
        slow.write_all(b"GET /version HTTP/1.1\r\nHos").await.expect("sent");
        shaken.push(slow);
    }
    still_serves(&server).await;
    // Nobody finishes the handshake: the server does not wait for ever.
    for stream in idle.iter_mut().take(3) {
        closed(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_ask_all_the_time_keep_nobody_out() {
    // Far less than the time after which idle ones are cut off.
    const AT_ONCE: Duration = Duration::from_secs(5);
    let server = Server::start().await;
    let mut strangers = Vec::new();
    for count in 0..=API_CLIENTS_MAX + API_STRANGERS_MAX {
        let connecting = server.connect(As::Anonymous, &["http/1.1"]);
        let connected = timeout(AT_ONCE, connecting).await;
        let mut stream = connected.unwrap_or_else(|_| panic!("number {count} waits")).unwrap();
        healthy(&mut stream).await;
        strangers.push(stream);
    }
    timeout(AT_ONCE, still_serves(&server)).await.expect("a client is served at once");
    // The newest are served on, the oldest had to make room.
    healthy(strangers.last_mut().unwrap()).await;
    timeout(AT_ONCE, stream_end(&mut strangers[0], &mut Vec::new())).await.expect("an end");
}

/// Asks as a probe does, and goes on.
async fn healthy(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nok") {
        answer.push(
            timeout(SOON, stream.read_u8()).await.expect("an answer in time").expect("a byte"),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let server = Server::start().await;
    let long = "x".repeat(200_000);
    let mut stream = server.connect(As::Admin, &["http/1.1"]).await.expect("sent");
    let head = format!("GET /version?{long} HTTP/1.1\r\nHost: x\r\n\r\n");
    let _refused = stream.write_all(head.as_bytes()).await;
    closed(&mut stream).await;
    let mut stream = server.connect(As::Admin, &["http/1.1"]).await.expect("sent");
    let head = format!("GET /version HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n");
    let _refused = stream.write_all(head.as_bytes()).await;
    closed(&mut stream).await;
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded() {
    let server = Server::start().await;
    let too_long = "x".repeat(3_145_729);
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"},
        "data": {"k": too_long},
    });
    let expected = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 413,
        "message": "Request entity too large: limit is 3145728", "reason": "RequestEntityTooLarge",
    });
    let reply = server.send(Method::POST, CONFIG_MAPS, &body).await;
    assert_eq!(reply.json(), expected);
    // The same without a length that announces it.
    let mut stream = server.connect(As::Admin, &["http/1.1"]).await.expect("sent");
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", "y".repeat(0x10000));
    for _ in 0..60 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _cut = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end in time");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Largest that is allowed by the API, but too large for an object.
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"},
        "data": {"k": "x".repeat(2_000_000)},
    });
    let reply = server.send(Method::POST, CONFIG_MAPS, &body).await;
    assert!(matches!(reply.code, 413 | 422), "{}", reply.text());
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies() {
    let server = Server::start().await;
    let nested = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("application/json", b"".to_vec()),
        ("application/json", b"{".to_vec()),
        ("application/json", b"[]".to_vec()),
        ("application/json", b"null".to_vec()),
        ("application/json", b"{\"kind\":1}".to_vec()),
        ("application/json", b"\xff\xfe\x00".to_vec()),
        ("application/json", nested.into_bytes()),
        ("application/yaml", b"a: [".to_vec()),
        ("application/yaml", b"\t".to_vec()),
        ("application/yaml", b"- a".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("application/vnd.kubernetes.protobuf", b"{\"kind\":\"ConfigMap\"}".to_vec()),
    ];
    for (content_type, body) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        for method in [Method::POST, Method::PUT] {
            let path = match method {
                Method::PUT => format!("{CONFIG_MAPS}/x"),
                _ => CONFIG_MAPS.to_owned(),
            };
            let headers = [("content-type", content_type)];
            let reply = server.request(As::Admin, method, &path, &headers, body.clone()).await;
            // An empty object lacks its name: 422; everything else is no object at all.
            assert!(matches!(reply.code, 400 | 422), "{content_type} {shown:?}: {}", reply.text());
            assert_eq!(reply.json()["kind"], "Status");
        }
    }
    for content_type in ["json-patch", "merge-patch", "strategic-merge-patch"] {
        let content_type = format!("application/{content_type}+json");
        for body in ["", "{", "1", "[[]]", "[{\"op\":\"x\"}]", "\u{0}"] {
            server.send(Method::POST, CONFIG_MAPS, &config_map("p")).await;
            let headers = [("content-type", content_type.as_str())];
            let path = format!("{CONFIG_MAPS}/p");
            let reply = server.request(As::Admin, Method::PATCH, &path, &headers, body).await;
            assert!(matches!(reply.code, 400 | 422), "{content_type} {body}: {}", reply.text());
        }
    }
    let message = server.request(
        As::Admin,
        Method::POST,
        CONFIG_MAPS,
        &[("content-type", "application/json")],
        "{\"a\" 1}",
    );
    let message = message.await.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get \
         version/kind; json parse error: invalid character '1' after object key ({\"a\" 1})"
    );
    still_serves(&server).await;
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

#[tokio::test(flavor = "multi_thread")]
async fn weird_paths_and_methods() {
    let server = Server::start().await;
    let long = format!("/api/v1/namespaces/{}/configmaps", "n".repeat(5000));
    for (method, path, codes) in [
        (Method::GET, "//", &[200][..]),
        (Method::GET, "/api//v1/pods", &[404]),
        (Method::GET, "/api/v1/", &[200]),
        (Method::GET, "/api/v1/pods/a/b/c/d/e", &[404]),
        (Method::GET, "/api/v1/namespaces/default/pods/a/b/c", &[404]),
        (Method::GET, "/api/v1/namespaces/default/nodes", &[404]),
        (Method::GET, "/api/v1/configmaps/a", &[404]),
        (Method::GET, "/api/v1/%00", &[404]),
        (Method::GET, "/%2e%2e/%2e%2e/etc/passwd", &[404]),
        (Method::GET, "/api/v1/namespaces/%zz/configmaps", &[200, 404]),
        (Method::GET, "/api/v1/namespaces/default/configmaps/%ff", &[404]),
        (Method::GET, "/api/v1/namespaces/default/configmaps?limit=abc", &[400]),
        (Method::GET, "/api/v1/namespaces/default/configmaps?resourceVersion=abc", &[400]),
        (Method::GET, "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=x", &[400]),
        (Method::GET, &long, &[200]),
        (Method::POST, "/api/v1/configmaps", &[405]),
        (Method::POST, "/api/v1/namespaces/default/configmaps/a", &[405]),
        (Method::PUT, "/api/v1/namespaces/default/configmaps", &[405]),
        (Method::DELETE, "/api/v1/configmaps", &[405]),
        (Method::OPTIONS, "/api/v1/namespaces/default/configmaps", &[405]),
        (Method::TRACE, "/api/v1/namespaces/default/configmaps", &[405]),
        (Method::POST, "/version", &[405]),
        (Method::DELETE, "/healthz", &[405]),
        (Method::GET, "/apis/apps/v1/namespaces/default/deployments/d/exec", &[404]),
        (Method::DELETE, "/apis/apps/v1/namespaces/default/deployments/d/scale", &[405]),
    ] {
        let reply = timeout(SOON, server.request(As::Admin, method.clone(), path, &[], "")).await;
        let reply = reply.unwrap_or_else(|_| panic!("{method} {path}: no answer"));
        let shown = &path[..path.len().min(80)];
        assert!(codes.contains(&reply.code), "{method} {shown}: {} {}", reply.code, reply.text());
    }
    still_serves(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_watches_and_closes_connections() {
    let mut server = Server::start().await;
    let path = format!("{CONFIG_MAPS}?watch=true");
    let mut watch = server.open(As::Admin, Method::GET, &path, &[], "").await;
    let mut idle = server.connect(As::Admin, &["h2"]).await.expect("sent");
    let begun = Instant::now();
    server.stop().await;
    assert_eq!(watch.line().await, None);
    closed(&mut idle).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_do_nothing_are_sent_away() {
    let server = Server::start().await;
    for protocol in ["h2", "http/1.1"] {
        let mut stranger = server.connect(As::Anonymous, &[protocol]).await.expect("sent");
        let begun = Instant::now();
        let mut rest = Vec::new();
        let ended = timeout(Duration::from_secs(40), stream_end(&mut stranger, &mut rest)).await;
        assert!(ended.is_ok(), "{protocol}: still open after {:?}", begun.elapsed());
    }
}

async fn stream_end(stream: &mut (impl tokio::io::AsyncRead + Unpin), rest: &mut Vec<u8>) {
    // A cut without TLS's own goodbye is an end too.
    let _cut = stream.read_to_end(rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_one_user_stop_nobody() {
    const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let server = Server::start().await;
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut stream = server.connect(As::Board("slow"), &["http/1.1"]).await.expect("sent");
        let head = format!(
            "POST {REVIEWS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: 3145728\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    // They have all come: the first is cut off for its pace.
    let mut answer = [0; 12];
    timeout(SOON, slow[0].read_exact(&mut answer)).await.expect("an end in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    let headers = [("content-type", "application/json")];
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    for who in [As::Admin, As::Board("other")] {
        let body = review.to_string();
        let asking = server.request(who, Method::POST, REVIEWS, &headers, body);
        let reply = timeout(Duration::from_secs(3), asking).await.expect("at once");
        assert_eq!(reply.code, 201, "{}", reply.text());
    }
}
