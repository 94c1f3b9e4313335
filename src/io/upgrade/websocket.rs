//! WebSocket (RFC 6455), the server's side.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use model::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{Flushing, Frames, start_writer};

/// Section 1.3.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Section 5.5: longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;
const READ_BYTES: usize = 16 * 1024;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Status codes of a close frame (section 7.4.1).
pub const CLOSE_NORMAL: u16 = 1000;
/// The peer does not keep to the protocol.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// Not a frame of a client that uses no extension.
    #[error("not a WebSocket frame")]
    BadFrame,
    /// More than [`WEBSOCKET_MESSAGE_BYTES_MAX`].
    #[error("a WebSocket message of more than {WEBSOCKET_MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A whole message, text or binary.
    Data(Vec<u8>),
    /// To be answered by [`pong`].
    Ping(Vec<u8>),
    /// Nothing comes after it.
    Close,
}

/// `Sec-WebSocket-Accept` for a client's key (section 4.2.2).
pub fn accept(key: &str) -> String {
    let text = format!("{key}{KEY_SUFFIX}");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    STANDARD.encode(digest)
}

/// A binary message of these parts.
pub fn binary(parts: &[&[u8]]) -> Vec<u8> {
    frame(BINARY, parts)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, &[payload])
}

/// The end, and why.
pub fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes()])
}

