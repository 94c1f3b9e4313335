//! Defaults of bindings.

use super::{Fields, child, default_text, items, text};
use crate::access::RBAC_GROUP;

/// Roles, users and groups are of the group of roles; service accounts of none.
pub(super) fn binding(fields: &mut Fields) {
    default_text(child(fields, "roleRef"), "apiGroup", RBAC_GROUP);
    for subject in items(fields, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", RBAC_GROUP);
        }
    }
}
