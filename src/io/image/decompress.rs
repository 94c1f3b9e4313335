//! Finds out how a stream is compressed by its first bytes and decompresses it.

use std::io::{self, BufReader, Cursor, Read};

use ruzstd::decoding::StreamingDecoder;

use super::error::TarFault;

/// Decompresses gzip (also of several members) and zstd (also of several and skippable frames);
/// everything else passes as it is.
pub(super) fn decompressed<'a>(mut reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(4);
    (&mut reader).take(4).read_to_end(&mut head)?;
    let magic: [u8; 4] = head.as_slice().try_into().unwrap_or_default();
    let whole = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(reader));
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        _ if is_zstd(magic) => Box::new(Zstd::new(whole)),
        _ => Box::new(whole),
    })
}

/// Whether these first bytes begin a zstd frame or a skippable one (RFC 8878, 3.1).
fn is_zstd(magic: [u8; 4]) -> bool {
    let number = u32::from_le_bytes(magic);
    number == 0xfd2f_b528 || is_skippable(number)
}

fn is_skippable(number: u32) -> bool {
    number & 0xffff_fff0 == 0x184d_2a50
}

/// A reader that four bytes can be given back to.
struct PushBack<R> {
    pushed: [u8; 4],
    left: usize,
    inner: R,
}

impl<R: Read> Read for PushBack<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.inner.read(buffer);
        }
        let count = (&self.pushed[4 - self.left..]).read(buffer)?;
        self.left -= count;
        Ok(count)
    }
}

/// Several zstd frames one after the other; the decoder crate reads a single one.
enum Zstd<R: Read> {
    Between(PushBack<R>),
    Frame(Box<StreamingDecoder<PushBack<R>, ruzstd::decoding::FrameDecoder>>),
    End,
}

impl<R: Read> Zstd<R> {
    fn new(reader: R) -> Self {
        Self::Between(PushBack { pushed: [0; 4], left: 0, inner: reader })
    }

    fn open(mut reader: PushBack<R>) -> io::Result<Self> {
        loop {
            let mut head = Vec::with_capacity(4);
            (&mut reader).take(4).read_to_end(&mut head)?;
            if head.is_empty() {
                return Ok(Self::End);
            }
            let head: [u8; 4] = head.try_into().map_err(|_| zstd_fault("cut in a frame header"))?;
            if !is_skippable(u32::from_le_bytes(head)) {
                (reader.pushed, reader.left) = (head, 4);
                let decoder = StreamingDecoder::new(reader).map_err(zstd_fault)?;
                return Ok(Self::Frame(Box::new(decoder)));
            }
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        }
    }
}

fn zstd_fault(error: impl std::fmt::Display) -> io::Error {
    TarFault(format!("zstd stream: {error}")).into()
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Self::Frame(decoder) = self {
                let count = decoder.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            *self = match std::mem::replace(self, Self::End) {
                Self::Between(reader) => Self::open(reader)?,
                Self::Frame(decoder) => Self::Between(decoder.into_inner()),
                Self::End => return Ok(0),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn gzip_members_follow_each_other() {
        let member = |text: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).expect("into memory");
            encoder.finish().expect("into memory")
        };
        let bytes = [member(b"one "), member(b"two")].concat();
        assert_eq!(read(&bytes).expect("two members"), b"one two");
        assert!(read(&bytes[..bytes.len() - 3]).is_err());
    }

    #[test]
    fn zstd_frames_follow_each_other() {
        let frame = |text: &[u8]| {
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), b"abc"].concat();
        let bytes = [skippable.clone(), frame(b"one "), skippable, frame(b"two")].concat();
        assert_eq!(read(&bytes).expect("two frames"), b"one two");
    }

    #[test]
    fn short_and_plain_streams_pass() {
        for plain in [&b""[..], b"x", b"plain text"] {
            assert_eq!(read(plain).expect("plain"), plain);
        }
    }
}