fn frame(opcode: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(10 + length);
    frame.push(FINAL | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(middle)) => {
            frame.push(126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// Bytes of a client to messages. Pure.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The fragments of a message so far.
    message: Option<Vec<u8>>,
}

impl Decoder {
    /// Takes the next bytes, however they were cut.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is whole.
    ///
    /// # Errors
    /// The connection cannot be read any further.
    pub fn take(&mut self) -> Result<Option<Message>, WebSocketError> {
        while let Some((first, payload)) = self.frame()? {
            let (is_final, opcode) = (first & FINAL != 0, first & 0x0f);
            if opcode >= CLOSE {
                if !is_final || payload.len() > CONTROL_BYTES_MAX {
                    return Err(WebSocketError::BadFrame);
                }
                match opcode {
                    CLOSE => return Ok(Some(Message::Close)),
                    PING => return Ok(Some(Message::Ping(payload))),
                    PONG => continue,
                    _ => return Err(WebSocketError::BadFrame),
                }
            }
            let message = match (opcode, self.message.take()) {
                (TEXT | BINARY, None) => payload,
                (CONTINUATION, Some(mut message)) => {
                    message.extend_from_slice(&payload);
                    message
                }
                _ => return Err(WebSocketError::BadFrame),
            };
            if message.len() > WEBSOCKET_MESSAGE_BYTES_MAX {
                return Err(WebSocketError::TooLarge);
            }
            if is_final {
                return Ok(Some(Message::Data(message)));
            }
            self.message = Some(message);
        }
        Ok(None)
    }

    /// First byte and unmasked payload of the next frame (section 5.2).
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, WebSocketError> {
        let [first, second, rest @ ..] = &self.buffer[..] else { return Ok(None) };
        // Reserved bits belong to extensions; clients must mask.
        if first & 0x70 != 0 || second & MASKED == 0 {
            return Err(WebSocketError::BadFrame);
        }
        let (length, length_bytes) = match second & !MASKED {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > WEBSOCKET_MESSAGE_BYTES_MAX {
            return Err(WebSocketError::TooLarge);
        }
        let rest = &rest[length_bytes..];
        let Some((mask, payload)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some(payload) = payload.get(..length) else { return Ok(None) };
        let unmasked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let frame = (*first, unmasked.collect());
        self.buffer.advance(2 + length_bytes + 4 + length);
        Ok(Some(frame))
    }
}

/// The reading end of a connection.
#[derive(Debug)]
pub struct Incoming<R> {
    stream: R,
    decoder: Decoder,
    frames: Frames,
}

/// Begins to speak on an upgraded connection.
pub fn start<S>(stream: S) -> (Incoming<impl AsyncRead + Unpin>, Frames, Flushing)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (stream, writer) = tokio::io::split(stream);
    let (frames, flushing) = start_writer(writer, frame(PING, &[]));
    let incoming = Incoming { stream, decoder: Decoder::default(), frames: frames.clone() };
    (incoming, frames, flushing)
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// The next message with data; `None` when the client has closed or gone, or made a mistake.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match self.decoder.take() {
                Ok(Some(Message::Data(data))) => return Some(data),
                Ok(Some(Message::Ping(payload))) => self.frames.send(pong(&payload)).await.ok()?,
                Ok(Some(Message::Close)) => return None,
                Ok(None) => match self.stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(count) => self.decoder.feed(&buffer[..count]),
                },
                Err(error) => {
                    tracing::debug!(%error, "WebSocket client is not read any further");
                    // Whoever does not take it has gone.
                    let _ = self.frames.try_send(close(CLOSE_PROTOCOL_ERROR));
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client sends it.
    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(0, &[payload]);
        bytes[0] = first;
        bytes[1] |= MASKED;
        let mask = [1, 2, 3, 4];
        let head = bytes.len() - payload.len();
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [&bytes[..head], &mask, &masked.collect::<Vec<u8>>()].concat()
    }

    fn all(bytes: &[u8]) -> Result<Vec<Message>, WebSocketError> {
        let mut decoder = Decoder::default();
        decoder.feed(bytes);
        std::iter::from_fn(|| decoder.take().transpose()).collect()
    }

    #[test]
    fn the_key_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn messages_come_out_however_they_are_cut() {
        let (short, middle, long) = (vec![1; 125], vec![2; 126], vec![3; 65_536]);
        let bytes = [
            sent(FINAL | BINARY, &short),
            sent(TEXT, b"in "),
            sent(FINAL | PING, b"there?"),
            sent(CONTINUATION, b"three "),
            sent(FINAL | CONTINUATION, b"parts"),
            sent(FINAL | PONG, b""),
            sent(FINAL | BINARY, &middle),
            sent(FINAL | BINARY, &long),
            sent(FINAL | CLOSE, &[3, 232]),
        ]
        .concat();
        let expected = [
            Message::Data(short),
            Message::Ping(b"there?".to_vec()),
            Message::Data(b"in three parts".to_vec()),
            Message::Data(middle),
            Message::Data(long),
            Message::Close,
        ];
        for cut in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.feed(part);
                found.extend(std::iter::from_fn(|| decoder.take().expect("good")));
            }
            assert_eq!(found, expected, "cut every {cut} bytes");
        }
    }

    #[test]
    fn what_no_client_may_send() {
        let bad = |bytes: &[u8], error| assert_eq!(all(bytes), Err(error), "{bytes:?}");
        let frame_error = WebSocketError::BadFrame;
        bad(&frame(BINARY, &[b"not masked"]), frame_error);
        bad(&sent(FINAL | 0x40 | BINARY, b"compressed"), frame_error);
        bad(&sent(FINAL | 0x3, b"unknown"), frame_error);
        bad(&sent(FINAL | 0xb, b"unknown"), frame_error);
        bad(&sent(PING, b"in parts"), frame_error);
        bad(&sent(FINAL | PING, &[0; 126]), frame_error);
        bad(&sent(FINAL | CONTINUATION, b"of nothing"), frame_error);
        bad(&[sent(TEXT, b"a"), sent(TEXT, b"b")].concat(), frame_error);
        // The length alone is enough.
        let length = (WEBSOCKET_MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes();
        bad(&[&[FINAL | BINARY, MASKED | 127][..], &length].concat(), WebSocketError::TooLarge);
        let half = vec![0; WEBSOCKET_MESSAGE_BYTES_MAX / 2 + 1];
        let parts = [sent(BINARY, &half), sent(FINAL | CONTINUATION, &half)].concat();
        bad(&parts, WebSocketError::TooLarge);
    }

    #[tokio::test]
    async fn pings_are_answered_and_the_end_is_written() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (mut incoming, frames, flushing) = start(ours);
        let said = [sent(FINAL | PING, b"x"), sent(FINAL | BINARY, b"data")].concat();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &said).await.expect("room");
        assert_eq!(incoming.next().await.as_deref(), Some(&b"data"[..]));
        frames.send(close(CLOSE_NORMAL)).await.expect("it writes");
        drop((incoming, frames));
        flushing.finish().await;
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.expect("closed");
        assert_eq!(heard, [pong(b"x"), close(CLOSE_NORMAL)].concat());
    }
}
