//! The body of an answer: whole bytes, or chunks made one at a time as the client takes them.
//!
//! A stream holds no more than the chunk being sent; dropping the body (the client went away) drops
//! its source.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::serve::Working;

/// An HTTP answer of the API.
pub(super) type Answer = Response<AnswerBody>;

/// What makes the chunks of a streamed body.
pub(super) trait Chunks: Send {
    /// The next chunk, `None` at the end; an error cuts the answer off so that the client sees it
    /// is not complete.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>>;
}

/// Body of an [`Answer`].
pub(super) struct AnswerBody {
    source: Source,
    /// Marks the request as under way until its answer is sent or dropped.
    working: Option<Working>,
}

enum Source {
    /// All of it, until it is taken.
    Whole(Option<Bytes>),
    /// Chunk by chunk.
    Stream(Pin<Box<dyn Chunks>>),
}

impl AnswerBody {
    /// A streamed body.
    pub(super) fn stream(chunks: impl Chunks + 'static) -> Self {
        Self { source: Source::Stream(Box::pin(chunks)), working: None }
    }

    /// Length of a whole body; `None` when streamed.
    pub(super) fn whole_bytes(&self) -> Option<usize> {
        match &self.source {
            Source::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len)),
            Source::Stream(_) => None,
        }
    }

    /// Keeps the mark for as long as the body lives.
    pub(super) fn mark(&mut self, working: Working) {
        self.working = Some(working);
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> Self {
        Self { source: Source::Whole(Some(bytes)), working: None }
    }
}

impl From<Vec<u8>> for AnswerBody {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.get_mut().source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Stream(chunks) => {
                chunks.as_mut().poll_next(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole_bytes() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.whole_bytes().map_or_else(SizeHint::default, |n| SizeHint::with_exact(n as u64))
    }
}

/// Chunks from an iterator that never waits.
pub(super) struct Iterated<I>(pub(super) I);

impl<I: Iterator<Item = Bytes> + Send + Unpin> Chunks for Iterated<I> {
    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        Poll::Ready(self.get_mut().0.next().map(Ok))
    }
}

/// Chunks from a step function that may wait: state in, chunk and state out.
pub(super) struct Unfolded<S, F, Fut> {
    state: Option<S>,
    step: F,
    /// One allocation for the life of the stream.
    running: Pin<Box<Option<Fut>>>,
}

impl<S, F, Fut> Unfolded<S, F, Fut>
where
    F: FnMut(S) -> Fut,
    Fut: Future<Output = Option<(io::Result<Bytes>, S)>>,
{
    pub(super) fn new(state: S, step: F) -> Self {
        Self { state: Some(state), step, running: Box::pin(None) }
    }
}

impl<S, F, Fut> Chunks for Unfolded<S, F, Fut>
where
    S: Send + Unpin,
    F: FnMut(S) -> Fut + Send + Unpin,
    Fut: Future<Output = Option<(io::Result<Bytes>, S)>> + Send,
{
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        if let Some(state) = this.state.take() {
            let future = (this.step)(state);
            this.running.set(Some(future));
        }
        let Some(running) = this.running.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Poll::Ready(stepped) = running.poll(cx) else { return Poll::Pending };
        this.running.set(None);
        Poll::Ready(stepped.map(|(chunk, state)| {
            this.state = Some(state);
            chunk
        }))
    }
}

/// An answer of whole bytes.
pub(super) fn whole(code: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    with_body(code, content_type, body.into())
}

/// An answer with any body.
pub(super) fn with_body(code: StatusCode, content_type: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// A plain text as Go's `http.Error` sends it.
pub(super) fn plain(code: StatusCode, text: impl Into<String>) -> Answer {
    let mut answer = whole(code, "text/plain; charset=utf-8", text.into().into_bytes());
    answer
        .headers_mut()
        .insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// What Go's mux answers for a path that nobody serves.
pub(super) fn page_not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}
