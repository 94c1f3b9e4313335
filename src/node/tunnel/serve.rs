//! Streams that the master wants: each request becomes a stream of the agent, whose chunks are the
//! body of a POST. A reader that has gone ends the POST, and with it the stream. On a duplex stream the
//! answer to the POST carries what the master sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Uri};
use http_body_util::BodyExt;
use model::limits::{TUNNEL_CHUNKS_MAX, TUNNEL_STREAMS_MAX};
use model::wire::{Frames, Header, StreamRequestV1, TunnelRequest, decode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::io::link::{Gate, StreamOpen};
use crate::io::peer::{self, Body, Connection};

/// An answer that begins at once may begin with its error; a quiet one just begins.
const FIRST_CHUNK: Duration = Duration::from_millis(200);
/// How long the master may take to take the requests path.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Serves what the master asks until it asks no more, and says why that was.
pub(super) async fn requests(connection: &Connection, agent: &mpsc::Sender<StreamOpen>) -> String {
    let mut request = Request::new(peer::empty());
    *request.uri_mut() = Uri::from_static("/v1/tunnel/requests");
    let opened = match timeout(OPEN_WITHIN, connection.send(request)).await {
        Ok(Ok(answer)) if answer.status().is_success() => answer,
        Ok(Ok(answer)) => return format!("the master answers {}", answer.status()),
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "the master does not answer".to_owned(),
    };
    let mut body = opened.into_body();
    let mut frames = Frames::default();
    let slots = Arc::new(Semaphore::new(TUNNEL_STREAMS_MAX));
    // Dropped with this: streams end with the connection.
    let mut answers = JoinSet::new();
    loop {
        // Cancel safety: a frame is taken only when it is there.
        let frame = tokio::select! {
            frame = body.frame() => frame,
            Some(_) = answers.join_next() => continue,
        };
        let data = match frame {
            None => return "the master asks no more".to_owned(),
            Some(Err(error)) => return error.to_string(),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
        };
        let requests = match frames.take(&data) {
            Ok(requests) => requests,
            Err(error) => return error.to_string(),
        };
        for request in requests {
            // The master counts too; one that does not is not answered.
            let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
            answers.spawn(answer(connection.clone(), request, agent.clone(), slot));
        }
    }
}

/// Answers one request.
async fn answer(
    connection: Connection,
    request: TunnelRequest,
    agent: mpsc::Sender<StreamOpen>,
    _slot: OwnedSemaphorePermit,
) {
    if is_duplex(&request.message) {
        return exchange(connection, request, agent).await;
    }
    let (sender, mut chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
    let open = StreamOpen {
        request: request.message.into(),
        answer: sender,
        input: None,
        gate: Gate::open(),
    };
    let opened = agent.try_send(open);
    let first = match opened {
        Ok(()) => timeout(FIRST_CHUNK, chunks.recv()).await.ok(),
        Err(_) => Some(Some(Err("this board takes no streams at the moment".to_owned()))),
    };
    let mut post = post(request.id, peer::empty());
    let first = match first {
        Some(Some(Err(text))) => {
            post.headers_mut().insert(peer::ERROR, peer::error_value(&text));
            drop(connection.send(post).await);
            return;
        }
        Some(Some(Ok(chunk))) => Some(chunk),
        _ => None,
    };
    let (body, receiver) = mpsc::channel(1);
    // When this is dropped in the middle, what was sent must not look like all of it.
    let finished = Arc::new(AtomicBool::new(false));
    *post.body_mut() = peer::chunks_until(receiver, finished.clone());
    let forward = async move {
        if let Some(chunk) = first
            && body.send(Ok(chunk)).await.is_err()
        {
            return;
        }
        while let Some(chunk) = chunks.recv().await {
            if body.send(chunk).await.is_err() {
                return;
            }
        }
        finished.store(true, Ordering::Release);
        drop(body);
        // The end is the master's word, so that all of it is there.
        std::future::pending::<()>().await;
    };
    // Cancel safety: an answer before the end says that nobody reads; the stream is dropped then.
    tokio::select! {
        answered = connection.send(post) => if let Err(error) = answered {
            tracing::debug!(%error, "stream to the master broke");
        },
        () = forward => {}
    }
}

fn post(id: u64, body: Body) -> Request<Body> {
    let mut post = Request::new(body);
    *post.method_mut() = Method::POST;
    *post.uri_mut() = format!("/v1/tunnel/streams/{id}").parse().expect("a path and a number");
    post
}

/// Whether the master sends too; what cannot be read is refused by the agent.
fn is_duplex(message: &[u8]) -> bool {
    let Ok((header, body)) = Header::split(message) else { return false };
    decode::<StreamRequestV1>(header.kind, body).is_ok_and(|request| request.is_duplex())
}

/// Serves a duplex stream: the POST begins at once, since the other end speaks too.
async fn exchange(connection: Connection, request: TunnelRequest, agent: mpsc::Sender<StreamOpen>) {
    let (answer, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
    let (sender, input) = mpsc::channel(TUNNEL_CHUNKS_MAX);
    let open = StreamOpen {
        request: request.message.into(),
        answer,
        input: Some(input),
        gate: Gate::open(),
    };
    if agent.try_send(open).is_err() {
        let mut refusal = post(request.id, peer::empty());
        let text = "this board takes no streams at the moment";
        refusal.headers_mut().insert(peer::ERROR, peer::error_value(text));
        return drop(connection.send(refusal).await);
    }
    let post = post(request.id, peer::chunks(chunks, ()));
    let mut body = match connection.send(post).await {
        Ok(answer) if answer.status().is_success() => answer.into_body(),
        // Nobody waits for it any more; the agent sees both of its ends closed.
        Ok(_) => return,
        Err(error) => return tracing::debug!(%error, "stream to the master broke"),
    };
    peer::pass_on(&mut body, &sender).await;
    drop(sender);
    // The end is the master's word: bytes of ours may still be on their way.
    while let Some(Ok(_)) = body.frame().await {}
}
