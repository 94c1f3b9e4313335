//! The view of a Namespace.

use serde::Deserialize;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};

/// A Namespace.
#[derive(Clone, Debug)]
pub struct NamespaceView {
    /// Metadata.
    pub meta: Meta,
    /// `spec.finalizers`: not empty until its contents are gone.
    pub spec_finalizers: Box<[Box<str>]>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(deserialize_with = "null_as_empty")]
    finalizers: Vec<Box<str>>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<NamespaceView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    Ok(NamespaceView {
        meta: raw.metadata.view(identity),
        spec_finalizers: raw.spec.finalizers.into(),
    })
}
