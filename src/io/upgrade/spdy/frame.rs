//! Frames of SPDY/3.1 (draft 3.1, section 2.2 to 2.6). Pure.

use bytes::{Buf, Bytes, BytesMut};
use model::limits::SPDY_CONTROL_BYTES_MAX;

use super::headers::{Headers, Reader, Writer};

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const HEAD_BYTES: usize = 8;
/// Flag: the sender says no more on this stream.
const FIN: u8 = 0x01;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Status of a reset: the server does not take the stream now.
pub const REFUSED_STREAM: u32 = 3;
/// Status of a reset: nobody wants the stream any more.
pub const CANCEL: u32 = 5;

/// Why a connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// A control frame that cannot be, or of another version.
    #[error("not a SPDY/3.1 frame")]
    BadFrame,
    /// A control frame of more than [`SPDY_CONTROL_BYTES_MAX`].
    #[error("a SPDY control frame of {0} bytes")]
    TooLarge(usize),
    /// A header block that cannot be read.
    #[error("not a SPDY header block")]
    BadHeaders,
}

/// What a client said, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    Open {
        /// Its number.
        id: u32,
        /// What it is for.
        headers: Headers,
        /// The client says nothing on it.
        fin: bool,
    },
    /// A piece of a stream.
    Data {
        /// Its number.
        id: u32,
        /// The bytes, not always all of a frame's.
        bytes: Bytes,
        /// They are the last.
        fin: bool,
    },
    /// A stream is over.
    Reset {
        /// Its number.
        id: u32,
    },
    /// To be answered by the same.
    Ping {
        /// Its number.
        id: u32,
    },
    /// The client opens no more streams.
    GoAway,
}

/// A data frame whose bytes have not all come.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    id: u32,
    left: usize,
    fin: bool,
}

/// Bytes of a client to frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    headers: Reader,
    data: Option<Unfinished>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), headers: Reader::new(), data: None }
    }
}

impl Decoder {
    /// Takes the next bytes, however they were cut.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or as much of a data frame as is there.
    ///
    /// # Errors
    /// The connection cannot be read any further.
    pub fn take(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(data) = self.data {
                return Ok(self.piece(data));
            }
            let Some(head) = self.buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let [a, b, c, d, flags, length @ ..] = *head;
            let [x, y, z] = length;
            let length = u32::from_be_bytes([0, x, y, z]) as usize;
            if a & CONTROL == 0 {
                let id = u32::from_be_bytes([a, b, c, d]);
                self.buffer.advance(HEAD_BYTES);
                self.data = Some(Unfinished { id, left: length, fin: flags & FIN != 0 });
                continue;
            }
            if u16::from_be_bytes([a & !CONTROL, b]) != VERSION {
                return Err(SpdyError::BadFrame);
            }
            if length > SPDY_CONTROL_BYTES_MAX {
                return Err(SpdyError::TooLarge(length));
            }
            if self.buffer.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            self.buffer.advance(HEAD_BYTES);
            let body = self.buffer.split_to(length).freeze();
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self, data: Unfinished) -> Option<Frame> {
        let count = data.left.min(self.buffer.len());
        if count == 0 && data.left > 0 {
            return None;
        }
        let bytes = self.buffer.split_to(count).freeze();
        let left = data.left - count;
        self.data = (left > 0).then_some(Unfinished { left, ..data });
        Some(Frame::Data { id: data.id, bytes, fin: data.fin && left == 0 })
    }

    /// A control frame; `None` for one that needs no answer (settings, windows, replies).
    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let number = || body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let number = || number().map(|id| id & 0x7fff_ffff).ok_or(SpdyError::BadFrame);
        Ok(match kind {
            SYN_STREAM => {
                // Number, number of another stream, priority, slot.
                let block = body.get(10..).ok_or(SpdyError::BadFrame)?;
                let headers = self.headers.read(block)?;
                Some(Frame::Open { id: number()?, headers, fin: flags & FIN != 0 })
            }
            SYN_REPLY => {
                // We open no streams; but its block counts for those that follow.
                self.headers.read(body.get(4..).ok_or(SpdyError::BadFrame)?)?;
                None
            }
            RST_STREAM => Some(Frame::Reset { id: number()? }),
            PING => {
                let bytes = body.first_chunk::<4>().ok_or(SpdyError::BadFrame)?;
                Some(Frame::Ping { id: u32::from_be_bytes(*bytes) })
            }
            GOAWAY => Some(Frame::GoAway),
            _ => None,
        })
    }
}

