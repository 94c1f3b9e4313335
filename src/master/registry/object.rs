//! Objects as values and as bytes, and the one place that knows how they lie at rest.
//!
//! At rest an object is minified JSON that starts with `{"metadata":{`, without `kind`,
//! `apiVersion` and `metadata.resourceVersion`; the other fields follow sorted. So a list item is a
//! copy with the version spliced in at a fixed place, a single object gets a fixed prefix, and equal
//! objects have equal bytes (that is how a write that changes nothing is recognised).

use bytes::{BufMut, Bytes, BytesMut};
use model::ids::{Uid, Version};
use model::resource::Resource;
use serde_json::{Map, Value};

/// Every body at rest starts with this.
const HEAD: &[u8] = b"{\"metadata\":{";

/// The bytes at rest of `object`.
pub(super) fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"metadata\":");
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    let meta = fields.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    out.push(b'{');
    for (name, value) in meta {
        let kept = !matches!(name.as_str(), "resourceVersion" | "managedFields" | "selfLink");
        if kept {
            write_field(&mut out, &mut first, name, value);
        }
    }
    out.push(b'}');
    first = false;
    for (name, value) in fields {
        if !matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
            write_field(&mut out, &mut first, name, value);
        }
    }
    out.push(b'}');
    out.into()
}

fn write_field(out: &mut Vec<u8>, first: &mut bool, name: &str, value: &Value) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
    // Writing a Value with string keys into a Vec cannot fail.
    serde_json::to_writer(&mut *out, name).expect("a string is JSON");
    out.push(b':');
    serde_json::to_writer(out, value).expect("a value is JSON");
}

/// A list item: the body at rest with its resourceVersion.
pub(super) fn item(body: &[u8], version: Version) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 48);
    out.put_u8(b'{');
    put_versioned(&mut out, body, version);
    out.freeze()
}

/// A single object: with `kind`, `apiVersion` and resourceVersion (none for version zero, which a
/// dry run answers with).
pub(super) fn single(resource: &Resource, body: &[u8], version: Version) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 128);
    put_type(&mut out, resource);
    put_versioned(&mut out, body, version);
    out.freeze()
}

/// A bookmark's object: nothing but its type and version, and `annotations` (JSON) if any.
pub(super) fn bookmark(resource: &Resource, version: Version, annotations: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(160);
    put_type(&mut out, resource);
    out.put_slice(format!("\"metadata\":{{\"resourceVersion\":\"{version}\"").as_bytes());
    if !annotations.is_empty() {
        out.put_slice(b",\"annotations\":");
        out.put_slice(annotations.as_bytes());
    }
    out.put_slice(b"}}");
    out.freeze()
}

fn put_type(out: &mut BytesMut, resource: &Resource) {
    out.put_slice(b"{\"kind\":\"");
    out.put_slice(resource.kind.as_bytes());
    out.put_slice(b"\",\"apiVersion\":\"");
    out.put_slice(resource.api_version().as_bytes());
    out.put_slice(b"\",");
}

/// Everything of a body after its opening brace, with the version spliced in.
fn put_versioned(out: &mut BytesMut, body: &[u8], version: Version) {
    debug_assert!(body.starts_with(HEAD), "a body at rest starts with its metadata");
    if version == Version(0) {
        return out.put_slice(&body[1..]);
    }
    out.put_slice(&HEAD[1..]);
    out.put_slice(format!("\"resourceVersion\":\"{version}\"").as_bytes());
    let rest = &body[HEAD.len()..];
    if !rest.starts_with(b"}") {
        out.put_u8(b',');
    }
    out.put_slice(rest);
}

/// The value of a body at rest, with its type and version, as a client sees it.
pub(super) fn decode(resource: &Resource, body: &[u8], version: Version) -> Value {
    let mut object = parse(body);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("kind".into(), resource.kind.into());
        fields.insert("apiVersion".into(), resource.api_version().into());
    }
    meta_mut(&mut object).insert("resourceVersion".into(), version.to_string().into());
    object
}

/// The value of a body at rest as it is.
pub(super) fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("the store verifies its checksums and holds only our JSON")
}

/// `metadata`, made if it is missing.
pub(super) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// The map `name` in `object`, made if it is missing or something else.
pub(super) fn child_mut<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let child = &mut object[name];
    if !child.is_object() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut().expect("just made a map")
}

/// A text field of `metadata`, empty when absent.
pub(super) fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Whether deletion has begun.
pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The object's uid; zeroes when it has none.
pub(super) fn uid_of(object: &Value) -> Uid {
    Uid::parse(meta_str(object, "uid")).unwrap_or_default()
}

/// `metadata.finalizers`.
pub(super) fn finalizers(object: &Value) -> Vec<String> {
    strings(&object["metadata"]["finalizers"])
}

/// The texts in a list, none when it is not a list.
pub(super) fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Sets `metadata.finalizers`, or removes it when there are none.
pub(super) fn set_finalizers(object: &mut Value, names: &[String]) {
    let meta = meta_mut(object);
    if names.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), names.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::resource::by_kind_key;
    use serde_json::json;

    #[test]
    fn bytes_at_rest_become_items_and_objects() {
        let maps = by_kind_key("/configmaps").expect("is in the table");
        let sent = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "\u{1}\"<"},
            "metadata": {"resourceVersion": "3", "name": "n", "labels": {"x": "y"}}});
        let body = encode(&sent);
        assert_eq!(
            body,
            r#"{"metadata":{"labels":{"x":"y"},"name":"n"},"data":{"a":"\u0001\"<"}}"#
        );
        let item: Value = serde_json::from_slice(&item(&body, Version(7))).expect("is JSON");
        assert_eq!(item["metadata"]["resourceVersion"], "7");
        assert!(item.get("kind").is_none());
        let single: Value = serde_json::from_slice(&single(maps, &body, Version(3))).expect("JSON");
        assert_eq!(single, sent);
        assert_eq!(decode(maps, &body, Version(3)), sent);
        assert_eq!(encode(&single), body, "what was stored comes back the same");
    }

    #[test]
    fn an_object_without_metadata_is_still_json() {
        let body = encode(&json!({}));
        let item: Value = serde_json::from_slice(&item(&body, Version(1))).expect("is JSON");
        assert_eq!(item, json!({"metadata": {"resourceVersion": "1"}}));
    }

    #[test]
    fn a_bookmark_has_a_version_and_nothing_else() {
        let pods = by_kind_key("/pods").expect("is in the table");
        let object: Value =
            serde_json::from_slice(&bookmark(pods, Version(9), "")).expect("is JSON");
        assert_eq!(
            object,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}})
        );
    }
}
