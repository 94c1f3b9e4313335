//! /, /api and /apis: what is served, as one aggregated document or as the older separate ones.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, StatusCode};
use model::resource::discovery::{self, Aggregated};
use model::status::ApiError;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::answer::{Answer, AnswerBody, page_not_found, whole};
use super::negotiate;
use super::route::{Call, json_answer, object_answer};

/// Answers /, /api... and /apis...
pub(super) fn answer(call: &Call, parts: &[&str]) -> Result<Answer, ApiError> {
    let document = match parts {
        [] => return Ok(json_answer(&json!({"paths": root_paths(call)}))),
        ["api" | "apis"] => {
            if let Some(version) = wanted_aggregate(&call.headers) {
                return Ok(aggregated(call, parts[0], version));
            }
            match parts[0] {
                "api" => Some(discovery::core_versions(&call.host)),
                _ => Some(discovery::group_list()),
            }
        }
        ["api", version] => discovery::resource_list("", version),
        ["apis", group] => discovery::group(group),
        ["apis", group, version] => discovery::resource_list(group, version),
        _ => None,
    };
    let Some(document) = document else { return Ok(page_not_found()) };
    let mut answer = object_answer(StatusCode::OK, document.to_string().into(), call.form()?);
    if parts.len() == 1 {
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    }
    Ok(answer)
}

/// The aggregated version that the client prefers to the plain document.
fn wanted_aggregate(headers: &HeaderMap) -> Option<Aggregated> {
    for clause in negotiate::clauses(headers) {
        if !matches!(clause.media, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let parameter = |name| clause.parameter(name);
        match (parameter("g"), parameter("v"), parameter("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => {
                return Some(Aggregated::V2);
            }
            (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => {
                return Some(Aggregated::V2Beta1);
            }
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

fn aggregated(call: &Call, root: &str, version: Aggregated) -> Answer {
    let document: Value = match root {
        "api" => discovery::aggregated_core(version),
        _ => discovery::aggregated_groups(version),
    };
    let body = document.to_string().into_bytes();
    let etag = entity_tag(&body);
    let mut answer = whole(StatusCode::OK, "application/json", body);
    if matches_tag(&call.headers, &etag) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        *answer.body_mut() = AnswerBody::from(Vec::new());
    }
    let headers = answer.headers_mut();
    let content_type = match version {
        Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Aggregated::V2Beta1 => {
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    set_entity_tag(headers, &etag);
    answer
}

/// SHA-512 in upper-case hex, as the real server tags documents.
fn entity_tag(body: &[u8]) -> String {
    Sha512::digest(body).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Whether the client already has the document of that tag.
pub(super) fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| {
        known.split(',').any(|one| one.trim().trim_start_matches("W/").trim_matches('"') == tag)
    })
}

/// Adds the `ETag` header.
pub(super) fn set_entity_tag(headers: &mut HeaderMap, tag: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        headers.insert(ETAG, value);
    }
}

fn root_paths(call: &Call) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/api", "/apis", "/apis/", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"]
            .map(str::to_owned)
            .to_vec();
    for group in discovery::groups() {
        for version in discovery::versions(group) {
            paths.push(match group {
                "" => format!("/api/{version}"),
                group => format!("/apis/{group}/{version}"),
            });
        }
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
        }
    }
    for root in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{root}"));
        let names = super::health::names(&call.api.health, root);
        paths.extend(names.into_iter().map(|name| format!("/{root}/{name}")));
    }
    paths.sort();
    paths
}
