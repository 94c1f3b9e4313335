//! How the master asks for streams over a board's tunnel: frames one after the other.
//!
//! ```text
//! length u32 LE (of what follows) | stream id u64 LE | an encoded StreamRequestV1 message
//! ```
//! The board keeps the answer to `GET /v1/tunnel/requests` open, which is made of these frames, and
//! answers each by `POST /v1/tunnel/streams/<id>`.

use crate::limits::TUNNEL_FRAME_BYTES_MAX;

const LENGTH_BYTES: usize = 4;
const ID_BYTES: usize = 8;

/// A stream that the master wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRequest {
    /// Where the board sends the answer.
    pub id: u64,
    /// An encoded `StreamRequestV1` message.
    pub message: Vec<u8>,
}

/// A frame that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tunnel frame of {0} bytes")]
pub struct BadFrame(u32);

/// The frame of one request.
pub fn frame(id: u64, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(ID_BYTES + message.len()).expect("messages are far below 4 GiB");
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + ID_BYTES + message.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// Cuts what came over the tunnel into requests.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes, however they were cut, and gives the requests that are whole.
    ///
    /// # Errors
    /// [`BadFrame`] for a length that there cannot be; the tunnel is of no use after that.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<TunnelRequest>, BadFrame> {
        self.buffer.extend_from_slice(bytes);
        let (mut at, mut requests) = (0, Vec::new());
        while let Some((length, rest)) = self.buffer[at..].split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_le_bytes(*length);
            let size = length as usize;
            if !(ID_BYTES..=TUNNEL_FRAME_BYTES_MAX).contains(&size) {
                return Err(BadFrame(length));
            }
            let Some((id, message)) =
                rest.get(..size).and_then(|frame| frame.split_first_chunk::<ID_BYTES>())
            else {
                break;
            };
            let message = message.to_vec();
            requests.push(TunnelRequest { id: u64::from_le_bytes(*id), message });
            at += LENGTH_BYTES + size;
        }
        self.buffer.drain(..at);
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_frame() {
        let golden = [10, 0, 0, 0, 0x2c, 1, 0, 0, 0, 0, 0, 0, b'h', b'i'];
        assert_eq!(frame(300, b"hi"), golden);
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let bytes = [frame(1, b"one"), frame(2, b""), frame(u64::MAX, b"three")].concat();
        let expected: Vec<_> = [(1, "one"), (2, ""), (u64::MAX, "three")]
            .map(|(id, message)| TunnelRequest { id, message: message.into() })
            .into();
        for cut in 1..=bytes.len() {
            let mut frames = Frames::default();
            let found: Vec<_> =
                bytes.chunks(cut).flat_map(|part| frames.take(part).expect("ours")).collect();
            assert_eq!(found, expected, "cut every {cut} bytes");
            assert!(frames.buffer.is_empty());
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_at_once() {
        for length in [0, 7, TUNNEL_FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let taken = Frames::default().take(&length.to_le_bytes());
            assert_eq!(taken, Err(BadFrame(length)));
        }
    }
}
