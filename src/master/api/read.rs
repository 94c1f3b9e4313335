//! GET and LIST. A list is streamed: stored bytes copied between a head and a tail, one chunk at a
//! time, never one large value.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use model::limits::{API_CHUNK_BYTES, API_LISTS_BYTES_MAX};
use model::status::ApiError;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Answer, AnswerBody, Iterated, with_body};
use super::negotiate::{Form, Media, Shape};
use super::render::{self, Indenter};
use super::route::{Call, Place, object_answer};
use super::table::{IncludeObject, Shaper};
use crate::master::registry::{ListItem, ListPage, ListQuery, Target};

/// What lists under way hold is counted in pieces of this size.
pub(super) const LIST_UNIT_BYTES: usize = 1024;

/// GET of one object or of its `status` or `scale`.
pub(super) fn get(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    let form = call.form()?;
    let target = Target::new(place.resource, &*place.namespace, &*place.name);
    let object = match place.subresource.map(|sub| sub.name) {
        Some("scale") => call.api.registry.get_scale(&target)?,
        _ => call.api.registry.get(&target)?,
    };
    Ok(object_answer(StatusCode::OK, shaper(call, place, form)?.single(object, true), form))
}

/// LIST of one namespace or all.
pub(super) async fn list(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    call.form()?;
    let (page, held) = read_page(call, &list_query(call, place)?).await?;
    list_answer(call, place, page, Some(held))
}

/// Reads a page within what all lists under way may hold. How much that is shows when it has been
/// read, without waiting in between: at most a page per thread is beyond the bound, for a moment.
async fn read_page(
    call: &Call,
    query: &ListQuery,
) -> Result<(ListPage, OwnedSemaphorePermit), ApiError> {
    let lists = &call.api.lists;
    let mut wanted = 1;
    loop {
        // The request's deadline bounds the wait.
        let held = Arc::clone(lists).acquire_many_owned(wanted).await;
        let mut held = held.expect("never closed");
        let page = call.api.registry.list(query)?;
        let bytes: usize = page.items.iter().map(ListItem::bytes).sum();
        let units = bytes.div_ceil(LIST_UNIT_BYTES).clamp(1, API_LISTS_BYTES_MAX / LIST_UNIT_BYTES);
        let Some(missing) = units.checked_sub(held.num_permits()) else {
            let surplus = held.num_permits() - units;
            // Given back at once.
            drop(held.split(surplus));
            return Ok((page, held));
        };
        wanted = u32::try_from(units).unwrap_or(u32::MAX);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        if let Ok(more) = Arc::clone(lists).try_acquire_many_owned(missing) {
            held.merge(more);
            return Ok((page, held));
        }
    }
}

/// A page of objects as a stream.
pub(super) fn list_answer(
    call: &Call,
    place: &Place,
    page: ListPage,
    held: Option<OwnedSemaphorePermit>,
) -> Result<Answer, ApiError> {
    let form = call.form()?;
    let shaper = shaper(call, place, form)?;
    let parts = head_and_tail(&shaper, &page, form);
    let items = page.items.into_iter().map(move |item| shaper.item(item.json()));
    let indenter = Indenter::default();
    let chunks = ListChunks { parts, items, form, indenter, state: State::Head, _held: held };
    let body = AnswerBody::stream(Iterated(chunks));
    Ok(with_body(StatusCode::OK, form.content_type(), body))
}

/// How this client wants objects of this kind.
pub(super) fn shaper(call: &Call, place: &Place, form: Form) -> Result<Shaper, ApiError> {
    Ok(Shaper {
        resource: place.resource,
        shape: form.shape,
        include: IncludeObject::parse(&call.query)?,
        now: call.api.clock.now(),
    })
}

/// The query of LIST and DELETECOLLECTION.
pub(super) fn list_query(call: &Call, place: &Place) -> Result<ListQuery, ApiError> {
    let limit = call.query.integer("limit")?.unwrap_or(0);
    Ok(ListQuery {
        resource: place.resource,
        namespace: namespace(place),
        labels: call.query.text("labelSelector"),
        fields: field_selector(call, place),
        limit: usize::try_from(limit).unwrap_or(0),
        continue_token: call.query.text("continue"),
        resource_version: call.query.get("resourceVersion").map(str::to_owned),
        version_match: call.query.text("resourceVersionMatch"),
    })
}

