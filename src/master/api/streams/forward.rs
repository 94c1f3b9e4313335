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
/// How long what a client has sent may still take after the pod has closed its direction (as
/// containerd), or after the client has reset the connection.
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
        // Cancel safety: nobody wants what is under way.
        let told = tokio::select! {
            told = tell(&mut from_board, &outgoing) => told,
            // kubectl's own client has closed the connection: a pod that goes on sending is not heard.
            () = outgoing.was_reset() => Ok(()),
        };
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::wire::channel::{BEGUN, channel_frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;
    use crate::io::upgrade::spdy::{CANCEL, Decoder, Encoder, Frame, data, reset};
    use crate::master::tunnel::Streams;

    const SOON: Duration = Duration::from_secs(10);

    /// Reads until the client is told that the connection has no error.
    async fn end_of_error(mut stream: impl AsyncRead + Unpin, id: u32) {
        let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
        loop {
            while let Some(frame) = decoder.take().expect("frames") {
                match frame {
                    Frame::Data { id: other, bytes, fin } if other == id => {
                        assert!(bytes.is_empty(), "an error: {bytes:?}");
                        if fin {
                            return;
                        }
                    }
                    _ => {}
                }
            }
            let count = stream.read(&mut buffer).await.expect("open");
            assert!(count > 0, "the connection ended");
            decoder.feed(&buffer[..count]);
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_client_resets_ends_on_the_board() {
        let (sender, mut boards) = mpsc::channel(1);
        let streams = Streams::new(1, 2);
        streams.register("pi-1", sender);
        let source = std::sync::Arc::new(streams);
        let uid = model::ids::Uid::default();
        let at = PodPlace { source, node: "pi-1".into(), name: "web".into(), uid };
        let (ours, theirs) = tokio::io::duplex(4096);
        let serving = tokio::spawn(connections(ours, at));
        let (reader, mut writer) = tokio::io::split(theirs);
        let mut client = Encoder::default();
        let named = |kind: &str| {
            let pairs = [("streamtype", kind), ("requestid", "0"), ("port", "80")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
        };
        let opening = [
            client.open(1, &named("error")).expect("small"),
            data(1, b"", true),
            client.open(3, &named("data")).expect("small"),
            data(3, b"GET /", false),
        ];
        writer.write_all(&opening.concat()).await.expect("room");
        let open = timeout(SOON, boards.recv()).await.expect("in time").expect("a stream");
        let mut input = open.input.expect("both directions");
        let answer = open.answer;
        answer.send(Ok(channel_frame(BEGUN, b"").into())).await.expect("read");
        let sent: Bytes = input.recv().await.expect("a frame").expect("bytes");
        assert_eq!(sent, Bytes::from(channel_frame(STDIN, b"GET /")));
        let heard = tokio::spawn(end_of_error(reader, 1));
        // The pod never stops to send.
        let pod = tokio::spawn(async move {
            let bytes: Bytes = channel_frame(STDOUT, &[7; 1000]).into();
            while answer.send(Ok(bytes.clone())).await.is_ok() {}
        });
        writer.write_all(&reset(3, CANCEL)).await.expect("read");
        timeout(SOON, pod).await.expect("the board is told").expect("no panic");
        timeout(SOON, heard).await.expect("the client is told").expect("no panic");
        drop(writer);
        serving.abort();
    }
}
