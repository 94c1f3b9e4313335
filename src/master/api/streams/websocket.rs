//! Sessions over WebSocket: a message is a channel's number and its bytes.

use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use model::limits::CHANNEL_FRAME_BYTES_MAX;
use model::status::stream_failure;
use model::wire::channel::{CLOSE, RESIZE, STATUS, STDERR, STDIN, STDOUT};
use model::wire::{PortForwardRequestV1, StdioV1, StreamRequestV1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::PodPlace;
use super::exchange::{self, Exchange, FromBoard, Refused, ToBoard};
use super::forward::{self, failed};
use super::terminal::Sizes;
use crate::io::upgrade::websocket::{self, CLOSE_NORMAL, Incoming, binary, close};
use crate::io::upgrade::{Flushing, Frames};

/// How long a client may take to close its end after ours: what it has sent meanwhile must be read, or
/// the kernel would take back what it has not read yet.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes between the messages and the SPDY that is spoken inside them.
const TUNNEL_BYTES: usize = 64 * 1024;

/// Exec and attach (`v5.channel.k8s.io`, `v4.channel.k8s.io`).
pub(super) async fn process(
    stream: Upgraded,
    half_close: bool,
    stdio: StdioV1,
    exchange: Exchange,
) {
    let (mut incoming, frames, flushing) = websocket::start(TokioIo::new(stream));
    let Exchange { to_board, mut from_board } = exchange;
    // As the kubelet: something that says that the connection is there.
    if !half_close && frames.send(binary(&[&[STDOUT]])).await.is_err() {
        return;
    }
    // Cancel safety: a client that has gone ends the process; a process that has ended needs no input.
    tokio::select! {
        () = hear(&mut incoming, &to_board, half_close, stdio) => {}
        // Nobody reads what a client says while the board takes no more: that it has gone is seen here.
        () = frames.closed() => {}
        () = tell(&mut from_board, &frames) => {
            drop(to_board);
            end(incoming, frames, flushing).await;
        }
    }
}

/// From the client to the board; ends with the client.
async fn hear<R: AsyncRead + Unpin>(
    incoming: &mut Incoming<R>,
    to_board: &ToBoard,
    half_close: bool,
    stdio: StdioV1,
) {
    let mut sizes = Sizes::default();
    while let Some(message) = incoming.next().await {
        let Some((kind, bytes)) = message.split_first() else { continue };
        // The board's end is told by the other direction.
        let _ = match *kind {
            STDIN if stdio.stdin => to_board.send(STDIN, bytes).await,
            RESIZE if stdio.tty => match sizes.take(bytes) {
                Some(size) => to_board.resize(size).await,
                None => true,
            },
            CLOSE if half_close && bytes == [STDIN] => to_board.close().await,
            _ => true,
        };
    }
}

/// From the board to the client; ends with the status.
async fn tell(from_board: &mut FromBoard, frames: &Frames) {
    loop {
        let (kind, bytes) = match from_board.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(text)) => (STATUS, stream_failure(&text).to_string().into_bytes()),
            None => (STATUS, stream_failure("the board has ended the stream").to_string().into()),
        };
        let known = matches!(kind, STDOUT | STDERR | STATUS);
        let sent = !known || frames.send(binary(&[&[kind], &bytes])).await.is_ok();
        if kind == STATUS || !sent {
            return;
        }
    }
}

/// Closes well.
async fn end<R: AsyncRead + Unpin>(mut incoming: Incoming<R>, frames: Frames, flushing: Flushing) {
    // A client that has gone needs no end.
    let _ = frames.send(close(CLOSE_NORMAL)).await;
    drop(frames);
    let _ = timeout(CLOSE_WITHIN, async { while incoming.next().await.is_some() {} }).await;
    drop(incoming);
    flushing.finish().await;
}

/// Port-forward over SPDY inside binary messages (KEP-4006).
pub(super) async fn tunnel(stream: Upgraded, at: PodPlace) {
    let (mut incoming, frames, flushing) = websocket::start(TokioIo::new(stream));
    let (outside, inside) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut reader, mut writer) = tokio::io::split(outside);
    let hear = async {
        while let Some(bytes) = incoming.next().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let tell = async {
        let mut buffer = vec![0; CHANNEL_FRAME_BYTES_MAX];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            if frames.send(binary(&[&buffer[..count]])).await.is_err() {
                return;
            }
        }
    };
    // Cancel safety: whichever ends first ends the connection.
    tokio::select! {
        () = hear => {}
        () = tell => {}
        () = forward::connections(inside, at) => {}
    }
    end(incoming, frames, flushing).await;
}

/// Port-forward to the ports of the query, a connection each (`v4.channel.k8s.io`): bytes on channel
/// 2i, an error on 2i + 1.
pub(super) async fn ports(stream: Upgraded, at: PodPlace, ports: Vec<u16>) {
    let (mut incoming, frames, flushing) = websocket::start(TokioIo::new(stream));
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let data = u8::try_from(2 * index).expect("ports are few");
        for kind in [data, data + 1] {
            if frames.send(binary(&[&[kind], &port.to_le_bytes()])).await.is_err() {
                return;
            }
        }
        let (input, receiver) = tokio::sync::mpsc::channel(1);
        inputs.push(input);
        connections.spawn(port_of(at.clone(), port, data, receiver, frames.clone()));
    }
    let hear = async {
        while let Some(message) = incoming.next().await {
            let Some((kind, bytes)) = message.split_first() else { continue };
            if kind % 2 == 0
                && let Some(input) = inputs.get(usize::from(kind / 2))
            {
                // A connection that has ended takes no more.
                let _ = input.send(bytes.to_vec()).await;
            }
        }
    };
    // Cancel safety: connections end with their client.
    tokio::select! {
        () = hear => {}
        () = frames.closed() => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
    drop(connections);
    end(incoming, frames, flushing).await;
}

async fn port_of(
    at: PodPlace,
    port: u16,
    data: u8,
    mut input: tokio::sync::mpsc::Receiver<Vec<u8>>,
    frames: Frames,
) {
    let request = StreamRequestV1::PortForward(PortForwardRequestV1 { pod: at.uid, port });
    let error = async |text: &str| {
        // A client that has gone needs no error.
        let _ = frames.send(binary(&[&[data + 1], failed(&at, port, text).as_bytes()])).await;
    };
    let Exchange { to_board, mut from_board } =
        match exchange::begin(&*at.source, &at.node, &request).await {
            Ok(exchange) => exchange,
            Err(Refused::Away(text) | Refused::Board(text)) => return error(&text).await,
        };
    let hear = async {
        while let Some(bytes) = input.recv().await {
            if !to_board.send(STDIN, &bytes).await {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let tell = async {
        while let Some(frame) = from_board.next().await {
            match frame {
                Ok((STDOUT, bytes)) => {
                    if frames.send(binary(&[&[data], &bytes])).await.is_err() {
                        return;
                    }
                }
                // The form has no way to say it: the connection counts as over.
                Ok((CLOSE, _)) => return,
                Ok((STATUS, text)) => return error(&String::from_utf8_lossy(&text)).await,
                Ok(_) => {}
                Err(text) => return error(&text).await,
            }
        }
    };
    // Cancel safety: what the board has said goes first.
    tokio::select! {
        biased;
        () = tell => {}
        () = hear => {}
    }
}
