//! Port-forward over SPDY/3.1 (`portforward.k8s.io`): two streams per connection, one for its bytes and
//! one for its error.

use std::collections::HashMap;
use std::time::Duration;

use model::limits::{API_UPGRADE_BEGIN_SECONDS_MAX, FORWARD_STREAMS_MAX};
use model::wire::channel::{CLOSE, STATUS, STDIN, STDOUT};
use model::wire::{PortForwardRequestV1, StreamRequestV1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::PodPlace;
use super::exchange::{self, Exchange, FromBoard, Refused, ToBoard};
use crate::io::upgrade::spdy::{self, Outgoing, Stream};

/// How long the second stream of a connection may take.
const PAIR_WITHIN: Duration = Duration::from_secs(API_UPGRADE_BEGIN_SECONDS_MAX);
/// How long a client may still send after the pod has closed its direction (as containerd).
const LAST_INPUT: Duration = Duration::from_secs(1);
/// First streams that wait for their second.
const PAIRS_MAX: usize = FORWARD_STREAMS_MAX;

/// The first stream of a connection, waiting for the second.
struct Half {
    stream: Stream,
    until: Instant,
}

/// Serves connections until the client has gone.
pub(super) async fn connections<S>(stream: S, at: PodPlace)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut incoming, flushing) = spdy::start(stream);
    let mut halves: HashMap<String, Half> = HashMap::new();
    // Dropped with this: connections end with their client.
    let mut open = JoinSet::new();
    loop {
        // The client's bytes move only while this is polled.
        let accepting = incoming.accept();
        tokio::pin!(accepting);
        let stream = loop {
            // Cancel safety: `accept` is polled by reference until it is done.
            tokio::select! {
                stream = &mut accepting => break stream,
                Some(_) = open.join_next() => {}
            }
        };
        let Some(stream) = stream else { break };
        halves.retain(|_, half| half.until > Instant::now());
        let Some((error, data)) = pair(&mut halves, stream).await else { continue };
        if open.len() >= FORWARD_STREAMS_MAX {
            refuse(&error.outgoing, &data.outgoing, "too many connections are forwarded").await;
            continue;
        }
        open.spawn(connection(at.clone(), error, data));
    }
    drop((incoming, open, halves));
    flushing.finish().await;
}

/// Both streams of a connection, error first, once they are there.
async fn pair(halves: &mut HashMap<String, Half>, stream: Stream) -> Option<(Stream, Stream)> {
    let is_error = |stream: &Stream| stream.header("streamtype") == Some("error");
    let known = matches!(stream.header("streamtype"), Some("error" | "data"));
    let Some(id) = stream.header("requestid").filter(|_| known).map(str::to_owned) else {
        stream.outgoing.reset().await;
        return None;
    };
    match halves.remove(&id) {
        Some(Half { stream: first, .. }) if is_error(&first) != is_error(&stream) => {
            Some(if is_error(&first) { (first, stream) } else { (stream, first) })
        }
        None if halves.len() < PAIRS_MAX => {
            halves.insert(id, Half { stream, until: Instant::now() + PAIR_WITHIN });
            None
        }
        _ => {
            stream.outgoing.reset().await;
            None
        }
    }
}

async fn refuse(error: &Outgoing, data: &Outgoing, text: &str) {
    error.send(text.as_bytes()).await;
    error.finish().await;
    data.finish().await;
}

/// What the client is told of a connection that cannot be.
pub(super) fn failed(at: &PodPlace, port: u16, text: &str) -> String {
    format!("error forwarding port {port} to pod {}, uid {}: {text}", at.name, at.uid)
}

async fn connection(at: PodPlace, error: Stream, data: Stream) {
    let Stream { outgoing, mut incoming, .. } = data;
    let error_outgoing = error.outgoing.clone();
    let port = error.header("port").and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port.filter(|port| *port > 0) else {
        return refuse(&error_outgoing, &outgoing, "the streams name no port").await;
    };
    let request = StreamRequestV1::PortForward(PortForwardRequestV1 { pod: at.uid, port });
    let exchange = match exchange::begin(&*at.source, &at.node, &request).await {
        Ok(exchange) => exchange,
        Err(Refused::Away(text) | Refused::Board(text)) => {
            return refuse(&error_outgoing, &outgoing, &failed(&at, port, &text)).await;
        }
    };
    let Exchange { to_board, mut from_board } = exchange;
    let hear = async {
        pass_on(&mut incoming, &to_board).await;
        // The board ends the stream when both directions are over.
        std::future::pending::<()>().await;
    };
    let tell = async {
        let told = tell(&mut from_board, &outgoing).await;
        if let Err(text) = &told {
            error_outgoing.send(failed(&at, port, text).as_bytes()).await;
        }
        // kubectl closes its direction only after both.
        outgoing.finish().await;
        error_outgoing.finish().await;
        // What it has sent meanwhile may still matter to the pod; the board's end comes first.
        let rest = async { while let Some(Ok(_)) = from_board.next().await {} };
        let _ = timeout(LAST_INPUT, rest).await;
    };
    // Cancel safety: nothing of the connection is used after the board has ended it.
    tokio::select! {
        () = tell => {}
        () = hear => {}
    }
}

async fn pass_on(incoming: &mut tokio::sync::mpsc::Receiver<bytes::Bytes>, to_board: &ToBoard) {
    while let Some(bytes) = incoming.recv().await {
        if !to_board.send(STDIN, &bytes).await {
            return;
        }
    }
    // A board that has gone is told by the other direction.
    let _ = to_board.close().await;
}

/// From the pod to the client until either the board or the pod has ended it.
async fn tell(from_board: &mut FromBoard, outgoing: &Outgoing) -> Result<(), String> {
    while let Some(frame) = from_board.next().await {
        match frame? {
            (STDOUT, bytes) => {
                if !outgoing.send(&bytes).await {
                    return Ok(());
                }
            }
            (CLOSE, _) => return Ok(()),
            (STATUS, text) => return Err(String::from_utf8_lossy(&text).into_owned()),
            _ => {}
        }
    }
    Ok(())
}
