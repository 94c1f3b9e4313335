//! A pod template: raw JSON, shared, with a hash that tells templates apart.

use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

/// The label by which a Deployment tells the pods of its ReplicaSets apart.
const HASH_LABEL: &str = "pod-template-hash";
/// Alphabet of upstream's `rand.SafeEncodeString`: no vowels, so no words.
const SAFE_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A pod template.
#[derive(Clone, Debug)]
pub struct Template {
    /// Minified JSON with sorted keys.
    pub json: Arc<[u8]>,
    /// Hash of the template without its `pod-template-hash` label: equal templates, equal hashes.
    pub hash: u64,
}

impl Template {
    pub(super) fn new(raw: Option<&RawValue>) -> serde_json::Result<Self> {
        let mut value: Value = match raw {
            Some(raw) => serde_json::from_str(raw.get())?,
            None => Value::Null,
        };
        // Reading and writing again makes the text canonical: `Value` sorts its keys.
        let json = serde_json::to_vec(&value)?;
        let labels = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut);
        let labelled = labels.is_some_and(|labels| labels.remove(HASH_LABEL).is_some());
        let hash = if labelled { hash_64(&serde_json::to_vec(&value)?) } else { hash_64(&json) };
        Ok(Self { json: json.into(), hash })
    }

    /// The template as a value; `Null` when there is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The text that names the ReplicaSet of this template, `collisions` times tried otherwise.
    pub fn name_suffix(&self, collisions: u32) -> String {
        let mixed =
            hash_64(&[self.hash.to_le_bytes(), u64::from(collisions).to_le_bytes()].concat());
        safe_encode(&((mixed >> 32) as u32 ^ mixed as u32).to_string())
    }
}

/// Turns digits into letters that form no words (upstream's `rand.SafeEncodeString`).
pub fn safe_encode(text: &str) -> String {
    let letter = |byte: u8| SAFE_ALPHABET[usize::from(byte) % SAFE_ALPHABET.len()] as char;
    text.bytes().map(letter).collect()
}

/// FNV-1a, 64 bit: stable over builds and machines.
pub(super) fn hash_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