fn control(kind: u16, body: &[&[u8]]) -> Vec<u8> {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let [_, length @ ..] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let [a, b] = VERSION.to_be_bytes();
    let [c, d] = kind.to_be_bytes();
    let mut frame = vec![CONTROL | a, b, c, d, 0];
    frame.extend_from_slice(&length);
    body.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// Frames of the server; those with headers in the order in which they are sent.
#[derive(Debug)]
pub struct Encoder(Writer);

impl Default for Encoder {
    fn default() -> Self {
        Self(Writer::new())
    }
}

impl Encoder {
    /// Accepts a stream.
    ///
    /// # Errors
    /// Never for these headers: none.
    pub fn reply(&mut self, id: u32) -> Result<Vec<u8>, SpdyError> {
        Ok(control(SYN_REPLY, &[&id.to_be_bytes(), &self.0.write(&Vec::new())?]))
    }

    /// Opens a stream as a client does; for tests and the corpus.
    ///
    /// # Errors
    /// The headers are too large.
    pub fn open(&mut self, id: u32, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let block = self.0.write(headers)?;
        Ok(control(SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], &block]))
    }
}

/// A piece of a stream, at most 16 MiB.
pub fn data(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = Vec::with_capacity(HEAD_BYTES + bytes.len());
    frame.extend_from_slice(&id.to_be_bytes());
    frame.push(if fin { FIN } else { 0 });
    frame.extend_from_slice(&length);
    frame.extend_from_slice(bytes);
    frame
}

/// Ends a stream.
pub fn reset(id: u32, status: u32) -> Vec<u8> {
    control(RST_STREAM, &[&id.to_be_bytes(), &status.to_be_bytes()])
}

/// A ping, or the answer to one.
pub fn ping(id: u32) -> Vec<u8> {
    control(PING, &[&id.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> Headers {
        vec![("streamtype".into(), kind.into()), ("port".into(), "80".into())]
    }

    fn bytes() -> Vec<u8> {
        let mut encoder = Encoder::default();
        let settings = control(4, &[&[0; 4]]);
        let mut closing = data(1, b"", true);
        closing.extend(reset(3, CANCEL));
        [
            settings,
            encoder.open(1, &headers("error")).expect("small"),
            encoder.open(3, &headers("data")).expect("small"),
            ping(7),
            data(3, b"hello", false),
            encoder.reply(2).expect("small"),
            control(9, &[&[0; 8]]),
            closing,
            control(GOAWAY, &[&[0; 8]]),
        ]
        .concat()
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let bytes = bytes();
        for cut in [1, 2, 3, 5, 9, bytes.len()] {
            let mut decoder = Decoder::default();
            let (mut found, mut said) = (Vec::new(), Vec::new());
            for part in bytes.chunks(cut) {
                decoder.feed(part);
                while let Some(frame) = decoder.take().expect("good") {
                    match frame {
                        Frame::Data { id: 3, bytes, .. } => said.extend_from_slice(&bytes),
                        frame => found.push(frame),
                    }
                }
            }
            let expected = [
                Frame::Open { id: 1, headers: headers("error"), fin: false },
                Frame::Open { id: 3, headers: headers("data"), fin: false },
                Frame::Ping { id: 7 },
                Frame::Data { id: 1, bytes: Bytes::new(), fin: true },
                Frame::Reset { id: 3 },
                Frame::GoAway,
            ];
            assert_eq!(found, expected, "cut every {cut} bytes");
            assert_eq!(said, b"hello");
        }
    }

    #[test]
    fn only_the_last_piece_of_a_frame_ends_its_stream() {
        let mut decoder = Decoder::default();
        let frame = data(5, b"abcd", true);
        let mut pieces = Vec::new();
        for part in frame.chunks(10) {
            decoder.feed(part);
            pieces.extend(std::iter::from_fn(|| decoder.take().expect("good")));
        }
        let piece = |bytes: &'static [u8], fin| Frame::Data { id: 5, bytes: bytes.into(), fin };
        assert_eq!(pieces, [piece(b"ab", false), piece(b"cd", true)]);
    }

    #[test]
    fn what_no_client_may_send() {
        let bad = |bytes: &[u8], error| {
            let mut decoder = Decoder::default();
            decoder.feed(bytes);
            assert_eq!(decoder.take(), Err(error), "{bytes:?}");
        };
        bad(&[0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::BadFrame);
        bad(&control(SYN_STREAM, &[&[0; 9]]), SpdyError::BadFrame);
        bad(&control(SYN_STREAM, &[&[0; 30]]), SpdyError::BadHeaders);
        bad(&control(RST_STREAM, &[&[0; 3]]), SpdyError::BadFrame);
        bad(&[0x80, 3, 0, 1, 0, 0xff, 0, 0], SpdyError::TooLarge(0xff_0000));
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(ping(300), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 1, 44]);
        assert_eq!(data(2, b"x", true), [0, 0, 0, 2, 1, 0, 0, 1, b'x']);
        assert_eq!(reset(2, CANCEL), [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 5]);
    }
}
