//! GET and LIST.
//!
//! A list is a copy of bytes at rest. With a limit, the first page fixes the list's version; later
//! pages repeat it but show objects at least as new as it, because the store keeps no snapshots of
//! the past. A watch from that version repeats every change since, so a client that lists in pages
//! and then watches ends with the truth; when the history no longer reaches back to the version, the
//! token is refused with 410 as a real server does after a compaction.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use model::ids::Version;
use model::limits::API_LISTS_BYTES_MAX;
use model::status::ApiError;
use model::validation::FieldError;

use super::Registry;
use super::errors::{invalid_options, read_failed, too_large_version};
use super::object;
use super::selection::Selection;
use super::token::Token;
use super::types::{ListItem, ListPage, ListQuery, Target};
use crate::io::store::{ListRange, Record};

/// Records that a selective LIST reads from the store at a time.
const SCAN_RECORDS: usize = 500;

/// What a list query says, checked.
struct Plan {
    selection: Selection,
    limit: usize,
    token: Option<Token>,
}

impl Registry {
    /// One object, complete.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub fn get(&self, target: &Target) -> Result<Bytes, ApiError> {
        let record = self.record(target)?;
        Ok(object::single(target.resource, &record.body, record.version))
    }

    /// One object as it lies at rest.
    pub(super) fn record(&self, target: &Target) -> Result<Record, ApiError> {
        self.find(target)?.ok_or_else(|| target.not_found())
    }

    /// One object as it lies at rest, if it exists.
    pub(super) fn find(&self, target: &Target) -> Result<Option<Record>, ApiError> {
        self.inner.store.get(&target.key()).map_err(|error| read_failed(&error))
    }

    /// One page of the objects that `query` selects.
    ///
    /// # Errors
    /// 400 for selectors and tokens that cannot be read, 410 for a token or exact version that is
    /// too old, 422 for options that exclude each other, 504 for a version from the future.
    pub fn list(&self, query: &ListQuery) -> Result<ListPage, ApiError> {
        let plan = self.plan_list(query)?;
        if let Some(name) = plan.selection.name().map(str::to_owned) {
            return self.list_one(query, &plan, name);
        }
        let mut matched = Vec::new();
        let mut after = plan.token.as_ref().map(|token| token.after.clone());
        let mut first_version = plan.token.as_ref().map(|token| token.version);
        let wanted = if plan.limit == 0 { usize::MAX } else { plan.limit };
        let (mut more, mut bytes) = (true, 0);
        while more && matched.len() < wanted {
            let page = self.scan(query, &plan, after.take(), wanted - matched.len())?;
            let first = *first_version.get_or_insert(page.version);
            more = page.more;
            after = page.records.last().map(position);
            for record in page.records {
                if matched.len() == wanted {
                    more = true;
                    break;
                }
                if plan.selection.matches(&record.body) {
                    bytes += record.body.len();
                    matched.push(record);
                }
                if bytes > API_LISTS_BYTES_MAX {
                    return Err(too_large_list());
                }
            }
            debug_assert!(page.version >= first, "the store never goes back");
        }
        let version = first_version.unwrap_or_else(|| self.inner.store.version());
        Ok(self.page(query, &plan, matched, version, more))
    }

    /// Reads the next records; all of them at once when the answer must be one snapshot.
    fn scan(
        &self,
        query: &ListQuery,
        plan: &Plan,
        after: Option<(String, String)>,
        wanted: usize,
    ) -> Result<crate::io::store::Page, ApiError> {
        let limit = match (plan.limit, plan.selection.is_everything()) {
            (0, _) => usize::MAX,
            (_, true) => wanted,
            (_, false) => SCAN_RECORDS,
        };
        let range = ListRange {
            kind: query.resource.kind_key(),
            namespace: query.namespace.clone(),
            after,
            limit,
        };
        self.inner.store.list(&range).map_err(|error| read_failed(&error))
    }

    fn page(
        &self,
        query: &ListQuery,
        plan: &Plan,
        matched: Vec<Record>,
        version: Version,
        more: bool,
    ) -> ListPage {
        let last = matched.last().filter(|_| more).map(position);
        let before = plan.token.as_ref().map_or(0, |token| token.shown);
        let shown = before.saturating_add(matched.len() as u64);
        let continue_token =
            last.map(|after| Token { version, after, shown }.encode()).unwrap_or_default();
        let remaining = (more && plan.selection.is_everything())
            .then(|| self.remaining(query, shown))
            .flatten();
        let items = matched.into_iter().map(ListItem::from).collect();
        ListPage { items, version, continue_token, remaining }
    }

    /// Objects after this page: a hint, wrong by what was made or removed between pages.
    fn remaining(&self, query: &ListQuery, shown: u64) -> Option<u64> {
        let kind = query.resource.kind_key();
        let total = self.inner.store.count(&kind, query.namespace.as_deref());
        (total as u64).checked_sub(shown).filter(|left| *left > 0)
    }

    /// `metadata.name=x`: at most one object in a namespace, read by its key.
    fn list_one(&self, query: &ListQuery, plan: &Plan, name: String) -> Result<ListPage, ApiError> {
        let version = self.inner.store.version();
        let records = match (&query.namespace, query.resource.namespaced) {
            (None, true) => {
                let page = self.scan(query, plan, None, usize::MAX)?;
                page.records.into_iter().filter(|record| record.key.name == name).collect()
            }
            (namespace, _) => {
                let namespace = namespace.clone().unwrap_or_default();
                let target = Target::new(query.resource, namespace, name);
                Vec::from_iter(self.find(&target)?)
            }
        };
        let items = records
            .into_iter()
            .filter(|record| plan.selection.matches(&record.body))
            .map(ListItem::from)
            .collect();
        Ok(ListPage { items, version, continue_token: String::new(), remaining: None })
    }

    fn plan_list(&self, query: &ListQuery) -> Result<Plan, ApiError> {
        let asked = query.resource_version.as_deref().unwrap_or_default();
        check_match(asked, &query.version_match, !query.continue_token.is_empty())?;
        let selection = Selection::parse(query.resource, &query.labels, &query.fields)?;
        let limit = query.limit;
        if !query.continue_token.is_empty() {
            let token = Token::decode(&query.continue_token)?;
            if !matches!(asked, "" | "0") {
                let text = "specifying resource version is not allowed when using continue";
                return Err(ApiError::bad_request(text));
            }
            self.check_token(query, &token)?;
            return Ok(Plan { selection, limit, token: Some(token) });
        }
        let asked = parse_version(asked)?;
        self.check_reached(asked)?;
        if query.version_match == "Exact" && !self.unchanged_since(query, asked) {
            let text = "The resourceVersion for the provided list is too old.";
            return Err(ApiError::expired(text));
        }
        Ok(Plan { selection, limit, token: None })
    }

    /// A token is good while a watch from its version is possible.
    fn check_token(&self, query: &ListQuery, token: &Token) -> Result<(), ApiError> {
        self.check_reached(token.version)?;
        if token.version < self.inner.store.oldest(&query.resource.kind_key()) {
            return Err(ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter.",
            ));
        }
        Ok(())
    }

    /// 504 when `asked` is in the future.
    pub(super) fn check_reached(&self, asked: Version) -> Result<(), ApiError> {
        let current = self.inner.store.version();
        if asked > current { Err(too_large_version(asked, current)) } else { Ok(()) }
    }

    /// Whether no object of the query's kind and namespace changed after `version`.
    fn unchanged_since(&self, query: &ListQuery, version: Version) -> bool {
        let kind = query.resource.kind_key();
        let current = self.inner.store.version();
        let Ok(mut cursor) =
            self.inner.store.watch_kind(&kind, query.namespace.as_deref(), version)
        else {
            return false;
        };
        let mut context = Context::from_waker(Waker::noop());
        let waits = pin!(cursor.next()).poll(&mut context).is_pending();
        // A cursor that still reads old history waits too, but its position says so.
        waits && cursor.position() >= current
    }
}

