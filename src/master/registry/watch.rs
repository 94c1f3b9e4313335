//! WATCH: the history of one kind, seen through selectors.
//!
//! ```text
//! existing objects (ADDED) -> end of them (BOOKMARK) -> changes <-> idle (BOOKMARK)
//!        only from 0            only sendInitialEvents      |
//!                                                   410 (one error, then the end)
//! ```
//! An object that enters the selection is ADDED, one that leaves it is DELETED with its last
//! selected content and the version of the change that took it out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::ids::Version;
use model::limits::WATCH_EXISTING_BYTES;
use model::resource::Resource;
use model::status::ApiError;
use model::validation::FieldError;
use tokio::time::{Instant, timeout_at};

use super::Registry;
use super::errors::{invalid_options, read_failed};
use super::object;
use super::read::{parse_version, position};
use super::selection::Selection;
use super::types::{WatchEvent, WatchKind, WatchQuery};
use crate::io::store::{Change, Cursor, Expired, ListRange, Record, WatchError};

/// How often a client that wants bookmarks gets one.
const BOOKMARK_AFTER: Duration = Duration::from_secs(60);
/// Annotation of the bookmark after the existing objects (KEP-3157).
const INITIAL_EVENTS_END: &str = r#"{"k8s.io/initial-events-end":"true"}"#;

/// A running watch.
pub struct Watch {
    registry: Registry,
    resource: &'static Resource,
    selection: Selection,
    existing: Existing,
    end_of_existing: Option<Version>,
    source: Source,
    /// Everything up to here was looked at.
    position: Version,
    bookmarks: bool,
    bookmark_at: Instant,
}

/// The objects that exist when a watch starts, read page by page as the client takes them.
#[derive(Default)]
struct Existing {
    page: VecDeque<Record>,
    /// What is still to be read.
    rest: Option<ListRange>,
    /// Up to which object, and as of which version, each page was read, in the order of the list:
    /// a later page holds changes that the history repeats. `None` is the end of the list.
    shown: Vec<(Option<(String, String)>, Version)>,
}

impl Existing {
    /// Reads the next page; gives its version, or nothing when there is none.
    fn read(
        &mut self,
        registry: &Registry,
        selection: &Selection,
    ) -> Result<Option<Version>, ApiError> {
        let Some(mut range) = self.rest.take() else { return Ok(None) };
        let store = &registry.inner.store;
        let read = store.list_within(&range, WATCH_EXISTING_BYTES);
        let page = read.map_err(|error| read_failed(&error))?;
        let end = page.records.last().filter(|_| page.more).map(position);
        self.shown.push((end.clone(), page.version));
        if end.is_some() {
            range.after = end;
            self.rest = Some(range);
        }
        self.page.extend(page.records.into_iter().filter(|r| selection.matches(&r.body)));
        Ok(Some(page.version))
    }

    fn next(
        &mut self,
        registry: &Registry,
        selection: &Selection,
    ) -> Result<Option<Record>, ApiError> {
        while self.page.is_empty() && self.read(registry, selection)?.is_some() {}
        Ok(self.page.pop_front())
    }

    /// Whether the page that the object was in, or would have been, was read after the change.
    fn has_shown(&mut self, change: &Change) -> bool {
        if self.shown.last().is_none_or(|(_, newest)| change.version > *newest) {
            // Versions only grow: no later change was shown either.
            self.shown = Vec::new();
            return false;
        }
        let key = (&change.key.namespace, &change.key.name);
        let page = self
            .shown
            .iter()
            .find(|(end, _)| end.as_ref().is_none_or(|(namespace, name)| key <= (namespace, name)));
        page.is_some_and(|(_, version)| change.version <= *version)
    }
}

enum Source {
    Changes(Cursor),
    Failed(ApiError),
    Ended,
}

impl Registry {
    /// Starts a watch. A version that is too old becomes its only event, an error with code 410.
    ///
    /// # Errors
    /// 400 for selectors and versions that cannot be read, 422 for options that exclude each other.
    pub fn watch(&self, query: &WatchQuery) -> Result<Watch, ApiError> {
        check_options(query)?;
        let selection = Selection::parse(query.resource, &query.labels, &query.fields)?;
        let asked = parse_version(query.resource_version.as_deref().unwrap_or_default())?;
        let from_now = asked == Version(0);
        let wants_existing = query.send_initial_events.unwrap_or(from_now);
        if query.send_initial_events == Some(true) {
            self.check_reached(asked)?;
        }
        let mut existing = Existing::default();
        let mut from = if from_now { self.inner.store.version() } else { asked };
        if wants_existing {
            existing.rest = Some(ListRange {
                kind: query.resource.kind_key(),
                namespace: query.namespace.clone(),
                after: None,
                limit: usize::MAX,
            });
            // What changes while later pages are read is told after them, from this version on.
            from = existing.read(self, &selection)?.unwrap_or(from);
        }
        let signalled = query.send_initial_events == Some(true) && query.bookmarks;
        Ok(Watch {
            registry: self.clone(),
            resource: query.resource,
            selection,
            existing,
            end_of_existing: signalled.then_some(from),
            source: self.source(query, from),
            position: from,
            bookmarks: query.bookmarks,
            bookmark_at: Instant::now() + BOOKMARK_AFTER,
        })
    }

