//! The view of a kind that no controller reads closely: its metadata.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::meta::{Identity, Meta, RawMeta};

/// Any object.
#[derive(Clone, Debug)]
pub struct PlainView {
    /// Metadata.
    pub meta: Meta,
    /// Hash of the raw `data` (ConfigMaps, Secrets): equal data has an equal hash.
    pub data_hash: u64,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<PlainView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    Ok(PlainView {
        meta: raw.metadata.view(identity),
        data_hash: raw.data.map_or(0, |data| data_hash(data.get().as_bytes())),
    })
}

/// Hash of a `data` object as minified JSON with sorted keys.
pub fn data_hash(json: &[u8]) -> u64 {
    super::template::hash_64(json)
}
