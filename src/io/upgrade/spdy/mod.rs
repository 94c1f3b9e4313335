//! SPDY/3.1, the server's side: streams that a client opens over one connection.
//!
//! A client whose streams are not read is not read either, all its streams together: what Kubernetes'
//! own library does, which knows no windows.

mod frame;
mod headers;

use std::collections::HashMap;
use std::future::pending;

use bytes::Bytes;
use model::limits::{
    API_UPGRADE_BEGIN_SECONDS_MAX, API_UPGRADE_FRAMES_MAX, CHANNEL_FRAME_BYTES_MAX,
    SPDY_PIECES_MAX, SPDY_STREAMS_MAX,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{mpsc, watch};

use super::{Flushing, Frames, start_writer};
pub use frame::{CANCEL, Decoder, Encoder, Frame, REFUSED_STREAM, SpdyError, data, ping, reset};
pub use headers::Headers;

const READ_BYTES: usize = 16 * 1024;
const _: () = assert!(API_UPGRADE_BEGIN_SECONDS_MAX > 0 && API_UPGRADE_FRAMES_MAX > 0);

/// A stream that a client has opened, and that was accepted.
#[derive(Debug)]
pub struct Stream {
    /// What the client says it is for.
    pub headers: Headers,
    /// What the client says on it; the end is its end.
    pub incoming: mpsc::Receiver<Bytes>,
    /// Our part of it.
    pub outgoing: Outgoing,
}

impl Stream {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_meant = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().find(is_meant).map(|(_, value)| value.as_str())
    }
}

/// Our part of a stream.
#[derive(Clone, Debug)]
pub struct Outgoing {
    id: u32,
    frames: Frames,
    is_reset: watch::Receiver<bool>,
}

impl Outgoing {
    /// Says something, as fast as the client reads; whether it is still there and wants the stream.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        for part in bytes.chunks(CHANNEL_FRAME_BYTES_MAX) {
            // Cancel safety: nobody wants a frame that is not sent.
            let sent = tokio::select! {
                biased;
                () = self.was_reset() => return false,
                sent = self.frames.send(data(self.id, part, false)) => sent,
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }

    /// Says no more.
    pub async fn finish(&self) {
        if !self.is_reset() {
            // A client that has gone knows.
            let _ = self.frames.send(data(self.id, b"", true)).await;
        }
    }

    /// Whether the client has reset the stream.
    pub fn is_reset(&self) -> bool {
        *self.is_reset.borrow()
    }

    /// Resolves when the client resets the stream, which is more than saying no more on it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn was_reset(&self) {
        let is_over = self.is_reset.clone().wait_for(|is_reset| *is_reset).await.is_err();
        if is_over {
            // Nobody reads the connection any more.
            pending().await
        }
    }

    /// Ends both parts.
    pub async fn reset(&self) {
        // As above.
        let _ = self.frames.send(reset(self.id, CANCEL)).await;
    }
}

/// The reading end of a connection. Streams get their bytes while [`Self::accept`] is awaited.
#[derive(Debug)]
pub struct Incoming<R> {
    stream: R,
    decoder: Decoder,
    encoder: Encoder,
    frames: Frames,
    open: HashMap<u32, Open>,
}

/// A stream that somebody here still holds.
#[derive(Debug)]
struct Open {
    /// Who gets its bytes, until the client says no more.
    input: Option<mpsc::Sender<Bytes>>,
    is_reset: watch::Sender<bool>,
}

