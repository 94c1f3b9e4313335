//! The file of the desired set: a format, then sealed messages one after the other.
//!
//! File = `kqd` and a format byte, then records. Record = length of the body (u32), crc32c of the body
//! (u32), crc32c of these eight bytes (u32), body = sealed postcard `DesiredV1`. The head's own checksum
//! tells a record that a power cut left short from a length that has rotted: only the first is a torn
//! tail, whose revision was never acknowledged. The first record comes with the file and is never torn.

use std::fs::File;
use std::io::{self, Read};

use model::limits::DESIRED_RECORD_BYTES_MAX;
use model::wire::DesiredV1;

use super::seal::Seal;
use super::set::DesiredSet;

/// The begin of every file, with the format's number.
pub(super) const FILE_HEAD: &[u8; 4] = b"kqd\x01";
const HEAD_BYTES: usize = 12;

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a whole record.
    Whole,
    /// With a record that was being written when the power went.
    Torn,
    /// Not as this build, this key and a sound card leave it.
    Damaged(&'static str),
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) set: DesiredSet,
    /// Up to the end of the last whole record.
    pub(super) bytes: u64,
    pub(super) ending: Ending,
}

/// Reads a file from its begin.
pub(super) fn read(file: &mut File, seal: &Seal) -> Contents {
    let mut contents =
        Contents { set: DesiredSet::default(), bytes: 0, ending: Ending::Damaged("format") };
    let mut head = [0; FILE_HEAD.len()];
    if file.read_exact(&mut head).is_err() || head != *FILE_HEAD {
        return contents;
    }
    contents.bytes = FILE_HEAD.len() as u64;
    contents.ending = loop {
        match next(file, seal, &mut contents) {
            Ok(()) => {}
            Err(ending) => break ending,
        }
    };
    if contents.ending != Ending::Whole && contents.set.revision == 0 {
        contents.ending = Ending::Damaged("first record");
    }
    contents
}

fn next(file: &mut File, seal: &Seal, contents: &mut Contents) -> Result<(), Ending> {
    let unreadable = |_: io::Error| Ending::Damaged("unreadable");
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(unreadable)?;
    let word = |at: usize| {
        let bytes = head[at..at + 4].try_into().expect("four bytes of a whole head");
        u32::from_le_bytes(bytes)
    };
    match head.len() {
        0 => return Err(Ending::Whole),
        HEAD_BYTES if word(8) == crc32c::crc32c(&head[..8]) => {}
        HEAD_BYTES if head.iter().any(|byte| *byte != 0) => return Err(Ending::Damaged("head")),
        // The file grew before its bytes came.
        HEAD_BYTES => return rest_is_empty(file).map_err(unreadable).and_then(Err),
        _ => return Err(Ending::Torn),
    }
    let (length, checksum) = (u64::from(word(0)), word(4));
    if length > DESIRED_RECORD_BYTES_MAX {
        return Err(Ending::Damaged("length"));
    }
    let mut sealed = Vec::new();
    file.take(length).read_to_end(&mut sealed).map_err(unreadable)?;
    if (sealed.len() as u64) < length {
        return Err(Ending::Torn);
    }
    if crc32c::crc32c(&sealed) != checksum {
        let grew = sealed.ends_with(&[0; 16]);
        let rest = rest_is_empty(file).map_err(unreadable)?;
        return Err(if grew { rest } else { Ending::Damaged("checksum") });
    }
    let body = seal.open_sealed(&sealed).ok_or(Ending::Damaged("key"))?;
    let message: DesiredV1 = match postcard::take_from_bytes(&body) {
        Ok((message, [])) => message,
        _ => return Err(Ending::Damaged("message")),
    };
    contents.set.fits(&message).map_err(|_| Ending::Damaged("order"))?;
    contents.set.apply(message);
    contents.bytes += HEAD_BYTES as u64 + length;
    Ok(())
}

/// A torn tail has nothing behind it but bytes that were never written.
fn rest_is_empty(file: &mut File) -> io::Result<Ending> {
    let mut chunk = [0; 4_096];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Ending::Torn),
            count if chunk[..count].iter().any(|byte| *byte != 0) => {
                return Ok(Ending::Damaged("checksum"));
            }
            _ => {}
        }
    }
}

/// A message as a record.
pub(super) fn record(seal: &Seal, message: &DesiredV1) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let sealed = seal.seal(body)?;
    let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
    let mut record = Vec::with_capacity(HEAD_BYTES + sealed.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    let checksum = crc32c::crc32c(&record);
    record.extend_from_slice(&checksum.to_le_bytes());
    record.extend_from_slice(&sealed);
    Ok(record)
}