/// The one namespace of a collection's path.
pub(super) fn namespace(place: &Place) -> Option<String> {
    (!place.namespace.is_empty()).then(|| place.namespace.clone())
}

/// `fieldSelector`, narrowed to the object when the path names one (a watch of a single object).
pub(super) fn field_selector(call: &Call, place: &Place) -> String {
    let asked = call.query.text("fieldSelector");
    match (place.name.as_str(), asked.as_str()) {
        ("", _) => asked,
        (name, "") => format!("metadata.name={name}"),
        (name, asked) => format!("metadata.name={name},{asked}"),
    }
}

/// The bytes before the first item and after the last one.
struct Parts {
    head: Bytes,
    tail: Bytes,
}

fn head_and_tail(shaper: &Shaper, page: &ListPage, form: Form) -> Parts {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), page.version.to_string().into());
    if !page.continue_token.is_empty() {
        metadata.insert("continue".into(), page.continue_token.clone().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    let resource = shaper.resource;
    let (kind, api_version, items) = match shaper.shape {
        Shape::Plain => (resource.list_kind, resource.api_version(), "items"),
        Shape::Partial(v) => ("PartialObjectMetadataList", v.api_version().to_owned(), "items"),
        Shape::Table(v) => ("Table", v.api_version().to_owned(), "rows"),
    };
    let metadata = Value::Object(metadata);
    let mut fields =
        vec![("kind", json!(kind)), ("apiVersion", api_version.into()), ("metadata", metadata)];
    if matches!(shaper.shape, Shape::Table(_)) {
        fields.push(("columnDefinitions", shaper.columns()));
    }
    if form.media == Media::Yaml {
        let object: Map<_, _> = fields.into_iter().map(|(key, v)| (key.to_owned(), v)).collect();
        let mut head = render::yaml(Value::Object(object).to_string().as_bytes());
        let empty = if page.items.is_empty() { " []" } else { "" };
        head.extend_from_slice(format!("{items}:{empty}\n").as_bytes());
        return Parts { head: head.into(), tail: Bytes::new() };
    }
    let fields: Vec<_> = fields.iter().map(|(key, v)| format!("\"{key}\":{v}")).collect();
    let head = format!("{{{},\"{items}\":[", fields.join(","));
    Parts { head: head.into(), tail: Bytes::from_static(b"]}") }
}

/// Where a [`ListChunks`] is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    First,
    Further,
    Done,
}

/// The bytes of a list, in chunks of about [`API_CHUNK_BYTES`].
struct ListChunks<I> {
    parts: Parts,
    items: I,
    form: Form,
    indenter: Indenter,
    state: State,
    /// Its share of what all lists under way may hold.
    _held: Option<OwnedSemaphorePermit>,
}

impl<I: Iterator<Item = Bytes>> Iterator for ListChunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Done {
            return None;
        }
        let mut out = Vec::with_capacity(API_CHUNK_BYTES);
        if self.state == State::Head {
            let head = std::mem::take(&mut self.parts.head);
            self.push(&head, &mut out);
            self.state = State::First;
        }
        while out.len() < API_CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                let tail = std::mem::take(&mut self.parts.tail);
                self.push(&tail, &mut out);
                if self.form.media == Media::Json && !self.form.pretty {
                    out.push(b'\n');
                }
                self.state = State::Done;
                break;
            };
            self.push_item(&item, &mut out);
            self.state = State::Further;
        }
        Some(out.into())
    }
}

impl<I> ListChunks<I> {
    fn push(&mut self, json: &[u8], out: &mut Vec<u8>) {
        if self.form.media == Media::Json && self.form.pretty {
            self.indenter.feed(json, out);
        } else {
            out.extend_from_slice(json);
        }
    }

    fn push_item(&mut self, item: &[u8], out: &mut Vec<u8>) {
        if self.form.media == Media::Yaml {
            // One element of the block sequence: "- " before its first line, two spaces after.
            let text = render::yaml(item);
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            for (index, line) in lines.enumerate() {
                out.extend_from_slice(if index == 0 { b"- " } else { b"  " });
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            return;
        }
        if self.state == State::Further {
            self.push(b",", out);
        }
        self.push(item, out);
    }
}
