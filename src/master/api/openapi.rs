//! /openapi/v3 and /openapi/v2: schemas, made once per group-version and kept compressed.
//!
//! kubectl fetches them at every `apply`; the tag in the index lets clients cache for ever.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, EXPIRES, HeaderName, HeaderValue, LOCATION,
    VARY,
};
use http::{HeaderMap, StatusCode};
use model::schema::openapi;

use super::answer::{Answer, AnswerBody, page_not_found, whole, with_body};
use super::discovery::{matches_tag, set_entity_tag};
use super::negotiate;
use super::route::Call;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How clients ask for it: an older spelling of the same.
const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// A year, as the real server says for what never changes under its address.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// The documents that were asked for; at most one per group-version, compressed.
#[derive(Default)]
pub(super) struct Documents {
    v3: Mutex<BTreeMap<String, Arc<Document>>>,
    v2: OnceLock<Document>,
}

impl Documents {
    /// The document at `path`, made when it is first asked for; `None` when not served.
    fn v3(&self, path: &str) -> Option<Arc<Document>> {
        let mut known = self.v3.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = known.get(path) {
            return Some(document.clone());
        }
        let document = Arc::new(Document::new(openapi::v3(path)?));
        known.insert(path.to_owned(), document.clone());
        Some(document)
    }
}

/// A document, gzipped.
struct Document {
    tag: String,
    gzip: Bytes,
}

impl Document {
    fn new(plain: openapi::Document) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing into memory does not fail.
        let gzip =
            encoder.write_all(&plain.body).and_then(|()| encoder.finish()).unwrap_or_default();
        Self { tag: plain.hash, gzip: gzip.into() }
    }

    /// The document as this client can read it.
    fn answer(&self, headers: &HeaderMap, content_type: &'static str) -> Answer {
        let gzipped = accepts_gzip(headers);
        let body = if gzipped { self.gzip.clone() } else { self.plain().into() };
        let mut answer = with_body(StatusCode::OK, content_type, body.into());
        if matches_tag(headers, &self.tag) {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            *answer.body_mut() = AnswerBody::from(Vec::new());
        } else if gzipped {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        set_entity_tag(answer.headers_mut(), &self.tag);
        answer.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        answer.headers_mut().append(VARY, HeaderValue::from_static("Accept"));
        answer
    }

    fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        // Our own bytes, compressed above: they decompress.
        let _ = GzDecoder::new(&*self.gzip).read_to_end(&mut plain);
        plain
    }
}

/// GET /openapi/v3: where the documents are.
pub(super) fn v3_index() -> Answer {
    whole(StatusCode::OK, "text/plain; charset=utf-8", openapi::v3_index().body)
}

/// GET /openapi/v3/PATH?hash=.
pub(super) fn v3(call: &Call, path: &str) -> Answer {
    let Some(document) = call.api.documents.v3(path) else { return page_not_found() };
    match call.query.get("hash").filter(|hash| !hash.is_empty()) {
        Some(hash) if hash != document.tag => {
            let mut answer = whole(StatusCode::MOVED_PERMANENTLY, "application/json", Vec::new());
            let url = format!("/openapi/v3/{path}?hash={}", document.tag);
            let headers = answer.headers_mut();
            if let Ok(url) = HeaderValue::from_str(&url) {
                headers.insert(LOCATION, url);
            }
            headers.insert(VARY, HeaderValue::from_static("Accept"));
            set_entity_tag(headers, &document.tag);
            answer
        }
        hash => {
            let mut answer = document.answer(&call.headers, "application/json");
            if hash.is_some() {
                let headers = answer.headers_mut();
                headers.insert(CACHE_CONTROL, HeaderValue::from_static(IMMUTABLE));
                let far = HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT");
                headers.insert(EXPIRES, far);
            }
            answer
        }
    }
}

/// GET /openapi/v2, as protobuf: what kubectl up to 1.28 validates with.
pub(super) fn v2(call: &Call) -> Answer {
    let clauses = negotiate::clauses(&call.headers);
    let asked = clauses.iter().any(|clause| {
        matches!(clause.media, V2_PROTOBUF | V2_PROTOBUF_ASKED | "*/*" | "application/*")
    });
    if !asked && !clauses.is_empty() {
        let mut answer = whole(StatusCode::NOT_ACCEPTABLE, "text/plain", Vec::new());
        answer.headers_mut().insert(
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        );
        return answer;
    }
    let document = call.api.documents.v2.get_or_init(|| Document::new(openapi::v2_protobuf()));
    document.answer(&call.headers, V2_PROTOBUF)
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        name.eq_ignore_ascii_case("gzip") && !refused
    })
}
