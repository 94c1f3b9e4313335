//! A worker's certificate tries every path of the tunnel that is not its own: all are refused.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use kumquat::io::image::{Digest, Source, SourceError};
use kumquat::io::peer::{self, ALPN, Connection};
use model::wire::{BlobRequestV1, StreamRequestV1};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::bed::{BOSS, Bed};

struct Thief(Connection);

impl Thief {
    async fn tries(&self, method: Method, path: &str) -> (StatusCode, String) {
        let mut request = Request::new(peer::empty());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        let sent = timeout(Duration::from_secs(10), self.0.send(request)).await;
        let answer = sent.expect("in time").expect("an answer");
        let status = answer.status();
        let body = timeout(Duration::from_secs(10), peer::read(answer.into_body(), 4096)).await;
        let body = body.expect("in time").expect("short");
        (status, String::from_utf8_lossy(&body).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boards_certificate_opens_only_what_is_its_own() {
    let bed = Bed::new("matrix").await;
    let (boss, one) = (bed.own_board().await, bed.board("pi-1").await);
    let _two = bed.board("pi-2").await;
    let secret = one.import("secret:v1", 100_000);
    let own = boss.import("own:v1", 100_000);
    bed.reports("pi-1", "secret:v1").await;
    bed.pod("pi-1", "secret:v1").await;
    bed.pod(BOSS, "own:v1").await;
    bed.runs("pi-1", "secret:v1").await;
    bed.runs(BOSS, "own:v1").await;
    let tls = bed.credentials("pi-3", false).client_config(ALPN).expect("TLS");
    let opened = Connection::open(bed.port, tls, Duration::from_secs(10)).await;
    let thief = Thief(opened.expect("a board of the cluster"));

    // A stream that pi-1 is asked for and has not begun: pi-3 knows its id.
    let (answer, mut chunks) = mpsc::channel(4);
    one.disconnect().await;
    let request = StreamRequestV1::Blob(BlobRequestV1 { sha256: secret.bytes(), from: 0 });
    let (mut frames, _kept) = bed.streams.connect("pi-1").split();
    bed.streams.ask("pi-1", &request, answer).expect("connected");
    let frame = frames.recv().await.expect("asked").expect("a frame");
    let id = model::wire::Frames::default().take(&frame).expect("a frame")[0].id;

    let layer = one.images.blobs_of(secret).expect("there")[0];
    let message = Digest::of(b"a message of pi-1").hex();
    let post = Method::POST;
    let get = Method::GET;
    let matrix = [
        (&post, format!("/v1/tunnel/streams/{id}"), StatusCode::FORBIDDEN),
        (&post, format!("/v1/tunnel/streams/{}", id + 1), StatusCode::NOT_FOUND),
        (&post, "/v1/tunnel/streams/0".to_owned(), StatusCode::NOT_FOUND),
        (&get, format!("/v1/tunnel/streams/{id}"), StatusCode::METHOD_NOT_ALLOWED),
        (&post, "/v1/tunnel/requests".to_owned(), StatusCode::METHOD_NOT_ALLOWED),
        (&get, format!("/v1/messages/{message}"), StatusCode::NOT_FOUND),
        (&get, "/v1/images?name=secret:v1".to_owned(), StatusCode::FORBIDDEN),
        (&get, "/v1/images?name=own:v1".to_owned(), StatusCode::FORBIDDEN),
        (&get, "/v1/images?name=nobody/has:v1".to_owned(), StatusCode::FORBIDDEN),
        (&get, "/v1/images".to_owned(), StatusCode::NOT_FOUND),
        (&get, format!("/v1/blobs/{secret}?name=secret:v1"), StatusCode::FORBIDDEN),
        (&get, format!("/v1/blobs/{layer}?name=secret:v1"), StatusCode::FORBIDDEN),
        (&get, format!("/v1/blobs/{own}?name=own:v1"), StatusCode::FORBIDDEN),
        (&get, format!("/v1/blobs/{own}"), StatusCode::NOT_FOUND),
        (&get, "/v1/tunnel/".to_owned(), StatusCode::NOT_FOUND),
        (&get, "/v1/blobs/../../etc/passwd?name=a".to_owned(), StatusCode::NOT_FOUND),
    ];
    for (method, path, expected) in &matrix {
        let (status, text) = thief.tries((*method).clone(), path).await;
        assert_eq!(status, *expected, "{method} {path}: {text}");
        assert!(!text.contains("sha256:"), "{method} {path} tells something: {text}");
    }
    assert!(chunks.try_recv().is_err(), "nothing reached the reader of pi-1's stream");

    // A pod of its own opens exactly that image, and no blob of another one under its name.
    bed.pod("pi-3", "own:v1").await;
    let (status, text) = thief.tries(get.clone(), "/v1/images?name=own:v1").await;
    assert_eq!((status, text.contains(&own.to_string())), (StatusCode::OK, true), "{text}");
    let path = format!("/v1/blobs/{layer}?name=own:v1");
    assert_eq!(thief.tries(get.clone(), &path).await.0, StatusCode::FORBIDDEN);
    let path = format!("/v1/blobs/{own}?name=own:v1");
    assert_eq!(thief.tries(get, &path).await.0, StatusCode::OK);

    // The board's own client reads refusals as such.
    let offers = _two.tunnel.offers("secret:v1").await;
    assert!(matches!(offers, Err(SourceError::Refused(_))), "{offers:?}");
}
