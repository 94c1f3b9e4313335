//! pods/NAME/log: parameters, errors, and bytes as the board sends them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kumquat::io::link;
use kumquat::master::tunnel::Streams;
use model::wire::{self, Header, LogsRequestV1, StreamRequestV1};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::harness::{As, Server};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server whose board sends three chunks, the last one late, and tells what it was asked.
async fn server_with_board() -> (Server, Arc<Mutex<Vec<LogsRequestV1>>>) {
    let (master, mut board) = link::pair();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Some(open) = board.streams.recv().await {
            let (header, body) = Header::split(&open.request).expect("a message");
            let request = wire::decode(header.kind, body).expect("a request");
            let StreamRequestV1::Logs(request) = request else { panic!("no logs: {request:?}") };
            let follow = request.follow;
            let broken = request.container == "broken";
            seen.lock().expect("no test panics with it").push(request);
            tokio::spawn(async move {
                if broken {
                    let _gone = open.answer.send(Err("the log is gone".into())).await;
                    return;
                }
                for line in ["one\n", "two\n"] {
                    let _gone = open.answer.send(Ok(Bytes::from_static(line.as_bytes()))).await;
                }
                if follow {
                    sleep(Duration::from_millis(300)).await;
                    let _gone = open.answer.send(Ok(Bytes::from_static(b"three\n"))).await;
                }
            });
        }
    });
    let logs = Streams::new(1, 2);
    logs.register("board-1", master.streams);
    (Server::with_logs(Arc::new(logs)).await, asked)
}

/// A pod with two containers, bound to the board, whose first one runs.
async fn pod(server: &Server, name: &str, bound: bool) -> Value {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}, {"name": "broken", "image": "i"}]},
    });
    let reply = server.send(Method::POST, PODS, &pod).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    if bound {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "board-1"},
        });
        let bound = server.send(Method::POST, &format!("{PODS}/{name}/binding"), &binding).await;
        assert_eq!(bound.code, 201, "{}", bound.text());
        let container = |name: &str, state: Value| json!({"name": name, "state": state, "ready": false, "restartCount": 0, "image": "i", "imageID": ""});
        let running = json!({"running": {"startedAt": "2026-11-22T00:00:00Z"}});
        let status = json!({"status": {"phase": "Running", "containerStatuses": [
            container("a", running.clone()),
            container("b", json!({"waiting": {"reason": "ContainerCreating"}})),
            container("broken", running),
        ]}});
        let headers = [("content-type", "application/merge-patch+json")];
        let path = format!("{PODS}/{name}/status");
        let body = status.to_string();
        let patched = server.request(As::Admin, Method::PATCH, &path, &headers, body).await;
        assert_eq!(patched.code, 200, "{}", patched.text());
    }
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_and_parameters_pass_through() {
    let (server, asked) = server_with_board().await;
    let pod = pod(&server, "p", true).await;
    let whole = server.get(&format!("{PODS}/p/log?container=a&tailLines=5&timestamps=true")).await;
    assert_eq!((whole.code, whole.text().as_str()), (200, "one\ntwo\n"));
    assert_eq!(whole.header("content-type"), "text/plain");
    let path = format!("{PODS}/p/log?container=a&follow=true&previous=false&limitBytes=9");
    let mut followed = server.open(As::Admin, Method::GET, &path, &[], "").await;
    for expected in [Some("one"), Some("two"), Some("three"), None] {
        let line = timeout(Duration::from_secs(5), followed.line()).await.expect("in time");
        assert_eq!(line.as_deref(), expected);
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0].pod.to_string(), pod["metadata"]["uid"].as_str().unwrap());
    assert_eq!((asked[0].tail_lines, asked[0].timestamps, asked[0].follow), (Some(5), true, false));
    assert_eq!((asked[1].limit_bytes, asked[1].follow), (Some(9), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_a_real_server() {
    let (server, _) = server_with_board().await;
    pod(&server, "p", true).await;
    pod(&server, "unbound", false).await;
    for (path, code, text) in [
        ("p/log", 400, "a container name must be specified for pod p, choose one of: [a b broken]"),
        ("p/log?container=x", 400, "container x is not valid for pod p"),
        (
            "p/log?container=b",
            400,
            "container \"b\" in pod \"p\" is waiting to start: ContainerCreating",
        ),
        (
            "p/log?container=a&previous=true",
            400,
            "previous terminated container \"a\" in pod \"p\" not found",
        ),
        ("none/log", 404, "pods \"none\" not found"),
        ("p/log?container=broken", 400, "the log is gone"),
        (
            "p/log?container=a&tailLines=-1",
            422,
            "PodLogOptions \"\" is invalid: tailLines: Invalid value: -1: must be greater than or \
             equal to 0",
        ),
    ] {
        let reply = server.get(&format!("{PODS}/{path}")).await;
        assert_eq!((reply.code, reply.json()["message"].as_str()), (code, Some(text)), "{path}");
    }
    // A pod that is nowhere has no log, which is no error.
    let empty = server.get(&format!("{PODS}/unbound/log?container=a")).await;
    assert_eq!((empty.code, empty.body.len()), (204, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_refused_in_the_words_of_a_real_server() {
    let (server, _) = server_with_board().await;
    pod(&server, "p", true).await;
    pod(&server, "unbound", false).await;
    let choose = "a container name must be specified for pod p, choose one of: [a b broken]";
    let none = "you must specify at least 1 of stdin, stdout, stderr";
    for method in [Method::GET, Method::POST] {
        for (path, code, text) in [
            ("p/exec?command=ls&stdout=true", 400, choose),
            ("p/exec?command=ls&container=x", 400, "container x is not valid for pod p"),
            ("p/exec?command=ls&container=a", 400, none),
            ("p/attach?container=a&stdout=true", 400, "Upgrade request required"),
            ("p/portforward", 400, "Upgrade request required"),
            ("unbound/portforward", 400, "pod unbound does not have a host assigned"),
            ("none/exec?command=ls", 404, "pods \"none\" not found"),
        ] {
            let path = format!("{PODS}/{path}");
            let reply = server.request(As::Admin, method.clone(), &path, &[], "").await;
            assert_eq!(
                (reply.code, reply.json()["message"].as_str()),
                (code, Some(text)),
                "{path}"
            );
        }
    }
    let reply = server.request(As::Admin, Method::PUT, &format!("{PODS}/p/exec"), &[], "").await;
    assert_eq!(reply.code, 405);
}
