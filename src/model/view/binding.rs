//! The view of a RoleBinding or ClusterRoleBinding.

use serde::Deserialize;

use super::meta::{Identity, Meta, RawMeta, null_as_empty};

/// A RoleBinding, or with an empty namespace a ClusterRoleBinding.
#[derive(Clone, Debug)]
pub struct BindingView {
    /// Metadata.
    pub meta: Meta,
    /// What is bound.
    pub role: RoleReference,
    /// To whom.
    pub subjects: Box<[Subject]>,
}

/// The role that a binding names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleReference {
    /// A ClusterRole; else a Role of the binding's namespace.
    pub is_cluster: bool,
    /// Its name.
    pub name: Box<str>,
}

/// One of those that a role is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it is.
    pub kind: SubjectKind,
    /// Namespace of a service account.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// What a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum SubjectKind {
    /// A user by name.
    User,
    /// Everybody in a group.
    Group,
    /// A service account.
    ServiceAccount,
    /// Nothing that is known: it is nobody.
    #[serde(other)]
    Nobody,
}

impl SubjectKind {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Group => "Group",
            Self::ServiceAccount => "ServiceAccount",
            Self::Nobody => "",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    #[serde(borrow, default)]
    metadata: RawMeta<'a>,
    role_ref: RawRole,
    #[serde(default, deserialize_with = "null_as_empty")]
    subjects: Vec<RawSubject>,
}

#[derive(Deserialize)]
struct RawRole {
    kind: Box<str>,
    name: Box<str>,
}

#[derive(Deserialize)]
struct RawSubject {
    kind: SubjectKind,
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    namespace: Option<Box<str>>,
}

pub(super) fn parse(identity: Identity<'_>, body: &[u8]) -> serde_json::Result<BindingView> {
    let raw: Raw<'_> = serde_json::from_slice(body)?;
    let subject = |subject: RawSubject| Subject {
        kind: subject.kind,
        name: subject.name,
        namespace: subject.namespace.unwrap_or_default(),
    };
    Ok(BindingView {
        meta: raw.metadata.view(identity),
        role: RoleReference {
            is_cluster: &*raw.role_ref.kind == "ClusterRole",
            name: raw.role_ref.name,
        },
        subjects: raw.subjects.into_iter().map(subject).collect(),
    })
}
