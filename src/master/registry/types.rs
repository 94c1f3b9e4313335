//! What goes into the registry and comes out of it: targets, queries, options, answers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use model::ids::{ObjectKey, Version};
use model::resource::Resource;
use model::status::ApiError;
use serde_json::Value;

pub use model::access::UserInfo;

use crate::io::store::Record;

/// One object (or, with an empty name, the place where one is created).
#[derive(Clone, Debug)]
pub struct Target {
    /// Its kind.
    pub resource: &'static Resource,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name; may be empty on create.
    pub name: String,
}

impl Target {
    /// The target with these parts.
    pub fn new(
        resource: &'static Resource,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }

    /// Where the object lives in the store.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.resource.kind_key(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn: the default of a real server.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// The options of a write request.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do everything but store it.
    pub dry_run: bool,
    /// Unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// `fieldManager` (kept for server-side apply).
    pub field_manager: String,
    /// Who asks.
    pub user: UserInfo,
    /// Judges what the write makes of the object.
    pub guard: Option<Guard>,
    /// Judges an update that would create its object.
    pub creating: Option<Guard>,
    /// Duplicate fields that were found while the body was read, as worded by
    /// `schema::decode_json`.
    pub decode_issues: Vec<String>,
}

/// Judges what a client's write makes of an object: asked before defaults, validation and what a
/// request may not change.
#[derive(Clone)]
pub struct Guard(Arc<Judge>);

/// The object's place, the stored object unless it is created, and the new one.
type Judge = dyn Fn(&Target, Option<&Value>, &Value) -> Result<(), ApiError> + Send + Sync;

impl Guard {
    /// Asks this function.
    pub fn new(
        judge: impl Fn(&Target, Option<&Value>, &Value) -> Result<(), ApiError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(judge))
    }

    /// Judges a write.
    ///
    /// # Errors
    /// It is refused.
    pub(in crate::master) fn judge(
        &self,
        target: &Target,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        (self.0)(target, old, new)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// `resourceVersionMatch`, as sent.
pub type VersionMatch = String;

/// LIST and DELETECOLLECTION: the query as the client sent it.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// The kind.
    pub resource: &'static Resource,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// `labelSelector`, empty for none.
    pub labels: String,
    /// `fieldSelector`, empty for none.
    pub fields: String,
    /// `limit`; zero for none.
    pub limit: usize,
    /// `continue`; empty for the first page.
    pub continue_token: String,
    /// `resourceVersion`, absent or empty for the newest.
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`, empty when absent.
    pub version_match: VersionMatch,
}

impl ListQuery {
    /// Everything of a kind, in one namespace or all.
    pub fn all(resource: &'static Resource, namespace: Option<String>) -> Self {
        Self {
            resource,
            namespace,
            labels: String::new(),
            fields: String::new(),
            limit: 0,
            continue_token: String::new(),
            resource_version: None,
            version_match: String::new(),
        }
    }
}

/// One page of a LIST.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The objects.
    pub items: Vec<ListItem>,
    /// The list's resourceVersion.
    pub version: Version,
    /// Where the next page starts; empty on the last one.
    pub continue_token: String,
    /// `remainingItemCount`; absent on the last page and with selectors.
    pub remaining: Option<u64>,
}

/// An object of a list, as it lies at rest: what the client sees is made when it is sent.
#[derive(Clone, Debug)]
pub struct ListItem {
    pub(super) body: Bytes,
    pub(super) version: Version,
}

impl ListItem {
    /// The object with its resourceVersion but without `kind` and `apiVersion`, as list items are
    /// written.
    pub fn json(&self) -> Bytes {
        super::object::item(&self.body, self.version)
    }

    /// Bytes that it keeps in memory.
    pub fn bytes(&self) -> usize {
        self.body.len() + size_of::<Self>()
    }
}

impl From<Record> for ListItem {
    fn from(record: Record) -> Self {
        Self { body: record.body, version: record.version }
    }
}

/// WATCH: the query as the client sent it.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// The kind.
    pub resource: &'static Resource,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// `labelSelector`, empty for none.
    pub labels: String,
    /// `fieldSelector`, empty for none.
    pub fields: String,
    /// `resourceVersion`: absent, empty or `0` begin with the objects that exist.
    pub resource_version: Option<String>,
    /// `resourceVersionMatch`, empty when absent.
    pub version_match: VersionMatch,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub send_initial_events: Option<bool>,
}

/// What a watch event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// The object appeared, or entered the selection.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or left the selection: its last selected content with the new version.
    Deleted,
    /// Nothing happened up to this version.
    Bookmark,
}

/// One watch event.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// The object, complete with `kind`, `apiVersion` and resourceVersion.
    pub object: Bytes,
    /// The version of the change.
    pub version: Version,
}

/// A finished create, update or patch.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it is now (or a Status), complete.
    pub object: Bytes,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// 201 instead of 200.
    pub created: bool,
}

/// A finished delete.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The answer: the object, or a Status `Success` that names it.
    pub object: Bytes,
    /// It is gone (otherwise it has a deletionTimestamp and waits).
    pub gone: bool,
}

/// How a patch is written. Server-side apply is refused by the HTTP side (415).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists of objects are merged by key.
    Strategic,
}

/// A patch request's body.
#[derive(Clone, Debug)]
pub struct PatchBody {
    /// How it is written.
    pub kind: PatchKind,
    /// The parsed body.
    pub body: Value,
}

/// Why a controller's commit was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// An object is no longer at the version that the plan was made on.
    #[error("an object changed since the plan was made")]
    Conflict,
    /// An operation is not allowed or not valid.
    #[error("the API refuses an operation")]
    Rejected(#[source] ApiError),
    /// No space is left on this master's disk.
    #[error("no space is left for the log")]
    NoSpace,
    /// This board does not lead any more; nothing happened.
    #[error("this board does not lead the cluster any more")]
    NotLeading,
    /// The masters did not decide in time: nothing happened, or it is not known what did. Look again.
    #[error("the masters do not get on at this moment")]
    Late,
    /// The store is closing or failed.
    #[error("the store is closed")]
    Closed,
}
