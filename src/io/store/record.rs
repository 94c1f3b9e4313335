//! Bytes of keys and records, in LMDB and in snapshots, and the splice of a version into an object.
//!
//! A key is `kind NUL namespace NUL name`: byte order is LIST order. A record is
//! `format u8 | flags u8 | zero u16 | crc32c u32 | version u64 | uid 16 | body`, little endian; the
//! crc covers the key and everything else.

use bytes::{BufMut, Bytes, BytesMut};
use model::{
    ids::{KindKey, ObjectKey, Uid, Version},
    limits::STORE_KEY_BYTES_MAX,
};

use super::types::{Change, Record};

/// Bytes before the body.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
const FORMAT: u8 = 1;

/// The key of an object; `None` when it has a NUL in it or is too long.
pub(super) fn encode_key(key: &ObjectKey) -> Option<Vec<u8>> {
    let parts = [&*key.kind, &*key.namespace, &*key.name];
    let bytes = parts.map(str::as_bytes).join(&0);
    let plain = parts.iter().all(|part| !part.as_bytes().contains(&0)) && !key.kind.is_empty();
    (plain && bytes.len() <= STORE_KEY_BYTES_MAX).then_some(bytes)
}

/// The first key of a kind, or of a namespace in it.
pub(super) fn prefix(kind: &str, namespace: Option<&str>) -> Vec<u8> {
    let mut bytes = kind.as_bytes().to_vec();
    bytes.push(0);
    if let Some(namespace) = namespace {
        bytes.extend_from_slice(namespace.as_bytes());
        bytes.push(0);
    }
    bytes
}

/// The object that a key names.
pub(super) fn decode_key(bytes: &[u8]) -> Option<ObjectKey> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut parts = text.split('\0');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let key = || ObjectKey {
        kind: KindKey::from(kind.to_owned()),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    parts.next().is_none().then(key)
}

/// A record's header; the body follows it.
pub(super) fn encode_header(
    key: &[u8],
    version: Version,
    uid: Uid,
    body: &[u8],
) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[0] = FORMAT;
    header[8..16].copy_from_slice(&version.0.to_le_bytes());
    header[16..].copy_from_slice(&uid.0);
    let crc = checksum(key, &header, body);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header
}

fn checksum(key: &[u8], header: &[u8], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(key);
    let crc = crc32c::crc32c_append(crc, &header[..4]);
    let crc = crc32c::crc32c_append(crc, &header[8..RECORD_HEADER_BYTES]);
    crc32c::crc32c_append(crc, body)
}

/// Version, uid and body of a record; `None` when it is not what was written under `key`.
pub(super) fn decode<'a>(key: &[u8], record: &'a [u8]) -> Option<(Version, Uid, &'a [u8])> {
    let (header, body) = record.split_at_checked(RECORD_HEADER_BYTES)?;
    let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
    if header[0] != FORMAT || crc != checksum(key, header, body) {
        return None;
    }
    let version = u64::from_le_bytes(header[8..16].try_into().ok()?);
    Some((Version(version), Uid(header[16..].try_into().ok()?), body))
}

impl Record {
    /// The object with its `metadata.resourceVersion`.
    pub fn with_version(&self) -> Bytes {
        with_version(&self.body, self.version)
    }
}

impl Change {
    /// The object as a watch shows it: new bytes, or the last ones of a deleted object, with the
    /// version of this change.
    pub fn with_version(&self) -> Option<Bytes> {
        let body = self.body.as_ref().or(self.old.as_ref())?;
        Some(with_version(body, self.version))
    }
}

/// Splices `"resourceVersion":"N"` in as the first field of `metadata`; bytes without a `metadata`
/// object come back as they are.
pub fn with_version(body: &Bytes, version: Version) -> Bytes {
    let Some(at) = metadata_start(body) else { return body.clone() };
    let mut spliced = BytesMut::with_capacity(body.len() + 48);
    spliced.put_slice(&body[..at]);
    spliced.put_slice(format!("\"resourceVersion\":\"{version}\"").as_bytes());
    let rest = &body[at..];
    if rest.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'}') {
        spliced.put_u8(b',');
    }
    spliced.put_slice(rest);
    spliced.freeze()
}