impl Open {
    fn is_over(&self) -> bool {
        self.is_reset.is_closed() && self.input.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

/// Begins to speak on an upgraded connection.
pub fn start<S>(stream: S) -> (Incoming<impl AsyncRead + Unpin>, Flushing)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, writer) = tokio::io::split(stream);
    // Numbers of a server are even.
    let (frames, flushing) = start_writer(writer, ping(2));
    let (decoder, encoder) = (Decoder::default(), Encoder::default());
    (Incoming { stream, decoder, encoder, frames, open: HashMap::new() }, flushing)
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// The next stream that the client opens; `None` when it has gone or made a mistake.
    ///
    /// # Cancel safety
    /// Bytes in hand may be lost: only to be dropped with the connection.
    pub async fn accept(&mut self) -> Option<Stream> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let frame = match self.decoder.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    match self.stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return None,
                        Ok(count) => self.decoder.feed(&buffer[..count]),
                    }
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "SPDY client is not read any further");
                    return None;
                }
            };
            match frame {
                Frame::Open { id, headers, fin } => {
                    if let Some(stream) = self.take_in(id, headers, fin).await? {
                        return Some(stream);
                    }
                }
                Frame::Data { id, bytes, fin } => self.pass_on(id, bytes, fin).await?,
                Frame::Reset { id } => {
                    if let Some(open) = self.open.remove(&id) {
                        open.is_reset.send_replace(true);
                    }
                }
                // Odd numbers are the client's; the others are its answers to ours.
                Frame::Ping { id } if id % 2 == 1 => self.frames.send(ping(id)).await.ok()?,
                Frame::Ping { .. } | Frame::GoAway => {}
            }
        }
    }

    async fn take_in(&mut self, id: u32, headers: Headers, fin: bool) -> Option<Option<Stream>> {
        self.open.retain(|_, stream| !stream.is_over());
        if self.open.len() >= SPDY_STREAMS_MAX || self.open.contains_key(&id) {
            self.frames.send(reset(id, REFUSED_STREAM)).await.ok()?;
            return Some(None);
        }
        let reply = self.encoder.reply(id).ok()?;
        self.frames.send(reply).await.ok()?;
        let (sender, incoming) = mpsc::channel(SPDY_PIECES_MAX);
        let (resetting, is_reset) = watch::channel(false);
        self.open.insert(id, Open { input: (!fin).then_some(sender), is_reset: resetting });
        let outgoing = Outgoing { id, frames: self.frames.clone(), is_reset };
        Some(Some(Stream { headers, incoming, outgoing }))
    }

    async fn pass_on(&mut self, id: u32, bytes: Bytes, fin: bool) -> Option<()> {
        let Some(open) = self.open.get_mut(&id) else { return Some(()) };
        if let Some(input) = &open.input {
            // A client that has gone is noticed by the writer, also while this waits.
            let sent = async {
                if !bytes.is_empty() {
                    // One that nobody reads any more loses its bytes.
                    let _ = input.send(bytes).await;
                }
            };
            // Cancel safety: nobody comes back after the end of the writer.
            tokio::select! {
                () = sent => {}
                () = self.frames.closed() => return None,
            }
        }
        if fin {
            open.input = None;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn named(name: &str) -> Headers {
        vec![("streamtype".to_owned(), name.to_owned())]
    }

    #[tokio::test]
    async fn streams_are_accepted_and_speak_both_ways() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (mut incoming, flushing) = start(ours);
        let mut client = Encoder::default();
        let said = [
            client.open(1, &named("error")).expect("small"),
            client.open(3, &named("data")).expect("small"),
            data(3, b"hello", false),
            data(3, b"!", true),
            ping(5),
        ]
        .concat();
        theirs.write_all(&said).await.expect("room");
        theirs.shutdown().await.expect("open");
        let error = incoming.accept().await.expect("a stream");
        let mut stream = incoming.accept().await.expect("another");
        assert_eq!(
            (error.header("streamtype"), stream.header("StreamType")),
            (Some("error"), Some("data"))
        );
        assert!(incoming.accept().await.is_none(), "the client has gone");
        assert_eq!(stream.incoming.recv().await.as_deref(), Some(&b"hello"[..]));
        assert_eq!(stream.incoming.recv().await.as_deref(), Some(&b"!"[..]));
        assert_eq!(stream.incoming.recv().await, None);
        assert!(stream.outgoing.send(b"answer").await);
        stream.outgoing.finish().await;
        drop((incoming, error, stream));
        flushing.finish().await;
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.expect("closed");
        let mut expected = Encoder::default();
        let replies = [1, 3].map(|id| expected.reply(id).expect("small")).concat();
        let answer = [data(3, b"answer", false), data(3, b"", true)].concat();
        assert_eq!(heard, [replies, ping(5), answer].concat());
    }

    #[tokio::test]
    async fn one_stream_too_many_is_refused() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (mut incoming, _flushing) = start(ours);
        let mut client = Encoder::default();
        let mut kept = Vec::new();
        for number in 0..=u32::try_from(SPDY_STREAMS_MAX).expect("few") {
            let open = client.open(2 * number + 1, &named("data")).expect("small");
            theirs.write_all(&open).await.expect("room");
            if usize::try_from(number).expect("few") < SPDY_STREAMS_MAX {
                // Read what is answered, so that there is room for it.
                kept.push(incoming.accept().await.expect("accepted"));
                let mut reply = vec![0; 8 + 4];
                theirs.read_exact(&mut reply).await.expect("a reply");
                let block = usize::from(reply[7]) - 4;
                theirs.read_exact(&mut vec![0; block]).await.expect("its headers");
            }
        }
        let accepting = tokio::spawn(async move { incoming.accept().await.is_none() });
        let mut refusal = [0; 16];
        theirs.read_exact(&mut refusal).await.expect("a refusal");
        let id = 2 * u32::try_from(SPDY_STREAMS_MAX).expect("few") + 1;
        assert_eq!(refusal.to_vec(), reset(id, REFUSED_STREAM));
        drop(theirs);
        assert!(accepting.await.expect("ends"));
    }

    #[tokio::test]
    async fn a_stream_that_is_reset_takes_no_more() {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let (mut incoming, _flushing) = start(ours);
        let mut client = Encoder::default();
        // One says no more, which is no reset; the other does both.
        let said = [
            client.open(1, &named("data")).expect("small"),
            client.open(3, &named("data")).expect("small"),
            data(1, b"", true),
            data(3, b"", true),
            reset(3, CANCEL),
            client.open(5, &named("data")).expect("small"),
        ];
        theirs.write_all(&said.concat()).await.expect("room");
        let ended = incoming.accept().await.expect("a stream");
        let reset = incoming.accept().await.expect("another");
        let _last = incoming.accept().await.expect("what comes after the reset");
        assert!(ended.outgoing.send(b"answer").await);
        assert!(!reset.outgoing.send(b"answer").await);
        assert!(reset.outgoing.is_reset() && !ended.outgoing.is_reset());
        reset.outgoing.was_reset().await;
    }

    #[tokio::test]
    async fn a_client_whose_stream_is_not_read_is_not_read() {
        let (ours, mut theirs) = tokio::io::duplex(4 * 1024);
        let (mut incoming, _flushing) = start(ours);
        let open = Encoder::default().open(1, &named("data")).expect("small");
        theirs.write_all(&open).await.expect("room");
        let mut stream = incoming.accept().await.expect("a stream");
        let accepting = tokio::spawn(async move { incoming.accept().await.is_none() });
        let piece = data(1, &[7; 1000], false);
        let mut written = 0;
        let wait = std::time::Duration::from_millis(200);
        while tokio::time::timeout(wait, theirs.write_all(&piece)).await.is_ok() {
            written += 1;
            assert!(written < 1_000, "what nobody reads piles up");
        }
        assert!(written >= SPDY_PIECES_MAX);
        let mut count = 0;
        while count < written * 1000 {
            count += stream.incoming.recv().await.expect("goes on").len();
        }
        drop((theirs, stream));
        assert!(accepting.await.expect("ends"));
    }
}
