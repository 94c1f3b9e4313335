//! What is odd about a body without being wrong: unknown and duplicate fields.

use std::fmt;

use crate::limits::FIELD_ISSUES_MAX;

/// A field that strict validation refuses and lenient validation warns about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIssue {
    /// What is odd.
    pub kind: IssueKind,
    /// Where: `spec.containers[0].foo`.
    pub path: String,
}

/// What is odd about a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssueKind {
    /// The schema has no such field.
    Unknown,
    /// The key comes twice.
    Duplicate,
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            IssueKind::Unknown => "unknown",
            IssueKind::Duplicate => "duplicate",
        };
        write!(f, "{kind} field \"{}\"", self.path)
    }
}

/// The first issues of a body; later ones are dropped.
#[derive(Default)]
pub(super) struct Issues {
    pub(super) list: Vec<FieldIssue>,
}

impl Issues {
    pub(super) fn duplicate(&mut self, path: &str) {
        self.add(IssueKind::Duplicate, path);
    }

    pub(super) fn unknown(&mut self, path: &str) {
        self.add(IssueKind::Unknown, path);
    }

    fn add(&mut self, kind: IssueKind, path: &str) {
        if self.list.len() < FIELD_ISSUES_MAX {
            self.list.push(FieldIssue { kind, path: path.to_owned() });
        }
    }
}
