//! GET and LIST. A list is streamed: stored bytes copied between a head and a tail, one chunk at a
//! time, never one large value.

use bytes::Bytes;
use http::StatusCode;
use model::limits::API_CHUNK_BYTES;
use model::status::ApiError;
use serde_json::{Map, Value, json};

use super::answer::{Answer, AnswerBody, Iterated, with_body};
use super::negotiate::{Form, Media, Shape};
use super::render::{self, Indenter};
use super::route::{Call, Place, object_answer};
use super::table::{IncludeObject, Shaper};
use crate::master::registry::{ListPage, ListQuery, Target};

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
pub(super) fn list(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    call.form()?;
    list_answer(call, place, call.api.registry.list(&list_query(call, place)?)?)
}

/// A page of objects as a stream.
pub(super) fn list_answer(call: &Call, place: &Place, page: ListPage) -> Result<Answer, ApiError> {
    let form = call.form()?;
    let shaper = shaper(call, place, form)?;
    let parts = head_and_tail(&shaper, &page, form);
    let items = page.items.into_iter().map(move |item| shaper.item(item));
    let indenter = Indenter::default();
    let chunks = ListChunks { parts, items, form, indenter, state: State::Head };
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