/// Where a record stands in the order of a LIST.
pub(super) fn position(record: &Record) -> (String, String) {
    (record.key.namespace.clone(), record.key.name.clone())
}

/// A list that no board can hold while it is sent.
fn too_large_list() -> ApiError {
    ApiError::new(
        413,
        "RequestEntityTooLarge",
        format!(
            "Request entity too large: the list holds more than {} MiB: list it in pages (limit=500)",
            API_LISTS_BYTES_MAX / 1024 / 1024
        ),
    )
}

/// Reads `resourceVersion`; empty is zero.
pub(super) fn parse_version(text: &str) -> Result<Version, ApiError> {
    if text.is_empty() {
        return Ok(Version(0));
    }
    text.parse().map(Version).map_err(|_| {
        let quoted = model::validation::error::go_quote(text);
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {quoted}: \
             strconv.ParseUint: parsing {quoted}: invalid syntax"
        ))
    })
}

/// `ValidateListOptions` of apimachinery, for `resourceVersionMatch`.
fn check_match(asked: &str, version_match: &str, continued: bool) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let error = match version_match {
        "" => return Ok(()),
        _ if asked.is_empty() => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        _ if continued => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        "Exact" if asked == "0" => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        "Exact" | "NotOlderThan" => return Ok(()),
        other => FieldError::not_supported(FIELD, other, &["Exact", "NotOlderThan", ""]),
    };
    Err(invalid_options("ListOptions", &[error]))
}
