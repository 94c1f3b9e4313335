//! OpenAPI documents, written from the schema table when they are asked for.
//!
//! Version 3 is one JSON document per group-version behind an index whose URLs carry a hash of the
//! document, so that clients may cache it for ever. Version 2 is one document as protobuf, for
//! kubectl up to 1.28. Nothing is kept but the hashes: a document is some hundred kilobytes and
//! takes milliseconds; who serves it may keep it compressed.
//!
//! Left out: descriptions, subresource paths, version 2 as JSON, list kinds.

mod v2;
mod v3;

use std::sync::OnceLock;

use serde_json::json;

use super::table::{Elem, TypeId};
use crate::resource::{RESOURCES, Resource, Subresource, discovery};

pub use v2::v2_protobuf;

/// Version that the documents say they describe: the API that the tables were recorded from.
const VERSION: &str = "v1.36.2";

/// Query parameters of every write; kubectl asks here whether the server validates fields.
const WRITE_PARAMETERS: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "pretty"];

/// Patches that are served.
const PATCH_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A document and what names its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// JSON (version 3) or protobuf (version 2).
    pub body: Vec<u8>,
    /// Hash of the body: the `hash` of its URL and, in quotes, its strong ETag.
    pub hash: String,
}

/// Paths of the version 3 documents: `api/v1`, `apis/apps/v1`.
pub fn v3_paths() -> Vec<String> {
    let mut paths = Vec::new();
    for group in discovery::groups() {
        for version in discovery::versions(group) {
            paths.push(path_of(group, version));
        }
    }
    paths
}

/// GET /openapi/v3: the index, as JSON.
pub fn v3_index() -> Document {
    let entries = hashes().iter().map(|(path, hash)| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path.clone(), json!({"serverRelativeURL": url}))
    });
    let entries: serde_json::Map<String, serde_json::Value> = entries.collect();
    document(json!({"paths": entries}).to_string().into_bytes())
}

/// GET /openapi/v3/PATH: the document of a group-version; `None` when not served.
pub fn v3(path: &str) -> Option<Document> {
    let known = RESOURCES.iter().find(|r| path_of(r.group, r.version) == path)?;
    Some(document(v3::write(known.group, known.version)))
}

/// Hash of the document at `path`, without making it again.
pub fn v3_hash(path: &str) -> Option<&'static str> {
    hashes().iter().find(|(known, _)| known == path).map(|(_, hash)| hash.as_str())
}

fn hashes() -> &'static [(String, String)] {
    static HASHES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    HASHES.get_or_init(|| {
        let paths = v3_paths().into_iter();
        paths.filter_map(|path| v3(&path).map(|document| (path, document.hash))).collect()
    })
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(body: Vec<u8>) -> Document {
    // FNV-1a: the content is ours, nobody profits from a collision.
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Document { body, hash: format!("{hash:016X}") }
}

/// Every schema that the resources and the types of their subresources reach, sorted by name.
fn schemas<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<TypeId> {
    let shared = ["DeleteOptions", "Status"];
    let mut todo: Vec<TypeId> = shared
        .iter()
        .filter_map(|name| TypeId::named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")))
        .collect();
    for resource in resources {
        todo.push(resource.schema);
        todo.extend(resource.subresources.iter().filter_map(|sub| type_of(resource, sub)));
    }
    let mut all = Vec::new();
    while let Some(id) = todo.pop() {
        if all.contains(&id) {
            continue;
        }
        all.push(id);
        todo.extend(id.fields().iter().filter_map(|field| match field.elem {
            Elem::Type(inner) => Some(inner),
            Elem::Scalar(_) => None,
        }));
    }
    all.sort();
    all
}

fn type_of(resource: &Resource, sub: &Subresource) -> Option<TypeId> {
    let own = sub.version.is_empty();
    let (group, version) =
        if own { (resource.group, resource.version) } else { (sub.group, sub.version) };
    TypeId::of_kind(group, version, sub.kind)
}

/// Path of a collection; `base` is `/api/v1` or `/apis/apps/v1`.
fn collection(resource: &Resource) -> String {
    let base = path_of(resource.group, resource.version);
    let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    format!("/{base}/{namespace}{}", resource.plural)
}
