//! Where anybody learns how to check service accounts' tokens (OpenID Connect Discovery 1.0, as far as
//! kube-apiserver serves it).

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use logic::account::ISSUER;
use serde_json::json;

use super::answer::{Answer, page_not_found, whole};
use super::route::Call;

/// How long the keys may be kept: they change rarely, and never without overlap.
const FRESH: &str = "public, max-age=3600";
/// The configuration names the address that the client called, so nobody else may be given it.
const OWN: &str = "private, max-age=3600";

/// The configuration, or the key set that it names.
pub(super) fn answer(call: &Call, parts: &[&str]) -> Answer {
    let Some(keys) = call.api.tokens.key_set() else { return page_not_found() };
    let (kind, fresh, body) = match parts {
        ["openid", ..] => ("application/jwk-set+json", FRESH, keys),
        _ => (
            "application/json",
            OWN,
            json!({
                "issuer": ISSUER,
                "jwks_uri": format!("https://{}/openid/v1/jwks", call.host),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
        ),
    };
    let mut answer = whole(StatusCode::OK, kind, body.to_string().into_bytes());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(fresh));
    answer
}
