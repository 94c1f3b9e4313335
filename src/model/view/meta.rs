//! The part of `metadata` that controllers read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::labels::Labels;
use crate::ids::{KindKey, ObjectKey, Uid, Version};
use crate::timestamp::Timestamp;

/// Annotations that some controller reads begin like one of these; the others are not kept.
const KEPT_ANNOTATIONS: [&str; 4] = [
    "deployment.kubernetes.io/",
    "controller.kubernetes.io/",
    "kubernetes.io/change-cause",
    crate::join::BOARD_KEY,
];
/// Of these kinds all are kept but this one: a ReplicaSet has those of its Deployment.
const KINDS_KEEPING_ALL: [KindKey; 2] = [super::kind::DEPLOYMENTS, super::kind::REPLICA_SETS];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the store knows about an object without reading it.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) key: &'a ObjectKey,
    pub(super) version: Version,
    pub(super) uid: Uid,
}

/// One owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerReference {
    /// `apps/v1`.
    pub api_version: Box<str>,
    /// `ReplicaSet`.
    pub kind: Box<str>,
    /// The owner's name, in the same namespace or cluster-scoped.
    pub name: Box<str>,
    /// The owner's uid.
    pub uid: Uid,
    /// The one owner that manages the object.
    pub controller: bool,
    /// A foreground deletion of the owner waits for this object.
    pub blocks_deletion: bool,
}

impl OwnerReference {
    /// The reference as objects carry it.
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": self.name,
            "uid": self.uid.to_string(),
        });
        if self.controller {
            value["controller"] = true.into();
        }
        if self.blocks_deletion {
            value["blockOwnerDeletion"] = true.into();
        }
        value
    }
}

/// Metadata of any object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace, or empty.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Uid.
    pub uid: Uid,
    /// Version that this view shows.
    pub version: Version,
    /// Counts changes of what is wished.
    pub generation: i64,
    /// When it was created.
    pub created: Timestamp,
    /// When its deletion was asked for (plus grace); `None` while nobody asked.
    pub deleting: Option<Timestamp>,
    /// Labels.
    pub labels: Labels,
    /// The few annotations that controllers read.
    pub annotations: Labels,
    /// Owners.
    pub owners: Box<[OwnerReference]>,
    /// What has to be done before it may go.
    pub finalizers: Box<[Box<str>]>,
}

impl Meta {
    /// The owner that manages this object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|owner| owner.controller)
    }

    /// Whether a finalizer of this name is left.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer.as_ref() == name)
    }

    /// Namespace and name, shared.
    pub fn names(&self) -> (Arc<str>, Arc<str>) {
        (self.namespace.clone(), self.name.clone())
    }

    /// The key of this object as an object of `kind`.
    pub fn key(&self, kind: crate::ids::KindKey) -> ObjectKey {
        ObjectKey { kind, namespace: self.namespace.to_string(), name: self.name.to_string() }
    }
}

/// `metadata` as stored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawMeta<'a> {
    generation: Option<i64>,
    #[serde(borrow)]
    creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    deletion_timestamp: Option<Cow<'a, str>>,
    labels: Labels,
    #[serde(borrow)]
    pub(super) annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(deserialize_with = "null_as_empty")]
    owner_references: Vec<RawOwner>,
    #[serde(deserialize_with = "null_as_empty")]
    finalizers: Vec<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawOwner {
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl RawMeta<'_> {
    pub(super) fn view(self, identity: Identity<'_>) -> Meta {
        let time = |text: Option<Cow<'_, str>>| text.and_then(|text| Timestamp::parse(&text));
        // A deletion time that cannot be read is still a deletion.
        let deleting =
            self.deletion_timestamp.map(|text| Timestamp::parse(&text).unwrap_or_default());
        let all = KINDS_KEEPING_ALL.contains(&identity.key.kind);
        let kept = |name: &str| {
            KEPT_ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix))
                || all && name != LAST_APPLIED
        };
        Meta {
            namespace: identity.key.namespace.as_str().into(),
            name: identity.key.name.as_str().into(),
            uid: identity.uid,
            version: identity.version,
            generation: self.generation.unwrap_or_default(),
            created: time(self.creation_timestamp).unwrap_or_default(),
            deleting,
            labels: self.labels,
            annotations: self
                .annotations
                .unwrap_or_default()
                .iter()
                .filter(|(name, _)| kept(name))
                .map(|(name, value)| (name.as_ref(), value.as_ref()))
                .collect(),
            owners: self.owner_references.into_iter().map(RawOwner::view).collect(),
            finalizers: self.finalizers.into(),
        }
    }
}

impl RawOwner {
    fn view(self) -> OwnerReference {
        OwnerReference {
            // An owner whose uid is no UUID exists nowhere: the zero uid is never given out.
            uid: Uid::parse(&self.uid).unwrap_or_default(),
            api_version: self.api_version,
            kind: self.kind,
            name: self.name,
            controller: self.controller.unwrap_or_default(),
            blocks_deletion: self.block_owner_deletion.unwrap_or_default(),
        }
    }
}

/// Reads `null` as the empty value.
pub(crate) fn null_as_empty<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(source)?.unwrap_or_default())
}
