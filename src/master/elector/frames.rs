//! Frames in a stream of bytes: `u32 length, little endian | body`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use model::limits::GROUP_ASK_BYTES_MAX;

use crate::io::peer;

/// Bytes of the length.
const LENGTH_BYTES: usize = 4;

/// A frame around an encoded body.
pub(super) fn framed(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + body.len());
    frame.put_u32_le(u32::try_from(body.len()).expect("frames are bounded"));
    frame.put_slice(body);
    frame.freeze()
}

/// The stream of another master.
pub(super) struct Frames {
    body: Incoming,
    buffer: BytesMut,
    bytes_max: usize,
}

impl Frames {
    /// Of a body whose frames have at most `bytes_max`.
    pub(super) fn new(body: Incoming, bytes_max: usize) -> Self {
        Self { body, buffer: BytesMut::new(), bytes_max: bytes_max.min(GROUP_ASK_BYTES_MAX) }
    }

    /// The next frame; `None` at the end between two frames.
    ///
    /// # Errors
    /// The stream broke, or a frame is too large.
    ///
    /// # Cancel safety
    /// Safe: what has come is kept.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(frame) = self.cut()? {
                return Ok(Some(frame));
            }
            if !self.read().await? {
                let is_between = self.buffer.is_empty();
                return is_between.then_some(None).ok_or("the stream ended in a frame".to_owned());
            }
        }
    }

    /// What comes next, in whatever pieces; `None` at the end.
    ///
    /// # Errors
    /// The stream broke.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn rest(&mut self) -> Result<Option<Bytes>, String> {
        if self.buffer.is_empty() && !self.read().await? {
            return Ok(None);
        }
        Ok(Some(self.buffer.split().freeze()))
    }

    fn cut(&mut self) -> Result<Option<Bytes>, String> {
        let Some(head) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.bytes_max {
            return Err(format!("a frame of {length} bytes is too large"));
        }
        if self.buffer.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Takes in what comes next; false at the end.
    async fn read(&mut self) -> Result<bool, String> {
        let Some(frame) = self.body.frame().await else { return Ok(false) };
        let frame = frame.map_err(|error| format!("the stream broke: {error}"))?;
        match frame.into_data() {
            Ok(data) => self.buffer.extend_from_slice(&data),
            Err(trailers) => {
                if let Some(why) = trailers.trailers_ref().and_then(peer::error_of) {
                    return Err(why);
                }
            }
        }
        Ok(true)
    }
}
