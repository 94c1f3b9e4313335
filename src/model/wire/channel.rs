//! Frames on a duplex stream between master and board: exec, attach, port-forward.
//!
//! ```text
//! channel u8 | length u32 LE | bytes
//! ```
//! The board's first frame is [`BEGUN`]; an error before it is why it does not serve the request. The
//! end of what the master sends means that the client has gone, whatever was said before.

use crate::limits::CHANNEL_FRAME_BYTES_MAX;

/// To the board: input of the process, or bytes for the pod's port.
pub const STDIN: u8 = 0;
/// From the board: output of the process, or bytes from the pod's port.
pub const STDOUT: u8 = 1;
/// From the board: errors of the process.
pub const STDERR: u8 = 2;
/// From the board, once and last: a Kubernetes `Status` as JSON.
pub const STATUS: u8 = 3;
/// To the board: columns and rows of the client's terminal, u16 LE each.
pub const RESIZE: u8 = 4;
/// From the board, first of all: it serves the request.
pub const BEGUN: u8 = 5;
/// Either way: no more bytes of this direction will come.
pub const CLOSE: u8 = 255;

const HEAD_BYTES: usize = 5;

/// A frame that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stream frame of {0} bytes")]
pub struct BadChannelFrame(u32);

/// A frame of these bytes, which are at most [`CHANNEL_FRAME_BYTES_MAX`].
pub fn channel_frame(channel: u8, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(bytes.len() <= CHANNEL_FRAME_BYTES_MAX);
    let length = u32::try_from(bytes.len()).expect("frames are far below 4 GiB");
    let mut frame = Vec::with_capacity(HEAD_BYTES + bytes.len());
    frame.push(channel);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The frame that tells a terminal's size.
pub fn resize_frame(columns: u16, rows: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
    channel_frame(RESIZE, &[a, b, c, d])
}

/// Columns and rows of a [`RESIZE`] frame.
pub fn resize_of(bytes: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *bytes else { return None };
    Some((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
}

/// Cuts what came into frames.
#[derive(Debug, Default)]
pub struct ChannelFrames {
    buffer: Vec<u8>,
}

impl ChannelFrames {
    /// Takes the next bytes, however they were cut, and gives the frames that are whole.
    ///
    /// # Errors
    /// [`BadChannelFrame`] for a length that there cannot be; the stream is of no use after that.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, BadChannelFrame> {
        self.buffer.extend_from_slice(bytes);
        let (mut at, mut frames) = (0, Vec::new());
        while let Some((head, rest)) = self.buffer[at..].split_first_chunk::<HEAD_BYTES>() {
            let [channel, length @ ..] = *head;
            let length = u32::from_le_bytes(length);
            let size = length as usize;
            if size > CHANNEL_FRAME_BYTES_MAX {
                return Err(BadChannelFrame(length));
            }
            let Some(body) = rest.get(..size) else { break };
            frames.push((channel, body.to_vec()));
            at += HEAD_BYTES + size;
        }
        self.buffer.drain(..at);
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_frames() {
        assert_eq!(channel_frame(STDOUT, b"hi"), [1, 2, 0, 0, 0, b'h', b'i']);
        assert_eq!(channel_frame(CLOSE, b""), [255, 0, 0, 0, 0]);
        assert_eq!(resize_frame(300, 24), [4, 4, 0, 0, 0, 44, 1, 24, 0]);
        assert_eq!(resize_of(&[44, 1, 24, 0]), Some((300, 24)));
        assert_eq!(resize_of(&[44, 1, 24]), None);
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let bytes =
            [channel_frame(STDIN, b"one"), channel_frame(CLOSE, b""), channel_frame(9, b"three")]
                .concat();
        let expected = [(STDIN, b"one".to_vec()), (CLOSE, vec![]), (9, b"three".to_vec())];
        for cut in 1..=bytes.len() {
            let mut frames = ChannelFrames::default();
            let found: Vec<_> =
                bytes.chunks(cut).flat_map(|part| frames.take(part).expect("ours")).collect();
            assert_eq!(found, expected, "cut every {cut} bytes");
            assert!(frames.buffer.is_empty());
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_at_once() {
        let length = CHANNEL_FRAME_BYTES_MAX as u32 + 1;
        let head = [&[STDIN][..], &length.to_le_bytes()].concat();
        assert_eq!(ChannelFrames::default().take(&head), Err(BadChannelFrame(length)));
        let mut whole = ChannelFrames::default();
        let largest = channel_frame(STDIN, &vec![7; CHANNEL_FRAME_BYTES_MAX]);
        assert_eq!(whole.take(&largest).expect("the largest")[0].1.len(), CHANNEL_FRAME_BYTES_MAX);
    }
}
