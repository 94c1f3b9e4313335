//! Header blocks: names and values, compressed with the dictionary of SPDY/3 (draft 3.1, section
//! 2.6.10.1).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use model::limits::SPDY_HEADERS_BYTES_MAX;

use super::frame::SpdyError;

/// The dictionary's words, each of which stands there with its length.
const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|\
    accept-language|accept-ranges|age|allow|authorization|cache-control|connection|content-base|\
    content-encoding|content-language|content-length|content-location|content-md5|content-range|\
    content-type|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|\
    if-unmodified-since|last-modified|location|max-forwards|pragma|proxy-authenticate|\
    proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
    user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|\
    set-cookie|keep-alive|origin";
/// What follows them.
const TAIL: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175\
    02504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
    Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
    UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, \
    Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";
/// Headers of one block.
const HEADERS_MAX: usize = 64;
/// Window of our compressor: what we send is short, and a larger one costs memory.
const WINDOW_BITS: u8 = 11;

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split('|') {
        let length = u32::try_from(word.len()).expect("words are short");
        dictionary.extend_from_slice(&length.to_be_bytes());
        dictionary.extend_from_slice(word.as_bytes());
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

/// Names and values of a stream.
pub type Headers = Vec<(String, String)>;

/// Reads the header blocks of one connection, in their order.
#[derive(Debug)]
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let bad = |_| SpdyError::BadHeaders;
        let mut plain = vec![0; SPDY_HEADERS_BYTES_MAX];
        let mut filled = 0;
        loop {
            let (taken, given) = (self.0.total_in(), self.0.total_out());
            let stepped = self.0.decompress(block, &mut plain[filled..], FlushDecompress::Sync);
            let taken =
                usize::try_from(self.0.total_in() - taken).map_err(|_| SpdyError::BadHeaders)?;
            let given =
                usize::try_from(self.0.total_out() - given).map_err(|_| SpdyError::BadHeaders)?;
            block = block.get(taken..).ok_or(SpdyError::BadHeaders)?;
            filled += given;
            match stepped {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(bad)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError::BadHeaders),
                // Without progress it is complete, or there is too much of it.
                Ok(_) if taken == 0 && given == 0 => break,
                Ok(_) => {}
            }
        }
        if !block.is_empty() || filled == plain.len() {
            return Err(SpdyError::BadHeaders);
        }
        plain.truncate(filled);
        Ok(plain)
    }
}

/// Writes the header blocks of one connection.
#[derive(Debug)]
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new_with_window_bits(Compression::fast(), true, WINDOW_BITS);
        compress.set_dictionary(&dictionary()).expect("nothing is compressed yet");
        Self(compress)
    }

    /// A block of these headers.
    pub(super) fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let plain = plain(headers);
        let mut block = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        self.0
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .map_err(|_| SpdyError::BadHeaders)?;
        // The vector has room for what does not shrink, and the flush's few bytes.
        match self.0.total_in() - before == plain.len() as u64 && block.len() < block.capacity() {
            true => Ok(block),
            false => Err(SpdyError::BadHeaders),
        }
    }
}

fn plain(headers: &Headers) -> Vec<u8> {
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let mut plain = length(headers.len()).to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&length(text.len()));
        plain.extend_from_slice(text.as_bytes());
    }
    plain
}

/// Count, then name and value with their lengths (section 2.6.10).
fn parse(mut plain: &[u8]) -> Result<Headers, SpdyError> {
    let number = |plain: &mut &[u8]| {
        let (number, rest) = plain.split_first_chunk::<4>().ok_or(SpdyError::BadHeaders)?;
        *plain = rest;
        Ok(u32::from_be_bytes(*number) as usize)
    };
    let count = number(&mut plain)?;
    if count > HEADERS_MAX {
        return Err(SpdyError::BadHeaders);
    }
    let text = |plain: &mut &[u8]| {
        let length = number(plain)?;
        let (text, rest) = plain.split_at_checked(length).ok_or(SpdyError::BadHeaders)?;
        *plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SpdyError::BadHeaders)
    };
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((text(&mut plain)?, text(&mut plain)?));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_draft() {
        assert_eq!(dictionary().len(), 1423);
        let sum = dictionary().iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        assert_eq!(sum.1 << 16 | sum.0, 0xe3c6_a7c2, "its Adler-32");
    }

    #[test]
    fn blocks_of_a_connection_come_back_in_their_order() {
        let (mut writer, mut reader) = (Writer::new(), Reader::new());
        let headers = |text: &str| vec![("streamtype".to_owned(), text.to_owned())];
        let long = "x".repeat(5_000);
        for headers in [headers("error"), vec![], headers("data"), headers(&long), headers("data")]
        {
            let block = writer.write(&headers).expect("fits");
            assert_eq!(reader.read(&block), Ok(headers));
        }
    }

    #[test]
    fn blocks_that_are_damaged_or_blow_up_are_refused() {
        let bomb = vec![("a".to_owned(), "x".repeat(SPDY_HEADERS_BYTES_MAX))];
        let block = Writer::new().write(&bomb).expect("fits");
        assert!(block.len() < 1_000);
        assert_eq!(Reader::new().read(&block), Err(SpdyError::BadHeaders));
        assert_eq!(Reader::new().read(b"nonsense"), Err(SpdyError::BadHeaders));
        for plain in [
            &b"\0\0\0\x41"[..],
            b"\0\0\0\x01\0\0\0\x05abc",
            b"\0\0",
            b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0",
        ] {
            assert_eq!(parse(plain), Err(SpdyError::BadHeaders), "{plain:?}");
        }
    }
}
