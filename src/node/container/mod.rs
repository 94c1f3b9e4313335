//! What a container is started with: environment, user, OCI runtime spec. Pure but for the image's
//! `/etc/passwd` and `/etc/group`, whose text comes in as arguments.

pub(super) mod environment;
pub(super) mod field;
pub(super) mod spec;
pub(super) mod unsupported;
pub(super) mod user;