    fn source(&self, query: &WatchQuery, from: Version) -> Source {
        let kind = query.resource.kind_key();
        match self.inner.store.watch_kind(&kind, query.namespace.as_deref(), from) {
            Ok(cursor) => Source::Changes(cursor),
            Err(Expired { oldest }) => Source::Failed(too_old(from, oldest)),
        }
    }
}

fn too_old(from: Version, oldest: Version) -> ApiError {
    ApiError::expired(format!("too old resource version: {from} ({oldest})"))
}

impl Watch {
    /// The next event; `None` when the watch is over. An error is the last event.
    ///
    /// # Cancel safety
    /// Safe: an event is taken and returned without waiting in between.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        if let Some(record) = match self.existing.next(&self.registry, &self.selection) {
            Ok(record) => record,
            Err(error) => {
                self.existing = Existing::default();
                self.end_of_existing = None;
                self.source = Source::Ended;
                return Some(Err(error));
            }
        } {
            let object = object::single(self.resource, &record.body, record.version);
            let version = record.version;
            return Some(Ok(WatchEvent { kind: WatchKind::Added, object, version }));
        }
        if let Some(version) = self.end_of_existing.take() {
            return Some(Ok(self.bookmark(version, INITIAL_EVENTS_END)));
        }
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Ended => None,
            Source::Failed(error) => Some(Err(error)),
            Source::Changes(cursor) => {
                self.source = Source::Changes(cursor);
                self.next_change().await
            }
        }
    }

    async fn next_change(&mut self) -> Option<Result<WatchEvent, ApiError>> {
        loop {
            let Source::Changes(cursor) = &mut self.source else { return None };
            // Cursor::next is cancel safe, so nothing is lost when the time is over first.
            match timeout_at(self.bookmark_at, cursor.next()).await {
                Ok(Ok(change)) => {
                    let event = self.event(&change);
                    self.position = self.position.max(change.version);
                    if event.is_some() {
                        return event.map(Ok);
                    }
                }
                Ok(Err(WatchError::Expired)) => {
                    self.source = Source::Ended;
                    return Some(Err(too_old(self.position, self.registry.inner.store.version())));
                }
                Ok(Err(WatchError::Closed)) => {
                    self.source = Source::Ended;
                    return None;
                }
                Err(_) => {
                    self.bookmark_at = Instant::now() + BOOKMARK_AFTER;
                    self.position = self.position.max(cursor.position());
                    if self.bookmarks {
                        return Some(Ok(self.bookmark(self.position, "")));
                    }
                }
            }
        }
    }

    fn bookmark(&self, version: Version, annotations: &str) -> WatchEvent {
        let object = object::bookmark(self.resource, version, annotations);
        WatchEvent { kind: WatchKind::Bookmark, object, version }
    }

    /// What this watcher sees of a change; `None` when it is not concerned.
    fn event(&mut self, change: &Arc<Change>) -> Option<WatchEvent> {
        if change.version <= self.position || self.existing.has_shown(change) {
            return None;
        }
        let (kind, body) = transition(&self.selection, change)?;
        let object = object::single(self.resource, body, change.version);
        Some(WatchEvent { kind, object, version: change.version })
    }
}

/// The event that `change` is for a watcher of `selection`, and the content to show.
pub(super) fn transition<'a>(
    selection: &Selection,
    change: &'a Change,
) -> Option<(WatchKind, &'a Bytes)> {
    if selection.name().is_some_and(|name| name != change.key.name) {
        return None;
    }
    let is_in = change.body.as_ref().is_some_and(|new| selection.matches(new));
    let was_in = match &change.old {
        Some(old) => selection.matches(old),
        // The log keeps old bytes whenever something selectable changes.
        None => !change.created && is_in,
    };
    match (was_in, is_in) {
        (false, true) => Some((WatchKind::Added, change.body.as_ref()?)),
        (true, true) => Some((WatchKind::Modified, change.body.as_ref()?)),
        (true, false) => Some((WatchKind::Deleted, change.old.as_ref()?)),
        (false, false) => None,
    }
}

/// `ValidateListOptions` of apimachinery, for a watch.
fn check_options(query: &WatchQuery) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let asked = query.version_match.as_str();
    let error = match (query.send_initial_events, asked) {
        (None, "") | (Some(_), "NotOlderThan") => return Ok(()),
        (Some(_), _) => FieldError::forbidden(
            FIELD,
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (None, _) => FieldError::forbidden(
            FIELD,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    };
    Err(invalid_options("ListOptions", &[error]))
}
