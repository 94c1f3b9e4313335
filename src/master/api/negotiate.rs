//! Content negotiation: what the client accepts, and what it sent.
//!
//! Follows `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`. Bodies may come as protobuf, but
//! answers are JSON or YAML: clients that prefer protobuf name JSON second.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use model::status::ApiError;

use super::query::Query;

const ACCEPTED: &str = "application/json, application/yaml";

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// JSON or YAML.
    pub(super) media: Media,
    /// Indented, for people.
    pub(super) pretty: bool,
    /// As which kind.
    pub(super) shape: Shape,
}

impl Form {
    /// `Content-Type` of the answer.
    pub(super) fn content_type(&self) -> &'static str {
        match self.media {
            Media::Json => "application/json",
            Media::Yaml => "application/yaml",
        }
    }
}

/// The format of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// The kind that the client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The object itself.
    Plain,
    /// `meta.k8s.io/v1` Table (or v1beta1).
    Table(MetaVersion),
    /// PartialObjectMetadata, and its list for collections.
    Partial(MetaVersion),
}

/// Version of the meta kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    /// `apiVersion` of the answer.
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// One clause of an Accept header.
#[derive(Debug, PartialEq)]
pub(super) struct Clause<'a> {
    /// `application/json`.
    pub(super) media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    /// The parameter of that name.
    pub(super) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// The clauses of an Accept header, best first.
pub(super) fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<_> = texts
        .flat_map(|text| text.split(','))
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let parameters: Vec<_> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                .collect();
            let quality = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .and_then(|(_, q)| q.parse().ok())
                .unwrap_or(1.0);
            Some(Clause { media, parameters, quality })
        })
        .collect();
    // Stable: equal qualities stay in the client's order, wildcards behind what is named.
    clauses.sort_by(|a, b| {
        let stars = |clause: &Clause<'_>| clause.media.matches('*').count();
        b.quality.total_cmp(&a.quality).then(stars(a).cmp(&stars(b)))
    });
    clauses
}

/// How to answer a request for resources.
///
/// # Errors
/// 406 when nothing that the client accepts can be made.
pub(super) fn form(headers: &HeaderMap, query: &Query) -> Result<Form, ApiError> {
    let pretty = wants_pretty(headers, query);
    if !headers.contains_key(ACCEPT) {
        return Ok(Form { media: Media::Json, pretty, shape: Shape::Plain });
    }
    let clauses = clauses(headers);
    for clause in &clauses {
        let Some(media) = media(clause.media) else { continue };
        let Some(shape) = shape(clause) else { continue };
        let pretty = pretty || clause.parameter("pretty") == Some("1");
        return Ok(Form { media, pretty, shape });
    }
    // The first text is that of the router, which looks at media types alone.
    let text = if clauses.iter().any(|clause| media(clause.media).is_some()) {
        format!("only the following media types are accepted: {ACCEPTED}")
    } else {
        format!(
            "406: Not Acceptable\n\nAvailable representations: {ACCEPTED}, \
             application/json;stream=watch"
        )
    };
    Err(ApiError { details: serde_json::json!({}), ..ApiError::new(406, "NotAcceptable", text) })
}

/// How to write an error: never fails, JSON when in doubt.
pub(super) fn error_form(headers: &HeaderMap, query: &Query) -> Form {
    let pretty = wants_pretty(headers, query);
    let fallback = Form { media: Media::Json, pretty, shape: Shape::Plain };
    form(headers, query).map_or(fallback, |form| Form { shape: Shape::Plain, ..form })
}

fn media(name: &str) -> Option<Media> {
    match name {
        "application/json" | "application/*" | "*/*" => Some(Media::Json),
        "application/yaml" => Some(Media::Yaml),
        _ => None,
    }
}

fn shape(clause: &Clause<'_>) -> Option<Shape> {
    let Some(kind) = clause.parameter("as") else { return Some(Shape::Plain) };
    if clause.parameter("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match clause.parameter("v") {
        Some("v1") => MetaVersion::V1,
        Some("v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    match kind {
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Partial(version)),
        _ => None,
    }
}

fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.flag("pretty") {
        Some(wanted) => wanted,
        None => {
            headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).is_some_and(|agent| {
                ["curl", "Wget", "Mozilla/5.0"].iter().any(|start| agent.starts_with(start))
            })
        }
    }
}

/// The media type of the request's body, lower case and without parameters; empty when absent.
pub(super) fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expected: Option<(Media, Shape)>) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        let found = form(&headers, &Query::default()).ok().map(|form| (form.media, form.shape));
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn accept_headers_of_real_clients() {
        const JSON: Option<(Media, Shape)> = Some((Media::Json, Shape::Plain));
        const TABLE: Option<(Media, Shape)> = Some((Media::Json, Shape::Table(MetaVersion::V1)));
        check("", JSON);
        check("*/*", JSON);
        check("application/json, */*", JSON);
        check("application/vnd.kubernetes.protobuf,application/json", JSON);
        check("application/yaml", Some((Media::Yaml, Shape::Plain)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;\
             g=meta.k8s.io,application/json",
            TABLE,
        );
        check("application/json;q=0.5,application/json;as=Table;v=v1;g=meta.k8s.io", TABLE);
        check("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", JSON);
        check("application/json;as=Table;v=v9;g=meta.k8s.io", None);
        let partial = Some((Media::Json, Shape::Partial(MetaVersion::V1)));
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", partial);
        check("application/vnd.kubernetes.protobuf", None);
        check("text/html", None);
        check("application/cbor", None);
        check("application/json;stream=watch", JSON);
    }
}
