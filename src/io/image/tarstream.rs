//! Tar entries with bounded extended headers: what both an image archive and a layer are made of.
//!
//! The tar crate's own handling reads extensions of any size into memory; here it gives raw entries
//! and GNU long names and PAX records are read within `TAR_EXTENSION_BYTES_MAX`. GNU sparse files are
//! refused: image builders do not write them.

use std::io::{self, Read};

use model::limits::TAR_EXTENSION_BYTES_MAX;
use tar::{Archive, EntryType};

use super::error::TarFault;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// An entry without its content.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Components; `.` and leading `/` are gone, `..` is refused.
    pub(super) path: Vec<Vec<u8>>,
    /// Target of a link, as written.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_seconds: i64,
    pub(super) device: (u32, u32),
    pub(super) size: u64,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The path as text for messages.
    pub(super) fn display(&self) -> String {
        String::from_utf8_lossy(&self.path.join(&b'/')).into_owned()
    }
}

/// Calls `each` for every entry with its content.
///
/// # Errors
/// What `each` answers, a `TarFault` for a stream that is refused, or the reader's error.
pub(super) fn for_each(
    reader: impl Read,
    entries_max: usize,
    mut each: impl FnMut(Entry, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(reader);
    let mut extensions = Extensions::default();
    let mut entries = 0;
    for raw in archive.entries()?.raw(true) {
        let mut raw = raw?;
        entries += 1;
        if entries > entries_max {
            return fault(format!("more than {entries_max} entries"));
        }
        let kind = match raw.header().entry_type() {
            EntryType::XGlobalHeader => continue,
            EntryType::XHeader => {
                extensions.read_pax(&mut raw)?;
                continue;
            }
            EntryType::GNULongName => {
                extensions.path = Some(long_name(&mut raw)?);
                continue;
            }
            EntryType::GNULongLink => {
                extensions.link = Some(long_name(&mut raw)?);
                continue;
            }
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            other => {
                let number = other.as_byte();
                return fault(format!("entry type {number} is not supported"));
            }
        };
        let entry = std::mem::take(&mut extensions).apply(kind, &raw)?;
        each(entry, &mut raw)?;
    }
    Ok(())
}

fn fault<T>(text: String) -> io::Result<T> {
    Err(TarFault(text).into())
}

fn extension_bytes(raw: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    raw.take(TAR_EXTENSION_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TAR_EXTENSION_BYTES_MAX {
        return fault(format!("an extended header has more than {TAR_EXTENSION_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

fn long_name(raw: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut name = extension_bytes(raw)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// What extended headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime_seconds: Option<i64>,
    size: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn read_pax(&mut self, raw: &mut impl Read) -> io::Result<()> {
        let bytes = extension_bytes(raw)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let Some((key, value, next)) = pax_record(rest) else {
                return fault("a PAX header cannot be read".to_owned());
            };
            self.take(key, value)?;
            rest = next;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let text = || std::str::from_utf8(value).ok();
        let number = || text().and_then(|text| text.split('.').next()?.parse::<i64>().ok());
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"uid" => self.uid = number().and_then(|number| u32::try_from(number).ok()),
            b"gid" => self.gid = number().and_then(|number| u32::try_from(number).ok()),
            b"mtime" => self.mtime_seconds = number(),
            b"size" => self.size = number().and_then(|number| u64::try_from(number).ok()),
            _ if key.starts_with(b"GNU.sparse.") => {
                return fault("sparse files are not supported".to_owned());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn apply<R: Read>(self, kind: Kind, raw: &tar::Entry<'_, R>) -> io::Result<Entry> {
        let header = raw.header();
        let old = header.as_old();
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        // The crate has already taken the header's size for the content's end.
        let size = header.entry_size()?;
        if self.size.is_some_and(|extended| extended != size) {
            return fault(format!("{shown}: files of 8 GiB and more are not supported"));
        }
        let link = self.link.unwrap_or_else(|| {
            header.link_name_bytes().map(|b| b.into_owned()).unwrap_or_default()
        });
        let id = |given: Option<u32>, field: io::Result<u64>| -> io::Result<u32> {
            match given {
                Some(id) => Ok(id),
                None => u32::try_from(field?).or_else(|_| fault(format!("{shown}: owner id"))),
            }
        };
        // Archives made on other systems mark directories by a trailing slash only.
        let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
        Ok(Entry {
            kind,
            path: components(&path)?,
            link,
            mode: blank_is_zero(&old.mode, header.mode())? & 0o7777,
            uid: id(self.uid, blank_is_zero(&old.uid, header.uid()))?,
            gid: id(self.gid, blank_is_zero(&old.gid, header.gid()))?,
            mtime_seconds: match self.mtime_seconds {
                Some(seconds) => seconds,
                None => {
                    let seconds = blank_is_zero(&old.mtime, header.mtime())?;
                    i64::try_from(seconds).unwrap_or(i64::MAX)
                }
            },
            device: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            size,
            xattrs: self.xattrs,
        })
    }
}

/// Some writers leave numbers that they do not know empty.
fn blank_is_zero<T: Default>(field: &[u8], number: io::Result<T>) -> io::Result<T> {
    match field.iter().all(|b| matches!(b, 0 | b' ')) {
        true => Ok(T::default()),
        false => number,
    }
}

/// `"%d %s=%s\n"` (POSIX pax, "pax Extended Header"): key, value, rest.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Splits a path; absolute paths count from the root of the image.
///
/// # Errors
/// A `TarFault` for `..`, a zero byte or a component that no file system takes.
pub(super) fn components(path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let shown = String::from_utf8_lossy(path);
                return fault(format!("path {shown:?} leads out of the image"));
            }
            _ if part.contains(&0) || part.len() > 255 || out.len() > 1024 => {
                return fault("a path is not a file name".to_owned());
            }
            _ => out.push(part.to_vec()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert_eq!(components(b"/./a//b/").expect("inside"), [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(components(b"./").expect("root"), Vec::<Vec<u8>>::new());
        for bad in [&b"../a"[..], b"a/../../b", b"a\0b"] {
            assert!(components(bad).is_err());
        }
    }

    #[test]
    fn pax_records_are_read_within_bounds() {
        let record = b"18 path=some/name\n12 uid=70000";
        let (key, value, rest) = pax_record(record).expect("whole record");
        assert_eq!((key, value, rest.len()), (&b"path"[..], &b"some/name"[..], 12));
        assert!(pax_record(rest).is_none());
        assert!(pax_record(b"999999999999999999999999 a=b\n").is_none());
    }

    #[test]
    fn an_endless_extension_is_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 33);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'x'));
        let error = for_each(stream, 10, |_, _| Ok(())).expect_err("too large");
        assert!(error.to_string().contains("extended header"), "{error}");
    }
}
