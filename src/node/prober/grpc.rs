//! gRPC probes: one call of `grpc.health.v1.Health/Check` without TLS (grpc/grpc's
//! `doc/health-checking.md`, `PROTOCOL-HTTP2.md`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::limits::PROBE_ANSWER_BYTES_MAX;

use super::connect::Endpoint;
use super::http::USER_AGENT;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// `ServingStatus` by its numbers.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: usize = 1;
/// Of `grpc-status`.
const DEADLINE_EXCEEDED: u32 = 4;
const UNIMPLEMENTED: u32 = 12;

/// Asks for the health of a service.
pub(super) async fn probe(service: &str, at: &Endpoint, timeout: Duration) -> Result<(), String> {
    let seconds = timeout.as_secs();
    let begun = tokio::time::Instant::now();
    let stream = match tokio::time::timeout(timeout, at.connect()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let text = at.dial_text(&error);
            return Err(format!("error: failed to connect service at \"{at}\": {text}"));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service \"{at}\" within {seconds}s: context deadline \
                 exceeded"
            ));
        }
    };
    match tokio::time::timeout_at(begun + timeout, check(service, at, stream)).await {
        Ok(checked) => checked,
        Err(_) => Err(format!("timeout: health rpc did not complete within {seconds}s")),
    }
}

async fn check(service: &str, at: &Endpoint, stream: tokio::net::TcpStream) -> Result<(), String> {
    let failed = |error: String| format!("error: health rpc probe failed: {error}");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.to_string()))?;
    // The connection lives no longer than this call.
    let connection = tokio::spawn(connection);
    let asked = async {
        let request = request(service, at).map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| failed(error.to_string()))?.into_parts();
        let body = Limited::new(body, PROBE_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| failed(error.to_string()))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = [&head.headers, &trailers].into_iter().find_map(code_of);
        judge(head.status.as_u16(), code, &body.to_bytes())
    };
    let judged = asked.await;
    connection.abort();
    judged
}

fn request(service: &str, at: &Endpoint) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = Uri::builder().scheme("http").authority(at.to_string()).path_and_query(PATH);
    Request::post(uri.build()?)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(header::TE, HeaderValue::from_static("trailers"))
        .header(header::USER_AGENT, HeaderValue::from_static(USER_AGENT))
        .body(Full::new(Bytes::from(message(service))))
}

/// A `HealthCheckRequest` with the five bytes before it: not compressed, so long.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(1 << 3 | 2);
        varint(service.len(), &mut body);
        body.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(body);
    message
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn code_of(headers: &HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|value| value.to_str().ok());
    Some((code, message.unwrap_or_default().to_owned()))
}

fn judge(http: u16, code: Option<(u32, String)>, body: &[u8]) -> Result<(), String> {
    match code {
        Some((0, _)) => {}
        Some((UNIMPLEMENTED, text)) => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {text}"
            ));
        }
        Some((DEADLINE_EXCEEDED, _)) => {
            return Err("timeout: health rpc did not complete in time".to_owned());
        }
        Some((code, text)) => {
            return Err(format!(
                "error: health rpc probe failed: rpc error: code = {code} desc = {text}"
            ));
        }
        None => {
            return Err(format!(
                "error: health rpc probe failed: HTTP status {http} without gRPC's"
            ));
        }
    }
    let status = status_of(body).unwrap_or_default();
    match status {
        SERVING => Ok(()),
        other => {
            let word = STATUSES.get(other).copied().unwrap_or("UNKNOWN");
            Err(format!("service unhealthy (responded with {word:?})"))
        }
    }
}

/// The number of `status` (field 1) in a `HealthCheckResponse`; absent is 0.
fn status_of(body: &[u8]) -> Option<usize> {
    let message = body.get(5..)?;
    match message {
        [8, status, ..] => Some(usize::from(*status)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_as_kubelet_does() {
        let answer = |status: u8| [0, 0, 0, 0, 2, 8, status];
        let ok = || Some((0, String::new()));
        assert_eq!(judge(200, ok(), &answer(1)), Ok(()));
        let unhealthy = |word: &str| Err(format!("service unhealthy (responded with {word:?})"));
        assert_eq!(judge(200, ok(), &answer(2)), unhealthy("NOT_SERVING"));
        assert_eq!(judge(200, ok(), &[0, 0, 0, 0, 0]), unhealthy("UNKNOWN"));
        for (code, word) in [(12, "does not implement"), (5, "code = 5 desc = x"), (4, "timeout")] {
            let text = judge(200, Some((code, "x".to_owned())), &[]).expect_err("a failure");
            assert!(text.contains(word), "{text}");
        }
        assert!(judge(404, None, b"<html>").is_err());
    }

    #[test]
    fn a_request_is_framed() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 10, 2, b'a', b'b']);
        assert_eq!(message(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 10, 200, 1]);
    }

    /// A health server of hyper's, which says what it was asked.
    async fn serve(answer: &'static [u8], code: &'static str) -> Endpoint {
        use http_body_util::StreamBody;
        use hyper::body::Frame;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            let service = hyper::service::service_fn(move |request: Request<_>| async move {
                assert_eq!(request.uri().path(), PATH);
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let body: hyper::body::Incoming = request.into_body();
                let asked = body.collect().await.expect("a body").to_bytes();
                assert_eq!(asked, message("db"));
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(code));
                let frames = [
                    Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(answer))),
                    Ok(Frame::trailers(trailers)),
                ];
                let body = StreamBody::new(Frames(frames.into_iter().collect()));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
        Endpoint { netns: None, host: "127.0.0.1".to_owned(), port }
    }

    struct Frames<T>(std::collections::VecDeque<T>);

    impl<T: Unpin> futures_core::Stream for Frames<T> {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            std::task::Poll::Ready(self.0.pop_front())
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_over_http_2() {
        let second = Duration::from_secs(5);
        let healthy = serve(&[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(probe("db", &healthy, second).await, Ok(()));
        let sick = serve(&[0, 0, 0, 0, 2, 8, 2], "0").await;
        let text = probe("db", &sick, second).await.expect_err("not serving");
        assert!(text.contains("NOT_SERVING"), "{text}");
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = closed.local_addr().expect("bound").port();
        drop(closed);
        let nobody = Endpoint { netns: None, host: "127.0.0.1".to_owned(), port };
        let text = probe("db", &nobody, second).await.expect_err("nobody there");
        assert!(text.starts_with("error: failed to connect service at"), "{text}");
    }
}