/// The place after the brace that opens the top-level `metadata` object.
fn metadata_start(body: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    let mut named_metadata = false;
    while at < body.len() {
        match body[at] {
            b'"' => {
                let end = string_end(body, at)?;
                let name = depth == 1 && &body[at..end] == b"\"metadata\"";
                at = end;
                if name && next_byte(body, at) == Some(b':') {
                    named_metadata = true;
                }
                continue;
            }
            b'{' | b'[' => {
                if named_metadata && depth == 1 {
                    return (body[at] == b'{').then_some(at + 1);
                }
                depth += 1;
            }
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 1 => named_metadata = false,
            _ => {}
        }
        at += 1;
    }
    None
}

fn next_byte(body: &[u8], from: usize) -> Option<u8> {
    body[from..].iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The place after the string that starts at `start`.
fn string_end(body: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match body.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_like_a_list_and_come_back() {
        let key = |kind: &'static str, namespace: &str, name: &str| ObjectKey {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        let keys = [
            key("/configmaps", "a", "z"),
            key("/pods", "", "x"),
            key("/pods", "a", "x"),
            key("/pods", "a", "x.1"),
            key("/pods", "a-b", "a"),
            key("/podtemplates", "a", "a"),
        ];
        for pair in keys.windows(2) {
            let bytes = |key| encode_key(key).expect("plain");
            assert!(bytes(&pair[0]) < bytes(&pair[1]), "{} {}", pair[0], pair[1]);
            assert!(pair[0] < pair[1]);
            assert_eq!(decode_key(&bytes(&pair[0])).as_ref(), Some(&pair[0]));
        }
        assert_eq!(encode_key(&key("/pods", "a\0", "x")), None);
        assert_eq!(encode_key(&key("/pods", "a", &"x".repeat(600))), None);
        assert_eq!(decode_key(b"/pods\0a"), None);
        assert_eq!(decode_key(b"/pods\0a\0b\0c"), None);
    }

    #[test]
    fn golden_bytes_of_a_record() {
        let header = encode_header(b"/pods\0a\0b", Version(258), Uid([7; 16]), b"{}");
        let mut golden = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&[7; 16]);
        golden[4..8].copy_from_slice(&header[4..8]);
        assert_eq!(header.as_slice(), golden);
        let record = [header.as_slice(), b"{}"].concat();
        assert_eq!(decode(b"/pods\0a\0b", &record), Some((Version(258), Uid([7; 16]), &b"{}"[..])));
        assert_eq!(decode(b"/pods\0a\0c", &record), None);
        for at in 0..record.len() {
            let mut bad = record.clone();
            bad[at] ^= 0x10;
            assert_eq!(decode(b"/pods\0a\0b", &bad), None, "byte {at}");
        }
    }

    #[test]
    fn the_version_goes_into_the_outer_metadata() {
        let check = |body: &'static str, expected: &str| {
            let spliced = with_version(&Bytes::from_static(body.as_bytes()), Version(7));
            assert_eq!(std::str::from_utf8(&spliced), Ok(expected), "{body}");
        };
        check(
            r#"{"kind":"Pod","metadata":{"name":"a"}}"#,
            r#"{"kind":"Pod","metadata":{"resourceVersion":"7","name":"a"}}"#,
        );
        check(r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#);
        check(r#"{"metadata": { } }"#, r#"{"metadata": {"resourceVersion":"7" } }"#);
        check(
            r#"{"data":{"metadata":{"x":"\"metadata\":{"}},"a":"metadata","metadata":{"n":1}}"#,
            r#"{"data":{"metadata":{"x":"\"metadata\":{"}},"a":"metadata","metadata":{"resourceVersion":"7","n":1}}"#,
        );
        for same in ["", "{}", "[]", r#"{"metadata":null}"#, r#"{"metadata":3,"a":{}}"#, "\"", "}"]
        {
            check(same, same);
        }
    }
}
