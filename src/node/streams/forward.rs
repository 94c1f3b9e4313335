//! A TCP connection to a port inside a pod, on its loopback.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::limits::CHANNEL_FRAME_BYTES_MAX;
use model::wire::channel::{BEGUN, CLOSE, STATUS, STDIN, STDOUT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::{Frames, Gone, say};
use crate::io::link::{StreamAnswer, StreamInput};
use crate::io::net;

/// How long a port may take to accept.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// Serves one connection until both its directions have ended, the client has gone, or the sender of
/// `pod`, which lives with the pod's namespace.
pub(crate) async fn forward(
    namespace: Option<PathBuf>,
    port: u16,
    mut pod: watch::Receiver<()>,
    answer: StreamAnswer,
    input: StreamInput,
) {
    if say(&answer, BEGUN, b"").await.is_err() {
        return;
    }
    let dialled = tokio::task::spawn_blocking(move || dial(namespace.as_deref(), port)).await;
    let connected = dialled.map_err(io::Error::other).flatten().and_then(|stream| {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        TcpStream::from_std(stream)
    });
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            let text = format!("failed to connect to localhost:{port} inside the pod: {error}");
            // A client that has gone needs no reason.
            let _ = say(&answer, STATUS, text.as_bytes()).await;
            return;
        }
    };
    let (reader, writer) = stream.into_split();
    let mut frames = Frames::new(input);
    let both = async {
        // Cancel safety: the first to fail has lost the client.
        tokio::try_join!(read(reader, &answer), write(&mut frames, writer))
    };
    // Cancel safety: nothing of the connection is used after this.
    tokio::select! {
        _ = both => {}
        // Nothing is ever sent: the error says that the pod is gone.
        _ = pod.changed() => {}
        () = answer.closed() => {}
    }
}

fn dial(namespace: Option<&Path>, port: u16) -> io::Result<BlockingStream> {
    let connect = || {
        let first = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        BlockingStream::connect_timeout(&first, DIAL_WITHIN).or_else(|error| {
            let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            BlockingStream::connect_timeout(&second, DIAL_WITHIN).map_err(|_| error)
        })
    };
    match namespace {
        Some(namespace) => net::inside(namespace, connect),
        None => connect(),
    }
}

/// From the pod, until it has closed its direction.
async fn read(mut stream: OwnedReadHalf, answer: &StreamAnswer) -> Result<(), Gone> {
    let mut buffer = vec![0; CHANNEL_FRAME_BYTES_MAX];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return say(answer, CLOSE, b"").await,
            Ok(count) => say(answer, STDOUT, &buffer[..count]).await?,
        }
    }
}

/// To the pod, until the client has closed its direction.
async fn write(frames: &mut Frames, mut stream: OwnedWriteHalf) -> Result<(), Gone> {
    let mut open = true;
    loop {
        match frames.next().await {
            // Its end, which both directions share.
            None => return Err(Gone),
            Some((STDIN, bytes)) if open => open = stream.write_all(&bytes).await.is_ok(),
            Some((CLOSE, _)) => {
                // One that the pod has closed meanwhile is closed all the same.
                let _ = stream.shutdown().await;
                return Ok(());
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_dialled_on_both_loopbacks() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        dial(None, port).expect("it listens");
        drop(listener);
        let error = dial(None, port).expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(dial(Some(Path::new("/nonexistent/net")), port).is_err());
    }
}
