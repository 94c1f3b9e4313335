//! Exec and attach over SPDY/3.1 (`v4.channel.k8s.io`): a stream per channel, opened by the client.

use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use model::limits::API_UPGRADE_BEGIN_SECONDS_MAX;
use model::status::stream_failure;
use model::wire::StdioV1;
use model::wire::channel::{STATUS, STDERR, STDIN, STDOUT};
use tokio::io::AsyncRead;
use tokio::time::timeout;

use super::exchange::{Exchange, FromBoard, ToBoard};
use super::terminal::Sizes;
use crate::io::upgrade::spdy::{self, Incoming, Stream};

const BEGIN_WITHIN: Duration = Duration::from_secs(API_UPGRADE_BEGIN_SECONDS_MAX);
/// How long a client may take to close the connection after it has everything.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The streams of one process.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Serves one process.
pub(super) async fn process(stream: Upgraded, stdio: StdioV1, exchange: Exchange) {
    let (mut incoming, flushing) = spdy::start(TokioIo::new(stream));
    let opening = timeout(BEGIN_WITHIN, open(&mut incoming, stdio));
    let Ok(Some(mut streams)) = opening.await else { return };
    let Exchange { to_board, mut from_board } = exchange;
    let (stdin, resize) = (streams.stdin.take(), streams.resize.take());
    let hear = async {
        tokio::join!(take_input(stdin, &to_board), take_sizes(resize, &to_board));
        // The board says when it is over.
        std::future::pending::<()>().await;
    };
    // Cancel safety: a client that has gone ends the process; a process that has ended needs no input.
    let ended = tokio::select! {
        () = tell(&mut from_board, &streams) => true,
        () = refuse_more(&mut incoming) => false,
        () = hear => false,
    };
    if ended {
        drop(to_board);
        // It must be read meanwhile, or the kernel would take back what it has not read yet.
        let _ = timeout(CLOSE_WITHIN, refuse_more(&mut incoming)).await;
        drop((incoming, streams));
        flushing.finish().await;
    }
}

/// Waits for the streams that the request announces.
async fn open<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>, stdio: StdioV1) -> Option<Streams> {
    let wanted = [true, stdio.stdin, stdio.stdout, stdio.stderr, stdio.tty];
    let mut missing = wanted.into_iter().filter(|wanted| *wanted).count();
    let mut streams = Streams::default();
    while missing > 0 {
        let stream = incoming.accept().await?;
        let place = match stream.header("streamtype")? {
            "error" => &mut streams.error,
            "stdin" => &mut streams.stdin,
            "stdout" => &mut streams.stdout,
            "stderr" => &mut streams.stderr,
            "resize" => &mut streams.resize,
            _ => return None,
        };
        if place.replace(stream).is_none() {
            missing -= 1;
        }
    }
    Some(streams)
}

/// Reads what the client says; ends with the client.
async fn refuse_more<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>) {
    while let Some(stream) = incoming.accept().await {
        stream.outgoing.reset().await;
    }
}

async fn take_input(stdin: Option<Stream>, to_board: &ToBoard) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = stdin.incoming.recv().await {
        if !to_board.send(STDIN, &bytes).await {
            return;
        }
    }
    // A board that has gone is told by the other direction.
    let _ = to_board.close().await;
}

async fn take_sizes(resize: Option<Stream>, to_board: &ToBoard) {
    let Some(mut resize) = resize else { return };
    let mut sizes = Sizes::default();
    while let Some(bytes) = resize.incoming.recv().await {
        if let Some(size) = sizes.take(&bytes)
            && !to_board.resize(size).await
        {
            return;
        }
    }
}

/// From the board to the client, until the status is told or the client has gone.
async fn tell(from_board: &mut FromBoard, streams: &Streams) {
    let outgoing = |stream: &Option<Stream>| stream.as_ref().map(|stream| stream.outgoing.clone());
    let [error, mut stdout, mut stderr] =
        [outgoing(&streams.error), outgoing(&streams.stdout), outgoing(&streams.stderr)];
    let status = loop {
        let (to, bytes) = match from_board.next().await {
            Some(Ok((STDOUT, bytes))) => (&mut stdout, bytes),
            Some(Ok((STDERR, bytes))) => (&mut stderr, bytes),
            Some(Ok((STATUS, status))) => break status,
            Some(Ok(_)) => continue,
            Some(Err(text)) => break stream_failure(&text).to_string().into_bytes(),
            None => break stream_failure("the board has ended the stream").to_string().into(),
        };
        let Some(stream) = to else { continue };
        if !stream.send(&bytes).await {
            if !stream.is_reset() {
                return;
            }
            // It wants the rest all the same.
            *to = None;
        }
    };
    if let Some(error) = &error {
        error.send(&status).await;
    }
    for stream in [error, stdout, stderr].into_iter().flatten() {
        stream.finish().await;
    }
}
