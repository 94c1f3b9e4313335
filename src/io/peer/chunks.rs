//! Bodies that are streams of chunks: the sender waits for the reader, and an error has words.
//!
//! An error that ends a stream travels as a trailer, so that the other end can say it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::Body;

/// Header or trailer that says why a stream has failed.
pub const ERROR: HeaderName = HeaderName::from_static("kumquat-error");

/// Chunks of a stream; an error ends it.
type Receiver = mpsc::Receiver<Result<Bytes, String>>;

/// A body of these chunks, as fast as the other end reads. `kept` is dropped with it.
pub fn chunks(receiver: Receiver, kept: impl Send + Unpin + 'static) -> Body {
    let body = ChunkBody { receiver, finished: None, failed: false, _kept: kept };
    body.map_err(|never| match never {}).boxed_unsync()
}

/// A body of these chunks whose sender may be dropped in the middle: it is whole only if `finished`
/// was set before.
pub fn chunks_until(receiver: Receiver, finished: Arc<AtomicBool>) -> Body {
    let body = ChunkBody { receiver, finished: Some(finished), failed: false, _kept: () };
    body.map_err(|never| match never {}).boxed_unsync()
}

/// The same body, which breaks off when `over` resolves.
pub fn until(body: Body, over: impl Future<Output = ()> + Send + 'static) -> Body {
    UntilBody { body, over: Box::pin(over) }.boxed_unsync()
}

struct UntilBody {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for UntilBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err("whoever answered does not any more".into())));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Passes what comes on to `answer`, which may be slow, until either end is done.
///
/// # Cancel safety
/// A chunk in hand is lost: not to be dropped while both ends go on.
pub async fn forward(mut body: Incoming, answer: &mpsc::Sender<Result<Bytes, String>>) {
    pass_on(&mut body, answer).await;
}

/// The same for a body that the caller keeps.
///
/// # Cancel safety
/// As [`forward`].
pub async fn pass_on(body: &mut Incoming, answer: &mpsc::Sender<Result<Bytes, String>>) {
    loop {
        // Cancel safety: a frame is taken only when it is there; nobody comes back after `closed`.
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = answer.closed() => return,
        };
        let sent = match frame {
            None => return,
            Some(Err(error)) => {
                drop(answer.send(Err(format!("the connection broke: {error}"))).await);
                return;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => answer.send(Ok(data)).await,
                Err(frame) => match frame.trailers_ref().and_then(error_of) {
                    Some(text) => answer.send(Err(text)).await,
                    None => continue,
                },
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The words of an error as a header can carry them.
pub fn error_value(text: &str) -> HeaderValue {
    let plain: String =
        text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    HeaderValue::from_str(&plain).unwrap_or_else(|_| HeaderValue::from_static("failed"))
}

/// The error that headers or trailers tell of.
pub fn error_of(headers: &HeaderMap) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(ERROR)?.as_bytes()).into_owned())
}

struct ChunkBody<K> {
    receiver: Receiver,
    finished: Option<Arc<AtomicBool>>,
    failed: bool,
    _kept: K,
}

impl<K: Send + Unpin> HttpBody for ChunkBody<K> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let text = match ready!(self.receiver.poll_recv(context)) {
            Some(Ok(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Some(Err(text)) => text,
            None if self.finished.as_ref().is_none_or(|it| it.load(Ordering::Acquire)) => {
                return Poll::Ready(None);
            }
            None => "the connection was closed in the middle".to_owned(),
        };
        self.failed = true;
        let trailers = HeaderMap::from_iter([(ERROR, error_value(&text))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_errors_fit_a_header() {
        let value = error_value("reading \"log\": gone\n\u{fc}");
        assert_eq!(value, "reading \"log\": gone??");
        let headers = HeaderMap::from_iter([(ERROR, value)]);
        assert_eq!(error_of(&headers).as_deref(), Some("reading \"log\": gone??"));
        assert_eq!(error_of(&HeaderMap::new()), None);
    }
}
