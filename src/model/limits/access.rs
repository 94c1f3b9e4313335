//! Bounds of access control and of the audit.

/// Comparisons that one check of a role makes that somebody writes or binds: rights that it stands for,
/// times rules of the writer. What needs more is refused.
pub const ACCESS_RIGHTS_MAX: usize = 262_144;
/// Rights that a refusal of such a check names.
pub const ACCESS_MISSING_MAX: usize = 256;
/// Rules that a review of a user's rules lists.
pub const ACCESS_RULES_MAX: usize = 8_192;
/// Headers of impersonation in one request.
pub const IMPERSONATION_MAX: usize = 64;
/// Longest text of a field of an audit line.
pub const AUDIT_FIELD_BYTES_MAX: usize = 512;
