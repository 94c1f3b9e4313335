//! The semantics of the Kubernetes API without HTTP, generic over the one resource table.

mod types;

pub use types::{
    CommitError, Deleted, FieldValidation, ListPage, ListQuery, PatchBody, PatchKind, Target,
    UserInfo, VersionMatch, WatchEvent, WatchKind, WatchQuery, WriteOptions, Written,
};
